"""What `evaluate` measures: samples of a few numbers of evaluations against held-out data, and what data measure."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from common.method import Evaluation
from common.metrics.floors import repeated
from common.metrics.support import summarise_support
from common.metrics.wasserstein import sliced_wasserstein
from phase_bridge.toy import Toy


class Quality(NamedTuple):
    """How far samples are from data, in data units.

    `w2`: sliced Wasserstein distance to held-out data. Points only: `distance`, the mean distance to the data's
    support, and `beyond`, the share of samples farther from it than data ever are. None where there is no such thing.
    """

    w2: float
    distance: float | None
    beyond: float | None


def quality(samples: np.ndarray, reference: np.ndarray, points: Toy | None) -> Quality:
    """Measures samples `[N, ...]` against held-out data `[N, ...]`; numbers that are not finite count as far away."""
    samples = np.asarray(samples, np.float64).reshape(len(samples), -1)
    samples = np.clip(np.nan_to_num(samples, nan=1e3, posinf=1e3, neginf=-1e3), -1e3, 1e3)
    w2 = sliced_wasserstein(samples, np.asarray(reference).reshape(len(reference), -1))
    if points is None:
        return Quality(w2, None, None)
    found = summarise_support(points.distance(samples), radius=points.radius)
    return Quality(w2, found.mean, found.beyond)


def averaged(found: list[Quality]) -> dict[str, float | None]:
    """Returns mean and standard error over repeats for each measure."""
    numbers: dict[str, float | None] = {}
    for name in Quality._fields:
        values = [getattr(each, name) for each in found]
        known = values[0] is not None
        summary = repeated(values) if known else None
        numbers[name] = summary.mean if known else None
        numbers[f"{name}_error"] = summary.error if known else None
    return numbers


def evaluate(
    draws: Mapping[int, Callable[..., np.ndarray]],
    key: jax.Array,
    *,
    data: Callable[[int, int], np.ndarray],
    num: int,
    batch_size: int,
    repeats: int,
    points: Toy | None,
) -> Evaluation:
    """Measures `draws[nfe](key, num=, batch_size=)` at each number of evaluations, and fresh data as the floor.

    data: `data(i, count)`, the i-th draw of held-out data; the first is what everything is compared with.
    """
    reference = data(0, num)
    floor = [quality(data(i + 1, len(reference)), reference, points) for i in range(repeats)]
    table: list[dict[str, Any]] = [{"nfe": "data", **averaged(floor)}]
    arrays: dict[str, np.ndarray] = {"reference": reference[:4096]}
    for nfe, draw in draws.items():
        drawn = [draw(jax.random.fold_in(key, i), num=num, batch_size=batch_size) for i in range(repeats)]
        table.append({"nfe": nfe, **averaged([quality(each, reference, points) for each in drawn])})
        arrays[f"samples.{nfe}"] = drawn[0][: 4096 if points else 64]
    numbers = {"table": table, "num": len(reference), "repeats": repeats}
    if points is not None:
        numbers |= {"toy": points.name, "radius": points.radius}
    return Evaluation(numbers, arrays)
