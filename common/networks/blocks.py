"""The residual block of both U-Nets, with everything in which they differ as a field, and its self-attention."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from common.errors import input_error
from common.networks.layers import Conv, Dense, GroupNorm, downsample, dropout, upsample

_BLOCK = 1024  # queries at a time, so that the matrix of weights of a large image is never whole in memory


def attend(q: jax.Array, k: jax.Array, v: jax.Array, *, fused: bool = True) -> jax.Array:
    """Returns softmax(q k^T / sqrt(D)) v for `q, k, v [B, T, heads, D]`; the softmax is in float32 or better.

    With `fused`, half-precision inputs on an NVIDIA GPU go through cuDNN, which has neither `vmap` nor forward-mode
    derivatives; everything else is plain JAX with all of them.
    """
    if fused and _has_fused(q):
        return lax.platform_dependent(q, k, v, cuda=_fused, default=_plain)
    return _plain(q, k, v)


def _has_fused(q: jax.Array) -> bool:
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    # Asked before tracing the kernel's call, which raises where no such device is.
    return half and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128 and jax.default_backend() == "gpu"


def _fused(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


def _plain(q, k, v):
    length = q.shape[1]
    if length <= _BLOCK or length % _BLOCK:
        return _weighted(q, k, v)
    blocks = jnp.moveaxis(q.reshape(q.shape[0], length // _BLOCK, _BLOCK, *q.shape[2:]), 1, 0)
    out = lax.map(jax.checkpoint(lambda block: _weighted(block, k, v)), blocks)
    return jnp.moveaxis(out, 0, 1).reshape(q.shape)


def _weighted(q, k, v):
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=dtype)
    weights = jax.nn.softmax(logits * q.shape[-1] ** -0.5, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


class SelfAttention(nn.Module):
    """The attention branch of a block: norm, queries, keys and values of all `heads`, `attend`, projection.

    `x [B, H, W, C] -> [B, H, W, C]`, without the sum with x. The channels of `qkv` are ordered by kind (query, key,
    value), then head, then channel of the head.
    """

    heads: int
    eps: float
    min_group: int = 4
    rule: str = "fan_in"
    gain: float = 1.0  # of queries, keys and values
    last_gain: float = 0.0  # of the projection
    fused: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        if channels % self.heads:
            got = f"{self.heads} for {channels}"
            raise input_error(
                "heads", expected="a number that divides the channels", got=got, fix="set heads or channels"
            )
        h = GroupNorm(self.eps, self.min_group, name="norm")(x)
        h = Conv(3 * channels, 1, self.rule, self.gain, dtype=self.dtype, name="qkv")(h)
        h = h.reshape(batch, height * width, 3, self.heads, channels // self.heads)
        h = attend(h[:, :, 0], h[:, :, 1], h[:, :, 2], fused=self.fused).reshape(x.shape)
        return Conv(channels, 1, self.rule, self.last_gain, dtype=self.dtype, name="proj")(h)


class BlockStyle(NamedTuple):
    """Settings common to all blocks of a network."""

    adaptive: bool  # the embedding scales and shifts after the second norm, instead of adding before it
    skip_scale: float  # of the sum of both branches
    eps: float  # of the norms
    filter: tuple[float, ...]  # taps by which blocks resample
    project_resampled: bool  # a 1x1 convolution beside every resampling, not only where the width changes
    rule: str  # "xavier" | "fan_in", see `common.networks.layers`
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
    return downsample(x, taps) if how == "down" else upsample(x, taps)
