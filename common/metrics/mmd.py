"""Maximum mean discrepancy and its relatives: unbiased estimates from blocks of a kernel, in float64 on the host.

MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) (Gretton et al., JMLR 2012, lemma 6); the estimate leaves out the pairs
of a point with itself, so its mean is zero for equal distributions and single values may be negative.
"""

from collections.abc import Callable

import numpy as np

from common.errors import input_error, within
from common.metrics.floors import Repeated, repeated
from common.metrics.neighbours import pair

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]  # [N, D], [M, D] -> [N, M]


def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns (<x, y> / D + 1)^3: with it and Inception features MMD^2 is the KID (Binkowski et al., ICLR 2018)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def mmd_squared(samples: np.ndarray, reference: np.ndarray, *, kernel: Kernel, block: int = 1024) -> float:
    """Returns the unbiased estimate of MMD^2 of `[N, ...]` and `[M, ...]`, `block` rows of the kernel at a time.

    Raises `InputError` for fewer than two points in either.
    """
    samples, reference = (each.astype(np.float64) for each in pair(samples, reference))
    if min(len(samples), len(reference)) < 2:
        got = f"{len(samples)} and {len(reference)}"
        raise input_error("samples", expected="at least 2 points, and 2 of reference", got=got, fix="give more")
    inside = sum(_mean(each, each, kernel, block, apart=True) for each in (samples, reference))
    return inside - 2 * _mean(samples, reference, kernel, block)


def _mean(x: np.ndarray, y: np.ndarray, kernel: Kernel, block: int, *, apart: bool = False) -> float:
    """Returns the mean of the kernel over all pairs, or over those of different index if `apart`."""
    total = 0.0
    for start in range(0, len(x), block):
        values = kernel(x[start : start + block], y)
        if apart:
            values[np.arange(len(values)), start + np.arange(len(values))] = 0.0
        total += values.sum()
    return float(total / (len(x) * (len(y) - apart)))


def mmd_squared_of_subsets(
    samples: np.ndarray,
    reference: np.ndarray,
    *,
    kernel: Kernel = cubic,
    size: int = 1000,
    subsets: int = 100,
    seed: int = 0,
) -> Repeated:
    """Returns MMD^2 between random subsets of `size` points, with mean and scatter, as KID is reported.

    The subsets overlap when they are many, so `error` is too small where subsets * size is beyond the number of points.
    Raises `InputError` if a set is smaller than `size`.
    """
    samples, reference = pair(samples, reference)
    within("size", size, 2, min(len(samples), len(reference)), what=", the points there are")
    rng = np.random.default_rng(seed)
    parts = ([each[rng.permutation(len(each))[:size]] for each in (samples, reference)] for _ in range(subsets))
    return repeated([mmd_squared(x, y, kernel=kernel) for x, y in parts])
