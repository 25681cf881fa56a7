"""Convolution, linear layer, group norm and dropout as the U-Nets use them, and the hash behind the dropout."""

import math
import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from common.networks import initial, resample
from common.networks.convolution import convolve

_RULES = {"xavier": initial.xavier, "fan_in": initial.fan_in, "normal": initial.normal}


def wide(dtype: Any) -> Any:
    """Returns float32, or `dtype` where that is wider; None stays None."""
    return None if dtype is None else jnp.promote_types(dtype, jnp.float32)


def _weights(module, shape: tuple[int, ...], bias: bool):
    """Makes kernel and bias of a layer; the biases are zero under Glorot's rule, and like the kernel otherwise."""
    how = _RULES[module.rule](shape, module.gain)
    kernel = module.param("kernel", how, shape)
    if not bias:
        return kernel, None
    return kernel, module.param("bias", initial.constant(0.0) if module.rule == "xavier" else how, shape[-1:])


class Dense(nn.Module):
    """`x [..., I] -> [..., features]`, computed in `dtype` (None: that of the operands)."""

    features: int
    rule: str = "fan_in"
    gain: float = 1.0
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = _weights(self, (x.shape[-1], self.features), self.use_bias)
        dtype = jnp.result_type(x, kernel) if self.dtype is None else self.dtype
        out = x.astype(dtype) @ kernel.astype(dtype)
        return out if bias is None else out + bias.astype(dtype)


class Conv(nn.Module):
    """A 1x1 or 3x3 convolution of `x [B, H, W, I]`, zeros outside, computed in `dtype` (None: that of the operands).

    With `down`, taps of a filter, the result is filtered and every second pixel kept before the bias is added; the
    convolution is then taken on a margin as well, wide enough for the filter. `stride=2` keeps every second pixel of
    the plain convolution.
    """

    features: int
    size: int = 3
    rule: str = "fan_in"
    gain: float = 1.0
    down: tuple[float, ...] | None = None
    stride: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = _weights(self, (self.size, self.size, x.shape[-1], self.features), True)
        dtype = jnp.result_type(x, kernel) if self.dtype is None else self.dtype
        x, kernel = x.astype(dtype), kernel.astype(dtype)
        if self.down is not None:
            margin = resample.margin(self.down)
            x = convolve(jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0))), kernel)
            x = resample.down(x, self.down, margin=0)
        elif self.stride > 1:
            pad = self.size // 2
            numbers, layout = (self.stride, self.stride), ("NHWC", "HWIO", "NHWC")
            x = lax.conv_general_dilated(x, kernel, numbers, [(pad, pad), (pad, pad)], dimension_numbers=layout)
        elif self.size == 1:
            x = x @ kernel[0, 0]
        else:
            x = convolve(x, kernel)
        return x + bias.astype(dtype)


class GroupNorm(nn.Module):
    """Group normalisation of `x [B, ..., C]` in float32 or better, which is also the type of the result.

    There are min(32, C / min_group) groups, or the next number below that divides C; the biased variance is that of
    each example alone.
    """

    eps: float
    min_group: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", initial.constant(1.0), (channels,))
        bias = self.param("bias", initial.constant(0.0), (channels,))
        most = max(1, min(32, channels // self.min_group))
        groups = next(count for count in range(most, 0, -1) if channels % count == 0)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        flat = x.reshape(x.shape[0], -1, channels)

        def over_groups(of_channels):
            # Over pixels first: channels stay the innermost axis, along which CPUs compute several at once.
            grouped = of_channels.mean(1).reshape(-1, 1, groups, channels // groups).mean(-1)
            return jnp.repeat(grouped, channels // groups, axis=-1)

        centred = flat - over_groups(flat)
        slope = lax.rsqrt(over_groups(jnp.square(centred)) + self.eps) * scale
        return (centred * slope + bias).reshape(x.shape)


def dropout_seeds(keys: jax.Array | None) -> jax.Array | None:
    """Returns numbers `[B, 2]` for `dropout` from the examples' own keys `[B]`; None from None."""
    return None if keys is None else jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys)


def dropout(x: jax.Array, rate: float, seeds: jax.Array | None, path: tuple[str, ...]) -> jax.Array:
    """Zeroes each number of `x [B, ...]` with probability `rate` and scales up the rest; None drops nothing.

    `seeds [B, 2]` belong to the examples, so what is dropped does not depend on how a batch is spread over devices;
    `path` tells the layers of a network apart.
    """
    dropped = round(rate * 2**32)
    if seeds is None or dropped == 0:
        return x
    # A hash of the place, not a generator's stream: that would take longer to compile and to run than the layer.
    place = jnp.arange(math.prod(x.shape[1:]), dtype=jnp.uint32).reshape(x.shape[1:])
    words = (seeds[:, i].reshape(-1, *([1] * (x.ndim - 1))) for i in (0, 1))
    bits = hashed(*words, np.uint32(zlib.crc32("/".join(path).encode())), place)
    return jnp.where(bits >= np.uint32(dropped), x * jnp.asarray(2**32 / (2**32 - dropped), x.dtype), 0)


_GOLDEN = 0x9E3779B9


def mix(x: Any) -> Any:
    """Scrambles uint32 `x` by a bijection in which every bit of the input reaches every bit of the output.

    Two rounds of xor-shift and multiplication, with the multipliers of the "lowbias32" search (C. Wellons, 2018).
    """
    x = jnp.asarray(x, jnp.uint32)
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def hashed(*values: Any) -> Any:
    """Hashes any number of uint32 values, broadcast against each other, to one uint32 of their common shape."""
    state = jnp.uint32(0)
    for value in values:
        state = mix((state + jnp.uint32(_GOLDEN)) ^ jnp.asarray(value, jnp.uint32))
    return state
