"""Resizing images, feature maps and flow by interpolation matrices, one per axis.

Alignments: with "half_pixel" the areas of both grids coincide, sample i of n lies at (i + 1/2) N/n - 1/2; with "corner"
their outermost centres coincide, at i (N - 1)/(n - 1). The strided features of an image are half-pixel samples of it,
so this is the alignment of the whole method; "corner" is what the released models expect.

Flow in pixels changes with the grid: by N/n per axis for half-pixel grids. Normalised flow, in units of the image's
width and height, does not. At the border half-pixel samples lie up to half a cell outside the centres: images repeat
their edge there, flow is continued by its slope (edge="linear"), which leaves every affine flow exact.

Gaussian blur by one matrix per axis, of any width, on the host or on a device."""

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common.errors import choice, input_error

ALIGNMENTS = ("half_pixel", "corner")
EDGES = ("repeat", "linear")
_KEPT = 64  # matrices of each kind, of the axes that were asked for last: a data set may have images of any size


def resize(
    x: jax.Array,
    size: tuple[int, ...],
    *,
    alignment: str = "half_pixel",
    edge: str = "repeat",
    antialias: bool = False,
) -> jax.Array:
    """Returns `x [..., H, W, C]` at `size` (height, width) by bilinear interpolation, in its own or float32 precision.

    `antialias` widens the triangle to the spacing of the new grid where it is the coarser one ("half_pixel" alone).
    Raises `InputError` for unknown names, an empty size or low-pass filtering with "corner".
    """
    choice("alignment", alignment, ALIGNMENTS)
    choice("edge", edge, EDGES)
    if antialias and (alignment, edge) != ("half_pixel", "repeat"):
        fix = 'use alignment="half_pixel" and edge="repeat"'
        raise input_error("antialias", expected="False with these options", got="True", fix=fix)
    if x.shape[-3:-1] == _size(size):
        return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    rows, columns = (
        interpolation(n, m, alignment, edge, antialias) for n, m in zip(x.shape[-3:-1], _size(size), strict=True)
    )
    return _apply(x, rows, columns)


def area(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Returns the means of `x [..., H, W, C]` over the cells of a grid of `size`; pixels in two cells count in part."""
    rows, columns = (areas(n, m) for n, m in zip(x.shape[-3:-1], _size(size), strict=True))
    return _apply(x, rows, columns)


def adaptive_mean(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Returns means over rows and columns floor(i N/n) .. ceil((i + 1) N/n) - 1: whole pixels, which overlap.

    The released models' coarse image is made by it; `area` is the mean over the cells themselves.
    """
    rows, columns = (_adaptive(n, m) for n, m in zip(x.shape[-3:-1], _size(size), strict=True))
    return _apply(x, rows, columns)


def resize_flow(
    flow: Any, size: tuple[int, ...], *, alignment: str = "half_pixel", edge: str | None = None
) -> jax.Array:
    """Returns flow `[..., H, W, 2]` in pixels on a grid of `size`, in pixels of that grid.

    Both alignments multiply x by w / W and y by h / H, as the original does, though for "corner" grids the exact
    factor would be (w - 1)/(W - 1). `edge` defaults to "linear" for half-pixel grids.
    """
    return resize_normalised(flow, size, alignment=alignment, edge=edge) * _scale(flow, size)


def resize_normalised(
    flow: Any, size: tuple[int, ...], *, alignment: str = "half_pixel", edge: str | None = None
) -> jax.Array:
    """Returns normalised flow `[..., H, W, 2]` on a grid of `size`; its unit is that of the image, so it stays."""
    return resize(flow, size, alignment=alignment, edge=edge or ("linear" if alignment == "half_pixel" else "repeat"))


def average_flow(flow: jax.Array, mask: jax.Array, size: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns the mean of flow `[..., H, W, 2]` over the valid part of each cell, and that part's share `[..., h, w]`.

    `mask [..., H, W]` (bool or weights) marks valid flow. Unlike interpolation it mixes no invalid flow in. The unit
    is that of `flow`: scale it, or give normalised flow. Cells without valid pixels have zero flow and share 0.
    """
    weight = mask[..., None].astype(flow.dtype)
    # Invalid flow may be infinite, and 0 times infinity is no number.
    total = area(jnp.where(weight > 0, flow, 0) * weight, size)
    share = area(weight, size)
    return jnp.where(share > 0, total / jnp.where(share > 0, share, 1), 0), share[..., 0]


def _scale(flow: jax.Array, size: tuple[int, ...]) -> np.ndarray:
    height, width = flow.shape[-3:-1]
    return np.asarray([size[1] / width, size[0] / height], np.float32)


def _size(size: tuple[int, ...]) -> tuple[int, int]:
    height, width = size
    if height < 1 or width < 1:
        raise input_error(
            "size", expected="a positive height and width", got=f"{height} x {width}", fix="give another size"
        )
    return height, width


def _apply(x: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.float32)
    # The axis that shrinks more goes first: less is left for the other.
    if rows.shape[0] * x.shape[-2] <= columns.shape[0] * x.shape[-3]:
        x = jnp.einsum("yh,...hwc->...ywc", rows.astype(x.dtype), x, precision="highest")
        return jnp.einsum("xw,...ywc->...yxc", columns.astype(x.dtype), x, precision="highest")
    x = jnp.einsum("xw,...hwc->...hxc", columns.astype(x.dtype), x, precision="highest")
    return jnp.einsum("yh,...hxc->...yxc", rows.astype(x.dtype), x, precision="highest")


@lru_cache(maxsize=_KEPT)
def interpolation(length: int, new: int, alignment: str, edge: str, antialias: bool) -> np.ndarray:
    """Returns the interpolation of one axis, `[new, length]` in float64: what `resize` multiplies by."""
    out = np.arange(new)
    if alignment == "corner":
        place = out * ((length - 1) / (new - 1)) if new > 1 else np.zeros(1)
    else:
        place = (out + 0.5) * (length / new) - 0.5
    if antialias and new < length:
        weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(length)) * (new / length))
        return weights / weights.sum(1, keepdims=True)
    if edge == "repeat" or length == 1:
        place = np.clip(place, 0, length - 1)
    below = np.clip(np.floor(place).astype(int), 0, max(length - 2, 0))
    matrix = np.zeros((new, length))
    matrix[out, below] = 1 - (place - below)
    matrix[out, np.minimum(below + 1, length - 1)] += place - below
    return matrix


@lru_cache(maxsize=_KEPT)
def areas(length: int, new: int) -> np.ndarray:
    """Returns the averaging of one axis, `[new, length]` in float64: what `area` multiplies by."""
    starts, pixels = np.arange(new)[:, None] * (length / new), np.arange(length)
    overlap = np.minimum(starts + length / new, pixels + 1) - np.maximum(starts, pixels)
    overlap = np.maximum(overlap, 0)
    return overlap / overlap.sum(1, keepdims=True)


@lru_cache(maxsize=_KEPT)
def _adaptive(length: int, new: int) -> np.ndarray:
    out, pixels = np.arange(new)[:, None], np.arange(length)
    inside = (pixels >= out * length // new) & (pixels < -(-(out + 1) * length // new))
    return inside / inside.sum(1, keepdims=True)


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
