"""Denoisers: functions `y [B, H, W, C] -> x_hat`, whose weights travel as arguments of whatever compiles them."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from common.arrays import as_images, as_numbers
from common.errors import input_error
from common.method import Variables
from gahb.network import apply

Denoiser: TypeAlias = Callable[[jax.Array], jax.Array]


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


def as_denoiser(function: Denoiser) -> Partial:
    """Wraps any function `y -> x_hat` as a pytree without leaves; returns a `Partial` unchanged.

    Arrays inside such a function become constants of every program compiled with it; to avoid that, make it with
    `jax.tree_util.Partial(function, arrays)` and let it take them first.

    >>> as_denoiser(lambda y: y / 2)(jnp.ones((1, 1, 1, 1))).item()
    0.5
    """
    if isinstance(function, Partial):
        return function
    if not callable(function):
        raise input_error(
            "denoise", expected="a function y -> x_hat", got=type(function).__name__, fix="pass a callable"
        )
    return Partial(function)


def denoised(denoise: Denoiser, y: jax.Array) -> jax.Array:
    """Returns `denoise(y)` while a program is traced.

    Raises `InputError` for a function that JAX cannot trace, or whose output has another shape than its input.
    """
    try:
        x_hat = denoise(y)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        got = f"one that needs values ({type(error).__name__})"
        fix = "use jax.numpy in place of NumPy, or gahb.from_callback"
        raise input_error("denoise", expected="a function that JAX can trace", got=got, fix=fix) from None
    if jnp.shape(x_hat) != y.shape:
        got, fix = f"one {list(jnp.shape(x_hat))}", "return the clean images, and nothing beside them"
        raise input_error("denoise", expected=f"an output like its input {list(y.shape)}", got=got, fix=fix)
    return jnp.asarray(x_hat)
