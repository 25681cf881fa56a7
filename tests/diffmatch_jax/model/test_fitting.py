"""The robust affine fit against flows whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmatch_jax.data.warps import homography_of_corners, project
from diffmatch_jax.model import robust_fit
from diffmatch_jax.model.flow import grid

SIDE = 16


@pytest.fixture(scope="module")
def fit():
    return jax.jit(lambda flow, weight: robust_fit.fit(flow, weight, sigma=4.0))


def affine_flow(height=SIDE, width=SIDE):
    cells = grid(height, width)
    turn = jnp.asarray([[0.1, -0.25], [0.2, -0.15]])
    return (cells @ turn.T + jnp.asarray([2.0, -1.5]))[None]


@pytest.mark.parametrize("size", [(SIDE, SIDE), (SIDE, 12), (7, 9)])
def test_an_affine_flow_is_its_own_fit(fit, size):
    flow = affine_flow(*size)
    np.testing.assert_allclose(fit(flow, jnp.ones((1, *size))), flow, rtol=0, atol=0.02)


def test_wrong_matches_do_not_count(fit):
    """A third of the matches goes anywhere, and says that it is as good as the others."""
    flow = affine_flow()
    of_place, of_flow = jax.random.split(jax.random.key(0))
    wrong = jax.random.uniform(of_place, (1, SIDE, SIDE, 1)) < 1 / 3
    anywhere = jax.random.uniform(of_flow, flow.shape, minval=-SIDE, maxval=SIDE)
    given = jnp.where(wrong, anywhere, flow)
    away = np.linalg.norm(fit(given, jnp.ones((1, SIDE, SIDE))) - flow, axis=-1)
    assert away.max() < 0.25 < 1 < np.linalg.norm(given - flow, axis=-1).mean()


def test_a_wider_fit_stands_in_where_no_match_is_right(fit):
    """A quarter of the cells, together, go anywhere: wider than the neighbourhood, and none of them is mutual."""
    side = 24
    flow = affine_flow(side, side)
    rng = np.random.default_rng(0)
    given, weight = np.array(flow), np.ones((1, side, side), np.float32)
    given[:, :12, :12] = rng.uniform(-side, side, (1, 12, 12, 2))
    weight[:, :12, :12] = 0
    away = np.linalg.norm(fit(jnp.asarray(given), jnp.asarray(weight)) - flow, axis=-1)
    assert away.max() < 0.3


def test_weights_tell_which_of_two_motions_counts(fit):
    """Two flows, half of the cells each: what is given no weight leaves no trace."""
    flow = affine_flow()
    chess = (grid(SIDE, SIDE).sum(-1) % 2 == 0)[None]
    given = jnp.where(chess[..., None], flow, flow + 3.0)
    np.testing.assert_allclose(fit(given, chess.astype(jnp.float32)), flow, rtol=0, atol=0.1)
    np.testing.assert_allclose(fit(given, 1.0 - chess), flow + 3.0, rtol=0, atol=0.1)


def test_digits_of_a_large_grid():
    """Most matches wrong, few mutual, 64 cells a side: as in float64 to a hundredth of a cell."""
    rng = np.random.default_rng(0)
    flow = np.asarray(affine_flow(64, 64))
    flow = np.where(rng.random((1, 64, 64, 1)) < 0.4, rng.uniform(-30, 30, flow.shape), flow)
    weight = (rng.random((1, 64, 64)) < 0.15).astype(np.float32)
    found = jax.jit(lambda *given: robust_fit.fit(*given, sigma=2.0))(flow.astype(np.float32), weight)
    with jax.enable_x64(True):
        exact = jax.jit(lambda *given: robust_fit.fit(*given, sigma=2.0))(flow, weight.astype(float))
    assert exact.dtype == "float64"
    np.testing.assert_allclose(found, exact, rtol=0, atol=0.01)


def test_a_homography_is_followed_to_a_fraction_of_a_cell(fit):
    corners = jnp.asarray([[-1, -1], [-0.8, 0.9], [0.9, -1.1], [1.1, 1.0]])
    relative = (grid(SIDE, SIDE) + 0.5) * 2 / SIDE - 1
    moved = project(homography_of_corners(corners), relative)[0]
    flow = ((moved - relative) * SIDE / 2)[None]
    matches = jnp.round(flow)  # as a cost volume gives them
    away = np.linalg.norm(fit(matches, jnp.ones((1, SIDE, SIDE))) - flow, axis=-1)
    assert away.mean() < 2 / 3 * np.linalg.norm(matches - flow, axis=-1).mean()


def test_a_batch_is_its_pairs(fit):
    flow = jnp.concatenate([affine_flow(), -affine_flow(), jnp.round(affine_flow())])
    weight = jax.random.uniform(jax.random.key(1), flow.shape[:-1])
    whole = fit(flow, weight)
    for i in range(3):
        np.testing.assert_allclose(whole[i], fit(flow[i : i + 1], weight[i : i + 1])[0], rtol=0, atol=1e-5)


def test_uncertainty_is_the_mean_distance_around_a_place():
    away = jnp.zeros((2, SIDE, SIDE, 2)).at[1].set(jnp.asarray([3.0, -4.0])).at[0, 8, 8].set(jnp.asarray([60.0, 80.0]))
    found = np.asarray(robust_fit.uncertainty(away))
    np.testing.assert_allclose(found[1], 5.25, rtol=1e-5)
    one = found[0, :, :, 0] - 0.25
    assert np.unravel_index(one.argmax(), one.shape) == (8, 8)
    np.testing.assert_allclose(one.sum(), 8, rtol=1e-2)  # one far match counts 8 cells, spread out
    np.testing.assert_allclose(one[8, 8] / one[8, 10], np.exp(0.5), rtol=1e-3)


def test_mutual_matches_by_hand():
    """One match comes back to itself, one a cell beside, one far away."""
    flow = jnp.zeros((1, 4, 4, 2)).at[0, 1, 2].set(jnp.asarray([-1.0, 2.0]))
    back = jnp.zeros((1, 4, 4, 2)).at[0, 3, 1].set(jnp.asarray([1.0, -2.0])).at[0, 0, 0].set(jnp.asarray([0.0, 1.0]))
    back = back.at[0, 2, 2].set(jnp.asarray([-2.0, 1.0]))
    weight = np.asarray(robust_fit.mutual(flow, back))[0]
    np.testing.assert_allclose(weight[1, 2], 1)
    np.testing.assert_allclose(weight[0, 0], np.exp(-0.5 / 0.6**2), rtol=1e-6)
    np.testing.assert_allclose(weight[2, 2], np.exp(-2.5 / 0.6**2), rtol=1e-6)
    np.testing.assert_allclose(weight[3, 1], np.exp(-2.5 / 0.6**2), rtol=1e-6)  # another cell has its match
    assert (weight == 1).sum() == 13
