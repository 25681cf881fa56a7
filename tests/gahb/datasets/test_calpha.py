"""Geometric C^alpha images: statistics, switches and invariances (the original's numbers are in tests/goldens)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gahb.datasets import calpha
from gahb.datasets.calpha import low_pass

SIZE = 24


def drawn(count, size=SIZE, seed=0):
    return jax.vmap(functools.partial(calpha.draw, size=size))(jax.random.split(jax.random.key(seed), count))


def images(draws, **settings):
    settings = {"alpha": 2.0, "beta": 2.0, **settings}
    return np.asarray(jax.jit(jax.vmap(functools.partial(calpha.render, **settings)))(draws))


def test_draws_are_uniform_and_independent():
    draws = jax.tree.map(np.asarray, drawn(2000, size=8))
    for white in (draws.contour, draws.first, draws.second):
        assert white.min() >= -1 and white.max() < 1
        assert abs(white.mean()) < 0.03 and abs(white.var() - 1 / 3) < 0.02
    assert abs(draws.coin.mean() - 0.5) < 0.05 and set(draws.coin.tolist()) == {0, 1}
    for unit in (draws.bright_min, draws.dark_max):
        assert unit.min() >= 0 and abs(unit.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(draws.bright_min, draws.dark_max)[0, 1]) < 0.1
    assert abs(np.corrcoef(draws.first[:, 0, 0], draws.second[:, 0, 0])[0, 1]) < 0.1


@pytest.mark.parametrize("size", [7, 8])
def test_filters(size):
    white = np.random.default_rng(0).uniform(-1, 1, (size, size))
    for separable in (False, True):
        gain = calpha.gain_2d(size, separable=separable) ** 1.5
        want = np.fft.ifft2(np.fft.fft2(white) * gain)
        np.testing.assert_allclose(want.imag, 0, atol=1e-12)
        np.testing.assert_allclose(calpha.filtered(jnp.asarray(white, jnp.float32), gain), want.real, atol=1e-6)
    np.testing.assert_allclose(calpha.gain_1d(8), 1 / np.array([1, 1, 2, 3, 4, 3, 2, 1]))
    np.testing.assert_allclose(calpha.gain_2d(8)[3, [0, 2, 5]], 1 / np.sqrt([9, 13, 18]))
    np.testing.assert_allclose(calpha.gain_2d(8, separable=True)[3, [0, 2, 5]], 1 / np.sqrt([3, 6, 9]))


def test_images_are_regular_on_both_sides_of_the_contour():
    draws = drawn(200)
    made = images(draws, blur=(1, 1))
    assert made.shape == (200, SIZE, SIZE, 1) and made.dtype == np.float32
    assert made.min() >= 0 and made.max() <= 1
    contour = jax.vmap(lambda white: calpha.filtered(white, calpha.gain_1d(SIZE) ** 2))(draws.contour)
    below = np.asarray(jax.vmap(calpha.mask)(jax.vmap(calpha.contour_rows)(contour)))
    first, second = jax.vmap(functools.partial(calpha.backgrounds, beta=2.0))(draws)
    np.testing.assert_allclose(made[..., 0], np.where(below == 1, first, second), atol=1e-6)
    assert 0.4 < below.mean() < 0.6
    bright = np.where(draws.coin[:, None, None] == 0, first, second)
    dark = np.where(draws.coin[:, None, None] == 0, second, first)
    np.testing.assert_allclose(bright.max((1, 2)), 1, atol=1e-6)
    np.testing.assert_allclose(bright.min((1, 2)), draws.bright_min, atol=1e-6)
    np.testing.assert_allclose(dark.min((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(dark.max((1, 2)), draws.dark_max, atol=1e-6)


def test_contours_have_the_stated_spread():
    white = jax.random.uniform(jax.random.key(0), (4000, 80), minval=-1.0)
    for alpha, pixels in ((1.0, 10.6), (2.0, 9.2), (5.0, 9.0)):
        gain = calpha.gain_1d(80) ** alpha
        contour = 80 * np.asarray(jax.vmap(lambda each, gain=gain: calpha.filtered(each, gain))(white))
        assert abs(contour.std() / pixels - 1) < 0.03


def test_higher_exponents_are_smoother():
    draws = drawn(40)

    def roughness(alpha):
        contour = jax.vmap(lambda white: calpha.filtered(white, calpha.gain_1d(SIZE) ** alpha))(draws.contour)
        return np.abs(np.diff(contour, axis=1)).mean()

    assert roughness(1.0) > 1.1 * roughness(2.0) > 1.1**2 * roughness(5.0)


def test_each_exponent_moves_its_own_part():
    draws = drawn(6)
    plain = images(draws, alpha=2.0, beta=2.0, blur=(1, 1))
    contour = images(draws, alpha=1.0, beta=2.0, blur=(1, 1))
    background = images(draws, alpha=2.0, beta=1.0, blur=(1, 1))
    moved = (plain != contour).mean()
    assert 0 < moved < 0.3  # only where the other side of the contour shows
    assert (plain != background).mean() > 0.9


def test_constant_backgrounds_show_two_grays():
    draws = drawn(20)
    made = images(draws, background="constant", blur=(1, 1))
    for image, low, high in zip(made, draws.bright_min, draws.dark_max, strict=True):
        assert set(np.unique(image)) <= {np.float32(low), np.float32(high)}
    separable = images(draws, background="separable")
    assert not np.array_equal(separable, images(draws))


def test_only_the_mask_is_blurred():
    draws = drawn(6)
    sharp, blurred = images(draws, blur=(1, 1)), images(draws, blur=(3, 3))
    assert 0.5 < (sharp == blurred).mean() < 1
    np.testing.assert_allclose(blurred, sharp, atol=1)
    flat = calpha.box_blur(jnp.arange(24.0).reshape(4, 6), (1, 2))
    np.testing.assert_allclose(flat[0], [0.5, 0.5, 1.5, 2.5, 3.5, 4.5])


@pytest.mark.parametrize("wrap", [False, True])
def test_rows_outside_the_image(wrap):
    mask = np.asarray(calpha.mask(jnp.array([-1, 0, 2, 4, 9, -9]), wrap=wrap))
    counts = [1, 6, 4, 2, 0, 6] if wrap else [6, 6, 4, 2, 0, 6]
    np.testing.assert_array_equal(mask.sum(0), counts)


@pytest.mark.parametrize("levels", [1, 2])
def test_anti_aliased_images(levels):
    draws = drawn(12, size=SIZE * 2**levels)
    made = images(draws, antialias=levels, blur=(1, 1))
    assert made.shape == (12, SIZE, SIZE, 1) and made.min() >= 0 and made.max() <= 1
    # No image depends on the others of its batch.
    alone = images(jax.tree.map(lambda each: each[3:4], draws), antialias=levels, blur=(1, 1))
    np.testing.assert_array_equal(alone[0], made[3])
    # The picture is that of the fine grid, whose contour has the height and whose mask the blur of the small one.
    finer = draws._replace(contour=draws.contour * np.sqrt(2.0**levels))
    fine = images(jax.tree.map(lambda each: each[:3], finer), blur=(2**levels, 2**levels))
    for _ in range(levels):
        fine = np.stack([low_pass(image, extension=("symmetric", "periodic")) for image in fine])
    np.testing.assert_allclose(made[:3], np.clip(fine, 0, 1), atol=1e-6)


def test_anti_aliasing_keeps_the_spread_of_contours():
    heights = []
    for levels in (0, 1):
        draws = drawn(400, size=SIZE * 2**levels)
        black_and_white = draws._replace(bright_min=jnp.ones(400), dark_max=jnp.zeros(400))
        made = images(black_and_white, antialias=levels, background="constant", blur=(1, 1))
        heights.append(made.sum(1).std())
    assert abs(heights[0] / heights[1] - 1) < 0.05


def test_rescale_meets_both_ends_in_proportion():
    x = jnp.array([[2.0, 3.0], [4.0, 6.0]])
    np.testing.assert_allclose(calpha.rescale(x), [[0, 0.25], [0.5, 1]])
    np.testing.assert_allclose(calpha.rescale(x, low=-1, high=1), [[-1, -0.5], [0, 1]])
    np.testing.assert_array_equal(calpha.rescale(jnp.full((2, 2), 7.0), low=0.5, high=1), 0.5)
