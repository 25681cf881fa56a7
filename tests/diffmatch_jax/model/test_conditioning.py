"""What the denoisers are told, against the cost volume itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax.model import conditioning, cost_volume, motions, robust_fit
from diffmatch_jax.model.conditioning import ConditioningConfig
from diffmatch_jax.model.flow import grid

SIDE = 8
SETTINGS = ConditioningConfig(fine=8 * SIDE, radius=2, wide=4, score=True)


@pytest.fixture(scope="module")
def descriptors():
    keys = jax.random.split(jax.random.key(0), 2)
    return tuple(cost_volume.unit(jax.random.normal(key, (2, SIDE, SIDE, 5))) for key in keys)


@pytest.fixture(scope="module")
def found(descriptors):
    return jax.jit(lambda a, b: conditioning.stage1(a, b, SETTINGS))(*descriptors)


def test_evidence_of_one_cell_by_hand(descriptors, found):
    scores = np.asarray(cost_volume.volume(*descriptors))[1, 3, 6]  # of target cell (6, 3), [Hs, Ws]
    best = np.asarray(np.unravel_index(scores.argmax(), scores.shape))[::-1]
    np.testing.assert_array_equal(found.wta_flow[1, 3, 6] * SIDE, best - [6, 3])
    assert found.score[1, 3, 6] == scores.max()
    place = np.asarray(found.conditions.flow[1, 3, 6]) * SIDE + [6, 3]
    evidence = np.asarray(found.conditions.evidence[1, 3, 6])
    assert len(evidence) == SETTINGS.evidence == 25 + 25 + 2

    def at(image, x, y):
        return image[y, x] if 0 <= x < image.shape[1] and 0 <= y < image.shape[0] else 0.0

    x, y = place.astype(int)
    assert np.array_equal(place, [x, y])
    patch = [at(scores, x + dx, y + dy) for dx in range(-2, 3) for dy in range(-2, 3)]
    np.testing.assert_allclose(evidence[:25], patch, rtol=0, atol=1e-6)
    largest = scores.reshape(2, 4, 2, 4).max((1, 3))
    want = cost_volume.local(jnp.asarray(largest), jnp.asarray((place + 0.5) / 4 - 0.5, jnp.float32), radius=2)
    np.testing.assert_allclose(evidence[25:50], want, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(place, best)
    weights = np.exp(scores / 0.02 - scores.max() / 0.02)
    near = weights[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].sum() / weights.sum()
    np.testing.assert_allclose(evidence[50:], [scores.max(), near], rtol=0, atol=1e-5)


def test_a_fit_is_told_with_how_wrong_it_may_be(descriptors):
    settings = ConditioningConfig(fine=8 * SIDE, radius=2, score=True, fit=3.0)
    told = jax.jit(lambda a, b: conditioning.stage1(a, b, settings))(*descriptors)
    best, back = (cost_volume.search(*each).flow for each in (descriptors, descriptors[::-1]))
    weight = robust_fit.mutual(best, back)
    flow = motions.piecewise(best, weight, motions.robust(best, weight, sigma=3.0), sigma=3.0)
    np.testing.assert_allclose(told.conditions.flow * SIDE, flow, rtol=0, atol=1e-3)
    np.testing.assert_allclose(told.wta_flow * SIDE, best, rtol=0, atol=1e-5)
    unit = robust_fit.uncertainty(best - flow)
    np.testing.assert_allclose(told.conditions.unit, unit, rtol=1e-3)
    evidence = told.conditions.evidence
    assert evidence.shape[-1] == settings.evidence == 25 + 2 + 2 + 2
    np.testing.assert_allclose(evidence[..., 25:27], jnp.clip((best - flow) / 2, -2, 2), rtol=0, atol=1e-3)
    np.testing.assert_allclose(evidence[..., 27], weight, rtol=0, atol=1e-5)
    np.testing.assert_allclose(evidence[..., 28], jnp.log(unit)[..., 0], rtol=0, atol=1e-3)


def test_blocks_of_rows_change_nothing(descriptors):
    positions = grid(SIDE, SIDE)[None] + jnp.asarray([0.5, -0.25])
    positions = jnp.broadcast_to(positions, (2, SIDE, SIDE, 2))
    whole, parts = (
        jax.jit(functools.partial(cost_volume.look_up, radius=2, wide=2, rows=rows))(*descriptors, positions)
        for rows in (8, 2)
    )
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_released_conditions_are_those_of_the_search(descriptors):
    plain = ConditioningConfig(fine=8 * SIDE, radius=2)
    told, want = jax.jit(
        lambda a, b: (conditioning.stage1(a, b, plain).conditions, cost_volume.search(a, b, radius=2))
    )(*descriptors)
    np.testing.assert_allclose(told.flow * SIDE, want.flow, rtol=0, atol=1e-6)
    np.testing.assert_allclose(told.evidence, want.local, rtol=0, atol=1e-6)
    assert plain.evidence == told.evidence.shape[-1] == 25


def test_patches_with_a_gain():
    patches = jnp.asarray([[0.1, 0.2, 0.6]])
    np.testing.assert_allclose(
        conditioning.scaled(patches, ConditioningConfig(gain=8.0)), [[-1.6, -0.8, 2.4]], rtol=1e-5
    )
    np.testing.assert_array_equal(conditioning.scaled(patches, ConditioningConfig()), patches)


def test_second_stage_looks_where_the_flow_leads():
    source = jax.random.normal(jax.random.key(1), (1, 16, 16, 4))
    # The source two cells to the left: every target cell finds itself two to the right.
    target = jnp.roll(source, -2, axis=2)
    flow = jnp.zeros((1, 4, 4, 2)) + jnp.asarray([2 / 16, 0])
    settings = ConditioningConfig(fine=32, radius=1)
    told = jax.jit(lambda *arrays: conditioning.stage2(*arrays, settings))(source, target, flow)
    assert told.evidence.shape == (1, 16, 16, 9)
    np.testing.assert_allclose(told.flow, jnp.broadcast_to(flow[:, :1, :1], told.flow.shape), atol=1e-6)
    np.testing.assert_allclose(told.evidence[0, :, :14, 4], 1, atol=1e-4)
    assert (np.asarray(told.evidence[0, :, :14]).argmax(-1) == 4).all()


def test_what_stage_2_starts_from():
    """Refined flow, and beside the patches what its matches say and how unsure stage 1 is."""
    source = jax.image.resize(jax.random.normal(jax.random.key(1), (1, 32, 32, 6)), (1, 64, 64, 6), "cubic")
    target = jnp.roll(source, -3, axis=2)  # every cell finds itself three to the right
    settings = ConditioningConfig(fine=128, radius=4, refine=2)
    flow = jnp.zeros((1, 16, 16, 2)) + jnp.asarray([1 / 64, -1 / 64])
    deviation = jnp.full((1, 16, 16, 1), 2 / 64)

    @jax.jit
    def run(source, target):
        told = conditioning.stage2_start(source, target, flow, settings, deviation=deviation)
        return told, conditioning.stage2(source, target, flow, settings, deviation=deviation)

    told, given = run(source, target)
    middle = np.s_[0, 16:48, 16:44]
    np.testing.assert_allclose(told.flow[middle] * 64, np.broadcast_to([3.0, 0.0], (32, 28, 2)), rtol=0, atol=0.05)
    np.testing.assert_allclose(told.evidence[..., 4], np.log(2 + robust_fit.SMALLEST), rtol=1e-5)
    np.testing.assert_allclose(told.evidence[..., 3][middle], jnp.log(told.unit[..., 0][middle]), rtol=0, atol=0.02)
    np.testing.assert_allclose(told.unit[middle], robust_fit.SMALLEST, rtol=0, atol=0.1)
    np.testing.assert_allclose(told.evidence[..., 2][middle], 1, atol=1e-5)
    assert given.evidence.shape[-1] == settings.fine_evidence == 81 + 5
    assert (np.asarray(given.evidence[..., :81])[middle].argmax(-1) == 40).all()
    np.testing.assert_array_equal(given.evidence[..., 81:], told.evidence)
    np.testing.assert_array_equal(given.unit, told.unit)


def test_a_degraded_truth_is_the_truth_up_to_its_noise():
    truth = jax.random.normal(jax.random.key(2), (8, 8, 2)) / 10
    run = jax.jit(lambda key, noise: conditioning.degraded(key, truth, noise=noise))
    np.testing.assert_array_equal(run(jax.random.key(0), 0.0)[0], truth)
    flows, deviations = jax.lax.map(lambda key: run(key, 0.01), jax.random.split(jax.random.key(1), 400))
    away = np.asarray(flows - truth)
    assert np.abs(away.mean(0)).max() < 0.005
    assert deviations.shape == (400, 1)
    # In units of what is said of each pair, whatever its size; at the corners nothing is interpolated.
    relative = away / deviations[:, None, None]
    np.testing.assert_allclose(relative[:, 0, 0].std(), 1, rtol=0.06)
    assert 0.8 < relative.std() < 1
    np.testing.assert_allclose(np.log(deviations).std(), 0.7, rtol=0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fine": 240}, "config.features.fine: expected a multiple of 32"),
        ({"fit": 0.5}, "config.conditioning.fit: expected 0, or 1 cell or more, got 0.5; use 4"),
        ({"wide": 3}, "config.conditioning.wide: expected a divisor of 32"),
        ({"refine": -1}, "config.conditioning.refine: expected 0, or without features.compat more"),
        ({"refine": 1, "released": True}, "config.conditioning.refine: expected 0, or without features.compat more"),
    ],
)
def test_impossible_settings(change, words):
    with pytest.raises(InputError, match=words):
        ConditioningConfig(**{"fine": 256, **change})


def test_a_match_with_an_equal_rival_is_not_distinct(descriptors):
    target = descriptors[1]
    settings = ConditioningConfig(fine=8 * SIDE, radius=2, fit=3.0)
    own = conditioning.distinct(target, target, jnp.zeros((*target.shape[:3], 2)), settings)
    np.testing.assert_array_equal(own, 1)
    # The left half of the source is its right half again.
    half = jnp.concatenate([target[:, :, : SIDE // 2]] * 2, 2)
    rival = conditioning.distinct(half, half, jnp.zeros((*target.shape[:3], 2)), settings)
    np.testing.assert_allclose(rival, 0, rtol=0, atol=1e-4)
    # Beside the place where the match is, which is then the rival.
    away = jnp.full((*target.shape[:3], 2), 4 / SIDE)
    assert float(conditioning.distinct(target, target, away, settings)[:, :-4, :-4].max()) == 0
