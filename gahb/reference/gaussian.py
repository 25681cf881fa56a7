"""Wiener filters, the best linear denoisers, optimal among all where images are Gaussian.

Of a covariance (`covariance_wiener`); stationary, which treats the frequencies of an image one by one (`wiener`); and
the optimum of two stationary backgrounds that meet along a known contour (`contour_variances`, `wiener_mse`): what a
C^alpha image costs at least. There an image is x = m b1 + (1 - m) b2, with a mask m [N, N] in [0, 1] and backgrounds
b = c + a F, F a stationary field of mean 0 and known power. The oracle knows m, a and c. Given these, x is linear in
the fields, so the best linear denoiser is a Wiener filter; where the fields are Gaussian no denoiser has a smaller mean
squared error, and one that does not know m, a and c cannot do better either. Float64 on the host.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jax.tree_util import Partial
from jaxtyping import Float, Real

from common.arrays import AnyArray
from common.errors import input_error
from gahb.denoisers import as_noisy, as_set, check_count, check_sigma

BASES = ("dct", "dft")


class Prior(NamedTuple):
    """A stationary Gaussian model: `mean [C]` and the `power [H, W, C]` of each coefficient about it, float64."""

    mean: Float[np.ndarray, " channels"]
    power: Float[np.ndarray, "height width channels"]
    basis: str = "dct"


def fit(images: Real[AnyArray, "images height width channels"], *, basis: str = "dct", block: int = 1024) -> Prior:
    """Measures mean and power of `images [N, H, W, C]` in the orthonormal DCT-II or DFT, in float64.

    The DCT makes no seam between opposite borders and is the stronger of the two on photographs. Raises `InputError`
    for another basis, for images that are neither bytes nor floats in [0, 1], and unless `block` is at least 1.

    >>> prior = fit(np.array([[[[0.0]]], [[[1.0]]]]))
    >>> prior.mean.tolist(), prior.power.ravel().round(6).tolist()
    ([0.5], [0.25])
    """
    check_count("block", block)
    if basis not in BASES:
        raise input_error("basis", expected=" or ".join(BASES), got=repr(basis), fix='use "dct"')
    images = as_set(images)
    blocks = [slice(start, start + block) for start in range(0, len(images), block)]
    mean: Any = sum(np.asarray(images[part], np.float64).mean((1, 2)).sum(0) for part in blocks) / len(images)
    power = np.zeros(images.shape[1:])
    for part in blocks:
        centred = np.asarray(images[part], np.float64) - mean
        if basis == "dct":
            power += np.square(np.asarray(scipy.fft.dctn(centred, axes=(1, 2), norm="ortho"))).sum(0)
        else:
            power += np.square(np.abs(np.asarray(scipy.fft.fft2(centred, axes=(1, 2), norm="ortho")))).sum(0)
    return Prior(mean, power / len(images), basis)


def wiener(prior: Prior, sigma: float | jax.Array) -> Partial:
    """Returns the denoiser f(y) = m + C^T [S / (S + sigma^2) C (y - m)] for noise of the known deviation `sigma`.

    It takes `y [B, H, W, C]` of the fitted size, else raises `InputError`. Another sigma compiles nothing anew.
    Raises `InputError` unless sigma is one positive number.

    >>> prior = fit(np.array([[[[0.0]]], [[[1.0]]]]))  # mean 0.5, variance 0.25
    >>> wiener(prior, 0.5)(jnp.ones((1, 1, 1, 1))).item()
    0.75
    """
    check_sigma(sigma)
    leaves = (jnp.asarray(leaf, float) for leaf in (prior.mean, prior.power, sigma))
    return Partial(_Filter(prior.basis), *leaves)


def expected_mse(prior: Prior, sigma: float) -> float:
    """Returns the mean squared error per pixel of `wiener` under its own prior, sigma^2 tr J / (H W C).

    Raises `InputError` unless sigma is one positive number.

    >>> round(expected_mse(fit(np.array([[[[0.0]]], [[[1.0]]]])), 0.5), 6)
    0.125
    """
    check_sigma(sigma)
    return float(np.mean(sigma**2 * prior.power / (prior.power + sigma**2)))


def cosines(length: int) -> np.ndarray:
    """Returns the orthonormal DCT-II as a matrix, `[frequency, pixel]`, float64."""
    return np.asarray(scipy.fft.dct(np.eye(length), axis=0, norm="ortho"))


@dataclasses.dataclass(frozen=True)
class _Filter:
    basis: str

    def __call__(self, mean, power, sigma, y):
        y = as_noisy(y, power.shape)
        mean, power, sigma = (x.astype(jnp.promote_types(y.dtype, jnp.float32)) for x in (mean, power, sigma))
        noisy = power + sigma**2
        gain = jnp.where(noisy > 0, power / jnp.where(noisy > 0, noisy, 1), 1)
        if self.basis == "dct":
            # As two small products: an FFT of reordered rows takes many times as long to compile.
            rows, columns = (jnp.asarray(cosines(length), gain.dtype) for length in y.shape[1:3])
            transform = functools.partial(jnp.einsum, precision="highest")
            coefficients = transform("ki,lj,bijc->bklc", rows, columns, y - mean)
            clean = transform("ki,lj,bklc->bijc", rows, columns, gain * coefficients)
        else:
            coefficients = jnp.fft.fft2(y - mean, axes=(1, 2), norm="ortho")
            clean = jnp.fft.ifft2(gain * coefficients, axes=(1, 2), norm="ortho").real
        return (mean + clean).astype(y.dtype)


class Covariance(NamedTuple):
    """A Gaussian model: `mean [H, W, C]`, orthonormal `vectors [d, r]` and variances `values [r]`, falling; float64."""

    mean: Float[np.ndarray, "height width channels"]
    vectors: Float[np.ndarray, "d rank"]
    values: Float[np.ndarray, " rank"]


def fit_covariance(images: Real[AnyArray, "images height width channels"], *, block: int = 1024) -> Covariance:
    """Measures the mean image and the covariance (divided by N) of `images [N, H, W, C]`, in float64.

    One decomposition of a matrix with min(N, d) rows, d = H W C; r is the rank. With N < d the model holds the images
    to lie in the span of the set. images: bytes, or floats in [0, 1]; raises `InputError` for others,
    and unless `block` is at least 1.

    >>> fit_covariance(np.array([[[[0.0]]], [[[1.0]]]])).values.round(6).tolist()
    [0.25]
    """
    images = as_set(images)
    check_count("block", block)
    count, size = len(images), int(np.prod(images.shape[1:]))
    blocks = [slice(start, start + block) for start in range(0, count, block)]
    mean: Any = sum(np.asarray(images[rows], np.float64).sum(0) for rows in blocks) / count

    def centred(rows):
        return (np.asarray(images[rows], np.float64) - mean).reshape(-1, size)

    if size <= count:
        values, vectors = np.linalg.eigh(sum(x.T @ x for x in map(centred, blocks)) / count)
    else:
        flat = np.concatenate([centred(rows) for rows in blocks])
        values, left = np.linalg.eigh(flat @ flat.T / count)
        vectors = flat.T @ left
    # The rounding error of a zero variance; its direction is noise.
    kept = values > max(values.max(), 0) * max(count, size) * np.finfo(np.float64).eps
    values, vectors = values[kept][::-1], vectors[:, kept][:, ::-1]
    return Covariance(mean, vectors / np.linalg.norm(vectors, axis=0), values)


def covariance_wiener(prior: Covariance, sigma: float | jax.Array) -> Partial:
    """Returns the denoiser f(y) = m + V [L / (L + sigma^2)] V^T (y - m) for noise of the known deviation `sigma`.

    It takes `y [B, H, W, C]` of the fitted size, else raises `InputError`. Another sigma compiles nothing anew.
    Raises `InputError` unless sigma is one positive number.

    >>> prior = fit_covariance(np.array([[[[0.0]]], [[[1.0]]]]))  # mean 0.5, variance 0.25
    >>> covariance_wiener(prior, 0.5)(jnp.ones((1, 1, 1, 1))).item()
    0.75
    """
    check_sigma(sigma)
    return Partial(_filter, *(jnp.asarray(leaf, float) for leaf in (*prior, sigma)))


def covariance_mse(prior: Covariance, sigma: float) -> float:
    """Returns the mean squared error per pixel of `covariance_wiener` under its own prior, sigma^2 tr J / (H W C).

    Raises `InputError` unless sigma is one positive number.

    >>> round(covariance_mse(fit_covariance(np.array([[[[0.0]]], [[[1.0]]]])), 0.5), 6)
    0.125
    """
    check_sigma(sigma)
    return float(np.sum(sigma**2 * prior.values / (prior.values + sigma**2)) / prior.mean.size)


def _filter(mean, vectors, values, sigma, y):
    return _filtered(mean, vectors, values, sigma, as_noisy(y, mean.shape))


@jax.jit
def _filtered(mean, vectors, values, sigma, y):
    dtype = jnp.promote_types(y.dtype, jnp.float32)
    mean, vectors, values, sigma = (x.astype(dtype) for x in (mean, vectors, values, sigma))
    coefficients = jnp.matmul((y - mean).reshape(len(y), -1), vectors, precision="highest")
    shrunk = coefficients * (values / (values + sigma**2))
    return (mean + jnp.matmul(shrunk, vectors.T, precision="highest").reshape(y.shape)).astype(y.dtype)


def contour_variances(
    mask: Real[np.ndarray, "size size"], power: Float[np.ndarray, "size size"], amplitudes: Sequence[float] | np.ndarray
) -> Float[np.ndarray, " eigenvalues"]:
    """Returns the eigenvalues of K = a1^2 M C M + a2^2 (1 - M) C (1 - M), float64 `[N^2]`, falling.

    mask: m `[N, N]`, and M = diag(m). power: variances of the orthonormal DFT coefficients of F, `[N, N]` in FFT order,
    so C is their circulant covariance. amplitudes: (a1, a2). Raises `InputError` for shapes that do not fit, masks
    outside [0, 1], and negative powers.

    >>> contour_variances(np.ones((2, 2)), np.array([[4.0, 3.0], [2.0, 1.0]]), (1.0, 5.0))
    array([4., 3., 2., 1.])
    """
    mask, power, amplitudes = (np.asarray(each, np.float64) for each in (mask, power, amplitudes))
    if mask.ndim != 2 or power.shape != mask.shape:
        got = f"{list(mask.shape)} and {list(power.shape)}"
        raise input_error("mask, power", expected="two arrays [N, M] of one shape", got=got, fix="give the same size")
    if amplitudes.shape != (2,):
        fix = "give one for each background"
        raise input_error("amplitudes", expected="two numbers", got=list(amplitudes.shape), fix=fix)
    for field, values, most in (("mask", mask, 1 + 1e-6), ("power", power, np.inf)):
        if not ((values >= 0) & (values <= most)).all():
            expected = "numbers in [0, 1]" if field == "mask" else "finite variances of at least 0"
            raise input_error(field, expected=expected, got=f"{values.min()} to {values.max()}", fix="check its source")
    covariance = _circulant(power)
    weights = [a * each.ravel() for a, each in zip(amplitudes, (mask, 1 - mask), strict=True)]
    total = sum(each[:, None] * covariance * each for each in weights)
    return np.maximum(np.linalg.eigvalsh(total)[::-1], 0)


def wiener_mse(
    variances: Float[np.ndarray, " eigenvalues"], sigma: float | Sequence[float] | np.ndarray
) -> Float[np.ndarray, " levels"]:
    """Returns the mean squared error per pixel of the Wiener filter, mean_k sigma^2 v_k / (v_k + sigma^2), `[S]`.

    variances: eigenvalues v of the covariance, `[K]`. sigma: noise standard deviations, `[S]`. Raises `InputError`
    unless they are positive.

    >>> wiener_mse(np.array([1.0, 3.0]), [1.0])
    array([0.625])
    """
    check_sigma(sigma, several=True)
    noise = np.square(np.atleast_1d(np.asarray(sigma, np.float64)))[:, None]
    return (noise * variances / (variances + noise)).mean(-1)


def _circulant(power: np.ndarray) -> np.ndarray:
    """Returns the covariance `[N M, N M]` of a stationary field on a torus from its power `[N, M]`."""
    height, width = power.shape
    correlation = np.fft.ifft2(power).real
    rows, columns = (np.subtract.outer(np.arange(n), np.arange(n)) % n for n in (height, width))
    return correlation[rows[:, None, :, None], columns[None, :, None, :]].reshape(height * width, -1)
