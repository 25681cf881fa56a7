"""Gaussian blur by one matrix per axis, of any width, on the host or on a device."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def gaussian_matrix(length: int, sigma, *, reach: float, radius=None):
    """Returns the blur of one axis, `[length, length]`: normalised exp(-d^2 / 2 sigma^2) over distances up to `radius`.

    The axis is mirrored about its outermost centres. `reach` is the largest radius there can be, a plain number;
    `radius` defaults to it. Lengths are in pixels; `sigma` and `radius` may be traced, the result is then JAX's.
    """
    radius = reach if radius is None else radius
    xp = jnp if any(isinstance(each, jax.Array) for each in (sigma, radius)) else np
    at = np.arange(length)
    if length == 1:
        return xp.ones((1, 1))
    period = 2 * (length - 1)
    turns = math.ceil(reach / period)
    total = xp.zeros((length, length))
    for turn in range(-turns, turns + 1):
        for image, exists in ((at, np.ones(length)), (-at, (at > 0) & (at < length - 1))):
            away = at[:, None] - (image + turn * period)
            total = total + xp.where(np.abs(away) <= radius, xp.exp(-0.5 * (away / sigma) ** 2), 0) * exists
    return total / total.sum(1, keepdims=True)


def blur(x, sigma, *, reach: float, radius=None):
    """Returns `x [H, W, C]` blurred along both axes by `gaussian_matrix`; numpy stays numpy."""
    rows, columns = (gaussian_matrix(length, sigma, reach=reach, radius=radius) for length in x.shape[:2])
    if isinstance(x, jax.Array) or isinstance(rows, jax.Array):
        rows, columns = (jnp.asarray(each, x.dtype) for each in (rows, columns))
        return jnp.einsum("yh,xw,hwc->yxc", rows, columns, x, precision="highest")
    return np.moveaxis(rows @ np.moveaxis(x, -1, 0) @ columns.T, 0, -1)
