"""What every reference denoiser asks of its input."""

from collections.abc import Sequence

import jax
import numpy as np

from common.errors import input_error


def check_images(images: np.ndarray) -> None:
    """Raises `InputError` unless `images` are floats `[N, H, W, C]`, N > 0."""
    if len(images) == 0 or images.ndim != 4 or not np.issubdtype(images.dtype, np.floating):
        got = f"{images.dtype} {list(images.shape)}"
        raise input_error("images", expected="floats [N, H, W, C], N > 0", got=got, fix="divide 8-bit images by 255")


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
