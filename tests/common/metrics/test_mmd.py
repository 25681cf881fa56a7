"""Kernel discrepancies against their closed forms for Gaussians, and their estimator against all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from common.errors import InputError
from common.metrics.distances import cubic, mmd_squared, mmd_squared_of_subsets


def cloud(count, dimensions=2, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dimensions))


def energy(x, y):
    """With it MMD^2 is the energy distance."""
    return -cdist(x, y)


def rbf(s):
    return lambda x, y: np.exp(-cdist(x, y, "sqeuclidean") / (2 * s**2))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), block=st.integers(1, 30), which=st.sampled_from([rbf(0.7), energy, cubic]))
def test_against_all_pairs(seed, block, which):
    x, y = cloud(12, 3, seed), cloud(9, 3, seed + 100) + 0.5
    xx, yy = (which(each, each)[~np.eye(len(each), dtype=bool)].mean() for each in (x, y))
    want = xx + yy - 2 * which(x, y).mean()
    assert mmd_squared(x, y, kernel=which, block=block) == pytest.approx(want, rel=1e-9, abs=1e-12)
    assert mmd_squared(y, x, kernel=which, block=block) == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_rbf_between_gaussians():
    """E exp(-|x - y|^2 / 2 s^2) = (s^2 / (s^2 + v))^(D/2) exp(-|m|^2 / 2 (s^2 + v)), v the variance of x - y."""
    s, shift, dimensions = 1.5, np.array([0.8, -0.3, 0.2]), 3

    def mean(variance, distance):
        return (s**2 / (s**2 + variance)) ** (dimensions / 2) * np.exp(-(distance**2) / (2 * (s**2 + variance)))

    # x ~ N(0, 1), y ~ N(shift, 1/4)
    want = mean(2, 0) + mean(0.5, 0) - 2 * mean(1.25, np.linalg.norm(shift))
    found = [mmd_squared(cloud(1500, 3, 2 * i), shift + cloud(1500, 3, 2 * i + 1) / 2, kernel=rbf(s)) for i in range(4)]
    assert np.mean(found) == pytest.approx(want, rel=0.05)


def test_equal_distributions_give_zero_on_the_mean():
    values = [mmd_squared(cloud(60, 2, 2 * i), cloud(60, 2, 2 * i + 1), kernel=rbf(1.0)) for i in range(100)]
    error = np.std(values) / 10
    assert abs(np.mean(values)) < 4 * error
    assert min(values) < 0 < max(values)


def test_energy_distance_on_the_line():
    """For x = 0 and y = a in one dimension: 2 a."""
    assert mmd_squared(np.zeros((3, 1)), np.full((4, 1), 2.5), kernel=energy) == pytest.approx(5.0)


def test_cubic_kernel_ignores_means_of_equal_sets_only():
    x = cloud(50, 8)
    assert mmd_squared(x + 1, x, kernel=cubic) > 0.5
    by_hand = np.array([[(1 * 2 + 3 * 4) / 2 + 1]]) ** 3
    np.testing.assert_allclose(cubic(np.array([[1.0, 3.0]]), np.array([[2.0, 4.0]])), by_hand)


def test_subsets():
    x, y = cloud(40, 4), cloud(50, 4, 1) + 0.3
    found = mmd_squared_of_subsets(x, y, size=20, subsets=30)
    assert len(found.values) == 30 and len(set(found.values)) == 30
    assert found.mean == pytest.approx(mmd_squared(x, y, kernel=cubic), abs=4 * found.deviation)
    whole = mmd_squared_of_subsets(x, y[:40], size=40, subsets=2)
    np.testing.assert_allclose(whole.values, mmd_squared(x, y[:40], kernel=cubic), rtol=1e-9)


def test_bad_input():
    with pytest.raises(InputError, match="samples: expected at least 2 points, and 2 of reference, got 1 and 5"):
        mmd_squared(cloud(1), cloud(5), kernel=energy)
    with pytest.raises(InputError, match="size: expected 2 to 5, the points there are, got 1000"):
        mmd_squared_of_subsets(cloud(9), cloud(5))
