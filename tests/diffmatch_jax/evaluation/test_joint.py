"""Energy scores and coherence of hypotheses, beside closed forms."""

import jax
import numpy as np
import pytest
from scipy import stats

from common.errors import InputError
from diffmatch_jax.evaluation import metrics
from diffmatch_jax.model.diffusion import initial_noise

RNG = np.random.default_rng(0)
VALID = np.ones((2, 32, 32), bool)


def fields(key, n, correlation):
    keys = jax.random.split(jax.random.key(key), 2)
    return np.asarray(initial_noise(keys, n, (32, 32, 2), noise_correlation=correlation), np.float64)


def test_the_energy_score_of_two_hypotheses_by_hand():
    hypotheses = np.asarray([[[3.0, 4.0]], [[0.0, 0.0]]])
    np.testing.assert_allclose(metrics.energy_score(hypotheses, np.zeros((1, 2))), [2.5 - 5 / 2])
    np.testing.assert_allclose(metrics.energy_score(hypotheses, np.asarray([[0.0, 4.0]])), [(3 + 4) / 2 - 5 / 2])


def test_the_energy_score_of_one_dimension_is_the_ranked_probability_score():
    """That of a standard Gaussian for y is y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi), whatever the number drawn."""
    y = np.asarray([-2.0, 0.0, 0.7])
    drawn = RNG.normal(size=(4, 200_000, 1))
    want = y * (2 * stats.norm.cdf(y) - 1) + 2 * stats.norm.pdf(y) - 1 / np.sqrt(np.pi)
    for n in (2, 4):
        got = [metrics.energy_score(drawn[:n], np.asarray([each])).mean() for each in y]
        np.testing.assert_allclose(got, want, atol=0.006)


def test_scores_are_best_for_hypotheses_like_the_truth():
    """The truth is a smooth field: smooth hypotheses are better together, and as good alone."""
    truth = 5 * fields(1, 1, 3.0)[:, 0]
    smooth, white = (metrics.measure_joint(5 * fields(2, 16, each), truth, VALID) for each in (3.0, 0.0))
    np.testing.assert_allclose(smooth.cells, white.cells, rtol=0.1)
    assert smooth.steps < 0.95 * white.steps and smooth.squares < 0.9 * white.squares
    for wrong in (0.3, 3.0):
        other = metrics.measure_joint(5 * wrong * fields(2, 16, 3.0), truth, VALID)
        assert other.cells > 1.05 * smooth.cells and other.squares > 1.05 * smooth.squares
    np.testing.assert_allclose(smooth.correlation, np.exp(-1 / 36), atol=0.01)
    np.testing.assert_allclose(smooth.correlation_of_errors, np.exp(-1 / 36), atol=0.02)
    np.testing.assert_allclose(white.correlation, 0, atol=0.02)
    # Whatever the hypotheses are like, few or not.
    np.testing.assert_allclose(white.correlation_of_errors, np.exp(-1 / 36), atol=0.02)
    other = metrics.measure_joint(5 * fields(4, 3, 3.0), 5 * fields(5, 1, 0.0)[:, 0], VALID)
    np.testing.assert_allclose(other.correlation_of_errors, 0, atol=0.08)


def test_what_is_invalid_does_not_count():
    hypotheses, truth = fields(1, 3, 2.0), fields(3, 1, 0.0)[:, 0]
    valid = np.array(VALID)
    valid[:, :8] = False
    want = metrics.measure_joint(hypotheses[:, :, 8:], truth[:, 8:], valid[:, 8:])
    truth[:, :8] = np.inf
    got = metrics.measure_joint(hypotheses, truth, valid)
    # Squares and steps are those of the side, which the cut one has shorter.
    np.testing.assert_allclose((got.cells, got.correlation, got.correlation_of_errors), (want[0], *want[3:]), rtol=1e-9)
    nothing = metrics.measure_joint(hypotheses, truth, np.zeros_like(valid))
    assert np.isnan(nothing).all()


def test_a_square_counts_where_all_of_it_is_valid():
    """Hypotheses of +-1, as a whole or by turns from cell to cell, scored by hand; far off where nothing is valid."""
    signs = np.where(np.indices((32, 32)).sum(0) % 2, 1.0, -1.0)[..., None] * np.asarray([1.0, 0.0])
    whole = np.broadcast_to(np.asarray([1.0, 0.0]), signs.shape)
    truth = np.zeros((1, 32, 32, 2))
    valid = np.ones((1, 32, 32), bool)
    valid[:, 0, 0] = False

    def measured(*hypotheses):
        drawn = np.stack(hypotheses)[None].copy()
        drawn[:, :, 0, 0] = 100
        return metrics.measure_joint(drawn, truth, valid)

    together, by_turns, off = measured(whole, -whole), measured(signs, -signs), measured(whole, whole)
    np.testing.assert_allclose(together[:4], (0, 0, 0, 1), atol=1e-12)
    np.testing.assert_allclose(by_turns[:4], (0, 0, 0, -1), atol=1e-12)
    np.testing.assert_allclose(off[:3], (1, 0, 1), atol=1e-12)


def test_small_grids_and_single_hypotheses():
    hypotheses = np.zeros((1, 2, 2, 2, 2)) + np.asarray([1.0, 0.0])
    found = metrics.measure_joint(hypotheses, np.zeros((1, 2, 2, 2)), np.ones((1, 2, 2), bool))
    np.testing.assert_allclose(found[:3], (1, 0, 1))
    with pytest.raises(InputError, match="hypotheses: expected at least 2, got 1"):
        metrics.measure_joint(hypotheses[:, :1], np.zeros((1, 2, 2, 2)), np.ones((1, 2, 2), bool))
