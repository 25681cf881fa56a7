"""Time grids: float64 NumPy arrays of n + 1 points from `first` to `last`, made before anything is traced."""

from collections.abc import Sequence

import numpy as np

from common.errors import input_error


def uniform(first: float, last: float, n: int) -> np.ndarray:
    """Returns n equal steps."""
    _check(first, last, n)
    return np.linspace(first, last, n + 1)


def power(first: float, last: float, n: int, *, order: float) -> np.ndarray:
    """Returns points whose `order`-th roots are equally spaced: dense where the grid is near 0, coarse far from it.

    With sigma instead of time, from large to small and order 7, these are EDM's noise levels (Karras et al., 2022,
    eq. 5). Raises `InputError` unless both ends are at least 0 and the order is positive.
    """
    _check(first, last, n)
    if not order > 0:
        raise input_error(
            "order", expected="a positive number", got=order, fix="1 is uniform, 2 has steps that grow linearly"
        )
    if min(first, last) < 0:
        raise input_error(
            "first", expected="a grid of numbers that are not negative", got=(first, last), fix="use uniform"
        )
    points = np.linspace(first ** (1 / order), last ** (1 / order), n + 1) ** order
    points[0], points[-1] = first, last
    return points


def quadratic(first: float, last: float, n: int) -> np.ndarray:
    """Returns points whose squares are equally spaced: one long step first, dense near the far end."""
    return power(first, last, n, order=0.5)


def given(points: Sequence[float] | np.ndarray, *, field: str = "times") -> np.ndarray:
    """Returns a user's own points as a grid.

    Raises `InputError` unless there are two or more finite numbers that never turn back.
    """
    grid = np.asarray(points, np.float64)
    if grid.ndim != 1 or len(grid) < 2 or not np.isfinite(grid).all():
        raise input_error(
            field, expected="two or more finite numbers", got=np.shape(points), fix="give the ends of all steps"
        )
    steps = np.diff(grid)
    if not ((steps >= 0).all() or (steps <= 0).all()):
        raise input_error(field, expected="numbers in order", got="steps in both directions", fix="sort them")
    return grid


def _check(first, last, n):
    if n < 1 or n != int(n):
        raise input_error("n", expected="a whole number of steps, at least 1", got=n, fix="use 1 or more")
    if not np.isfinite(first) or not np.isfinite(last) or first == last:
        raise input_error(
            "last", expected=f"a finite number other than first = {first}", got=last, fix="give two times"
        )
