"""The U-Net of ADM (Dhariwal and Nichol 2021) and of its predecessor, improved diffusion (Nichol and Dhariwal 2021)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.errors import choice, input_error
from common.networks.blocks import BlockStyle, ResidualBlock
from common.networks.embeddings import NoiseEmbedding, one_hot
from common.networks.layers import Conv, Dense, GroupNorm, dropout_seeds, wide
from common.networks.song_unet import check_size

RESAMPLING = ("block", "convolution")


class ADMUNet(nn.Module):
    """ADM as it stands: residual blocks with scale-shift norms that also resample, 64 channels per attention head.

    `x [B, H, W, C], time [B] or [] -> [B, H, W, out_channels]`, height and width divisible by 2^(levels - 1), else
    `InputError`. Level l has `channels * multipliers[l]` channels and `num_blocks` blocks (one more on the way up),
    each followed by attention where `attention` holds the level. There are `heads` heads, or with 0 one for every
    `channels_per_head` channels. Improved diffusion's network is `resampling="convolution"` (a convolution of stride 2
    down, repeated pixels and a convolution up), `heads=4`, `min_group=1`, `embedding="positional"`. `labels` are class
    numbers `[B]` or one-hot `[B, num_classes]`. `keys [B]` switch dropout on. Blocks compute in `dtype`; norms,
    softmax, the embedding, the first and the last convolution in float32 at least. `remat` recomputes the blocks'
    activations in the backward pass.
    """

    out_channels: int
    channels: int = 192
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    num_blocks: int = 3
    attention: tuple[int, ...] = (1, 2, 3)
    heads: int = 0
    channels_per_head: int = 64
    embedding: str = "positional"  # "fourier" | "positional"
    embedding_multiplier: int = 4  # width of the embedding that blocks see, times `channels`
    num_classes: int = 0
    resampling: str = "block"
    filter: tuple[float, ...] = (1, 1)
    min_group: int = 4
    dropout: float = 0.0
    dtype: Any = None
    fused_attention: bool = True
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, time: jax.Array, labels: jax.Array | None = None, keys: jax.Array | None = None
    ) -> jax.Array:
        choice("resampling", self.resampling, RESAMPLING)
        check_size(x, len(self.multipliers))
        edge, result = wide(self.dtype), jnp.promote_types(x.dtype, jnp.float32)
        block_type = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        style = BlockStyle(
            adaptive=True,
            skip_scale=1.0,
            eps=1e-5,
            filter=self.filter,
            project_resampled=False,
            rule="fan_in",
            last_gain=0.0,
            min_group=self.min_group,
            dropout=self.dropout,
            fused_attention=self.fused_attention,
            dtype=self.dtype,
        )
        seeds = dropout_seeds(keys) if self.dropout else None
        embedded = self._embed(jnp.broadcast_to(time, x.shape[:1]), labels)

        def block(name, x, features, how="none", attends=False):
            heads = self._heads(features) if attends else 0
            return block_type(features, style, how, heads, name=name)(x, embedded, seeds)

        def halve(name, x):
            if self.resampling == "block":
                return block(name, x, x.shape[-1], "down")
            return Conv(x.shape[-1], stride=2, dtype=self.dtype, name=name)(x)

        def double(name, x):
            if self.resampling == "block":
                return block(name, x, x.shape[-1], "up")
            return Conv(x.shape[-1], dtype=self.dtype, name=name)(x.repeat(2, axis=1).repeat(2, axis=2))

        x = Conv(self.channels * self.multipliers[0], dtype=edge, name="stem")(x)
        skips = [x]
        for level, multiplier in enumerate(self.multipliers):
            if level:
                x = halve(f"encoder_{level}_down", x)
                skips.append(x)
            for i in range(self.num_blocks):
                x = block(f"encoder_{level}_{i}", x, self.channels * multiplier, attends=level in self.attention)
                skips.append(x)

        x = block("middle_0", x, x.shape[-1], attends=True)
        x = block("middle_1", x, x.shape[-1])
        for level, multiplier in reversed(tuple(enumerate(self.multipliers))):
            if level < len(self.multipliers) - 1:
                x = double(f"decoder_{level}_up", x)
            for i in range(self.num_blocks + 1):
                skip = skips.pop()
                x = jnp.concatenate([x, skip.astype(x.dtype)], axis=-1)
                x = block(f"decoder_{level}_{i}", x, self.channels * multiplier, attends=level in self.attention)
        x = nn.silu(GroupNorm(style.eps, style.min_group, name="out_norm")(x))
        return Conv(self.out_channels, gain=0.0, dtype=edge, name="out_conv")(x).astype(result)

    def _embed(self, time, labels):
        width = self.channels * self.embedding_multiplier
        e = NoiseEmbedding(self.channels, self.embedding, name="map_noise")(time)
        e = Dense(width, name="map_1")(nn.silu(Dense(width, name="map_0")(e)))
        classes = one_hot(labels, self.num_classes, e.dtype)
        if classes is not None:
            e = e + Dense(width, "normal", use_bias=False, name="map_label")(classes)
        return nn.silu(e)

    def _heads(self, features: int) -> int:
        if self.heads:
            return self.heads
        if features % self.channels_per_head:
            got = f"{self.channels_per_head} for {features}"
            fix = "set channels_per_head or channels"
            raise input_error("channels_per_head", expected="a number that divides the channels", got=got, fix=fix)
        return features // self.channels_per_head
