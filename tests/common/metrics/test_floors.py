"""Repeated measures, floors and bootstrap errors against their closed forms."""

import numpy as np
import pytest

from common.errors import InputError
from common.metrics.floors import bootstrap, repeated


def gap(x, y):
    return float(x.mean() - y.mean())


def test_repeated():
    found = repeated([1.0, 2.0, 6.0])
    assert found.mean == 3 and found.deviation == pytest.approx(np.sqrt(7))
    assert found.error == pytest.approx(np.sqrt(7 / 3))
    assert np.isnan(repeated([1.0]).deviation)
    with pytest.raises(InputError, match="values: expected a list of numbers"):
        repeated([])


def test_bootstrap_error_of_a_mean():
    x = np.random.default_rng(0).normal(size=400)
    error, low, high = bootstrap(np.mean, x, repeats=400)
    assert error == pytest.approx(x.std() / 20, rel=0.15)
    assert low < x.mean() < high and high - low == pytest.approx(2 * 1.96 * error, rel=0.2)
    both, *_ = bootstrap(gap, x, x[:100], repeats=400)
    assert both == pytest.approx(np.sqrt(x.var() / 400 + x[:100].var() / 100), rel=0.15)
