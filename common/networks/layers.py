"""Building blocks of the U-Nets: initial weights, resampling, convolution, linear layer, norm, dropout, embeddings.

Every leaf says how it is distributed, and one draw serves all leaves of a network. Images are halved and doubled by a
short separable filter with an even number of taps, scaled to sum 1; what lies outside an image counts as zero. (1, 1)
is the box, (1, 3, 3, 1) is the one of StyleGAN2 (Karras et al. 2020) that NCSN++ uses. The noise level, or time, is
embedded in float32 or better.
"""

import contextvars
import dataclasses
import itertools
import math
import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.core import meta
from jax import lax
from jax.core import Tracer

from common.errors import choice, input_error
from common.method import Variables
from common.networks.convolution import convolve

_noting = contextvars.ContextVar("noting", default=False)


@dataclasses.dataclass(frozen=True)
class Scaled:
    """An initialiser in the form of Flax's: `mean` plus `scale` times U(-1, 1), or times N(0, 1) if `normal`."""

    scale: float
    normal: bool = False
    mean: float = 0.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        if _noting.get():
            return _Noted(jnp.zeros(shape, dtype), self)
        if self.scale == 0:
            return jnp.full(shape, self.mean, dtype)
        draw = jax.random.normal if self.normal else _uniform
        return self.mean + self.scale * draw(key, shape, dtype)


class _Noted(struct.PyTreeNode, meta.AxisMetadata):
    """A leaf beside its distribution; Flax takes the leaf out wherever a module reads it."""

    value: Any
    how: Scaled = struct.field(pytree_node=False)

    def unbox(self):
        return self.value

    def replace_boxed(self, val):
        return self.replace(value=val)

    def add_axis(self, index, params):
        return self

    def remove_axis(self, index, params):
        return self


def constant(value: float) -> Scaled:
    """Returns the initialiser that fills with `value`."""
    return Scaled(0.0, mean=value)


def normal(shape: tuple[int, ...], gain: float = 1.0) -> Scaled:
    """Returns N(0, `gain`^2) for any shape."""
    return Scaled(gain, normal=True)


def fan_in(shape: tuple[int, ...], gain: float = 1.0) -> Scaled:
    """Returns U(-b, b), b = `gain` / sqrt(fan-in), for a kernel `[..., I, O]`."""
    return Scaled(gain / math.sqrt(math.prod(shape[:-1])))


def xavier(shape: tuple[int, ...], gain: float = 1.0) -> Scaled:
    """Returns U(-b, b), b = `gain` sqrt(6 / (fan-in + fan-out)) (Glorot), for a kernel `[..., I, O]`."""
    return Scaled(gain * math.sqrt(6 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1]))))


def initialise(network: nn.Module, key: jax.Array, *inputs: Any) -> Variables:
    """Draws `params` and `stats` of a network for inputs like `inputs` (only shapes and types matter).

    The distributions are those of `network.init`, but leaves that are `Scaled` share one draw: a draw for each of the
    hundreds of weights of a U-Net takes minutes to compile.
    """
    token = _noting.set(True)
    try:
        # A separate function, so that no trace made without notes is reused.
        noted = jax.eval_shape(lambda *inputs: network.init(key, *inputs), *inputs)
    finally:
        _noting.reset(token)
    leaves, structure = jax.tree.flatten(noted, is_leaf=_is_noted)
    filled: list[Any] = [None] * len(leaves)
    for is_normal, draw in ((False, _uniform), (True, jax.random.normal)):
        places = [i for i, leaf in enumerate(leaves) if _is_noted(leaf) and leaf.how.normal is is_normal]
        sizes = [math.prod(leaves[i].value.shape) if leaves[i].how.scale else 0 for i in places]
        numbers = draw(jax.random.fold_in(key, is_normal), (sum(sizes),), jnp.float32)
        # Cut on the host, unless this is traced: a program with so many results takes seconds to compile.
        numbers = numbers if isinstance(numbers, Tracer) else np.asarray(numbers)
        for i, size, end in zip(places, sizes, itertools.accumulate(sizes), strict=True):
            shape, how = leaves[i].value.shape, leaves[i].how
            part = numbers[end - size : end].reshape(shape) if size else np.zeros(shape, np.float32)
            filled[i] = jnp.asarray(how.mean + how.scale * part, leaves[i].value.dtype)
    if any(leaf is None for leaf in filled):
        zeros = [None if each is None else jnp.zeros(jnp.shape(each), each.dtype) for each in inputs]
        drawn = jax.tree.leaves(jax.jit(network.init)(key, *zeros))
        filled = [each if leaf is None else leaf for leaf, each in zip(filled, drawn, strict=True)]
    tree = jax.tree.unflatten(structure, filled)
    return Variables(tree["params"], tree.get("stats", {}))


