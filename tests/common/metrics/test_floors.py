"""Repeated measures against their closed forms."""

import numpy as np
import pytest

from common.errors import InputError
from common.metrics.distances import repeated


def test_repeated():
    found = repeated([1.0, 2.0, 6.0])
    assert found.mean == 3 and found.deviation == pytest.approx(np.sqrt(7))
    assert found.error == pytest.approx(np.sqrt(7 / 3))
    assert np.isnan(repeated([1.0]).deviation)
    with pytest.raises(InputError, match="values: expected a list of numbers"):
        repeated([])
