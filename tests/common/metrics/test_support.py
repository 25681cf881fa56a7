"""Distances to a support and coverage of modes, on points placed by hand."""

import numpy as np
import pytest

from common.errors import InputError
from common.metrics.support import mode_coverage, summarise_support, support, support_distance

CIRCLE = np.stack([np.cos(a := np.linspace(0, 2 * np.pi, 20_000)), np.sin(a)], 1)


def test_distance_to_a_circle():
    radii = np.array([1.0, 1.05, 0.9, 2.0])
    samples = radii[:, None] * CIRCLE[[5, 777, 5000, 12000]]
    np.testing.assert_allclose(support_distance(samples, CIRCLE), np.abs(radii - 1), atol=1e-6)
    exact = support_distance(samples, lambda x: np.abs(np.linalg.norm(x, axis=1) - 1))
    np.testing.assert_allclose(exact, np.abs(radii - 1), atol=1e-12)
    found = support(samples, CIRCLE, radius=0.06)
    assert found.beyond == 0.5 and found.beyond_error == 0.25
    assert found.mean == pytest.approx(1.15 / 4, abs=1e-6)
    assert found.median == pytest.approx(0.075, abs=1e-6)
    assert support(samples, CIRCLE, radius=0.2).beyond == 0.25
    assert summarise_support(np.arange(101), radius=5).q95 == 95


def test_modes_by_hand():
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], float)
    offsets = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], float)
    samples = np.concatenate([centres[0] + offsets, centres[1] + 2 * offsets, centres[1] + offsets, [[5, 5]]])
    found = mode_coverage(samples, centres, radius=3.0)
    np.testing.assert_array_equal(found.counts, [4, 8, 0, 0])
    assert found.outside == pytest.approx(1 / 13)
    assert found.covered == 0.5
    assert found.kl == pytest.approx(np.log(4 / 3) / 3 + 2 * np.log(8 / 3) / 3)
    np.testing.assert_allclose(found.spread, [np.sqrt(0.5), np.sqrt(1.25), np.nan, np.nan])
    weighted = mode_coverage(samples, centres[:2], radius=3.0, weights=[1, 2])
    assert weighted.kl == pytest.approx(0, abs=1e-12) and weighted.covered == 1
    assert mode_coverage(samples, centres).outside == 0
    # Four samples of an expected 13 / 4 are enough for any share up to one.
    assert mode_coverage(samples, centres, least=1.0).covered == 0.5
    assert mode_coverage(samples, centres, least=2.0).covered == 0.25
    nowhere = mode_coverage(samples + 100, centres, radius=3.0)
    assert nowhere.outside == 1 and nowhere.covered == 0 and np.isnan(nowhere.kl)


def test_bad_weights():
    with pytest.raises(InputError, match="weights: expected 2 positive shares, got"):
        mode_coverage(np.zeros((3, 2)), np.zeros((2, 2)), weights=[1, 0])
