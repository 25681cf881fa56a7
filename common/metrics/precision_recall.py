"""Precision and recall of samples: how many lie where data is, and how much of the data they reach.

The manifold of a set is the union of balls around its points that reach their k-th nearest neighbour in the set.
Kynkäänniemi et al., NeurIPS 2019 (precision, recall); Naeem et al., ICML 2020 (density, coverage).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from common.metrics.neighbours import centred, flat, nearest, pair, squared_distances

_EXACT_DIMENSIONS = 16  # up to which all distances are computed from differences


class PrecisionRecall(NamedTuple):
    """Fractions: `precision` of samples inside the data's manifold, `recall` of data inside the samples'.

    `density`: mean number of data balls a sample lies in, over k (1 for equal distributions, not bounded by 1);
    `coverage`: fraction of data balls that hold a sample, which outliers among the samples cannot raise.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def radii(points: np.ndarray, *, k: int = 3) -> np.ndarray:
    """Returns each point's distance to its k-th nearest other point, `[N, ...] -> [N]`."""
    return nearest(flat(points), flat(points), k=k, skip_self=True).distance[:, -1]


def precision_recall(samples: np.ndarray, reference: np.ndarray, *, k: int = 3, block: int = 1024) -> PrecisionRecall:
    """Returns precision, recall, density and coverage of features `[N, ...]` against `[M, ...]`, exactly.

    The usual numbers are of 10,000 to 50,000 features each with k = 3; they depend on both numbers. `block` points at
    a time are compared. Raises `InputError` for sets of k points or fewer.
    """
    samples, reference = pair(samples, reference)
    # A ball has its k-th neighbour on its edge, which rounding must not push out.
    sample_radii, reference_radii = (radii(each, k=k) * (1 + 1e-10) for each in (samples, reference))
    inside_data, hits = np.zeros(len(samples), int), np.zeros(len(reference), bool)
    reached = np.zeros(len(reference), bool)
    for rows, distances in _distances(samples, reference, block):
        in_ball = distances <= reference_radii
        inside_data[rows] = in_ball.sum(1)
        hits |= in_ball.any(0)
        reached |= (distances <= sample_radii[rows, None]).any(0)
    return PrecisionRecall(
        precision=float((inside_data > 0).mean()),
        recall=float(reached.mean()),
        density=float(inside_data.mean() / k),
        coverage=float(hits.mean()),
    )


def _distances(x: np.ndarray, y: np.ndarray, block: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields the rows of the matrix of distances, `block` at a time."""
    exact = x.shape[1] <= _EXACT_DIMENSIONS
    if not exact:
        x, y = centred(x, y)
    for start in range(0, len(x), block):
        rows = slice(start, min(start + block, len(x)))
        yield rows, cdist(x[rows], y) if exact else np.sqrt(squared_distances(x[rows], y))
