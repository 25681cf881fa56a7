"""The cost volume: planted matches are found, blocks of rows change nothing, look-ups are interpolations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax.model import cost_volume, flow, released


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def pair():
    """Descriptors of two pairs; the second target is the source moved by (2, 1)."""
    source = cost_volume.unit(noise(2, 6, 8, 5))
    target = source.at[1].set(jnp.roll(source[1], (-1, -2), (0, 1)))
    return source, target


def test_unit_vectors():
    x = noise(4, 5).at[0].set(0)
    length = np.linalg.norm(np.asarray(x), axis=-1, keepdims=True)
    np.testing.assert_allclose(cost_volume.unit(x), x / (length + 1e-5), atol=1e-6)
    assert jnp.isfinite(jax.grad(lambda x: cost_volume.unit(x).sum())(x)).all()


def test_descriptor_is_the_average_of_the_cosines():
    maps = [(noise(1, 4, 4, 3, seed=i), noise(1, 4, 4, 3, seed=9 + i)) for i in range(3)]
    whole = cost_volume.volume(*(cost_volume.descriptor(each, (4, 4)) for each in zip(*maps, strict=True)))
    parts = [cost_volume.volume(*map(cost_volume.unit, each)) for each in maps]
    np.testing.assert_allclose(whole, sum(parts) / 3, atol=1e-6)


def test_search_finds_what_moved(pair):
    found = cost_volume.search(*pair)
    want = np.zeros((6, 8, 2)) + [2, 1]
    np.testing.assert_array_equal(found.flow[1, :-1, :-2], want[:-1, :-2])
    np.testing.assert_array_equal(found.flow[0], 0 * want)
    np.testing.assert_allclose(found.local[0, ..., 40], found.scores[0, ..., 0], atol=1e-6)  # the centre


@pytest.mark.parametrize("options", [{}, {"k": 3}, {"radius": 2}])
def test_blocks_of_rows_change_nothing(pair, options):
    whole = cost_volume.search(*pair, rows=6, **options)
    for rows in (1, 2, 4):
        for got, want in zip(cost_volume.search(*pair, rows=rows, **options), whole, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-5)
    for i in range(2):  # a batch is its pairs
        for got, want in zip(cost_volume.search(pair[0][i : i + 1], pair[1][i : i + 1], **options), whole, strict=True):
            np.testing.assert_allclose(got[0], want[i], atol=1e-5)


def test_top_k_is_sorting(pair):
    scores = cost_volume.volume(*pair)
    positions, best = cost_volume.top_k(scores, 3)
    flat = np.asarray(scores).reshape(2, 6, 8, -1)
    order = np.argsort(-flat, -1, kind="stable")[..., :3]
    np.testing.assert_array_equal(positions, np.stack([order % 8, order // 8], -1))
    np.testing.assert_array_equal(best, np.take_along_axis(flat, order, -1))
    first, score = cost_volume.winner_take_all(scores)
    np.testing.assert_array_equal(first, positions[..., 0, :])
    np.testing.assert_array_equal(score, best[..., 0])
    with pytest.raises(InputError, match="k: expected 1 to 48"):
        cost_volume.top_k(scores, 49)


def test_first_of_equal_scores_wins():
    positions, score = cost_volume.winner_take_all(jnp.zeros((1, 1, 3, 4)).at[..., 1:, 2:].set(1.0))
    assert positions.tolist() == [[[2, 1]]] and score.tolist() == [[1]]


def test_look_up_in_the_volume_is_bilinear(pair):
    scores = cost_volume.volume(*pair)
    positions = flow.grid(6, 8) + 4 * noise(2, 6, 8, 2, seed=3)
    got = np.asarray(cost_volume.local(scores, positions, radius=1))
    for k, (dx, dy) in enumerate((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)):
        at = (positions + jnp.asarray([dx, dy])).reshape(-1, 1, 1, 2)
        want = flow.sample(scores.reshape(-1, 6, 8, 1), at).reshape(2, 6, 8)
        np.testing.assert_allclose(got[..., k], want, atol=1e-5)


@pytest.mark.parametrize("far", [0.0, 1e9])
def test_look_up_of_features_outside_is_zero(pair, far):
    positions = jnp.full((2, 6, 8, 2), -6.0 - far)
    for look_up in (cost_volume.local_features, released.local_features):
        np.testing.assert_array_equal(look_up(*pair, positions, radius=2), 0)
        np.testing.assert_array_equal(look_up(*pair, 20 - positions, radius=2), 0)


def test_both_look_ups_agree(pair):
    """Interpolating cosines is the cosine of interpolated unit vectors, in any blocks of rows."""
    positions = flow.grid(6, 8) + 3 * noise(2, 6, 8, 2, seed=4)
    want = cost_volume.local(cost_volume.volume(*map(cost_volume.unit, pair)), positions, radius=2)
    for rows in (1, 6):
        got = cost_volume.local_features(*pair, positions, radius=2, rows=rows)
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_released_look_up_is_ill_conditioned_at_the_border(pair):
    """One cell outside, a sliver of a vector is as good as the vector itself; ours fades (defect 13)."""
    source = target = pair[0]
    sliver = 1e-3
    positions = jnp.broadcast_to(jnp.asarray([-1 + sliver, 0.0]), (2, 6, 8, 2))
    ours = cost_volume.local_features(source, target, positions, radius=0)
    interpolated = released.local_features(source, target, positions, radius=0)
    assert jnp.abs(ours).max() <= sliver * 1.001
    assert jnp.abs(interpolated).max() > 0.9


def test_blocks():
    assert [cost_volume.divisor(12, each) for each in (1, 5, 8, 12, 100)] == [1, 4, 6, 12, 12]
    with pytest.raises(InputError, match="descriptors: expected as many pairs"):
        cost_volume.search(noise(1, 2, 2, 3), noise(1, 2, 2, 4))


def test_peaks_between_cells():
    """Of a paraboloid the top is found exactly; on the border it is the cell, and said not to be inside."""
    tops = jnp.asarray([[0.3, -1.4], [-0.5, 0.25], [2.0, 0.0], [0.0, 3.0]])
    steps = jnp.arange(-2, 3)
    dx, dy = (each.ravel() for each in jnp.meshgrid(steps, steps, indexing="ij"))  # the x offset is the slow one
    patches = 1 - 0.1 * ((dx - tops[:, :1]) ** 2 + (dy - tops[:, 1:]) ** 2)
    found = cost_volume.peak(patches, radius=2)
    np.testing.assert_array_equal(found.inside, [True, True, False, False])
    np.testing.assert_allclose(found.offset, [*tops[:3], (0.0, 2.0)], rtol=0, atol=1e-5)
    flat = cost_volume.peak(jnp.zeros((1, 25)), radius=2)
    assert not flat.inside[0] and np.isfinite(flat.offset).all()
