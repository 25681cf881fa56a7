"""Random changes of one example as pure functions of a key, and the change of units from bytes to intensities."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp


def to_unit(image: jax.Array) -> jax.Array:
    """Returns float32 intensities in [0, 1]: bytes are divided by 255, floating point stays as it is."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255
    return image.astype(jnp.float32)


def _coin(key: jax.Array) -> jax.Array:
    return jax.random.bits(key, (), jnp.uint8) >= 128


def flip_left_right(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors `[H, W, C]` left-right with probability 1/2."""
    return jnp.where(_coin(key), image[:, ::-1], image)


def flip_up_down(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors `[H, W, C]` up-down with probability 1/2."""
    return jnp.where(_coin(key), image[::-1], image)


def random_crop(key: jax.Array, image: jax.Array, *, size: int) -> jax.Array:
    """Cuts `[size, size, C]` out of `[H, W, C]`, every place with the same probability."""
    height, width, channels = image.shape
    limits = jnp.asarray([height - size + 1, width - size + 1])
    row, column = jax.random.randint(key, (2,), 0, limits)
    return jax.lax.dynamic_slice(image, (row, column, jnp.zeros_like(row)), (size, size, channels))


def rescale(key: jax.Array, image: jax.Array) -> jax.Array:
    """Multiplies intensities by one s ~ U(0, 1), which makes a ray of every image (Kadkhodaie et al., figure 19)."""
    return image * jax.random.uniform(key, dtype=image.dtype)


def images(
    *, flip: bool = False, rescaled: bool = False
) -> Callable[[jax.Array, Mapping[str, jax.Array]], dict[str, jax.Array]]:
    """Returns the augmentation of one raw example: `image` becomes float32 in [0, 1], flipped and rescaled if asked."""

    def augment(key: jax.Array, example: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        image = example["image"]
        if flip:
            image = flip_left_right(jax.random.fold_in(key, 0) if rescaled else key, image)
        image = to_unit(image)
        if rescaled:
            image = rescale(jax.random.fold_in(key, 1) if flip else key, image)
        return {**example, "image": image}

    return augment
