"""Bringing images to a common range before they are shown or compared."""

import jax
import jax.numpy as jnp

from common.arrays import as_numbers
from common.errors import input_error


def rescale(image: jax.Array, *, low: float = 0.0, high: float = 1.0) -> jax.Array:
    """Maps the whole array affinely to [low, high]; a constant one becomes `low`. Bytes count as in [0, 1]."""
    image = jnp.asarray(as_numbers(image, "image"))
    if not image.size:
        raise input_error(
            "image", expected="at least one number", got=f"shape {list(image.shape)}", fix="give an image"
        )
    least = image.min()
    span = image.max() - least
    return low + (high - low) * (image - least) / jnp.where(span > 0, span, 1)
