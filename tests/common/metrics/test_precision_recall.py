"""Precision, recall, density and coverage by hand, by brute force and at their limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from common.errors import InputError
from common.metrics.neighbours import precision_recall, radii


def cloud(count, dimensions=2, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dimensions))


def test_by_hand():
    reference = np.array([[0.0], [1.0], [2.0], [10.0]])
    samples = np.array([[0.5], [2.9], [3.1], [50.0], [51.0]])
    np.testing.assert_allclose(radii(reference, k=1), [1, 1, 1, 8])
    np.testing.assert_allclose(radii(samples, k=1), [2.4, 0.2, 0.2, 1, 1], rtol=1e-12)
    found = precision_recall(samples, reference, k=1)
    # 0.5 lies in the balls of 0 and 1; 2.9 in those of 2 and 10; 3.1 in that of 10.
    assert found.precision == 3 / 5
    assert found.density == 5 / 5
    # The ball of the sample 0.5 holds 0, 1 and 2; no other holds any.
    assert found.recall == 3 / 4
    assert found.coverage == 1


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 99),
    dimensions=st.sampled_from([2, 16, 17]),
    k=st.integers(1, 4),
    block=st.sampled_from([7, 60]),
)
def test_against_whole_matrices(seed, dimensions, k, block):
    x, y = cloud(25, dimensions, seed) + 7, 1.2 * cloud(31, dimensions, seed + 100) + 7
    reach = {name: np.sort(cdist(each, each), 1)[:, k] for name, each in (("x", x), ("y", y))}
    distances = cdist(x, y)
    found = precision_recall(x, y, k=k, block=block)
    assert found.precision == (distances <= reach["y"]).any(1).mean()
    assert found.recall == (distances <= reach["x"][:, None]).any(0).mean()
    assert found.density == pytest.approx((distances <= reach["y"]).sum(1).mean() / k)
    assert found.coverage == (distances <= reach["y"]).any(0).mean()
    swapped = precision_recall(y, x, k=k, block=block)
    assert (swapped.precision, swapped.recall) == (found.recall, found.precision)


@pytest.mark.parametrize("offset", [0, 1e4])
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_many_dimensions_far_from_zero(offset, scale):
    """Copies are at distance 0 and points at the edge of a ball inside it, wherever the cloud lies."""
    x = cloud(40, 50)
    x[20:] = x[:20]  # each point twice: every radius for k = 1 is 0
    x = offset + scale * x
    np.testing.assert_array_equal(radii(x, k=1), 0)
    found = precision_recall(x, x, k=1)
    assert found == (1, 1, 2, 1)
    nudged = x + scale * 1e-3 * cloud(40, 50, 1)
    assert precision_recall(nudged, x, k=1).precision == 0
    np.testing.assert_allclose(radii(x, k=2), np.sort(cdist(x, x), 1)[:, 2], rtol=1e-9)


@pytest.mark.parametrize("dimensions", [2, 30])
def test_limits(dimensions):
    x = cloud(60, dimensions)
    same = precision_recall(x, x)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    # A point lies in its own ball and, on the mean, at the very edge of those of k others.
    assert same.density == pytest.approx(4 / 3, rel=1e-9)
    assert precision_recall(x + 1000, x) == (0, 0, 0, 0)
    # Copies of few data are precise and reach little.
    few = precision_recall(np.repeat(x[:3], 20, 0) + 1e-3 * cloud(60, dimensions, 1), x)
    assert few.precision == 1 and few.recall < 0.2 and few.coverage < 1


def test_bad_input():
    with pytest.raises(InputError, match="k: expected 1 to 2, the number of references, got 3"):
        precision_recall(cloud(3), cloud(9))
    with pytest.raises(InputError, match="samples: expected 2 numbers a point, as reference, got 3"):
        precision_recall(cloud(9, 3), cloud(9))