def _is_noted(leaf) -> bool:
    return isinstance(leaf, _Noted)


def _uniform(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -1, 1)


def filter_margin(taps: tuple[float, ...], field: str = "filter") -> int:
    """Returns how many pixels the filter reaches beyond an image on each side; raises `InputError` for odd lengths."""
    if len(taps) % 2 or not sum(taps):
        fix = "use (1, 1) or (1, 3, 3, 1)"
        raise input_error(field, expected="an even number of taps with a sum other than 0", got=list(taps), fix=fix)
    return (len(taps) - 1) // 2


def downsample(x: jax.Array, taps: tuple[float, ...], *, margin: int | None = None) -> jax.Array:
    """Filters `x [B, H, W, C]` and keeps every second pixel: `[B, H/2, W/2, C]`; `margin` zeros on each side."""
    own = filter_margin(taps)
    weights, pad = _normal(taps), own if margin is None else margin
    for axis in (1, 2):
        x = _padded(x, axis, pad, pad)
        length = (x.shape[axis] - len(taps)) // 2 + 1
        parts = (lax.slice_in_dim(x, k, k + 2 * length - 1, 2, axis) for k in range(len(taps)))
        x = _sum(weights, parts)
    return x


def upsample(x: jax.Array, taps: tuple[float, ...]) -> jax.Array:
    """Puts zeros between the pixels of `x [B, H, W, C]`, filters, and keeps the mean: `[B, 2H, 2W, C]`.

    The transpose of `downsample` times 4.
    """
    pad = filter_margin(taps)
    weights = [2 * each for each in _normal(taps)]
    reach = len(taps) // 2
    for axis in (1, 2):
        length = x.shape[axis]
        padded = _padded(x, axis, reach, reach)
        phases = []
        for phase in (0, 1):
            # Pixel i, with i = m + (phase + pad - k) / 2, reaches pixel 2m + phase of the result through tap k.
            used = [k for k in range(len(taps)) if (phase + pad - k) % 2 == 0]
            starts = [reach + (phase + pad - k) // 2 for k in used]
            parts = (lax.slice_in_dim(padded, start, start + length, 1, axis) for start in starts)
            phases.append(_sum([weights[k] for k in used], parts))
        shape = (*x.shape[:axis], 2 * length, *x.shape[axis + 1 :])
        x = jnp.stack(phases, axis + 1).reshape(shape)
    return x


def _normal(taps: tuple[float, ...]) -> list[float]:
    return [each / sum(taps) for each in taps]


def _padded(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths)


def _sum(weights, parts) -> jax.Array:
    terms = [weight * part for weight, part in zip(weights, parts, strict=True)]
    return sum(terms[1:], terms[0])


_RULES = {"xavier": xavier, "fan_in": fan_in, "normal": normal}


def wide(dtype: Any) -> Any:
    """Returns float32, or `dtype` where that is wider; None stays None."""
    return None if dtype is None else jnp.promote_types(dtype, jnp.float32)


def _weights(module, shape: tuple[int, ...], bias: bool) -> tuple[Any, Any]:
    """Makes kernel and bias of a layer; the biases are zero under Glorot's rule, and like the kernel otherwise."""
    how = _RULES[module.rule](shape, module.gain)
    kernel = module.param("kernel", how, shape)
    if not bias:
        return kernel, None
    return kernel, module.param("bias", constant(0.0) if module.rule == "xavier" else how, shape[-1:])


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
            margin = filter_margin(self.down)
            x = convolve(jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0))), kernel)
            x = downsample(x, self.down, margin=0)
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
        scale = self.param("scale", constant(1.0), (channels,))
        bias = self.param("bias", constant(0.0), (channels,))
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
    `path` identifies the layer within its network.
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


