"""Measures on small arrays whose results are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from common.errors import InputError
from diffmatch_jax.evaluation import metrics


def of_errors(errors, mask=None):
    """Measures a row of pixels with the given errors and a true flow of length 10."""
    errors = np.asarray(errors, float)
    truth = np.broadcast_to([6.0, 8.0], (1, len(errors), 2))
    flow = truth + np.stack([0.6 * errors, -0.8 * errors], -1)
    return metrics.measure(flow, truth, np.ones((1, len(errors)), bool) if mask is None else mask)


def test_calibration_of_a_gaussian_is_its_deviation():
    rng = np.random.default_rng(4)
    deviation = np.repeat([1.0, 2.0, 4.0], 40_000)
    error = np.hypot(*rng.normal(size=(2, 120_000))) * deviation
    order = rng.permutation(120_000)
    std = np.sqrt(2) * deviation
    found = metrics.calibration(error[order], std[order], parts=3)
    np.testing.assert_allclose(found.std, np.sqrt(2) * np.asarray([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(found.error, found.std, rtol=0.02)
    mask = deviation[order] < 4
    two = metrics.calibration(np.where(mask, error[order], np.nan), std[order], mask, parts=2)
    np.testing.assert_allclose(two.std, found.std[:2])
    few = metrics.calibration(np.ones(1), np.ones(1), parts=2)
    np.testing.assert_array_equal(few.error, [1, np.nan])


def test_one_image():
    found = of_errors([0.5, 1.0 - 1e-9, 2, 4, 50])
    np.testing.assert_allclose(found.aepe, 57.5 / 5)
    assert found.correct == (2, 3, 4) and found.valid == 5 and found.pck == (0.4, 0.6, 0.8)
    np.testing.assert_allclose(found.fl_all, 0.4)  # 4 px is more than 5 % of 10 px too
    part = of_errors([0.5, np.nan, 2], np.array([[True, False, True]]))
    np.testing.assert_allclose([part.aepe, part.pck[0]], [1.25, 0.5])


def test_small_errors_of_long_flows_are_no_outliers():
    truth = np.full((1, 2, 2), [300.0, 400.0])
    flow = truth + [[[20, 0], [30, 0]]]
    assert metrics.measure(flow, truth, np.ones((1, 2))).fl_all == 0.5


def test_both_ways_of_averaging():
    images = [of_errors([0.5]), of_errors([2, 2, 6]), of_errors([1.0], np.array([[False]]))]
    assert np.isnan(images[2].aepe) and np.isnan(images[2].pck[0])
    found = metrics.aggregate(images)
    np.testing.assert_allclose(found["aepe"], (0.5 + 10 / 3) / 2)
    np.testing.assert_allclose(found["aepe_per_dataset"], 10.5 / 4)
    np.testing.assert_allclose([found["pck_3_per_image"], found["pck_3_per_dataset"]], [5 / 6, 3 / 4])
    assert (found["valid"], found["correct_1"], found["images"]) == (4, 1, 2)
    rate = metrics.per_rate([found, metrics.aggregate([of_errors([0.5, 9])])])
    np.testing.assert_allclose(rate["aepe"], (found["aepe"] + 4.75) / 2)
    np.testing.assert_allclose(rate["pck_1_per_rate"], 2 / 6, rtol=1e-6)
    assert metrics.average([{"a": 1, "b": 2}, {"a": 3}]) == {"a": 2}


def test_sparsification_of_known_orders():
    error = np.arange(1.0, 1001)
    best = metrics.sparsification(error, 3 * error + 1)
    np.testing.assert_allclose(best.error, best.oracle)
    assert best.gap == 0 and best.skill == 1
    # Without the largest share r, the mean of 1..n is (1 - r) of the whole.
    np.testing.assert_allclose(best.oracle, 1 - best.removed, atol=2e-3)
    even = metrics.sparsification(error, np.ones(1000))
    np.testing.assert_allclose(even.error, 1)
    np.testing.assert_allclose([even.area, even.skill], [1, 0], atol=1e-12)
    worst = metrics.sparsification(error, -error)
    assert worst.skill < -0.9 and worst.gap > 0.9
    assert metrics.sparsification(np.zeros(5), np.arange(5)).gap == 0


@given(seed=st.integers(0, 1000), ties=st.booleans())
@settings(max_examples=20, deadline=None)
def test_orders(seed, ties):
    """Neither the order of pixels nor the scale of the uncertainty matters, and no order beats the error's own."""
    rng = np.random.default_rng(seed)
    error = rng.exponential(size=60)
    uncertainty = rng.normal(size=60) + error
    uncertainty = np.round(uncertainty) if ties else uncertainty
    found = metrics.sparsification(error, uncertainty)
    assert (found.error >= found.oracle - 1e-9).all() and found.gap >= 0
    order = rng.permutation(60)
    again = metrics.sparsification(error[order], np.exp(uncertainty[order]))
    np.testing.assert_allclose(again.error, found.error)
    rank = metrics.rank_correlation(error, uncertainty)
    np.testing.assert_allclose(rank, spearmanr(error, uncertainty).statistic, atol=1e-12)
    np.testing.assert_allclose(metrics.rank_correlation(error, error), 1)


def test_masked_pixels_do_not_count():
    error, uncertainty = np.array([[1.0, 2, np.nan]]), np.array([[5.0, 6, np.inf]])
    mask = np.array([[True, True, False]])
    assert metrics.rank_correlation(error, uncertainty, mask) == pytest.approx(1)
    assert metrics.sparsification(error, uncertainty, mask).gap == 0
    assert np.isnan(metrics.rank_correlation(error, 0 * error, mask))


def test_mistakes():
    ones = np.ones((2, 2, 2))
    with pytest.raises(InputError, match=r"flow, truth, mask: expected \[H, W, 2\]"):
        metrics.measure(ones, ones, np.ones((2, 3)))
    with pytest.raises(InputError, match="flow: expected finite numbers, got 1 valid pixels without"):
        metrics.measure(np.where(np.arange(8).reshape(2, 2, 2) == 3, np.nan, 1), ones, np.ones((2, 2)))
    with pytest.raises(InputError, match="images: expected at least one with valid pixels"):
        metrics.aggregate([of_errors([1.0], np.array([[False]]))])
    with pytest.raises(InputError, match="the same thresholds"):
        metrics.aggregate([of_errors([1.0]), of_errors([1.0])._replace(thresholds=(1.0, 2.0, 3.0))])
    with pytest.raises(InputError, match="sequences: expected at least one"):
        metrics.per_rate([])
    with pytest.raises(InputError, match="rows: expected at least one"):
        metrics.average([])
    with pytest.raises(InputError, match="error, uncertainty, mask: expected one shape"):
        metrics.sparsification(np.ones(3), np.ones(4))
    with pytest.raises(InputError, match="mask: expected at least one valid pixel"):
        metrics.sparsification(np.ones(3), np.ones(3), np.zeros(3))
    with pytest.raises(InputError, match="finite numbers"):
        metrics.rank_correlation(np.array([1.0, np.nan]), np.ones(2))
