"""The U-Nets of score-based models and of ADM.

`SongUNet`: Song et al. (2021), in the variants DDPM++ and NCSN++ of Karras et al. (2022). `ADMUNet`: Dhariwal and
Nichol (2021), and its predecessor, improved diffusion (Nichol and Dhariwal 2021). `Patched`: either on cells of pixels.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.errors import choice, input_error
from common.networks.blocks import BlockStyle, ResidualBlock
from common.networks.layers import (
    Conv,
    Dense,
    GroupNorm,
    NoiseEmbedding,
    downsample,
    dropout_seeds,
    one_hot,
    upsample,
    wide,
)

ENCODERS = ("standard", "skip", "residual")
_LAST_GAIN = 1e-5


class SongUNet(nn.Module):
    """NCSN++ as it stands; DDPM++ is another choice of its fields.

    That is `embedding="positional"`, `noise_multiplier=1`, `filter=(1, 1)`, `encoder="standard"`.

    `x [B, H, W, C], time [B] or [] -> [B, H, W, out_channels]`, height and width divisible by 2^(levels - 1), else
    `InputError`. Level l has `channels * multipliers[l]` channels and `num_blocks` blocks (one more on the way up);
    levels in `attention` attend after every block down and after the last one up. `encoder` "residual" and "skip" feed
    a shrunk copy of the input in at every level, `decoder` "skip" and "residual" carry the output along instead of
    making it at the end. `labels` are class numbers `[B]` or one-hot `[B, num_classes]`. `keys [B]` switch dropout on.
    Blocks compute in `dtype`; norms, softmax, the embedding, the first and the last convolution in float32 at least.
    `remat` recomputes the blocks' activations in the backward pass.
    """

    out_channels: int
    channels: int = 128
    multipliers: tuple[int, ...] = (2, 2, 2)
    num_blocks: int = 4
    attention: tuple[int, ...] = (1,)
    heads: int = 1
    embedding: str = "fourier"  # "fourier" | "positional"
    noise_multiplier: int = 2  # features of the embedded time, times `channels`
    embedding_multiplier: int = 4  # width of the embedding that blocks see, times `channels`
    num_classes: int = 0
    encoder: str = "residual"
    decoder: str = "standard"
    filter: tuple[float, ...] = (1, 3, 3, 1)
    adaptive: bool = False
    dropout: float = 0.0
    dtype: Any = None
    fused_attention: bool = True
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, time: jax.Array, labels: jax.Array | None = None, keys: jax.Array | None = None
    ) -> jax.Array:
        choice("encoder", self.encoder, ENCODERS)
        choice("decoder", self.decoder, ENCODERS)
        check_size(x, len(self.multipliers))
        edge, result = wide(self.dtype), jnp.promote_types(x.dtype, jnp.float32)
        block_type = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        style = BlockStyle(
            adaptive=self.adaptive,
            skip_scale=math.sqrt(0.5),
            eps=1e-6,
            filter=self.filter,
            project_resampled=True,
            rule="xavier",
            last_gain=_LAST_GAIN,
            qkv_gain=math.sqrt(0.2),
            dropout=self.dropout,
            fused_attention=self.fused_attention,
            dtype=self.dtype,
        )
        seeds = dropout_seeds(keys) if self.dropout else None
        embedded = self._embed(jnp.broadcast_to(time, x.shape[:1]), labels)

        def block(name, x, features, how="none", attends=False):
            heads = self.heads if attends else 0
            return block_type(features, style, how, heads, name=name)(x, embedded, seeds)

        def conv(name, x, features, size=3, gain=1.0, dtype=self.dtype, **how):
            return Conv(features, size, "xavier", gain, dtype=dtype, name=name, **how)(x)

        def out(name, x, features, gain=_LAST_GAIN):
            h = nn.silu(GroupNorm(style.eps, name=f"out_norm{name}")(x))
            return conv(f"out_conv{name}", h, features, gain=gain, dtype=edge)

        aux = x
        x = conv("stem", x, self.channels, dtype=edge)
        skips = [x]
        for level, multiplier in enumerate(self.multipliers):
            if level:
                width = x.shape[-1]
                x = block(f"encoder_{level}_down", x, width, "down")
                if self.encoder == "skip":
                    aux = downsample(aux, self.filter)
                    x = x + conv(f"encoder_{level}_aux", aux, width, size=1)
                elif self.encoder == "residual":
                    aux = conv(f"encoder_{level}_aux", aux, width, down=self.filter)
                    x = aux = (x + aux) * style.skip_scale
                skips.append(x)
            for i in range(self.num_blocks):
                x = block(f"encoder_{level}_{i}", x, self.channels * multiplier, attends=level in self.attention)
                skips.append(x)

        aux: Any = None
        for level, multiplier in reversed(tuple(enumerate(self.multipliers))):
            if level == len(self.multipliers) - 1:
                x = block("middle_0", x, x.shape[-1], attends=True)
                x = block("middle_1", x, x.shape[-1])
            else:
                x = block(f"decoder_{level}_up", x, x.shape[-1], "up")
            for i in range(self.num_blocks + 1):
                skip = skips.pop()
                attends = level in self.attention and i == self.num_blocks
                x = jnp.concatenate([x, skip.astype(x.dtype)], axis=-1)
                x = block(f"decoder_{level}_{i}", x, self.channels * multiplier, attends=attends)
            if self.decoder == "skip":
                made = out(f"_{level}", x, self.out_channels)
                aux = made if aux is None else upsample(aux, self.filter) + made
            elif self.decoder == "residual" and aux is None:
                aux = out(f"_{level}", x, x.shape[-1], gain=1.0).astype(x.dtype)
            elif self.decoder == "residual":
                aux = conv(f"decoder_{level}_aux", upsample(aux, self.filter), x.shape[-1])
                x = aux = (x + aux) * style.skip_scale
        return (aux if self.decoder == "skip" else out("", x, self.out_channels)).astype(result)

    def _embed(self, time, labels):
        features = self.channels * self.noise_multiplier
        e = NoiseEmbedding(features, self.embedding, endpoint=True, name="map_noise")(time)
        e = jnp.roll(e, features // 2, axis=-1)  # the authors' order: sines first
        classes = one_hot(labels, self.num_classes, e.dtype)
        if classes is not None:
            e = e + Dense(features, "xavier", name="map_label")(classes * math.sqrt(self.num_classes))
        for i in range(2):
            e = nn.silu(Dense(self.channels * self.embedding_multiplier, "xavier", name=f"map_{i}")(e))
        return e


def check_size(x: jax.Array, levels: int) -> None:
    """Raises `InputError` unless `x` is `[B, H, W, C]` with H and W that can be halved at every level but the first."""
    if x.ndim != 4:
        raise input_error("x", expected="[B, H, W, C]", got=list(x.shape), fix="add the missing axis")
    multiple = 2 ** (levels - 1)
    if x.shape[1] % multiple or x.shape[2] % multiple:
        got = f"{x.shape[1]}x{x.shape[2]}"
        fix = "crop the image or use a network with fewer levels"
        raise input_error("x", expected=f"height and width divisible by {multiple}", got=got, fix=fix)


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


def to_cells(x: jax.Array, side: int) -> jax.Array:
    """Returns `x [B, H, W, C]` as cells of side x side pixels, `[B, H/side, W/side, side side C]`; `InputError`."""
    batch, height, width, channels = x.shape
    if height % side or width % side:
        expected, got = f"height and width divisible by {side}", f"{height}x{width}"
        raise input_error("x", expected=expected, got=got, fix="crop the image or use a smaller patch")
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // side, width // side, side * side * channels)


def to_pixels(x: jax.Array, side: int) -> jax.Array:
    """Returns the image `[B, side H, side W, C]` of cells `x [B, H, W, side side C]`: the inverse of `to_cells`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, side, side, channels // side**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * side, width * side, -1)


class Patched(nn.Module):
    """`network` on cells of `side` x `side` pixels: it sees, and makes, side^2 times the channels of an image."""

    network: nn.Module
    side: int

    @nn.compact
    def __call__(self, x: jax.Array, *args) -> jax.Array:
        return to_pixels(self.network(to_cells(x, self.side), *args), self.side)
