"""Shrinkage of the coefficients in a fixed orthonormal basis: soft thresholds, and the oracle that knows the image.

Bases are pairs of functions: the DCT, and the wavelets of Daubechies and others.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pywt
from jax.core import Tracer
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Real
from scipy.special import ndtr

from common.arrays import AnyArray, as_images, as_numbers
from common.errors import choice, input_error
from gahb.denoisers import as_noisy, check_count, check_shape, check_sigma
from gahb.reference.gaussian import cosines


class Basis(NamedTuple):
    """`analyze [B, H, W, C] -> coefficients` of the same shape, `synthesize` (inverse and adjoint), and where in
    `coarse [H, W, 1]` (boolean) the coefficients of the coarsest scale are, which thresholds leave alone."""

    analyze: Partial
    synthesize: Partial
    coarse: Bool[Array, "height width 1"]


def dct(shape: tuple[int, ...]) -> Basis:
    """Returns the orthonormal DCT-II of images of `shape (H, W, C)`, channel by channel; coarse is the mean.

    >>> abs(dct((2, 2, 1)).analyze(jnp.ones((1, 2, 2, 1)))).ravel().round(3).tolist()
    [2.0, 0.0, 0.0, 0.0]
    """
    _check_sides(shape)
    pair = tuple(jnp.asarray(cosines(length), float) for length in shape[:2])
    coarse = np.zeros((*shape[:2], 1), bool)
    coarse[0, 0] = True
    return _basis((pair,), shape, coarse)


def wavelet(shape: tuple[int, ...], *, name: str = "sym4", levels: int | None = None) -> Basis:
    """Returns the orthonormal wavelets `name` of PyWavelets on periodic images of `shape (H, W, C)`.

    Coefficients are arranged as by `pywt.coeffs_to_array(pywt.wavedec2(x, name, "periodization", levels))`, the
    coarsest in the upper left corner. levels: halvings of the image (None: down to 4 pixels or an odd side). Raises
    `InputError` for a wavelet that is not orthonormal, or sides that cannot be halved that often.

    >>> abs(wavelet((2, 2, 1), name="haar", levels=1).analyze(jnp.ones((1, 2, 2, 1)))).ravel().round(3).tolist()
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
    shape: tuple[int, ...]

    def __call__(self, pairs, x):
        x = jnp.asarray(as_numbers(x, "x"))
        check_shape(x, self.shape)
        for rows, columns in pairs:
            x = _on_corner(x, rows, columns)
        return x


@dataclasses.dataclass(frozen=True)
class _Synthesize:
    shape: tuple[int, ...]

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


def soft_threshold(basis: Basis, sigma: float | jax.Array, *, threshold: float | None = None) -> Partial:
    """Returns the denoiser that moves every coefficient towards zero by `threshold` sigma, but for the coarse ones.

    threshold: None is sqrt(2 log d), the universal one of Donoho & Johnstone, Biometrika 1994. Another sigma or
    threshold compiles nothing anew. Raises `InputError` unless sigma is one positive number and the threshold at
    least 0.

    >>> soft_threshold(dct((1, 2, 1)), 0.1)(jnp.ones((1, 1, 2, 1))).round(3).ravel().tolist()
    [1.0, 1.0]
    """
    check_sigma(sigma)
    return Partial(_soft, basis, jnp.asarray(sigma, float), jnp.asarray(_threshold(basis, threshold), float))


def oracle(basis: Basis, sigma: float | jax.Array) -> Callable[[jax.Array], Partial]:
    """Returns a function of the clean images `x [B, H, W, C]` that makes their denoiser, f(y; x) = make(x)(y).

    Each coefficient is multiplied by c^2 / (c^2 + sigma^2), c that of x: no linear map that is diagonal in the basis
    does better. `x` of one image denoises any batch, else `y` must be the noisy images of x, in order. Raises
    `InputError` unless sigma is one positive number.

    >>> x = jnp.ones((1, 1, 1, 1))
    >>> oracle(dct((1, 1, 1)), 1.0)(x)(2 * x).item()  # 1 / (1 + 1) of the noisy coefficient
    1.0
    """
    check_sigma(sigma)

    def make(x: jax.Array) -> Partial:
        power = jnp.square(_coefficients(basis, x))
        return Partial(_scale, basis, power / (power + jnp.asarray(sigma, power.dtype) ** 2))

    return make


