"""The Wiener filter of a covariance: optimal on Gaussian data, and the stationary one where data are stationary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from gahb.reference import covariance_mse, covariance_wiener, expected_mse, fit, fit_covariance, wiener

SHAPE = (4, 3, 2)
SIZE = 24


def gaussian(count, seed=0):
    """Correlated Gaussian images with a mean that is not flat."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(SIZE, SIZE)) / 10
    return (0.5 + rng.normal(size=(count, SIZE)) @ mixing).reshape(count, *SHAPE) + np.linspace(0, 0.2, 3)[:, None]


def test_model_is_mean_and_covariance_whatever_the_blocks():
    images = gaussian(60)
    flat = images.reshape(60, SIZE)
    prior = fit_covariance(images, block=7)
    np.testing.assert_allclose(prior.mean, images.mean(0), atol=1e-14)
    rebuilt = prior.vectors * prior.values @ prior.vectors.T
    np.testing.assert_allclose(rebuilt, np.cov(flat.T, bias=True), atol=1e-14)
    np.testing.assert_allclose(prior.vectors.T @ prior.vectors, np.eye(SIZE), atol=1e-12)
    assert (np.diff(prior.values) <= 0).all() and prior.values.dtype == np.float64
    # Fewer images than pixels: the same covariance by the other route.
    few = fit_covariance(images[:9])
    assert few.vectors.shape == (SIZE, 8)
    rebuilt = few.vectors * few.values @ few.vectors.T
    np.testing.assert_allclose(rebuilt, np.cov(flat[:9].T, bias=True), atol=1e-14)


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_optimal_among_linear_maps_and_its_error_is_closed_form(sigma):
    with jax.enable_x64(True):
        images = gaussian(200)
        prior = fit_covariance(images)
        centred = (images - prior.mean).reshape(-1, SIZE)
        covariance = centred.T @ centred / len(centred)
        gain = np.asarray(jax.jacobian(lambda y: covariance_wiener(prior, sigma)(y[None])[0])(jnp.asarray(images[0])))
        gain = gain.reshape(SIZE, SIZE)
        np.testing.assert_allclose(gain, covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(SIZE)), atol=1e-10)

        def error(matrix):
            """Of m + A (y - m) over the noise and the set, per pixel."""
            bias = matrix - np.eye(SIZE)
            return (np.trace(bias @ covariance @ bias.T) + sigma**2 * np.square(matrix).sum()) / SIZE

        assert covariance_mse(prior, sigma) == pytest.approx(error(gain), rel=1e-10)
        assert covariance_mse(prior, sigma) == pytest.approx(sigma**2 * np.trace(gain) / SIZE, rel=1e-10)
        rng = np.random.default_rng(0)
        assert all(error(gain + 0.02 * rng.normal(size=gain.shape)) > error(gain) for _ in range(5))


def test_error_on_new_gaussian_images():
    sigma = 0.2
    prior = fit_covariance(gaussian(20000))
    clean = gaussian(4000, seed=1)
    noisy = clean + sigma * np.random.default_rng(2).normal(size=clean.shape)
    error = np.square(np.asarray(covariance_wiener(prior, sigma)(noisy.astype(np.float32))) - clean).mean((1, 2, 3))
    standard_error = error.std() / np.sqrt(len(error))
    assert standard_error < 0.02 * error.mean()
    assert abs(error.mean() - covariance_mse(prior, sigma)) < 4 * standard_error + 0.005 * error.mean()
    assert covariance_mse(prior, sigma) < 0.95 * expected_mse(fit(gaussian(20000)), sigma)


def test_recovers_the_stationary_filter():
    # A set that holds every cyclic shift of its images has a mean that is flat and a covariance that is circulant.
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        seeds = rng.uniform(size=(3, 5, 4, 1)) + np.cumsum(rng.normal(size=(3, 5, 4, 1)), 1) / 5
        images = np.concatenate([np.roll(seeds, (i, j), (1, 2)) for i in range(5) for j in range(4)])
        y = rng.normal(size=(2, 5, 4, 1))
        stationary, full = fit(images, basis="dft"), fit_covariance(images)
        for sigma in (0.1, 1.0):
            np.testing.assert_allclose(covariance_wiener(full, sigma)(y), wiener(stationary, sigma)(y), atol=1e-10)
            assert covariance_mse(full, sigma) == pytest.approx(expected_mse(stationary, sigma), rel=1e-10)


def test_ends_of_the_noise_range():
    images = gaussian(100).astype(np.float32)
    prior = fit_covariance(images)
    np.testing.assert_allclose(covariance_wiener(prior, 1e-6)(images), images, atol=1e-4)
    np.testing.assert_allclose(covariance_wiener(prior, 1e4)(images)[0], prior.mean, atol=1e-4)
    one = fit_covariance(images[:1])
    np.testing.assert_allclose(covariance_wiener(one, 0.1)(images[1:3])[0], images[0], atol=1e-6)
    assert covariance_mse(one, 0.1) == 0


def test_mistakes_are_named():
    with pytest.raises(InputError, match=r"images: expected bytes \(uint8\) or floats in \[0, 1\], got uint16"):
        fit_covariance(np.zeros((2, 4, 4, 1), np.uint16))
    with pytest.raises(InputError, match=r"y: expected \[B, 4, 3, 2\], got \[1, 3, 4, 2\]"):
        covariance_wiener(fit_covariance(gaussian(5)), 0.1)(jnp.zeros((1, 3, 4, 2)))
