"""What a measure says when there is nothing to find: data against fresh data, and its scatter."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from common.errors import input_error

Measure = Callable[[np.ndarray, np.ndarray], float]


class Repeated(NamedTuple):
    """A measure repeated on independent draws: `values [R]`, their `mean`, `deviation`, and the mean's `error`."""

    values: np.ndarray
    mean: float
    deviation: float
    error: float


def repeated(values: Sequence[float]) -> Repeated:
    """Returns mean, sample standard deviation and standard error of the mean (NaN for fewer than two values)."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise input_error("values", expected="a list of numbers", got=f"shape {values.shape}", fix="repeat the measure")
    deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Repeated(values, float(values.mean()), deviation, deviation / float(np.sqrt(len(values))))


def noise_floor(
    measure: Measure, draw: Callable[[int], np.ndarray], *, repeats: int = 5, reference: np.ndarray | None = None
) -> Repeated:
    """Returns `measure(fresh, reference)` for fresh data instead of samples: below it nothing can be told apart.

    `draw(i)` returns the i-th independent draw, of the size the samples have. Without a `reference` each draw is
    measured against another one.
    """
    if reference is None:
        return repeated([measure(draw(2 * i), draw(2 * i + 1)) for i in range(repeats)])
    return repeated([measure(draw(i), reference) for i in range(repeats)])


def split_floor(measure: Measure, data: np.ndarray, *, size: int, repeats: int = 5, seed: int = 0) -> Repeated:
    """Returns `measure` between disjoint random parts of `data [N, ...]`, `size` in each.

    For data that cannot be drawn afresh. Raises `InputError` if `data` is smaller than two parts.
    """
    if not 1 <= size <= len(data) // 2:
        raise input_error(
            "size", expected=f"1 to {len(data) // 2}, half of the data", got=size, fix="use a smaller part"
        )
    orders = (np.random.default_rng([seed, i]).permutation(len(data)) for i in range(repeats))
    return repeated([measure(data[order[:size]], data[order[size : 2 * size]]) for order in orders])


def bootstrap(
    statistic: Callable[..., float], *arrays: np.ndarray, repeats: int = 200, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Returns `(error, low, high)`: standard error and percentile interval of a statistic over resampled rows.

    `statistic(*arrays)`; each array `[N_i, ...]` is resampled on its own. Meant for statistics of rows that are
    smooth (means, shares, covariances); distances between clouds are biased upwards by repeated points.
    """
    rng = np.random.default_rng(seed)
    values = [
        statistic(*(each[rng.integers(len(each), size=len(each))] for each in arrays)) for _ in range(max(repeats, 2))
    ]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(np.std(values, ddof=1)), float(low), float(high)
