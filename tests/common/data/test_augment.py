import jax
import jax.numpy as jnp
import numpy as np

from common.data import augment

IMAGE = jnp.arange(24, dtype=jnp.uint8).reshape(4, 6, 1)
KEYS = jax.random.split(jax.random.key(0), 400)


def test_to_unit():
    every = jnp.arange(256, dtype=jnp.uint8)
    unit = augment.to_unit(every)
    assert unit.dtype == jnp.float32
    np.testing.assert_allclose(unit, np.arange(256) / 255, atol=1e-7)
    assert (unit[0], unit[255]) == (0, 1)
    np.testing.assert_array_equal(augment.to_unit(unit), unit)


def test_flips_mirror_half_of_the_time():
    for flip, mirrored in ((augment.flip_left_right, IMAGE[:, ::-1]), (augment.flip_up_down, IMAGE[::-1])):
        out = jax.vmap(flip, in_axes=(0, None))(KEYS, IMAGE)
        same = (out == IMAGE).all(axis=(1, 2, 3))
        other = (out == mirrored).all(axis=(1, 2, 3))
        assert (same ^ other).all()
        assert 160 < other.sum() < 240  # 4 standard deviations about 200


def test_random_crops_reach_every_place():
    crops = jax.vmap(lambda key: augment.random_crop(key, IMAGE, size=3))(KEYS)
    corners = np.asarray(crops[:, 0, 0, 0])
    np.testing.assert_array_equal(np.unique(corners), [6 * row + column for row in range(2) for column in range(4)])
    for crop, corner in zip(np.asarray(crops), corners, strict=True):
        row, column = divmod(int(corner), 6)
        np.testing.assert_array_equal(crop, IMAGE[row : row + 3, column : column + 3])


def test_rescaling_is_uniform_on_the_ray():
    unit = augment.to_unit(IMAGE)
    out = jax.vmap(augment.rescale, in_axes=(0, None))(KEYS, unit)
    factors = np.asarray(out[:, -1, -1, 0] / unit[-1, -1, 0])
    np.testing.assert_allclose(out, factors[:, None, None, None] * unit, atol=1e-6)
    assert 0 <= factors.min() < 0.02
    assert 0.98 < factors.max() < 1
    np.testing.assert_allclose(factors.mean(), 0.5, atol=0.06)


def test_the_augmentation_of_an_example():
    example = {"image": IMAGE, "label": jnp.int32(3)}
    plain = augment.images()(KEYS[0], example)
    np.testing.assert_array_equal(plain["image"], augment.to_unit(IMAGE))
    assert plain["label"] == 3
    flipped = [augment.images(flip=True)(key, example)["image"] for key in KEYS[:8]]
    assert len({np.asarray(image).tobytes() for image in flipped}) == 2
    both = jax.vmap(lambda key: augment.images(flip=True, rescaled=True)(key, example)["image"])(KEYS)
    factors, mirrored = both.max(axis=(1, 2, 3)), both[:, 0, 0, 0] > both[:, 0, -1, 0]
    # Flip and factor must not come from the same bits.
    assert abs(np.corrcoef(np.asarray(factors), np.asarray(mirrored))[0, 1]) < 0.2
