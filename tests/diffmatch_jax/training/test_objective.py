"""Losses on full-resolution truth with masks, per sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax.model.resize import resize_normalised
from diffmatch_jax.training import objective


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_mean_over_valid_pixels_of_each_sample():
    prediction, truth = noise(2, 6, 8, 2), noise(2, 6, 8, 2, seed=1)
    mask = np.random.default_rng(2).uniform(size=(2, 6, 8)) < 0.5
    squared = ((np.asarray(prediction) - np.asarray(truth)) ** 2).sum(-1)
    sums = objective.totals(prediction, truth, jnp.asarray(mask))
    want = [squared[i][mask[i]].mean() for i in range(2)]
    np.testing.assert_allclose(objective.per_sample(sums), want, rtol=1e-5)
    np.testing.assert_allclose(objective.pooled(sums), squared[mask].mean(), rtol=1e-5)
    robust = objective.totals(prediction, truth, jnp.asarray(mask), penalty="charbonnier", scale=2.0, epsilon=0.1)
    want = [(np.sqrt(squared[i][mask[i]] / 4 + 0.01) - 0.1).mean() for i in range(2)]
    np.testing.assert_allclose(objective.per_sample(robust), want, rtol=1e-5)


def test_truth_keeps_its_resolution():
    """A coarse prediction is brought to the truth; a step in the truth costs what it costs there."""
    prediction = noise(1, 4, 4, 2)
    mask = jnp.ones((1, 16, 12))
    truth = resize_normalised(prediction, (16, 12))
    exact = objective.totals(prediction, truth, mask)
    np.testing.assert_allclose(exact.total, 0, atol=1e-8)
    moved = objective.per_sample(objective.totals(prediction, truth.at[:, :8, :, 0].add(1.0), mask))
    np.testing.assert_allclose(moved, 0.5, rtol=1e-5)


def test_invalid_truth_does_not_matter():
    prediction, truth = noise(2, 4, 4, 2), noise(2, 4, 4, 2, seed=1)
    mask = jnp.ones((2, 4, 4)).at[0, :2].set(0).at[1].set(0)
    broken = truth.at[0, :2].set(jnp.nan).at[1].set(jnp.inf)

    def loss(prediction, truth):
        return objective.per_sample(objective.totals(prediction, truth, mask, penalty="charbonnier"))

    np.testing.assert_array_equal(loss(prediction, broken), loss(prediction, truth.at[1].set(0)))
    assert loss(prediction, broken)[1] == 0
    gradient = jax.grad(lambda p: loss(p, broken).sum())(prediction)
    assert jnp.isfinite(gradient).all()
    assert (gradient[0, :2] == 0).all() and (gradient[1] == 0).all() and (gradient[0, 2:] != 0).all()
    assert objective.pooled(objective.totals(prediction, truth, 0 * mask)) == 0


def test_surprise_is_least_at_the_deviation_of_a_gaussian_of_the_same_mean_error():
    error = 0.7 * noise(2, 200, 200, 2)
    weight = jnp.ones((2, 200, 200)).at[1, :100].set(0)
    error = error.at[1, :50].set(1e3).at[1, 50:100].set(jnp.inf)  # weigh nothing

    def mean(log):
        sums = objective.surprise(error, jnp.full((2, 200, 200, 1), jnp.exp(log)), weight)
        return objective.per_sample(sums).sum()

    value, slope = jax.value_and_grad(mean)(jnp.log(0.7))
    np.testing.assert_allclose(slope, 0, atol=0.05)
    # k |e| / d is 2 on average there, for the k that makes it so.
    np.testing.assert_allclose(value, 2 * (2 + 2 * np.log(0.7)), rtol=0.02)
    assert jax.grad(mean)(jnp.log(0.35)) < -1 < 1 < jax.grad(mean)(jnp.log(1.4))


def test_robust_loss_is_smooth_at_zero_and_linear_far_away():
    mask, zero = jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1, 2))

    def slope(x):
        value = lambda x: objective.totals(zero.at[..., 0].set(x), zero, mask, penalty="charbonnier").total[0]  # noqa: E731
        return jax.grad(value)(x)

    np.testing.assert_allclose([slope(0.0), slope(5.0), slope(-5.0)], [0, 1, -1], atol=1e-4)


def test_mistakes():
    x, mask = noise(1, 4, 4, 2), jnp.ones((1, 8, 8))
    with pytest.raises(InputError, match=r"truth: expected the mask's size \[8, 8\], got \[4, 4\]"):
        objective.totals(x, x, mask)
    with pytest.raises(InputError, match="penalty: expected"):
        objective.totals(x, x, mask, penalty="huber")
