"""How well a denoiser denoises: PSNR against noise level, image by image."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import as_images, as_numbers
from common.errors import input_error, whole_number
from common.metrics.psnr import mse, sigma_to_psnr
from common.prng import as_key
from gahb.denoisers import Denoiser, as_denoiser, denoised


class PsnrCurve(NamedTuple):
    """PSNR in dB (peak 1) at each noise level, float64; `S` levels, `N` images."""

    sigma: np.ndarray  # [S] noise standard deviation, intensity units
    input_psnr: np.ndarray  # [S] of the noisy image, -20 log10 sigma
    per_image: np.ndarray  # [S, N] of each denoised image
    mean_psnr: np.ndarray  # [S] mean over images
    mean_psnr_error: np.ndarray  # [S] its standard error (NaN for one image)
    psnr_of_mean: np.ndarray  # [S] 10 log10(1 / mean over images of the mean squared error); slopes use this one
    psnr_of_mean_error: np.ndarray  # [S] its standard error, to first order


def psnr_curve(
    denoise: Denoiser | Sequence[Denoiser],
    images: np.ndarray,
    sigmas: Sequence[float],
    key: jax.Array,
    *,
    batch_size: int = 64,
    noise: np.ndarray | None = None,
) -> PsnrCurve:
    """Denoises every one of `images [N, H, W, C]` at every level of `sigmas [S]` (intensity units).

    images: bytes, or floats in [0, 1]. `denoise` is blind, or a sequence with one denoiser per level. The noise of
    image i at level s is drawn from fold_in(fold_in(key, s), i), whatever the batch size; `noise [S, N, H, W, C]`
    (standard normal) replaces it. Compiles once for all levels and batches. Raises `InputError` for lengths that do not
    fit, an empty batch, and for what is no clean image.

    >>> curve = psnr_curve(lambda y: 0 * y, np.full((1, 2, 2, 1), 0.1), [0.1], jax.random.key(0))
    >>> curve.input_psnr.round(3).tolist(), curve.mean_psnr.round(3).tolist()
    ([20.0], [20.0])
    """
    key = as_key(key)
    images = as_numbers(images, "images")
    if images.shape[:1] == (0,):
        raise input_error("images", expected="at least one image", got="none", fix="use a larger test set")
    images = as_images(images, "images")
    noise = None if noise is None else as_numbers(noise, "noise")
    batch_size = whole_number("batch_size", batch_size)
    blind = callable(denoise)
    count = len(images)
    if not blind and len(denoise) != len(sigmas):
        fix = "give one per sigma, or a blind one"
        raise input_error("denoise", expected=f"{len(sigmas)} denoisers", got=len(denoise), fix=fix)
    if noise is not None and noise.shape != (len(sigmas), *images.shape):
        expected = [len(sigmas), *images.shape]
        raise input_error("noise", expected=expected, got=list(noise.shape), fix="give one for every level and image")
    error = np.zeros((len(sigmas), count))
    batch_size = min(batch_size, count)
    for s, sigma in enumerate(sigmas):
        f = as_denoiser(denoise if blind else denoise[s])
        for start in range(0, count, batch_size):
            # The last batch reaches back instead of being shorter, so that all have one shape.
            start = min(start, count - batch_size)
            rows = slice(start, start + batch_size)
            z = None if noise is None else noise[s, rows]
            level_key = jax.random.fold_in(key, s)
            error[s, rows] = _error(f, images[rows], jnp.asarray(sigma, float), level_key, jnp.uint32(start), z)
    return summarise(np.asarray(sigmas, np.float64), error)


def summarise(sigma: np.ndarray, error: np.ndarray) -> PsnrCurve:
    """Turns mean squared errors `[S, N]` into curves with their standard errors."""
    count = error.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        per_image = -10 * np.log10(error)
        mean_error = error.mean(1)
        deviation = per_image.std(1, ddof=1) if count > 1 else np.full(len(sigma), np.nan)
        spread = error.std(1, ddof=1) if count > 1 else np.full(len(sigma), np.nan)
        return PsnrCurve(
            sigma=sigma,
            input_psnr=sigma_to_psnr(sigma),
            per_image=per_image,
            mean_psnr=per_image.mean(1),
            mean_psnr_error=deviation / np.sqrt(count),
            psnr_of_mean=-10 * np.log10(mean_error),
            psnr_of_mean_error=10 / np.log(10) * spread / mean_error / np.sqrt(count),
        )


@jax.jit
def _error(denoise, clean, sigma, key, start, z):
    clean = jnp.asarray(clean)
    if z is None:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(start + jnp.arange(len(clean), dtype=jnp.uint32))
        z = jax.vmap(lambda key: jax.random.normal(key, clean.shape[1:], clean.dtype))(keys)
    noisy = clean + sigma.astype(clean.dtype) * z
    return mse(clean, denoised(denoise, noisy))
