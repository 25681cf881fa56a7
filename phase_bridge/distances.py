"""Distances of samples from data: Wasserstein distances of order 2, sliced and exact, and distance to the support."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from common.errors import input_error, within
from common.metrics.neighbours import flat, nearest, pair

_MOST_PAIRED = 8192  # beyond, the matrix of costs takes more than 512 MiB and the assignment many minutes
_BLOCK = 64  # directions projected on at a time


def directions(dimensions: int, *, count: int, seed: int = 0) -> np.ndarray:
    """Returns `count` unit vectors, float64 `[count, D]`: in the plane at equal angles, otherwise drawn.

    Equal angles make the planar mean over directions exact for the first harmonics, without a draw.
    """
    within("num_directions", count, 1)
    if dimensions == 2:
        angle = (np.arange(count) + 0.5) * np.pi / count
        return np.stack([np.cos(angle), np.sin(angle)], 1)
    vectors = np.random.default_rng(seed).standard_normal((count, dimensions))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def sliced_wasserstein(
    samples: np.ndarray, reference: np.ndarray, *, num_directions: int = 128, seed: int = 0
) -> float:
    """Returns the sliced W2 distance, sqrt(mean over directions u of W2(<u, x>, <u, y>)^2) (Bonneel et al., 2015).

    samples `[N, ...]`, reference `[M, ...]`, in their own unit; N and M may differ. The directions are fixed: those of
    `directions`. Independent samples of one distribution are not at distance 0; compare with fresh data.
    Raises `InputError` for empty sets or points of different size.
    """
    samples, reference = pair(samples, reference)
    vectors = directions(samples.shape[1], count=num_directions, seed=seed)
    squared = [
        _squared_1d(samples.astype(np.float64) @ part.T, reference.astype(np.float64) @ part.T)
        for part in np.array_split(vectors, -(-num_directions // _BLOCK))
    ]
    return float(np.sqrt(np.concatenate(squared).mean()))


def _squared_1d(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.sort(x, 0), np.sort(y, 0)
    if len(x) == len(y):
        return np.square(x - y).mean(0)
    # Between two neighbouring multiples of 1/N and 1/M both quantile functions are constant. In units of 1/NM these
    # are whole numbers, so none is put on the wrong side by rounding.
    ends = np.union1d(np.arange(1, len(x) + 1) * len(y), np.arange(1, len(y) + 1) * len(x))
    weights = np.diff(ends, prepend=0) / (len(x) * len(y))
    return weights @ np.square(x[(ends - 1) // len(y)] - y[(ends - 1) // len(x)])


def wasserstein(samples: np.ndarray, reference: np.ndarray, *, most: int = _MOST_PAIRED) -> float:
    """Returns the exact W2 distance of two sets of equal size, min over pairings of sqrt(mean |x_i - y_pi(i)|^2).

    samples, reference `[N, ...]`; time grows as N^3 (about a second for 2,000 points), so at most `most` points are
    accepted. Raises `InputError` beyond, or for sets of different size.
    """
    samples, reference = pair(samples, reference)
    if len(samples) != len(reference):
        got = f"{len(samples)} and {len(reference)}"
        fix = "cut both to the smaller number, or use sliced_wasserstein"
        raise input_error("samples", expected="as many points as reference", got=got, fix=fix)
    if len(samples) > most:
        fix = "take fewer, or use sliced_wasserstein"
        raise input_error("samples", expected=f"at most {most} points to pair", got=len(samples), fix=fix)
    cost = cdist(samples.astype(np.float64), reference.astype(np.float64), "sqeuclidean")
    return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))


class Support(NamedTuple):
    """Distances of samples from the support: `mean`, `median`, `q95`, the fraction `beyond` a radius, and its error.

    `beyond_error` is the standard error of a fraction of independent samples, sqrt(p (1 - p) / N).
    """

    mean: float
    median: float
    q95: float
    beyond: float
    beyond_error: float


def support_distance(samples: np.ndarray, reference: np.ndarray | Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Returns each sample's distance to the support, `[N, ...] -> [N]`.

    `reference` is a cloud `[M, ...]` (the distance to its nearest point: at least the distance to the support, and
    close to it when the cloud is dense), or a function `[N, D] -> [N]` where the support is known.
    """
    if callable(reference):
        return np.asarray(reference(flat(samples, field="samples")))
    return nearest(samples, reference).distance[:, 0]


def summarise_support(distances: np.ndarray, *, radius: float) -> Support:
    """Returns what `Support` lists of distances `[N]`; `radius` in the unit of the distances."""
    distances = np.asarray(distances, np.float64)
    beyond = float((distances > radius).mean())
    return Support(
        mean=float(distances.mean()),
        median=float(np.median(distances)),
        q95=float(np.quantile(distances, 0.95)),
        beyond=beyond,
        beyond_error=float(np.sqrt(beyond * (1 - beyond) / len(distances))),
    )


def support(
    samples: np.ndarray, reference: np.ndarray | Callable[[np.ndarray], np.ndarray], *, radius: float
) -> Support:
    """Returns `summarise_support` of `support_distance`: how fine structure is met, which sliced distances hide."""
    return summarise_support(support_distance(samples, reference), radius=radius)
