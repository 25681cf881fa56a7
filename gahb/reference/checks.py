"""The checks that all reference denoisers make of their input."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from common.arrays import as_images
from common.errors import input_error, shown


def as_set(images: ArrayLike) -> Any:
    """Returns the images `[N, H, W, C]` of a prior as floats; see `common.arrays.as_images` for what is refused.

    They may leave [0, 1] as noisy ones may: Gaussian images do.
    """
    return as_images(images, "images", noisy=True)


def as_noisy(y: ArrayLike, shape: Sequence[int | None]) -> jax.Array:
    """Returns noisy images `[B, H, W, C]` of `shape (H, W, C)` as floats; raises `InputError` for others."""
    return jnp.asarray(as_images(y, "y", noisy=True, shape=shape))


def check_shape(y: jax.Array, shape: Sequence[int | None]) -> None:
    """Raises `InputError` unless `y` is a batch of images of `shape (H, W, C)`."""
    if y.ndim != 4 or y.shape[1:] != tuple(shape):
        fix = "fit it on images of this size"
        raise input_error("y", expected=f"[B, {', '.join(map(str, shape))}]", got=list(y.shape), fix=fix)


def check_sigma(sigma: Any, *, several: bool = False) -> None:
    """Raises `InputError` unless `sigma` is one positive finite number (intensity units).

    several: accept a list of such numbers `[S]` too. The values of a traced sigma are not known and not checked.
    """
    try:
        shape = np.shape(sigma)
        values = None if isinstance(sigma, Tracer) else np.asarray(sigma)
    except ValueError:  # a list of unequal rows
        shape, values = None, None
    # A scalar is the usual case, also where a list is possible.
    expected = "a positive number" if shape == () or not several else "a list of positive numbers"
    if shape is None or len(shape) > several or 0 in shape:
        fix = "give one list of numbers" if several else "make one denoiser for each level"
        raise input_error("sigma", expected=expected, got=shown(sigma), fix=fix)
    if values is None:
        return
    real = jnp.issubdtype(values.dtype, jnp.floating) or np.issubdtype(values.dtype, np.integer)
    if not real or not ((values > 0) & (values < np.inf)).all():
        fix = "give the standard deviation of the noise for images in [0, 1], for example 0.1"
        raise input_error("sigma", expected=expected, got=shown(sigma), fix=fix)


def check_count(field: str, value: object) -> None:
    """Raises `InputError` unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise input_error(field, expected="a whole number of at least 1", got=shown(value), fix="use 1 or more")
