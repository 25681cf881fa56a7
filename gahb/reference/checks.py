"""What every reference denoiser asks of its input."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import as_images
from common.errors import input_error


def as_set(images: np.ndarray) -> np.ndarray | jax.Array:
    """Returns the images `[N, H, W, C]` of a prior as floats; see `common.arrays.as_images` for what is refused.

    They may leave [0, 1] as noisy ones may: Gaussian images do.
    """
    return as_images(images, "images", noisy=True)


def as_noisy(y: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Returns noisy images `[B, H, W, C]` of `shape (H, W, C)` as floats; raises `InputError` for others."""
    return jnp.asarray(as_images(y, "y", noisy=True, shape=shape))


def check_shape(y: jax.Array, shape: Sequence[int]) -> None:
    """Raises `InputError` unless `y` is a batch of images of `shape (H, W, C)`."""
    if y.ndim != 4 or y.shape[1:] != tuple(shape):
        fix = "fit it on images of this size"
        raise input_error("y", expected=f"[B, {', '.join(map(str, shape))}]", got=list(y.shape), fix=fix)


def check_sigma(sigma: object) -> None:
    """Raises `InputError` unless the noise is positive; what is traced has been checked by whoever made it."""
    if isinstance(sigma, jax.core.Tracer):
        return
    levels = np.asarray(sigma, float)
    if levels.ndim > 1 or levels.size == 0 or not (levels > 0).all():
        raise input_error("sigma", expected="a positive number", got=sigma, fix="give the noise in intensity units")
