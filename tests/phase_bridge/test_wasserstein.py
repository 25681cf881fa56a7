"""Wasserstein distances where they are known: translates, scalings, one dimension."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from phase_bridge.evaluation import directions, sliced_wasserstein, wasserstein


def cloud(count, dimensions=2, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dimensions))


@settings(max_examples=15, deadline=None)
@given(shift=st.tuples(*[st.floats(-3, 3)] * 2), seed=st.integers(0, 9))
def test_translates(shift, seed):
    x = cloud(40, seed=seed)
    moved = np.random.default_rng(1).permutation(x + shift)
    length = np.hypot(*shift)
    assert wasserstein(moved, x) == pytest.approx(length, abs=1e-9)
    # The mean of <u, shift>^2 over directions is |shift|^2 / D.
    assert sliced_wasserstein(moved, x) == pytest.approx(length / np.sqrt(2), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(angle=st.floats(0, 6), scale=st.floats(0.1, 10), seed=st.integers(0, 9))
def test_invariances(angle, scale, seed):
    x, y = cloud(30, seed=seed), cloud(30, seed=seed + 10) + 1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert wasserstein(x @ turn, y @ turn) == pytest.approx(wasserstein(x, y), rel=1e-9)
    for distance in (wasserstein, sliced_wasserstein):
        assert distance(scale * x, scale * y) == pytest.approx(scale * distance(x, y), rel=1e-9)
        assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-12)
        assert distance(x, x[::-1]) == pytest.approx(0, abs=1e-12)
    assert sliced_wasserstein(x, y) <= wasserstein(x, y)


def test_best_pairing_of_all():
    x, y = cloud(6, 3), cloud(6, 3, seed=1)
    best = min(np.square(x - y[list(order)]).sum(1).mean() for order in itertools.permutations(range(6)))
    assert wasserstein(x, y) == pytest.approx(np.sqrt(best), rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(6, 4), (7, 5), (3, 12), (5, 5), (1, 8)])
def test_sets_of_different_size(n, m):
    x, y = cloud(n, 3), cloud(m, 3, seed=1)
    common = np.lcm(n, m)
    assert sliced_wasserstein(x, y) == pytest.approx(
        sliced_wasserstein(np.repeat(x, common // n, 0), np.repeat(y, common // m, 0)), rel=1e-12
    )


@pytest.mark.parametrize("dimensions", [2, 5])
def test_directions_are_unit_and_balanced(dimensions):
    vectors = directions(dimensions, count=400)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    second = vectors.T @ vectors / 400
    np.testing.assert_allclose(second, np.eye(dimensions) / dimensions, atol=1e-12 if dimensions == 2 else 0.05)
    np.testing.assert_array_equal(vectors, directions(dimensions, count=400))
    assert dimensions == 2 or not np.allclose(vectors, directions(dimensions, count=400, seed=1))


def test_number_of_directions_is_used_and_blocks_do_not_matter():
    x, y = cloud(50, 3), 2 * cloud(50, 3, seed=1)
    found = [sliced_wasserstein(x, y, num_directions=count) for count in (1, 65, 130)]
    assert len(set(found)) == 3
    vectors = directions(3, count=130)
    want = np.sqrt(np.square(np.sort(x @ vectors.T, 0) - np.sort(y @ vectors.T, 0)).mean())
    assert found[2] == pytest.approx(want, rel=1e-12)


def test_gaussians():
    x, y = cloud(200_000), cloud(200_000, seed=1) * 2
    # Between N(0, 1) and N(0, 4) in every direction: |2 - 1|.
    assert sliced_wasserstein(x, y, num_directions=8) == pytest.approx(1, abs=0.01)


def test_bad_input():
    with pytest.raises(InputError, match="samples: expected as many points as reference, got 3 and 4; cut both"):
        wasserstein(cloud(3), cloud(4))
    with pytest.raises(InputError, match="samples: expected at most 10 points to pair, got 11; take fewer"):
        wasserstein(cloud(11), cloud(11), most=10)
    with pytest.raises(InputError, match="num_directions: expected at least 1, got 0"):
        sliced_wasserstein(cloud(3), cloud(3), num_directions=0)
    with pytest.raises(InputError, match="samples: expected 3 numbers a point, as reference, got 2"):
        sliced_wasserstein(cloud(3), cloud(3, 3))
