"""Finer flow by matches near a known one, on maps whose true flow is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmatch_jax.model import robust_fit
from diffmatch_jax.model.flow import grid, valid, warp

SIDE = 64


@pytest.fixture(scope="module")
def maps():
    """Features of a source, and of a target that shows it turned, shifted and stretched; the true flow in cells."""
    keys = jax.random.split(jax.random.key(0), 2)
    source = jax.image.resize(jax.random.normal(keys[0], (1, SIDE // 2, SIDE // 2, 8)), (1, SIDE, SIDE, 8), "cubic")
    cells = grid(SIDE, SIDE)
    flow = (cells @ jnp.asarray([[0.05, -0.08], [0.06, 0.02]]).T + jnp.asarray([1.3, -2.2]))[None]
    target = warp(source, flow, outside="border")
    return source, target, flow


refine = jax.jit(robust_fit.refine, static_argnames=("places", "radius", "rounds"))


def errors(found, flow):
    """Returns the distances from the truth in cells, where the source shows what the target does."""
    away = np.linalg.norm(found.flow * SIDE - flow, axis=-1)
    return away[np.asarray(valid(flow))]


def test_a_rough_flow_becomes_a_fine_one(maps):
    source, target, flow = maps
    wrong = jax.image.resize(0.7 * jax.random.normal(jax.random.key(1), (1, 4, 4, 2)), flow.shape, "linear")
    rough = flow + jnp.asarray([1.6, -1.2]) + wrong
    assert np.linalg.norm(rough - flow, axis=-1).mean() > 1.8
    once = refine(source, target, rough / SIDE, places=(16, 16), rounds=1)
    twice = refine(source, target, rough / SIDE, places=(16, 16), rounds=2)
    assert errors(twice, flow).mean() < errors(once, flow).mean() < 0.4
    assert np.quantile(errors(twice, flow), 0.9) < 0.4
    assert twice.weight.shape == (1, 16, 16) and twice.weight.mean() > 0.7


def test_the_truth_is_kept(maps):
    source, target, flow = maps
    found = refine(source, target, flow / SIDE, places=(16, 16))
    assert errors(found, flow).mean() < 0.1
    inside = np.asarray(found.weight[0]) > 0
    assert np.linalg.norm(found.away[0], axis=-1)[inside].mean() < 0.2


def test_matches_that_are_not_there_do_not_count(maps):
    """A corner of the target shows something else; the flow there goes on as beside it."""
    source, target, flow = maps
    other = jax.random.normal(jax.random.key(2), (1, 24, 24, 8))
    found = refine(source, target.at[:, :24, :24].set(other), flow / SIDE, places=(16, 16))
    assert errors(found, flow).mean() < 0.3
    away = np.linalg.norm(found.away[0], axis=-1)
    assert away[1:5, 1:5].mean() > 4 * away[8:, 8:].mean()


def test_windows_are_means_around_the_middles():
    weights = robust_fit._windows(4, 16)
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights[1] @ np.arange(16), 5.5, atol=0.05)
    np.testing.assert_allclose(weights[1, 5] / weights[1, 8], np.exp((2.5**2 - 0.5**2) / 8))


def test_a_picture_refined_against_itself_stays_where_it_is_up_to_the_border(maps):
    """Places outside the source have no cosine; counted as 0 they would draw the peaks of the border inwards."""
    source, _, _ = maps
    found = refine(source, source, jnp.zeros((1, SIDE, SIDE, 2)), places=(16, 16), rounds=2)
    assert np.abs(found.flow * SIDE).max() < 0.05


def test_masked_cells_count_no_more_than_places_outside(maps):
    source, _, flow = maps
    mask = jnp.ones((1, SIDE, SIDE)).at[:, :, :20].set(0)
    inside = source * mask[..., None]
    found = refine(inside, inside, jnp.zeros_like(flow), places=(16, 16), rounds=2, masks=(mask, mask))
    away = np.abs(np.asarray(found.flow) * SIDE)[0, :, 22:]
    bare = np.abs(np.asarray(refine(inside, inside, jnp.zeros_like(flow), places=(16, 16), rounds=2).flow) * SIDE)
    assert away.max() < 0.05 < bare[0, :, 22:].max()
