"""The three bias-free denoising networks, each returning the noise (residual) in `y [B, H, W, C]`, and their denoisers.

Kadkhodaie, Guth, Simoncelli, Mallat, "Generalization in diffusion models arises from geometry-adaptive harmonic
representations", ICLR 2024, appendix A. Without any additive constant a network in evaluation mode is positively
homogeneous: n(a y) = a n(y) for a > 0.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from common.arrays import as_images, as_numbers
from common.errors import input_error
from common.method import Variables
from common.networks.convolution import convolve

RECEPTIVE_FIELDS = (5, 9, 13, 23, 43)  # of BFCNNRF, pixels


def halve(x: jax.Array) -> jax.Array:
    """Averages 2x2 blocks: `[B, H, W, C] -> [B, H/2, W/2, C]`."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def double(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed 2x2 convolution of stride 2: out[2i+a, 2j+b, o] = sum_c x[i, j, c] kernel[a, b, c, o]."""
    batch, height, width, _ = x.shape
    return jnp.einsum("nijc,abco->niajbo", x, kernel).reshape(batch, 2 * height, 2 * width, kernel.shape[-1])


def kernel_std(shape: tuple[int, ...]) -> float:
    """Returns the deviation of the initial weights of a kernel `[k, k, I, O]`, sqrt(2 / fan-in) (He normal)."""
    size, inputs, outputs = shape[0] * shape[1], shape[2], shape[3]
    # The authors' library counts the fan-in of a transposed convolution, the only even kernel here, by its outputs.
    return math.sqrt(2 / (size * (inputs if shape[0] % 2 else outputs)))


def initial_gain(rule: str, z: jax.Array) -> jax.Array:
    """Maps standard normal numbers to gains: "released", N(0, (2/576)^2) for every width, clipped; or "unit", ones."""
    if rule == "unit":
        return jnp.ones_like(z)
    if rule == "released":
        return jnp.clip(z * 2 / (9 * 64), -0.025, 0.025)
    raise input_error(
        "gain_init", expected='"released" or "unit"', got=repr(rule), fix='use "released" for the paper\'s'
    )


def _initial_kernel(key, shape, dtype):
    return kernel_std(shape) * jax.random.normal(key, shape, dtype)


def _compute_dtype(dtype: Any, *arrays: jax.Array) -> Any:
    return jnp.result_type(*arrays) if dtype is None else dtype


def _at_least_float32(dtype: Any) -> Any:
    return None if dtype is None else jnp.promote_types(dtype, jnp.float32)


class Conv(nn.Module):
    """A bias-free convolution with an odd kernel, computed in `dtype` (None: that of the operands)."""

    features: int
    size: int = 3
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", _initial_kernel, shape, jnp.float32)
        dtype = _compute_dtype(self.dtype, x, kernel)
        return convolve(x.astype(dtype), kernel.astype(dtype))


