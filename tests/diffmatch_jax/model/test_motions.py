"""Planted motions: cells follow their own, and a pair with one motion keeps its fit."""

import jax
import numpy as np
import pytest

from diffmatch_jax.model import motions
from diffmatch_jax.model.flow import grid

SIDE = 32
CELLS = np.asarray(grid(SIDE, SIDE))

robust = jax.jit(motions.robust, static_argnames="sigma")
piecewise = jax.jit(motions.piecewise, static_argnames="sigma")


@pytest.fixture(scope="module")
def scene():
    """Returns matches of which a third is wrong, the true flow, and the cells of an object of its own motion."""
    rng = np.random.default_rng(0)
    truth = (CELLS - 15.5) @ np.array([[1.05, 0.1], [-0.1, 0.95]]) + 15.5 + [2.0, -1.0] - CELLS
    own = np.zeros((SIDE, SIDE), bool)
    own[8:18, 14:24] = True
    moved = np.where(own[..., None], truth + [5.0, 3.0], truth)
    anywhere = rng.uniform(0, SIDE - 1, CELLS.shape) - CELLS
    wrong = rng.uniform(size=(SIDE, SIDE, 1)) < 0.33
    matches = [np.where(wrong, anywhere, each) for each in (moved, truth)]
    return np.stack(matches).astype(np.float32), np.stack([moved, truth]), own


def test_an_object_follows_its_own_motion_and_one_motion_is_left_as_it_is(scene):
    matches, truth, own = scene
    weight = np.ones(matches.shape[:3], np.float32)
    first = robust(matches, weight, sigma=4.0)
    found = np.asarray(piecewise(matches, weight, first, sigma=4.0))
    error, before = (np.linalg.norm(each - truth, axis=-1) for each in (found, np.asarray(first)))
    assert before[0][own].mean() > 2
    # Cells at the outline may follow either motion.
    assert error[0, 10:16, 16:22].mean() < 0.6 and np.median(error[0][own]) < 0.6 and error[0][~own].mean() < 0.4
    np.testing.assert_array_equal(found[1], first[1])
