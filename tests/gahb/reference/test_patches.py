"""Patch posteriors: loops over pixels and places, the full window, shifts, borders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from gahb.reference import empirical, equivariant, local

SHAPE = (6, 5, 2)


def images(count=4, shape=SHAPE):
    return np.random.default_rng(0).uniform(size=(count, *shape))


def noisy(shape=SHAPE):
    return images(2, shape) + 0.3 * np.random.default_rng(5).normal(size=(2, *shape))


def window(image, row, column, patch, boundary):
    """Offset to pixel, for every pixel of the window that there is."""
    height, width = image.shape[:2]
    found = {}
    reach = range(-(patch // 2), patch // 2 + 1)
    for i in reach:
        for j in reach:
            a, b = row + i, column + j
            if boundary == "wrap":
                found[i, j] = image[a % height, b % width]
            elif 0 <= a < height and 0 <= b < width:
                found[i, j] = image[a, b]
    return found


def places(image):
    return [(row, column) for row in range(image.shape[0]) for column in range(image.shape[1])]


def brute_force(x, sigma, y, patch, boundary, everywhere):
    result = np.zeros_like(y)
    for b, one in enumerate(y):
        for row, column in places(one):
            query = window(one, row, column, patch, boundary)
            logits, values = [], []
            for image in x:
                for place in places(image) if everywhere else [(row, column)]:
                    key = window(image, *place, patch, boundary)
                    if key.keys() == query.keys():
                        logits.append(-sum(np.square(key[o] - query[o]).sum() for o in key) / (2 * sigma**2))
                        values.append(image[place])
            weights = np.exp(np.array(logits) - max(logits))
            result[b, row, column] = weights @ np.array(values) / weights.sum()
    return result


@pytest.mark.parametrize("boundary", ["cut", "wrap"])
@pytest.mark.parametrize("patch", [1, 3, 5])
def test_local_equals_loops(patch, boundary):
    with jax.enable_x64(True):
        want = brute_force(images(), 0.4, noisy(), patch, boundary, everywhere=False)
        for block in (1, 3):
            denoise = local(images(), 0.4, patch=patch, boundary=boundary, block=block)
            np.testing.assert_allclose(denoise(noisy()), want, rtol=1e-9)


@pytest.mark.parametrize("boundary", ["cut", "wrap"])
@pytest.mark.parametrize("patch", [1, 3, 5])
def test_equivariant_equals_loops(patch, boundary):
    with jax.enable_x64(True):
        want = brute_force(images(), 0.4, noisy(), patch, boundary, everywhere=True)
        for block in (1, 3):
            denoise = equivariant(images(), 0.4, patch=patch, boundary=boundary, block=block)
            np.testing.assert_allclose(denoise(noisy()), want, rtol=1e-9)


@pytest.mark.parametrize("boundary", ["cut", "wrap"])
def test_images_of_another_size(boundary):
    with jax.enable_x64(True):
        y = noisy((4, 7, 2))
        want = brute_force(images(), 0.4, y, 3, boundary, everywhere=True)
        np.testing.assert_allclose(equivariant(images(), 0.4, patch=3, boundary=boundary)(y), want, rtol=1e-9)


def test_a_window_that_sees_everything_is_the_whole_posterior():
    with jax.enable_x64(True):
        y = noisy()
        np.testing.assert_allclose(local(images(), 0.7, patch=11)(y), empirical(images(), 0.7)(y), rtol=1e-9)
        # Every place is cut in a way of its own, so that only the same place counts.
        np.testing.assert_allclose(equivariant(images(), 0.7, patch=11)(y), empirical(images(), 0.7)(y), rtol=1e-9)


def test_equivariant_commutes_with_shifts():
    y = noisy().astype(np.float32)
    x = images().astype(np.float32)
    moved = np.roll(y, (2, -1), (1, 2))
    denoise = equivariant(x, 0.3, patch=3, boundary="wrap")
    np.testing.assert_allclose(denoise(moved), np.roll(denoise(y), (2, -1), (1, 2)), atol=1e-5)
    # Neither borders nor places are alike for the others.
    for other in (equivariant(x, 0.3, patch=3), local(x, 0.3, patch=3, boundary="wrap")):
        assert np.abs(other(moved) - np.roll(other(y), (2, -1), (1, 2))).max() > 0.05


def test_copies_without_noise():
    x = images().astype(np.float32)
    for denoise in (local(x, 0.01, patch=3), equivariant(x, 0.01, patch=3)):
        np.testing.assert_allclose(denoise(x), x, atol=1e-5)
    # A picture of pieces from two images is one that patches know and the whole posterior does not.
    mixed = np.concatenate([x[:1, :, :2], x[1:2, :, 2:]], axis=2)
    assert np.median(np.abs(np.asarray(local(x, 0.05, patch=3)(mixed)) - mixed)) < 1e-4
    assert np.abs(np.asarray(empirical(x, 0.05)(mixed)) - mixed).mean() > 0.1


@pytest.mark.parametrize("make", [local, equivariant])
def test_differentiable_and_compiled_once(make):
    traces = []

    @jax.jit
    def derivative(denoise, y, v):
        traces.append(1)
        return jax.jvp(denoise, (y,), (v,))[1], jax.vjp(denoise, y)[1](v)[0]

    with jax.enable_x64(True):
        x, y, v = images(), noisy(), np.random.default_rng(2).normal(size=(2, *SHAPE))
        denoise = make(x, 0.4, patch=3)
        forward, backward = derivative(denoise, y, v)
        step = 1e-5
        finite = (np.asarray(denoise(y + step * v)) - np.asarray(denoise(y - step * v))) / (2 * step)
        np.testing.assert_allclose(forward, finite, atol=1e-7)
        np.testing.assert_allclose((forward * v).sum(), (backward * v).sum(), rtol=1e-8)
        derivative(make(1 - x, 0.2, patch=3), y, v)
        assert len(traces) == 1


def test_mistakes_are_named():
    with pytest.raises(InputError, match="patch: expected an odd number of pixels, got 4"):
        local(images(), 0.1, patch=4)
    with pytest.raises(InputError, match='boundary: expected one of "cut", "wrap", got "zero"'):
        equivariant(images(), 0.1, patch=3, boundary="zero")
    with pytest.raises(InputError, match="patch: expected at most the side of the image, 5, got 7"):
        equivariant(images(), 0.1, patch=7, boundary="wrap")
    with pytest.raises(InputError, match="sigma: expected a positive number, got -1"):
        local(images(), -1, patch=3)
    with pytest.raises(InputError, match=r"y: expected \[B, 6, 5, 2\], got \[1, 5, 6, 2\]"):
        local(images(), 0.1, patch=3)(jnp.zeros((1, 5, 6, 2)))
    with pytest.raises(InputError, match=r"y: expected \[B, H, W, 2\] with H, W at least 5, .* got \[1, 4, 9, 2\]"):
        equivariant(images(), 0.1, patch=5)(jnp.zeros((1, 4, 9, 2)))