class Upsample(nn.Module):
    """A bias-free transposed 2x2 convolution of stride 2."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (2, 2, x.shape[-1], self.features)
        kernel = self.param("kernel", _initial_kernel, shape, jnp.float32)
        dtype = _compute_dtype(self.dtype, x, kernel)
        return double(x.astype(dtype), kernel.astype(dtype))


class BiasFreeNorm(nn.Module):
    """Divides each channel by its standard deviation over the batch and multiplies by a gain; nothing is subtracted.

    Training: sd = sqrt(Var[x over batch, row, column] + 1e-5) with the centred, biased variance, differentiated
    through; running_sd <- 0.9 running_sd + 0.1 sd. Evaluation: sd = running_sd, and no statistic is computed. With
    `axis_name` the variance is that of all devices together. `frozen` (boolean, may be traced) makes a training pass
    use running_sd and leave it as it is.
    """

    axis_name: str | None = None
    gain_init: str = "released"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, frozen: jax.Array | None = None) -> jax.Array:
        shape = x.shape[-1:]
        gain = self.param("gain", self._initial_gain, shape, jnp.float32)
        running = self.variable("stats", "running_sd", jnp.ones, shape, jnp.float32)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        sd = running.value
        if train:
            variance = self._average(jnp.square(wide - self._average(wide)))
            batch_sd = jnp.sqrt(variance + 1e-5)
            updated = 0.9 * running.value + 0.1 * lax.stop_gradient(batch_sd)
            if frozen is None:
                sd = batch_sd
            else:
                sd = jnp.where(frozen, running.value, batch_sd)
                updated = jnp.where(frozen, running.value, updated)
            if not self.is_initializing():
                running.value = updated
        return (wide * (gain / sd)).astype(x.dtype)

    def _initial_gain(self, key, shape, dtype):
        return initial_gain(self.gain_init, jax.random.normal(key, shape, dtype))

    def _average(self, x: jax.Array) -> jax.Array:
        mean = x.mean((0, 1, 2))
        return mean if self.axis_name is None else lax.pmean(mean, self.axis_name)


class Block(nn.Module):
    """A chain of convolutions of `widths` channels, each followed by norm (where `norms` is true) and rectifier.

    The last convolution of a block with `ends=True` has neither.
    """

    widths: tuple[int, ...]
    norms: tuple[bool, ...]
    ends: bool = False
    dtypes: tuple[Any, ...] = (None, None)
    axis_name: str | None = None
    gain_init: str = "released"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, frozen: jax.Array | None) -> jax.Array:
        for i, (width, norm, dtype) in enumerate(zip(self.widths, self.norms, self.dtypes, strict=True)):
            x = Conv(width, dtype=dtype, name=f"conv_{i}")(x)
            if norm:
                x = BiasFreeNorm(self.axis_name, self.gain_init, name=f"norm_{i}")(x, train, frozen)
            if not (self.ends and i == len(self.widths) - 1):
                x = nn.relu(x)
        return x


class UNet(nn.Module):
    """The paper's bias-free UNet: `num_blocks` halvings, two convolutions per block, `num_kernels` channels at the top.

    `y [B, H, W, channels]`, height and width divisible by 2**num_blocks, else `InputError`. Convolutions are computed
    in `dtype` except the first and the last, which stay in float32 at least: an image rounded to 8 bits of mantissa
    has lost its fine noise. `remat` recomputes the blocks' activations in the backward pass.
    """

    num_kernels: int = 64
    num_blocks: int = 3
    channels: int = 1
    dtype: Any = None
    axis_name: str | None = None
    gain_init: str = "released"
    remat: bool = False

    @nn.compact
    def __call__(self, y: jax.Array, train: bool = False, frozen: jax.Array | None = None) -> jax.Array:
        _check_channels(y, self.channels)
        _check_size(y, self.num_blocks)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        edge = _at_least_float32(self.dtype)

        def run(name, x, width, *, norms=(True, True), last=None, dtypes=(self.dtype, self.dtype)):
            widths = (width, last or width)
            chain = block(widths, norms, last is not None, dtypes, self.axis_name, self.gain_init, name=name)
            return chain(x, train, frozen)

        x, skips = y, []
        for b in range(self.num_blocks):
            first = {"norms": (False, True), "dtypes": (edge, self.dtype)} if b == 0 else {}
            x = run(f"encoder_{b}", x, self.num_kernels << b, **first)
            skips.append(x)
            x = halve(x)
        x = run("mid", x, self.num_kernels << self.num_blocks)
        for b in reversed(range(self.num_blocks)):
            width = self.num_kernels << b
            x = Upsample(width, self.dtype, name=f"upsample_{b}")(x)
            x = jnp.concatenate([x, skips[b].astype(x.dtype)], axis=-1)
            last = {"norms": (True, False), "last": self.channels, "dtypes": (self.dtype, edge)} if b == 0 else {}
            x = run(f"decoder_{b}", x, width, **last)
        return x.astype(y.dtype)


class BFCNN(nn.Module):
    """A bias-free CNN without down-sampling: `num_layers` 3x3 convolutions of `num_kernels` channels.

    `y [B, H, W, channels]`. Norm and rectifier follow every convolution but the first (rectifier only, or nothing if
    `first_layer_linear`) and the last.
    """

    num_kernels: int = 64
    num_layers: int = 21
    channels: int = 1
    first_layer_linear: bool = False
    dtype: Any = None
    axis_name: str | None = None
    gain_init: str = "released"
    remat: bool = False

    @nn.compact
    def __call__(self, y: jax.Array, train: bool = False, frozen: jax.Array | None = None) -> jax.Array:
        _check_channels(y, self.channels)
        sizes = (3,) * self.num_layers
        return _chain(self, y, sizes, self.channels, self.first_layer_linear, train, frozen)


class BFCNNRF(nn.Module):
    """A bias-free CNN of 21 layers whose `receptive_field` is set by making some of its kernels 1x1.

    `y [B, H, W, channels]`; with `conditional`, `y [B, H, W, 3 channels + 1]` holds a clean low-pass band and then the
    noisy detail bands, and the result is the noise of the 3 `channels` details.
    """

    num_kernels: int = 64
    receptive_field: int = 43
    channels: int = 1
    conditional: bool = False
    dtype: Any = None
    axis_name: str | None = None
    gain_init: str = "released"
    remat: bool = False

    @nn.compact
    def __call__(self, y: jax.Array, train: bool = False, frozen: jax.Array | None = None) -> jax.Array:
        _check_channels(y, 3 * self.channels + 1 if self.conditional else self.channels)
        outputs = 3 * self.channels if self.conditional else self.channels
        return _chain(self, y, kernel_sizes(self.receptive_field), outputs, True, train, frozen)


def kernel_sizes(receptive_field: int) -> tuple[int, ...]:
    """Returns the kernel size of each of the 21 layers of `BFCNNRF`; raises `InputError` for an impossible field."""
    # The authors' code calls the network of 9 pixels 8, for then the period of its 3x3 layers comes out whole.
    tag = 8 if receptive_field == 9 else receptive_field
    if tag not in (8, *RECEPTIVE_FIELDS):
        names = ", ".join(str(size) for size in RECEPTIVE_FIELDS)
        raise input_error(
            "receptive_field", expected=f"one of {names}", got=receptive_field, fix="use 43 for all kernels 3x3"
        )
    period = round(20 / ((tag - 1) / 2 - 1))
    return (3, *(3 if layer % period == 0 else 1 for layer in range(1, 20)), 3)


def _chain(module, y, sizes, outputs, first_layer_linear, train, frozen):
    """The body of both CNNs; `module` owns the parameters and gives width, dtype and norm settings."""
    last = len(sizes) - 1
    edge = _at_least_float32(module.dtype)

    def unit(module, x, layer):
        features = outputs if layer == last else module.num_kernels
        dtype = edge if layer in (0, last) else module.dtype
        x = Conv(features, sizes[layer], dtype, name=f"conv_{layer}")(x)
        if 0 < layer < last:
            x = BiasFreeNorm(module.axis_name, module.gain_init, name=f"norm_{layer}")(x, train, frozen)
        return x if layer == last or (layer == 0 and first_layer_linear) else nn.relu(x)

    step = nn.remat(unit, static_argnums=(2,)) if module.remat else unit
    x = y
    for layer in range(len(sizes)):
        x = step(module, x, layer)
    return x.astype(y.dtype)


def init(network: nn.Module, key: jax.Array, y: jax.Array) -> Variables:
    """Returns random initial parameters for inputs like `y [B, H, W, C]` (only its shape and dtype matter).

    The distribution is that of `network.init` (both use `kernel_std` and `initial_gain`), but all numbers are slices of
    one array: compiling a generator for each parameter takes ten times as long (12.1 s of CPU against 1.1 s for a UNet
    of 8 kernels and 2 blocks, jax 0.10.2).
    """
    return _init(network, key, tuple(y.shape), y.dtype)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _init(network, key, shape, dtype):
    shapes = jax.eval_shape(network.init, key, jax.ShapeDtypeStruct(shape, dtype))
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes["params"])
    sizes = [math.prod(leaf.shape) for _, leaf in leaves]
    numbers = jax.random.normal(key, (sum(sizes),), jnp.float32)
    slices = [numbers[end - size : end] for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)]

    def fill(path, shape, z):
        if path[-1].key == "gain":
            return initial_gain(network.gain_init, z)
        return kernel_std(shape) * z.reshape(shape)

    params = [fill(path, leaf.shape, z) for (path, leaf), z in zip(leaves, slices, strict=True)]
    stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes.get("stats", {}))
    return Variables(jax.tree.unflatten(structure, params), stats)


def apply(
    network: nn.Module, variables: Variables, y: jax.Array, *, train: bool = False, frozen: jax.Array | None = None
) -> tuple[jax.Array, Any]:
    """Returns the noise in `y [B, H, W, C]` and the running statistics (updated if `train`, unless `frozen`)."""
    tree = {"params": variables.params, "stats": variables.stats}
    if not train:
        residual: Any = network.apply(tree, y)
        return residual, variables.stats
    residual, updated = network.apply(tree, y, train=True, frozen=frozen, mutable=["stats"])
    return residual, updated.get("stats", {})


@dataclasses.dataclass(frozen=True)
class _Subtract:
    """y - n(y); compared by its network, so that one compiled program serves all its checkpoints."""

    network: nn.Module

    def __call__(self, variables: Variables, y: jax.Array) -> jax.Array:
        if getattr(self.network, "conditional", False):
            # Bands of wavelets, of no common range; the network checks their number.
            y = jnp.asarray(as_numbers(y, "y"))
        else:
            channels = getattr(self.network, "channels", None)
            y = jnp.asarray(as_images(y, "y", noisy=True, shape=(None, None, channels)))
        return y - _padded(self.network, variables, y)


def _padded(network: nn.Module, variables: Variables, y: jax.Array) -> jax.Array:
    """Returns the noise n(y) for images of any size: padded by reflection to what the network halves, then cropped."""
    multiple = 2 ** getattr(network, "num_blocks", 0)
    spare = [-length % multiple for length in y.shape[1:3]]
    if not any(spare):
        return apply(network, variables, y)[0]
    margins = [(more // 2, more - more // 2) for more in spare]
    noise = apply(network, variables, jnp.pad(y, [(0, 0), *margins, (0, 0)], mode="reflect"))[0]
    (top, _), (left, _) = margins
    return noise[:, top : top + y.shape[1], left : left + y.shape[2]]


def denoiser(variables: Variables, network: nn.Module) -> Partial:
    """Returns the denoiser f(y) = y - n(y) of a network in evaluation mode, `y [B, H, W, C]`.

    y: noisy images, floats on the scale of [0, 1], which noise may leave; bytes are taken to [0, 1], and x_hat is float
    in any case. Heights and widths that the network cannot halve `num_blocks` times are padded by reflection, on both
    sides, and the result is cropped. Calling it raises `InputError` for floats in 0..255, other integers, NaN and other
    shapes.
    The result is a pytree of the weights: give it to jitted functions as an argument, never close over it.

    >>> import gahb
    >>> gahb.denoiser(variables, network)(jnp.ones((1, 32, 32, 1))).shape  # doctest: +SKIP
    (1, 32, 32, 1)
    """
    return Partial(_Subtract(network), Variables(*variables))


def _check_channels(y: jax.Array, channels: int) -> None:
    if y.ndim != 4 or y.shape[-1] != channels:
        raise input_error(
            "y", expected=f"[B, H, W, {channels}]", got=list(y.shape), fix="add the missing axis or set channels"
        )


def _check_size(y: jax.Array, num_blocks: int) -> None:
    multiple = 2**num_blocks
    if y.shape[1] % multiple or y.shape[2] % multiple:
        size = f"{y.shape[1]}x{y.shape[2]}"
        fix = "crop the image or use a network with fewer blocks"
        raise input_error("y", expected=f"height and width divisible by {multiple}", got=size, fix=fix)
