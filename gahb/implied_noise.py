"""The noise level that a blind denoiser implies, from its residual and the trace of its Jacobian.

An optimal denoiser f of y = x + sigma z obeys E ||y - f(y)||^2 = sigma^2 (d - E tr J(y)), d the number of pixels and
channels: both sides of E ||x - f(y)||^2 = E [||y - f(y)||^2 + 2 sigma^2 tr J - d sigma^2] (Stein) and = sigma^2 E tr J
(Miyasawa). A blind denoiser that acts as the optimum for the level sigma_hat hence implies

    sigma_hat^2 = ||y - f(y)||^2 / (d - tr J(y)).

The sampler of Kadkhodaie and Simoncelli takes ||y - f(y)||^2 / d instead, which is lower by the fraction tr J / d.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import as_images
from common.prng import as_key
from gahb.denoisers import Denoiser
from gahb.eigenbasis.linear import linearise
from gahb.eigenbasis.traces import trace


class ImpliedNoise(NamedTuple):
    """Noise levels of noisy images, intensity units; `S` true levels, `N` images."""

    sigma: np.ndarray  # [S] true
    implied: np.ndarray  # [S, N] by residual and trace; NaN where tr J >= d
    residual: np.ndarray  # [S, N] ||y - f(y)|| / sqrt(d), the sampler's
    trace: np.ndarray  # [S, N] tr J
    implied_of_means: np.ndarray  # [S] from the means over images of ||y - f(y)||^2 and of d - tr J


def implied_noise(
    denoise: Denoiser, images: np.ndarray, sigmas, key: jax.Array, *, num: int | None = 32, block: int = 16
) -> ImpliedNoise:
    """Measures the implied level on noisy versions of `images [N, H, W, C]` at every level of `sigmas [S]`.

    images: bytes, or floats in [0, 1]; else `InputError`. num: random probes of each trace (None: exact). block: probes
    at once. Noise and probes of image i at level s come from fold_in(fold_in(key, s), i).
    """
    key, images = as_key(key), as_images(images, "images")
    size = images[0].size
    removed, traces = np.zeros((2, len(sigmas), len(images)))
    for s, sigma in enumerate(sigmas):
        for i, clean in enumerate(images):
            own = jax.random.fold_in(jax.random.fold_in(key, s), i)
            noisy = jnp.asarray(clean) + sigma * jax.random.normal(own, clean.shape, clean.dtype)
            linear = linearise(denoise, noisy)
            removed[s, i] = np.square(np.asarray(linear.y, np.float64) - np.asarray(linear.value, np.float64)).sum()
            probes = {} if num is None else {"key": jax.random.fold_in(own, 1), "num": num}
            traces[s, i] = trace(denoise, noisy, block=block, **probes).value
    return ImpliedNoise(
        sigma=np.asarray(sigmas, np.float64),
        implied=_root(removed, size - traces),
        residual=np.sqrt(removed / size),
        trace=traces,
        implied_of_means=_root(removed.mean(1), size - traces.mean(1)),
    )


def _root(removed: np.ndarray, dimensions: np.ndarray) -> np.ndarray:
    left = dimensions > 0
    return np.sqrt(np.divide(removed, dimensions, out=np.full(removed.shape, np.nan), where=left))
