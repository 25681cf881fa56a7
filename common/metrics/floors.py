"""The scatter of a measure over repetitions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.errors import input_error


class Repeated(NamedTuple):
    """A measure repeated on independent samples: `values [R]`, their `mean`, `deviation`, and the mean's `error`."""

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
