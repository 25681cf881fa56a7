"""Repeated measures, floors and bootstrap errors against their closed forms."""

import numpy as np
import pytest

from common.errors import InputError
from common.metrics.floors import bootstrap, noise_floor, repeated, split_floor


def gap(x, y):
    return float(x.mean() - y.mean())


def test_repeated():
    found = repeated([1.0, 2.0, 6.0])
    assert found.mean == 3 and found.deviation == pytest.approx(np.sqrt(7))
    assert found.error == pytest.approx(np.sqrt(7 / 3))
    assert np.isnan(repeated([1.0]).deviation)
    with pytest.raises(InputError, match="values: expected a list of numbers"):
        repeated([])


def test_noise_floor_takes_independent_draws():
    seen = []

    def draw(i):
        seen.append(i)
        return np.full(4, float(i))

    assert noise_floor(gap, draw, repeats=3).mean == -1
    assert seen == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(noise_floor(gap, draw, repeats=2, reference=np.ones(3)).values, [-1, 0])


def test_split_floor_takes_disjoint_parts():
    data = np.arange(20)
    parts = []
    found = split_floor(lambda x, y: parts.append((x, y)) or 0.0, data, size=10, repeats=4, seed=3)
    assert found.mean == 0 and len(parts) == 4
    for x, y in parts:
        np.testing.assert_array_equal(np.sort(np.concatenate([x, y])), data)
    assert not np.array_equal(parts[0][0], parts[1][0])
    with pytest.raises(InputError, match="size: expected 1 to 10, half of the data, got 11"):
        split_floor(gap, data, size=11)


def test_bootstrap_error_of_a_mean():
    x = np.random.default_rng(0).normal(size=400)
    error, low, high = bootstrap(np.mean, x, repeats=400)
    assert error == pytest.approx(x.std() / 20, rel=0.15)
    assert low < x.mean() < high and high - low == pytest.approx(2 * 1.96 * error, rel=0.2)
    both, *_ = bootstrap(gap, x, x[:100], repeats=400)
    assert both == pytest.approx(np.sqrt(x.var() / 400 + x[:100].var() / 100), rel=0.15)
