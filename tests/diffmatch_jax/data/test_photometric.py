"""Changes of pictures: each is what its formula says, keys alone decide, and the settings bound them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax.data import augment
from diffmatch_jax.data.augment import LUMA, Photometric

NONE = dict.fromkeys(("brightness", "contrast", "fade", "gamma", "saturation", "hue", "blur", "noise", "noisy"), 0.0)


@pytest.fixture(scope="module")
def image():
    return jnp.asarray(np.random.default_rng(0).integers(80, 176, (12, 10, 3)) / 255, jnp.float32)


@functools.partial(jax.jit, static_argnames="settings")
def changed(keys, image, settings):
    return jax.vmap(lambda key: augment.change(key, image, settings))(keys)


def many(image, **how):
    return np.asarray(changed(jax.random.split(jax.random.key(1), 200), image, Photometric(**{**NONE, **how})))


def test_without_strength_nothing_changes(image):
    np.testing.assert_allclose(many(image), np.broadcast_to(image, (200, 12, 10, 3)), atol=1e-6)


def test_draws_fill_what_the_settings_allow(image):
    mean, deviation = np.asarray(image).mean(), np.asarray(image).std((0, 1))
    found = many(image, brightness=0.1, contrast=0.3, share=0.7)
    same = (found == np.asarray(image)).all((1, 2, 3))
    np.testing.assert_allclose(same.mean(), 0.3, atol=0.1)
    shift = found[~same].mean((1, 2, 3)) - mean
    np.testing.assert_allclose([shift.min(), shift.max()], [-0.1, 0.1], atol=0.01)
    factor = np.log(found[~same].std((1, 2)) / deviation).mean(1)
    np.testing.assert_allclose([factor.min(), factor.max()], [-0.3, 0.3], atol=0.03)
    faded = many(image, fade=0.4).std((1, 2)).mean(1) / deviation.mean()
    np.testing.assert_allclose((faded < 0.99).mean(), 0.4, atol=0.1)
    np.testing.assert_allclose(np.log10(faded[faded < 0.99]).min(), -1.3, atol=0.1)
    noise = (many(image, noise=0.1, noisy=0.5) - np.asarray(image)).std((1, 2, 3))
    np.testing.assert_allclose((noise > 0.002).mean(), 0.5, atol=0.1)
    np.testing.assert_allclose(noise.max(), 0.1, atol=0.01)
    both = many(image, noise=0.4, noisy=1, contrast=0.5, brightness=0.2, gamma=0.4, hue=20, saturation=0.5, blur=1)
    assert both.min() == 0 and both.max() == 1 and len({each.tobytes() for each in both}) == 200
    np.testing.assert_allclose(both * 255, np.round(both * 255), atol=1e-4)


def test_colour_keeps_gray_and_luma(image):
    gray = jnp.full((2, 2, 3), 0.4)
    np.testing.assert_allclose(augment.coloured(gray, saturation=1.4, hue=50.0), gray, atol=1e-6)
    np.testing.assert_allclose(augment.coloured(image), image, atol=1e-6)
    turned = augment.coloured(image, saturation=0.7, hue=30.0)
    np.testing.assert_allclose(turned @ np.array(LUMA), image @ np.array(LUMA), atol=1e-6)
    back = augment.coloured(turned, saturation=1 / 0.7, hue=-30.0)
    np.testing.assert_allclose(back, image, atol=1e-5)
    np.testing.assert_allclose(augment.coloured(image, saturation=0).std(-1), 0, atol=1e-6)


def test_blur_has_the_variance_it_says():
    point = jnp.zeros((21, 21, 1)).at[10, 10].set(1.0)
    blur = jax.jit(augment.blurred)
    blurred = np.asarray(blur(point, 1.2))[..., 0]
    away = np.arange(21) - 10
    np.testing.assert_allclose([blurred.sum(), blurred.sum(1) @ away**2], [1, 1.44], rtol=0.01)
    np.testing.assert_allclose(blur(point, 0.0), point)
    np.testing.assert_allclose(blur(jnp.full((21, 21, 1), 0.3), 2.0), 0.3, rtol=1e-6)


def test_contrast_is_about_each_channels_mean(image):
    found = augment.contrasted(image, 0.05)
    np.testing.assert_allclose(found.mean((0, 1)), image.mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(found.std((0, 1)), 0.05 * image.std((0, 1)), rtol=1e-4)


def test_impossible_strengths_are_named():
    with pytest.raises(InputError, match="photometric.blur: expected 0 to 2, got 3"):
        Photometric(blur=3)
    with pytest.raises(InputError, match="photometric.hue: expected a number of at least 0, got -1"):
        Photometric(hue=-1)
