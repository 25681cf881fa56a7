"""Fine structure: how far samples lie from where data is, and which of the data's modes they reach."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from common.errors import input_error
from common.metrics.neighbours import flat, nearest, pair


class Support(NamedTuple):
    """Distances of samples from the support: `mean`, `median`, `q95`, and the share `beyond` a radius, with its error.

    `beyond_error` is the standard error of a share of independent samples, sqrt(p (1 - p) / N).
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


class Modes(NamedTuple):
    """Which modes samples reach.

    `counts [K]`: samples assigned to each mode; `outside`: share of samples near no mode; `covered`: share of modes
    with at least `least` times their expected samples; `kl`: KL divergence of the shares among modes from `weights`,
    in nats (0 = right proportions); `spread [K]`: standard deviation in each mode, per coordinate (NaN if it is empty).
    """

    counts: np.ndarray
    outside: float
    covered: float
    kl: float
    spread: np.ndarray


def mode_coverage(
    samples: np.ndarray,
    centres: np.ndarray,
    *,
    radius: float = np.inf,
    weights: np.ndarray | None = None,
    least: float = 0.1,
) -> Modes:
    """Assigns each sample `[N, ...]` to the nearest of `centres [K, ...]` within `radius`, and counts.

    weights `[K]`: the data's shares (default: equal). A mode counts as covered with `least` of its expected number.
    Raises `InputError` for weights that are not positive or not one for each mode.
    """
    samples, centres = pair(samples, centres, names=("samples", "centres"))
    weights = np.full(len(centres), 1.0) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != (len(centres),) or not (weights > 0).all():
        got = f"{weights.shape}, least {weights.min() if weights.size else None}"
        raise input_error(
            "weights", expected=f"{len(centres)} positive shares", got=got, fix="leave them out for equal ones"
        )
    weights = weights / weights.sum()
    found = nearest(samples, centres)
    near = found.distance[:, 0] <= radius
    index = found.index[near, 0]
    counts = np.bincount(index, minlength=len(centres))
    shares = counts / max(counts.sum(), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = float(np.where(shares > 0, shares * np.log(shares / weights), 0).sum()) if counts.sum() else float("nan")
    return Modes(
        counts=counts,
        outside=float(1 - near.mean()),
        covered=float((counts >= np.maximum(least * weights * len(samples), 1)).mean()),
        kl=kl,
        spread=np.asarray([_spread(samples[near][index == mode]) for mode in range(len(centres))]),
    )


def _spread(points: np.ndarray) -> float:
    return float(np.sqrt(points.astype(np.float64).var(0).mean())) if len(points) else float("nan")
