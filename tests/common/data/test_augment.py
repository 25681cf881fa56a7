import jax
import jax.numpy as jnp
import numpy as np

from common import arrays
from common.data import batches

IMAGE = jnp.arange(24, dtype=jnp.uint8).reshape(4, 6, 1)
KEYS = jax.random.split(jax.random.key(0), 400)


def test_to_unit():
    every = jnp.arange(256, dtype=jnp.uint8)
    unit = arrays.to_unit(every)
    assert unit.dtype == jnp.float32
    np.testing.assert_allclose(unit, np.arange(256) / 255, atol=1e-7)
    assert (unit[0], unit[255]) == (0, 1)
    np.testing.assert_array_equal(arrays.to_unit(unit), unit)


def test_flips_mirror_half_of_the_time():
    out = jax.vmap(batches.flip_left_right, in_axes=(0, None))(KEYS, IMAGE)
    same = (out == IMAGE).all(axis=(1, 2, 3))
    other = (out == IMAGE[:, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ other).all()
    assert 160 < other.sum() < 240  # 4 standard deviations about 200


def test_the_augmentation_of_an_example():
    example = {"image": IMAGE, "label": jnp.int32(3)}
    plain = batches.augment_images()(KEYS[0], example)
    np.testing.assert_array_equal(plain["image"], arrays.to_unit(IMAGE))
    assert plain["label"] == 3
    flipped = [batches.augment_images(flip=True)(key, example)["image"] for key in KEYS[:8]]
    assert len({np.asarray(image).tobytes() for image in flipped}) == 2
