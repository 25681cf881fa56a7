"""The Wiener filter of a covariance: the best linear denoiser, optimal among all where images are Gaussian."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from gahb.reference.checks import as_noisy, as_set, check_count, check_sigma


class Covariance(NamedTuple):
    """A Gaussian model: `mean [H, W, C]`, orthonormal `vectors [d, r]` and variances `values [r]`, falling; float64."""

    mean: np.ndarray
    vectors: np.ndarray
    values: np.ndarray


def fit_covariance(images: np.ndarray, *, block: int = 1024) -> Covariance:
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
    mean = sum(np.asarray(images[rows], np.float64).sum(0) for rows in blocks) / count

    def centred(rows):
        return (np.asarray(images[rows], np.float64) - mean).reshape(-1, size)

    if size <= count:
        values, vectors = np.linalg.eigh(sum(x.T @ x for x in map(centred, blocks)) / count)
    else:
        flat = np.concatenate([centred(rows) for rows in blocks])
        values, left = np.linalg.eigh(flat @ flat.T / count)
        vectors = flat.T @ left
    # What rounding leaves of a variance that is zero; its direction is noise.
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
