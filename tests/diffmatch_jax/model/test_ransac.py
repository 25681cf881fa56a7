"""A global affine flow among wrong matches, in closed form."""

import jax
import numpy as np
import pytest

from diffmatch_jax.model import motions, robust_fit
from diffmatch_jax.model.flow import grid

SIDE = 32
CELLS = np.asarray(grid(SIDE, SIDE))

find = jax.jit(robust_fit.affine_flow)


def planted(linear, shift, *, wrong, seed=0):
    """Returns matches under an affine map about the middle, a fraction `wrong` of them anywhere, and the true flow."""
    rng = np.random.default_rng(seed)
    truth = (CELLS - 15.5) @ np.asarray(linear).T + 15.5 + shift - CELLS
    anywhere = rng.uniform(0, SIDE - 1, CELLS.shape) - CELLS
    chosen = rng.uniform(size=(SIDE, SIDE, 1)) < wrong
    return np.where(chosen, anywhere, truth)[None].astype(np.float32), truth


@pytest.mark.parametrize("wrong", [0.0, 0.5, 0.8])
@pytest.mark.parametrize(
    "linear", [np.eye(2), [[0.5, 0], [0, 0.5]], [[0, -1], [1, 0]], [[-1.4, 0.3], [0.2, -1.1]]], ids=str
)
def test_the_map_of_most_matches_is_found(linear, wrong):
    flow, truth = planted(linear, [3.25, -2.0], wrong=wrong)
    found, there = find(flow, np.ones((1, SIDE, SIDE), np.float32))
    assert bool(there[0])
    # Matches anywhere that happen to lie within the threshold pull a little.
    assert np.abs(found[0] - truth).max() < 0.35


@pytest.mark.parametrize(
    "linear", [[[1, 0], [0, -1]], [[0.1, 0], [0, 0.1]], [[6, 0], [0, 6]], [[1, 0], [0, 0.2]]], ids=str
)
def test_a_degenerate_map_is_none(linear):
    flow, _ = planted(linear, [0.0, 0.0], wrong=0.0)
    found, there = find(flow, np.ones((1, SIDE, SIDE), np.float32))
    assert not bool(there[0]) and np.abs(found).max() == 0


def test_without_mutual_matches_there_is_none():
    flow, _ = planted(np.eye(2), [1.0, 0.0], wrong=0.0)
    weight = np.zeros((1, SIDE, SIDE), np.float32)
    assert not bool(find(flow, weight)[1][0])
    weight[0, :1, :7] = 1
    assert not bool(find(flow, weight)[1][0])


def test_a_batch_equals_its_pairs():
    flows = np.concatenate([planted(np.eye(2), [i, 0.0], wrong=0.5, seed=i)[0] for i in range(2)])
    weight = np.ones((2, SIDE, SIDE), np.float32)
    both = find(flows, weight)[0]
    for i in range(2):
        np.testing.assert_array_equal(both[i], find(flows[i : i + 1], weight[i : i + 1])[0][0])


def test_the_robust_fit_survives_more_wrong_than_right_matches():
    """The fit from zero flow follows the mean of the matches, which four fifths of wrong ones decide."""
    flow, truth = planted([[0.9, -0.3], [0.3, 0.9]], [6.0, 4.0], wrong=0.75)
    weight = np.ones((1, SIDE, SIDE), np.float32)
    fitted = jax.jit(motions.robust, static_argnames="sigma")(flow, weight, sigma=2.0)[0]
    assert np.linalg.norm(fitted - truth, axis=-1).mean() < 0.3
