"""Orthonormal bases of images, as pairs of functions: the DCT and the wavelets of Daubechies and others."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pywt
from jax.tree_util import Partial

from common.arrays import as_numbers
from common.errors import choice, input_error
from gahb.reference.checks import check_count, check_shape
from gahb.reference.stationary import cosines


class Basis(NamedTuple):
    """`analyze [B, H, W, C] -> coefficients` of the same shape, `synthesize` (inverse and adjoint), and where in
    `coarse [H, W, 1]` (boolean) the coefficients of the coarsest scale are, which thresholds leave alone."""

    analyze: Partial
    synthesize: Partial
    coarse: jax.Array


def dct(shape: tuple[int, int, int]) -> Basis:
    """Returns the orthonormal DCT-II of images of `shape (H, W, C)`, channel by channel; coarse is the mean.

    >>> dct((2, 2, 1)).analyze(jnp.ones((1, 2, 2, 1))).ravel().round(3).tolist()
    [2.0, 0.0, 0.0, 0.0]
    """
    _check_sides(shape)
    pair = tuple(jnp.asarray(cosines(length), float) for length in shape[:2])
    coarse = np.zeros((*shape[:2], 1), bool)
    coarse[0, 0] = True
    return _basis((pair,), shape, coarse)


def wavelet(shape: tuple[int, int, int], *, name: str = "sym4", levels: int | None = None) -> Basis:
    """Returns the orthonormal wavelets `name` of PyWavelets on periodic images of `shape (H, W, C)`.

    Coefficients are arranged as by `pywt.coeffs_to_array(pywt.wavedec2(x, name, "periodization", levels))`, the
    coarsest in the upper left corner. levels: halvings of the image (None: down to 4 pixels or an odd side). Raises
    `InputError` for a wavelet that is not orthonormal, or sides that cannot be halved that often.

    >>> wavelet((2, 2, 1), name="haar", levels=1).analyze(jnp.ones((1, 2, 2, 1))).ravel().round(3).tolist()
    [2.0, 0.0, 0.0, 0.0]
    """
    _check_sides(shape)
    filters = pywt.Wavelet(choice("name", name, pywt.wavelist(kind="discrete")))
    if not filters.orthogonal:
        raise input_error("name", expected="an orthonormal wavelet", got=f'"{name}"', fix='use "haar", "db4" or "sym4"')
    height, width = shape[:2]
    if levels is None:
        levels = 0
        while height % 2 ** (levels + 1) == width % 2 ** (levels + 1) == 0 and min(height, width) >> levels > 4:
            levels += 1
    if levels < 0 or height % 2**levels or width % 2**levels:
        multiple = f"sides that are multiples of {2 ** max(levels, 0)}"
        raise input_error(
            "levels", expected=multiple, got=f"{height}x{width}", fix="use fewer levels or crop the images"
        )
    pairs = tuple(
        tuple(jnp.asarray(_one_level(length >> level, filters), float) for length in (height, width))
        for level in range(levels)
    )
    coarse = np.zeros((height, width, 1), bool)
    coarse[: height >> levels, : width >> levels] = True
    return _basis(pairs, shape, coarse)


def _check_sides(shape) -> None:
    if len(shape) != 3:
        fix = "give the shape of one image, for example (32, 32, 1)"
        raise input_error("shape", expected="(H, W, C)", got=tuple(shape), fix=fix)
    for i, length in enumerate(shape):
        check_count(f"shape[{i}]", length)


def _basis(pairs, shape, coarse) -> Basis:
    shape = tuple(int(length) for length in shape)
    return Basis(Partial(_Analyze(shape), pairs), Partial(_Synthesize(shape), pairs), jnp.asarray(coarse))


def _one_level(length: int, filters: pywt.Wavelet) -> np.ndarray:
    """One step of the periodic filter bank as a matrix, rows: low-pass then high-pass outputs; float64."""
    matrix = np.zeros((length, length))
    half = length // 2
    for first, taps in ((0, filters.dec_lo), (half, filters.dec_hi)):
        for j, tap in enumerate(taps):
            # Short signals are wrapped around more than once, so taps add up.
            for k in range(half):
                matrix[first + k, (2 * k + len(taps) // 2 - j) % length] += tap
    return matrix


@dataclasses.dataclass(frozen=True)
class _Analyze:
    shape: tuple[int, int, int]

    def __call__(self, pairs, x):
        x = jnp.asarray(as_numbers(x, "x"))
        check_shape(x, self.shape)
        for rows, columns in pairs:
            x = _on_corner(x, rows, columns)
        return x


@dataclasses.dataclass(frozen=True)
class _Synthesize:
    shape: tuple[int, int, int]

    def __call__(self, pairs, coefficients):
        coefficients = jnp.asarray(as_numbers(coefficients, "coefficients"))
        check_shape(coefficients, self.shape)
        for rows, columns in reversed(pairs):
            coefficients = _on_corner(coefficients, rows.T, columns.T)
        return coefficients


def _on_corner(x, rows, columns):
    """Transforms the upper left corner of `x [B, H, W, C]` that the two matrices are made for."""
    height, width = len(rows), len(columns)
    x, rows, columns = jnp.asarray(x), rows.astype(x.dtype), columns.astype(x.dtype)
    corner = jnp.einsum("ki,lj,bijc->bklc", rows, columns, x[:, :height, :width], precision="highest")
    return x.at[:, :height, :width].set(corner)
