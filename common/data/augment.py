"""Random changes of one example as pure functions of a key, and the change of units from bytes to intensities."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp


def to_unit(image: jax.Array) -> jax.Array:
    """Returns float32 intensities in [0, 1]: bytes are divided by 255, floating point stays as it is."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255
    return image.astype(jnp.float32)


def flip_left_right(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors `[H, W, C]` left-right with probability 1/2."""
    return jnp.where(jax.random.bits(key, (), jnp.uint8) >= 128, image[:, ::-1], image)


def images(*, flip: bool = False) -> Callable[[jax.Array, Mapping[str, jax.Array]], dict[str, jax.Array]]:
    """Returns the augmentation of one raw example: `image` becomes float32 in [0, 1], flipped if asked."""

    def augment(key: jax.Array, example: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        image = example["image"]
        return {**example, "image": to_unit(flip_left_right(key, image) if flip else image)}

    return augment
