"""The residual block of both U-Nets, with everything in which they differ as a field."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.networks import resample
from common.networks.attention import SelfAttention
from common.networks.layers import Conv, Dense, GroupNorm, dropout


class BlockStyle(NamedTuple):
    """What all blocks of a network share."""

    adaptive: bool  # the embedding scales and shifts after the second norm, instead of adding before it
    skip_scale: float  # of the sum of both branches
    eps: float  # of the norms
    filter: tuple[float, ...]  # taps by which blocks resample
    project_resampled: bool  # a 1x1 convolution beside every resampling, not only where the width changes
    rule: str  # "xavier" | "fan_in", see `common.networks.initial`
    last_gain: float  # of the initial weights of the last layer of each branch
    qkv_gain: float = 1.0
    min_group: int = 4  # channels in a group of a norm, at least
    dropout: float = 0.0
    fused_attention: bool = True
    dtype: Any = None  # of convolutions and attention; None: that of the operands


class ResidualBlock(nn.Module):
    """`x [B, H, W, C], embedding [B, E] -> [B, H', W', features]`, with H' = H, H/2 or 2H by `resample`.

    h = conv_0(resample(silu(norm_0 x))); h = silu(norm_1(h) (1 + scale) + shift) or silu(norm_1(h + shift)), as the
    style says, both linear in the embedding; h = conv_1(dropout h); then (h + skip x) g, and with `heads` > 0
    (attention + x) g after it. `seeds [B, 2]` are those of `dropout`.
    """

    features: int
    style: BlockStyle
    resample: str = "none"  # "none" | "down" | "up"
    heads: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, seeds: jax.Array | None = None) -> jax.Array:
        style = self.style
        if style.dtype is not None:
            x = x.astype(style.dtype)

        def conv(name, size, gain=1.0):
            return Conv(self.features, size, style.rule, gain, dtype=style.dtype, name=name)

        def norm(name):
            return GroupNorm(style.eps, style.min_group, name=name)

        h = conv("conv_0", 3)(_resampled(nn.silu(norm("norm_0")(x)).astype(x.dtype), self.resample, style.filter))
        outputs = 2 * self.features if style.adaptive else self.features
        change = Dense(outputs, style.rule, name="affine")(embedding)[:, None, None]
        if style.adaptive:
            scale, shift = jnp.split(change, 2, axis=-1)
            h = nn.silu(norm("norm_1")(h) * (1 + scale) + shift)
        else:
            h = nn.silu(norm("norm_1")(h + change))
        h = h.astype(x.dtype)
        h = conv("conv_1", 3, style.last_gain)(dropout(h, style.dropout, seeds, self.path))

        skip = _resampled(x, self.resample, style.filter)
        if x.shape[-1] != self.features or (self.resample != "none" and style.project_resampled):
            skip = conv("skip", 1)(skip)
        x = (h + skip) * style.skip_scale
        if self.heads:
            branch = SelfAttention(
                self.heads,
                style.eps,
                style.min_group,
                style.rule,
                style.qkv_gain,
                style.last_gain,
                style.fused_attention,
                style.dtype,
                name="attention",
            )
            x = (branch(x) + x) * style.skip_scale
        return x


def _resampled(x: jax.Array, how: str, taps: tuple[float, ...]) -> jax.Array:
    if how == "none":
        return x
    return resample.down(x, taps) if how == "down" else resample.up(x, taps)
