"""Fine structure: how far samples lie from where data is."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from common.metrics.neighbours import flat, nearest


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
