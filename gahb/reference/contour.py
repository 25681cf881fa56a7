"""The optimum of two stationary backgrounds that meet along a known contour: what a C^alpha image costs at least.

Float64 on the host. An image is x = m b1 + (1 - m) b2, with a mask m [N, N] in [0, 1] and backgrounds b = c + a F, F a
stationary field of mean 0 and known power. The oracle knows m, a and c. Given these, x is linear in the fields, so the
best linear denoiser is a Wiener filter; where the fields are Gaussian no denoiser has a smaller mean squared error, and
one that does not know m, a and c cannot do better either.
"""

from collections.abc import Sequence

import numpy as np

from common.errors import input_error
from gahb.reference.checks import check_sigma


def contour_variances(mask: np.ndarray, power: np.ndarray, amplitudes: Sequence[float]) -> np.ndarray:
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


def wiener_mse(variances: np.ndarray, sigma: float | Sequence[float]) -> np.ndarray:
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
