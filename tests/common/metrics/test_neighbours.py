"""Nearest neighbours against the whole matrix of distances."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from common.errors import InputError
from common.metrics.neighbours import nearest


def points(count, dimensions, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dimensions)) + 5.0


@pytest.mark.parametrize(("dimensions", "block", "k"), [(2, 7, 1), (16, 7, 4), (17, 100, 1), (17, 7, 4), (40, 3, 4)])
def test_against_the_whole_matrix(dimensions, block, k):
    a, b = points(20, dimensions), points(31, dimensions, 1)
    whole = cdist(a, b)
    found = nearest(a, b, k=k, block=block)
    np.testing.assert_array_equal(found.index, np.argsort(whole, 1)[:, :k])
    np.testing.assert_allclose(found.distance, np.sort(whole, 1)[:, :k], rtol=1e-5)
    alone = nearest(a, a, k=k, skip_self=True, block=block)
    whole = cdist(a, a) + np.diag(np.full(20, np.inf))
    np.testing.assert_array_equal(alone.index, np.argsort(whole, 1)[:, :k])
    np.testing.assert_allclose(alone.distance, np.sort(whole, 1)[:, :k], rtol=1e-5)


@pytest.mark.parametrize("dimensions", [2, 30])
def test_coinciding_points_are_neighbours_at_no_distance(dimensions):
    a = np.repeat(points(3, dimensions), 4, axis=0)
    found = nearest(a, a, k=3, skip_self=True, block=5)
    np.testing.assert_allclose(found.distance, 0, atol=3e-3)
    np.testing.assert_array_equal(found.index // 4, np.repeat(np.arange(12) // 4, 3).reshape(12, 3))
    assert not (found.index == np.arange(12)[:, None]).any()


def test_bad_input():
    with pytest.raises(InputError, match=r"k: expected 1 to 4, .*, got 5"):
        nearest(points(5, 2), points(5, 2), k=5, skip_self=True)
    with pytest.raises(InputError, match="points: expected 2 numbers a point, as reference, got 3"):
        nearest(points(5, 3), points(5, 2))
    with pytest.raises(InputError, match="points: expected finite numbers, got 1 of 5 rows without"):
        nearest(np.where(np.arange(5)[:, None] == 2, np.nan, points(5, 2)), points(5, 2))
    with pytest.raises(InputError, match="reference: expected at least one point"):
        nearest(points(5, 2), np.zeros((0, 2)))
