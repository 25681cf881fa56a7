"""The scatter of a measure: over repetitions, and over resampled rows."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from common.errors import input_error


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
