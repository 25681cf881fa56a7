"""The memorising optimum: brute force, its limits, its Jacobian, and the sampler that returns the set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gahb.eigenbasis
from common.errors import InputError
from gahb.metrics.psnr import psnr_curve
from gahb.reference import dominant, empirical, jacobian, jacobian_product, weights

SHAPE = (5, 4, 2)


def images(count=23, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, *SHAPE))


def noisy(sigma, count=3):
    rng = np.random.default_rng(7)
    return images()[:count] + sigma * rng.normal(size=(count, *SHAPE))


def brute_force(x, sigmas, y):
    """The posterior in plain loops over what is enumerated, `[B, N]`, and its mean."""
    d = x[0].size
    probabilities = np.zeros((len(y), len(x)))
    for b in range(len(y)):
        log = np.array([[-d * np.log(s) - np.square(y[b] - each).sum() / (2 * s**2) for s in sigmas] for each in x])
        likelihood = np.exp(log - log.max()).sum(1)
        probabilities[b] = likelihood / likelihood.sum()
    return probabilities, np.einsum("bn,nhwc->bhwc", probabilities, x)


@settings(max_examples=4, deadline=None)
@given(block=st.integers(1, 40), sigma=st.sampled_from([0.4, 0.9, 2.0]), count=st.integers(1, 23))
def test_equals_brute_force_whatever_the_blocks(block, sigma, count):
    with jax.enable_x64(True):
        x, y = images()[:count], noisy(sigma)
        posterior = empirical(x, sigma, block=block)
        probabilities, mean = brute_force(x, [sigma], y)
        np.testing.assert_allclose(posterior(y), mean, rtol=1e-10)
        np.testing.assert_allclose(weights(posterior, y), probabilities, atol=1e-12)


def test_blind_one_weighs_the_levels_too():
    with jax.enable_x64(True):
        x, sigmas = images(), [0.05, 0.2, 0.3, 1.0]
        posterior = empirical(x, sigmas, block=6)
        y = np.concatenate([noisy(sigma) for sigma in sigmas])
        probabilities, mean = brute_force(x, sigmas, y)
        np.testing.assert_allclose(posterior(y), mean, rtol=1e-10)
        np.testing.assert_allclose(weights(posterior, y), probabilities, atol=1e-12)
        np.testing.assert_allclose(empirical(x, [0.9, 0.9])(y), empirical(x, 0.9)(y), rtol=1e-10)


@pytest.mark.parametrize("sigma", [0.9, [0.5, 0.9, 1.5]], ids=["known", "blind"])
def test_jacobian_is_the_derivative(sigma):
    with jax.enable_x64(True):
        x, y = images(), noisy(0.9)
        posterior = empirical(x, sigma, block=6)
        size = x[0].size
        forward, backward = (
            jax.jit(jax.vmap(derive(lambda one: posterior(one[None])[0])))(y).reshape(3, size, size)
            for derive in (jax.jacfwd, jax.jacrev)
        )
        dense = jacobian(posterior, y)
        np.testing.assert_allclose(dense, forward, atol=1e-9)
        np.testing.assert_allclose(backward, forward, atol=1e-9)
        v = np.random.default_rng(1).normal(size=y.shape)
        product = jacobian_product(posterior, y, v)
        np.testing.assert_allclose(product.reshape(3, -1), np.einsum("bde,be->bd", dense, v.reshape(3, -1)), atol=1e-9)
        assert np.abs(dense).max() > 0.01
        if np.ndim(sigma) == 0:
            p, mean = brute_force(x, [sigma], y)
            away = (x[None] - mean[:, None]).reshape(3, len(x), -1)
            np.testing.assert_allclose(dense, np.einsum("bn,bnd,bne->bde", p, away, away) / sigma**2, atol=1e-10)
            np.testing.assert_allclose(dense, dense.transpose(0, 2, 1), atol=1e-14)


def test_error_is_sigma_squared_times_the_trace():
    # E ||f(y) - x||^2 = sigma^2 E tr J for the optimum, over draws of image and noise.
    x, sigma, draws = images(8).astype(np.float32), 0.9, 1000
    rng = np.random.default_rng(0)
    clean = x[rng.integers(0, 8, draws)]
    y = jnp.asarray(clean + sigma * rng.normal(size=clean.shape), jnp.float32)
    posterior = empirical(x, sigma)
    error = np.square(np.asarray(posterior(y)) - clean).sum((1, 2, 3))
    trace = sigma**2 * np.trace(jacobian(posterior, y), axis1=1, axis2=2)
    difference = error - trace
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(draws)
    assert trace.mean() > 10 * difference.std() / np.sqrt(draws)


def test_limits_of_the_noise():
    x = images().astype(np.float32)
    y = noisy(0.3, 20).astype(np.float32)
    distance = np.square(y[:, None] - x).sum((2, 3, 4))
    nearest = distance.argmin(1)
    posterior = empirical(x, 1e-3)
    np.testing.assert_allclose(posterior(y), x[nearest], atol=1e-6)
    index, weight = dominant(posterior, y)
    np.testing.assert_array_equal(index, nearest)
    np.testing.assert_allclose(weight, 1)
    np.testing.assert_allclose(empirical(x, 1e4)(y), np.broadcast_to(x.mean(0), y.shape), atol=1e-5)
    _, weight = dominant(empirical(x, 1e4), y)
    np.testing.assert_allclose(weight, 1 / len(x), rtol=1e-3)
    np.testing.assert_allclose(jacobian(posterior, x[:2]), 0, atol=1e-5)


def test_no_denoiser_is_better_on_its_set():
    x, sigma = images(16).astype(np.float32), 0.9
    rivals = [empirical(x, sigma), empirical(x, 1.3 * sigma), empirical(x, 0.7 * sigma), empirical(x[:8], sigma)]
    repeated = np.tile(x, (60, 1, 1, 1))
    curves = psnr_curve(rivals, repeated, [sigma] * 4, jax.random.key(0), batch_size=960).psnr_of_mean
    assert curves[0] > max(curves[1:]) + 0.02


def test_sampling_with_it_returns_the_set():
    rng = np.random.default_rng(0)
    x = (rng.uniform(size=(6, 8, 8, 1)) > 0.5).astype(np.float32)
    levels = np.geomspace(0.01, 2.0, 24)
    samples, info = gahb.sample(
        empirical(x, levels), jax.random.key(0), (16, 8, 8, 1), sigma_L=0.02, h0=0.05, beta=0.3, max_steps=500
    )
    assert info["converged"].all()
    distance = np.abs(np.asarray(samples)[:, None] - x).max((2, 3, 4))
    assert distance.min(1).max() < 0.01
    assert len(set(distance.argmin(1).tolist())) >= 4


def test_its_eigenbasis_is_that_of_the_covariance():
    x, y = images(30).astype(np.float32), jnp.asarray(noisy(0.9)[:1], jnp.float32)
    posterior = empirical(x, 0.9, block=8)
    found = gahb.eigenbasis.top_k(posterior, y, 4)
    exact = np.linalg.eigvalsh(np.asarray(jacobian(posterior, y))[0])[::-1][:4]
    np.testing.assert_allclose(np.ravel(found.values), exact, rtol=1e-3)


def test_small_differences_between_images_survive_float32():
    # As a difference of squared norms their distances would drown in rounding.
    base = np.full((1, 40, 40, 1), 0.9, np.float32)
    x = base + np.array([0, 1e-3], np.float32)[:, None, None, None]
    index, weight = dominant(empirical(x, 2e-3), x + np.float32(1e-4))
    assert index.tolist() == [0, 1]
    logit = (0.9e-3**2 - 0.1e-3**2) * 1600 / (2 * 2e-3**2)
    np.testing.assert_allclose(weight[0], 1 / (1 + np.exp(-logit)), rtol=1e-3)


def test_another_set_or_sigma_compiles_nothing():
    traces = []

    @jax.jit
    def run(denoise, y):
        traces.append(1)
        return denoise(y)

    y = noisy(0.3).astype(np.float32)
    one, two, three = (
        run(empirical(images(seed=seed).astype(np.float32), sigma, block=10), y)
        for seed, sigma in ((0, 0.1), (1, 0.1), (0, 1.0))
    )
    assert len(traces) == 1 and one.dtype == jnp.float32
    assert np.abs(one - two).max() > 0.1 and np.abs(one - three).max() > 0.1


def test_mistakes_are_named():
    with pytest.raises(InputError, match="sigma: expected a positive number, got 0.0"):
        empirical(images(), 0.0)
    with pytest.raises(InputError, match=r"images: expected bytes \(uint8\) or floats in \[0, 1\], got uint16"):
        empirical(np.zeros((2, 4, 4, 1), np.uint16), 1.0)
    with pytest.raises(InputError, match=r"y: expected \[B, 5, 4, 2\], got \[1, 4, 5, 2\]"):
        empirical(images(), 1.0)(jnp.zeros((1, 4, 5, 2)))
    with pytest.raises(InputError, match=r"posterior: expected a denoiser made by empirical"):
        weights(jax.tree_util.Partial(jnp.sin), jnp.zeros((1, 5, 4, 2)))
