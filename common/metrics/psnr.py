"""Peak signal-to-noise ratio, in dB."""

import jax
import jax.numpy as jnp
import numpy as np


def mse(reference: jax.Array, image: jax.Array) -> jax.Array:
    """Returns the mean squared error of each image, `[N, ...] -> [N]`."""
    return jnp.square(image - reference).mean(tuple(range(1, image.ndim)))


def psnr(reference: jax.Array, image: jax.Array, *, peak: float = 1.0) -> jax.Array:
    """Returns 10 log10(peak^2 / mse) of each image, `[N, ...] -> [N]`; infinite for equal images."""
    return 10 * jnp.log10(peak**2 / mse(reference, image))


def sigma_to_psnr(sigma: np.ndarray | float, *, peak: float = 1.0) -> np.ndarray:
    """Returns the PSNR of an image with noise of standard deviation `sigma`, -20 log10(sigma / peak), in float64."""
    return -20 * np.log10(np.asarray(sigma, np.float64) / peak)
