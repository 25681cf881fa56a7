"""Distances to a support, of points placed by hand."""

import numpy as np
import pytest

from phase_bridge.evaluation import summarise_support, support, support_distance

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