KINDS = ("fourier", "positional")


def positional(time: jax.Array, features: int, *, highest: float = 10_000.0, endpoint: bool = False) -> jax.Array:
    """Returns [cos(t w), sin(t w)], w_k = highest^(-k / half), k < half = features // 2; `[B] -> [B, features]`.

    `endpoint` divides k by half - 1 instead, so that the lowest is 1 / highest; an odd `features` ends with a zero.
    """
    time = jnp.asarray(time)
    time = time.astype(jnp.promote_types(time.dtype, jnp.float32))
    half = features // 2
    k = jnp.arange(half, dtype=time.dtype)
    phase = time[:, None] * jnp.exp(-math.log(highest) * k / (half - endpoint))
    zero = jnp.zeros((len(time), features % 2), time.dtype)
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase), zero], axis=-1)


class NoiseEmbedding(nn.Module):
    """The time as waves, `[B] -> [B, features]`.

    `kind` "fourier": [cos(2 pi f t), sin(2 pi f t)] at fixed random frequencies f ~ `scale` N(0, 1), kept in `stats`;
    "positional": `positional` with the given `endpoint`.
    """

    features: int
    kind: str = "fourier"
    scale: float = 16.0
    endpoint: bool = False

    @nn.compact
    def __call__(self, time: jax.Array) -> jax.Array:
        choice("embedding", self.kind, KINDS)
        if self.kind == "positional":
            return positional(time, self.features, endpoint=self.endpoint)
        time = time.astype(jnp.promote_types(time.dtype, jnp.float32))
        frequencies = self.variable("stats", "frequencies", self._draw).value
        # Phases reach 300 rad: half precision would destroy them.
        phase = time[:, None] * (2 * math.pi * frequencies.astype(time.dtype))
        return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)

    def _draw(self):
        return Scaled(self.scale, normal=True)(self.make_rng("params"), (self.features // 2,))


def one_hot(labels: jax.Array | None, num_classes: int, dtype) -> jax.Array | None:
    """Returns classes as `[B, num_classes]`, given as such or as integers `[B]` (-1 is no class, all zeros).

    None for a network without classes; raises `InputError` if labels are given to one, or not given to the others.
    """
    if labels is None and num_classes == 0:
        return None
    if labels is None or num_classes == 0:
        got = "none" if labels is None else f"labels of shape {list(jnp.shape(labels))}"
        expected = f"labels of {num_classes} classes" if num_classes else "none, since the network has no classes"
        raise input_error(
            "labels",
            expected=expected,
            got=got,
            fix="use a network made for them" if labels is not None else "give one a sample, -1 for no class",
        )
    labels = jnp.asarray(labels)
    if jnp.issubdtype(labels.dtype, jnp.integer) and labels.ndim == 1:
        return jax.nn.one_hot(labels, num_classes, dtype=dtype)
    if labels.shape[-1:] != (num_classes,) or labels.ndim != 2:
        got = list(labels.shape)
        raise input_error(
            "labels", expected=f"[B] or [B, {num_classes}]", got=got, fix="give class numbers or one-hot rows"
        )
    return labels.astype(dtype)
