"""Time grids: ends, order, density, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from common.errors import InputError
from common.solvers import grids


@limits(max_examples=50, deadline=None)
@given(
    first=st.floats(0, 1), width=st.floats(0.01, 50), n=st.integers(1, 40), order=st.floats(0.3, 8), back=st.booleans()
)
def test_power_grids_end_where_they_should_and_never_turn(first, width, n, order, back):
    ends = (first + width, first) if back else (first, first + width)
    grid = grids.power(*ends, n, order=order)
    assert grid.dtype == np.float64 and len(grid) == n + 1
    assert (grid[0], grid[-1]) == ends
    assert (np.diff(grid) * (-1 if back else 1) >= 0).all()
    roots = grid ** (1 / order)
    np.testing.assert_allclose(np.diff(roots), (roots[-1] - roots[0]) / n, rtol=1e-6, atol=1e-9)


def test_special_grids():
    np.testing.assert_allclose(grids.uniform(0, 1, 4), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(grids.quadratic(0, 1, 4), np.sqrt([0, 0.25, 0.5, 0.75, 1]))
    # EDM's levels of noise: (80^(1/7) + i/3 (0.002^(1/7) - 80^(1/7)))^7.
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    want = [(high + i / 3 * (low - high)) ** 7 for i in range(4)]
    np.testing.assert_allclose(grids.power(80, 0.002, 3, order=7), want, rtol=1e-12)
    np.testing.assert_array_equal(grids.given([3, 2, 2, 0.5]), [3, 2, 2, 0.5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grids.uniform(0, 1, 0), "n: expected a whole number of steps"),
        (lambda: grids.uniform(0, 0, 3), "last: expected a finite number other than first"),
        (lambda: grids.power(-1, 1, 3, order=2), "first: expected a grid of numbers that are not negative"),
        (lambda: grids.power(0, 1, 3, order=0), "order: expected a positive number"),
        (lambda: grids.given([0, 1, 0.5]), "times: expected numbers in order"),
        (lambda: grids.given([0, np.nan]), "times: expected two or more finite numbers"),
        (lambda: grids.given([0.5], field="config.times"), "config.times: expected two or more"),
    ],
)
def test_impossible_grids_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