def oracle_error(
    basis: Basis, x: Real[AnyArray, "batch height width channels"], sigma: float
) -> Float[np.ndarray, " batch"]:
    """Returns sum_k sigma^2 c_k^2 / (c_k^2 + sigma^2), the squared error of `oracle` summed over each image, `[B]`.

    It is between 1/2 and 1 times sum_k min(c_k^2, sigma^2). Float64 from the coefficients on. Raises `InputError`
    unless sigma is one positive number.

    >>> oracle_error(dct((1, 1, 1)), np.ones((1, 1, 1, 1)), 1.0).tolist()
    [0.5]
    """
    check_sigma(sigma)
    power = np.square(np.asarray(_coefficients(basis, x), np.float64))
    return (sigma**2 * power / (power + sigma**2)).sum((1, 2, 3))


def soft_error(
    basis: Basis, x: Real[AnyArray, "batch height width channels"], sigma: float, *, threshold: float | None = None
) -> Float[np.ndarray, " batch"]:
    """Returns the expected squared error of `soft_threshold` summed over each image of `x [B, H, W, C]`, `[B]`.

    In units of sigma, with a = |c| and threshold t, a coefficient costs (Donoho & Johnstone 1994)
    1 + t^2 + (a^2 - t^2 - 1) (P(t - a) - P(-t - a)) - (t - a) p(t + a) - (t + a) p(t - a), p and P the normal density
    and distribution. Float64 from the coefficients on. Raises as `soft_threshold`.

    >>> soft_error(dct((1, 2, 1)), np.ones((1, 1, 2, 1)), 0.1).round(4).tolist()
    [0.011]
    """
    check_sigma(sigma)
    t = _threshold(basis, threshold)
    a = np.abs(np.asarray(_coefficients(basis, x), np.float64)) / sigma
    inside = ndtr(t - a) - ndtr(-t - a)
    error = 1 + t**2 + (a**2 - t**2 - 1) * inside - (t - a) * _density(t + a) - (t + a) * _density(t - a)
    return sigma**2 * np.where(np.asarray(basis.coarse), 1, error).sum((1, 2, 3))


def _coefficients(basis: Basis, x: AnyArray) -> jax.Array:
    # Clean images of any kind, Gaussian ones too.
    return basis.analyze(as_images(x, "x", noisy=True, shape=basis.analyze.func.shape))


def _threshold(basis: Basis, threshold: float | None) -> float:
    if threshold is None:
        return float(np.sqrt(2 * np.log(np.prod(basis.analyze.func.shape))))
    if not isinstance(threshold, Tracer) and not 0 <= threshold < np.inf:
        fix = "use None for sqrt(2 log d)"
        raise input_error("threshold", expected="a finite number of at least 0", got=threshold, fix=fix)
    return threshold


def _density(x):
    return np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi)


def _soft(basis, sigma, threshold, y):
    return _softened(basis, sigma, threshold, as_noisy(y, basis.analyze.func.shape))


@jax.jit
def _softened(basis, sigma, threshold, y):
    c = basis.analyze(y)
    shrunk = jnp.sign(c) * jnp.maximum(jnp.abs(c) - (threshold * sigma).astype(c.dtype), 0)
    return basis.synthesize(jnp.where(basis.coarse, c, shrunk))


def _scale(basis, gain, y):
    return _scaled(basis, gain, as_noisy(y, basis.analyze.func.shape))


@jax.jit
def _scaled(basis, gain, y):
    return basis.synthesize(gain.astype(y.dtype) * basis.analyze(y))
