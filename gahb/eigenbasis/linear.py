"""The Jacobian of a denoiser at one image as a linear map: products with J, its transpose and its symmetric part."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from common.arrays import as_images, as_numbers
from common.errors import RunError, input_error
from gahb.adapters import Callback
from gahb.denoisers import Denoiser, as_denoiser


class Linearisation(NamedTuple):
    """A denoiser at the image y: its value there and the products with its Jacobian J = df/dy.

    A pytree; the denoiser is evaluated once, and a product costs about as much as one more evaluation.
    """

    y: jax.Array  # [H, W, C]
    value: jax.Array  # f(y) [H, W, C]
    forward: Partial  # v [n, H, W, C] -> J v
    backward: Partial  # u [n, H, W, C] -> J^T u

    @property
    def size(self) -> int:
        """Number of pixels times channels, d."""
        return self.y.size


def linearise(denoise: Denoiser, y: jax.Array) -> Linearisation:
    """Linearises any denoiser `[B, H, W, C] -> [B, H, W, C]` at one image `y [H, W, C]` or `[1, H, W, C]`.

    All products are computed at the highest precision. Another checkpoint of the same network compiles nothing anew.
    y: noisy, on the scale of [0, 1]; bytes are taken to [0, 1]. Raises `InputError` for more than one image, other
    integers, floats in 0..255, NaN, or an output of another shape; `RunError` for an output that is not finite.

    >>> linearise(lambda y: y**2, jnp.full((1, 2, 1), 0.5)).value.ravel().tolist()
    [0.25, 0.25]
    """
    denoise, y = as_denoiser(denoise), as_numbers(y, "y")
    if y.ndim == 4:
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
    if isinstance(denoise.func, Callback):
        products = denoise.func.products()
        linear = Linearisation(y, denoise(y[None])[0], *(Partial(each, y) for each in products))
    else:
        value, pull_back = _linearise(denoise, y)
        linear = Linearisation(y, value, Partial(_forward, y, pull_back), Partial(_backward, pull_back))
    require_finite(linear.value)
    return linear


def require_finite(values: np.ndarray | jax.Array) -> None:
    """Raises `RunError` unless all `values` of a denoiser, or of products with its Jacobian, are finite."""
    if not np.isfinite(values).all():
        raise RunError(
            "denoise or its Jacobian product: expected finite numbers, got others; check the image and the weights"
        )


@jax.jit
def _linearise(denoise, y):
    with jax.default_matmul_precision("highest"):
        return jax.vjp(lambda y: denoise(y[None])[0], y)


def _forward(y, pull_back, v):
    # Transposing the transpose needs no second linearisation and works where only a vjp is defined.
    transpose = jax.linear_transpose(lambda u: pull_back(u)[0], y)
    return jax.vmap(lambda each: transpose(each)[0])(v)


def _backward(pull_back, u):
    return jax.vmap(lambda each: pull_back(each)[0])(u)


@jax.jit
def jvp(linear: Linearisation, v: jax.Array) -> jax.Array:
    """Returns J v for each of `v [n, H, W, C]`.

    >>> linear = linearise(lambda y: jnp.cumsum(y, axis=2), jnp.ones((1, 2, 1)))  # J = [[1, 0], [1, 1]]
    >>> jvp(linear, jnp.ones((1, 1, 2, 1))).ravel().tolist()
    [1.0, 2.0]
    """
    with jax.default_matmul_precision("highest"):
        return linear.forward(v)


@jax.jit
def vjp(linear: Linearisation, u: jax.Array) -> jax.Array:
    """Returns J^T u for each of `u [n, H, W, C]`.

    >>> linear = linearise(lambda y: jnp.cumsum(y, axis=2), jnp.ones((1, 2, 1)))  # J = [[1, 0], [1, 1]]
    >>> vjp(linear, jnp.ones((1, 1, 2, 1))).ravel().tolist()
    [2.0, 1.0]
    """
    with jax.default_matmul_precision("highest"):
        return linear.backward(u)


@jax.jit
def symmetric(linear: Linearisation, v: jax.Array) -> jax.Array:
    """Returns S v = (J v + J^T v) / 2 for each of `v [n, H, W, C]`.

    >>> linear = linearise(lambda y: jnp.cumsum(y, axis=2), jnp.ones((1, 2, 1)))  # J = [[1, 0], [1, 1]]
    >>> symmetric(linear, jnp.ones((1, 1, 2, 1))).ravel().tolist()
    [1.5, 1.5]
    """
    return (jvp(linear, v) + vjp(linear, v)) / 2


@jax.jit
def normal(linear: Linearisation, v: jax.Array) -> jax.Array:
    """Returns J^T J v for each of `v [n, H, W, C]`."""
    return vjp(linear, jvp(linear, v))


def unit_images(linear: Linearisation, start: int, count: int) -> jax.Array:
    """Returns `count` images that are 1 at one pixel each, the first at flat index `start`; zeros beyond the last."""
    flat = np.zeros((count, linear.size), linear.y.dtype)
    inside = min(count, linear.size - start)
    flat[np.arange(inside), start + np.arange(inside)] = 1
    return jnp.asarray(flat.reshape(count, *linear.y.shape))


def homogeneity(denoise: Denoiser, y: jax.Array) -> float:
    """Returns ||J y - f(y)|| / ||f(y)||: 0 up to rounding for bias-free denoisers, for which f(a y) = a f(y).

    Where f(y) = 0, the ratio is 0 if J y is zero too, else infinite.

    >>> homogeneity(lambda y: y / 2, jnp.ones((1, 2, 1))), homogeneity(lambda y: y + 1, jnp.ones((1, 2, 1)))
    (0.0, 0.5)
    """
    return homogeneity_of(linearise(denoise, y))


def homogeneity_of(linear: Linearisation) -> float:
    moved = np.asarray(jvp(linear, linear.y[None])[0], np.float64)
    value = np.asarray(linear.value, np.float64)
    return ratio(np.linalg.norm(moved - value), np.linalg.norm(value))


def ratio(a: float, b: float) -> float:
    """Returns a / b of two numbers that are not negative; 0 / 0 counts as 0."""
    if b == 0:
        return 0.0 if a == 0 else float("inf")
    return float(a / b)


def in_blocks(product, linear: Linearisation, rows: np.ndarray, block: int) -> np.ndarray:
    """Applies `product(linear, images)` to `rows [n, d]`, `block` at a time; float64 on the host."""
    moved = []
    for start in range(0, len(rows), block):
        padded = np.zeros((block, linear.size))
        taken = rows[start : start + block]
        padded[: len(taken)] = taken
        images = jnp.asarray(padded.reshape(block, *linear.y.shape), linear.y.dtype)
        moved.append(np.asarray(product(linear, images), np.float64).reshape(block, -1)[: len(taken)])
    return np.concatenate(moved)
