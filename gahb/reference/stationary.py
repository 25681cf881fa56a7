"""The stationary Wiener filter: the best linear denoiser that treats the frequencies of an image one by one."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jax.tree_util import Partial

from common.errors import input_error
from gahb.reference.checks import as_noisy, as_set, check_count, check_sigma

BASES = ("dct", "dft")


class Prior(NamedTuple):
    """A stationary Gaussian model: `mean [C]` and the `power [H, W, C]` of each coefficient about it, float64."""

    mean: np.ndarray
    power: np.ndarray
    basis: str = "dct"


def fit(images: np.ndarray, *, basis: str = "dct", block: int = 1024) -> Prior:
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
    mean = sum(np.asarray(images[part], np.float64).mean((1, 2)).sum(0) for part in blocks) / len(images)
    power = np.zeros(images.shape[1:])
    for part in blocks:
        centred = np.asarray(images[part], np.float64) - mean
        if basis == "dct":
            power += np.square(scipy.fft.dctn(centred, axes=(1, 2), norm="ortho")).sum(0)
        else:
            power += np.square(np.abs(scipy.fft.fft2(centred, axes=(1, 2), norm="ortho"))).sum(0)
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
    return scipy.fft.dct(np.eye(length), axis=0, norm="ortho")


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
