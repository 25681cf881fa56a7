"""Bringing images to a common range or norm before they are shown or compared."""

import jax
import jax.numpy as jnp


def rescale(image: jax.Array, *, low: float = 0.0, high: float = 1.0) -> jax.Array:
    """Maps the whole array affinely to [low, high]; a constant one becomes `low`."""
    least = image.min()
    span = image.max() - least
    return low + (high - low) * (image - least) / jnp.where(span > 0, span, 1)


def l1_normalise(images: jax.Array) -> jax.Array:
    """Divides each channel of each image `[N, H, W, C]` by its sum of absolute values; zero channels stay zero."""
    norm = jnp.abs(images).sum((1, 2), keepdims=True)
    return images / jnp.where(norm > 0, norm, 1)
