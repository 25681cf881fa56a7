"""The Jacobian of a denoiser at one image as a linear map: products with J, its transpose and its symmetric part."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import as_images
from common.errors import input_error
from gahb.denoisers import Denoiser, as_denoiser


class Linearisation(NamedTuple):
    """A denoiser at the image y: its value there and what every product with its Jacobian J = df/dy needs.

    A pytree; the denoiser is evaluated once, and a product costs about as much as one more evaluation.
    """

    y: jax.Array  # [H, W, C]
    value: jax.Array  # f(y) [H, W, C]
    pull_back: Any  # u -> (J^T u,)

    @property
    def size(self) -> int:
        """Number of pixels times channels, d."""
        return self.y.size


def linearise(denoise: Denoiser, y: jax.Array) -> Linearisation:
    """Linearises any denoiser `[B, H, W, C] -> [B, H, W, C]` at one image `y [H, W, C]` or `[1, H, W, C]`.

    All products are computed at the highest precision. Another checkpoint of the same network compiles nothing anew.
    y: noisy, on the scale of [0, 1]; bytes are taken to [0, 1]. Raises `InputError` for more than one image, other
    integers, floats in 0..255, NaN, or an output of another shape.
    """
    denoise = as_denoiser(denoise)
    if np.ndim(y) == 4:
        if len(y) != 1:
            got = list(np.shape(y))
            raise input_error("y", expected="one image [H, W, C]", got=got, fix="analyse images one at a time")
        y = y[0]
    y = jnp.asarray(as_images(y, "y", noisy=True, batch=False))
    output = jax.eval_shape(denoise, jax.ShapeDtypeStruct((1, *y.shape), y.dtype))
    if output.shape != (1, *y.shape) or output.dtype != y.dtype:
        got = f"{output.dtype} {list(output.shape)}"
        fix = "wrap it as a function of the noisy image alone, of one type throughout"
        raise input_error("denoise", expected=f"an output like its input, {y.dtype} {[1, *y.shape]}", got=got, fix=fix)
    return _linearise(denoise, y)


@jax.jit
def _linearise(denoise, y):
    with jax.default_matmul_precision("highest"):
        value, pull_back = jax.vjp(lambda y: denoise(y[None])[0], y)
    return Linearisation(y, value, pull_back)


@jax.jit
def push(linear: Linearisation, v: jax.Array) -> jax.Array:
    """Returns J v for each of `v [n, H, W, C]`."""
    with jax.default_matmul_precision("highest"):
        # Transposing the transpose needs no second linearisation and works where only a vjp is defined.
        transpose = jax.linear_transpose(lambda u: linear.pull_back(u)[0], linear.y)
        return jax.vmap(lambda each: transpose(each)[0])(v)


@jax.jit
def pull(linear: Linearisation, u: jax.Array) -> jax.Array:
    """Returns J^T u for each of `u [n, H, W, C]`."""
    with jax.default_matmul_precision("highest"):
        return jax.vmap(lambda each: linear.pull_back(each)[0])(u)


@jax.jit
def symmetric(linear: Linearisation, v: jax.Array) -> jax.Array:
    """Returns S v = (J v + J^T v) / 2 for each of `v [n, H, W, C]`."""
    return (push(linear, v) + pull(linear, v)) / 2


@jax.jit
def normal(linear: Linearisation, v: jax.Array) -> jax.Array:
    """Returns J^T J v for each of `v [n, H, W, C]`."""
    return pull(linear, push(linear, v))


def unit_images(linear: Linearisation, start: int, count: int) -> jax.Array:
    """Returns `count` images that are 1 at one pixel each, the first at flat index `start`; zeros beyond the last."""
    flat = np.zeros((count, linear.size), linear.y.dtype)
    inside = min(count, linear.size - start)
    flat[np.arange(inside), start + np.arange(inside)] = 1
    return jnp.asarray(flat.reshape(count, *linear.y.shape))


def homogeneity(denoise: Denoiser, y: jax.Array) -> float:
    """Returns ||J y - f(y)|| / ||f(y)||: 0 up to rounding for bias-free denoisers, for which f(a y) = a f(y)."""
    linear = linearise(denoise, y)
    moved = np.asarray(push(linear, linear.y[None])[0], np.float64)
    value = np.asarray(linear.value, np.float64)
    return float(np.linalg.norm(moved - value) / np.linalg.norm(value))
