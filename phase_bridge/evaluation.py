"""The measures of `evaluate`: samples at several numbers of evaluations against held-out data; data against data."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from common.errors import choice
from common.method import Evaluation
from common.metrics import features as extractors
from common.metrics.distances import frechet_distance, repeated
from common.metrics.neighbours import precision_recall
from phase_bridge.distances import sliced_wasserstein, summarise_support
from phase_bridge.toy import Toy

FEATURES = ("random", "pixels", "inception")
_NEIGHBOURS = 4096  # samples and data whose neighbours are compared, at most
_BATCH = 256

Features = Callable[[np.ndarray], np.ndarray]  # images [N, H, W, C] in [-1, 1] -> [N, D]


class Quality(NamedTuple):
    """Distances of samples to data, in data units; None where a measure does not apply.

    `w2`: sliced Wasserstein distance to held-out data. `recall` and `coverage`: the fractions of data that samples
    reach (`common.metrics.neighbours`), which see lost and repeated samples where distances do not. Points only:
    `distance`, the mean distance to the data's support, and `beyond`, the fraction of samples farther from it than data
    ever are. Images only: `frechet`, the squared Frechet distance of features, of which recall and coverage are then.
    """

    w2: float
    recall: float | None
    coverage: float | None
    distance: float | None = None
    beyond: float | None = None
    frechet: float | None = None


def quality(
    samples: np.ndarray, reference: np.ndarray, points: Toy | None, features: Features | None = None,
    *, neighbours: bool = True,
) -> Quality:  # fmt: skip
    """Measures samples `[N, ...]` against held-out data `[N, ...]`; numbers that are not finite count as far away.

    features: of images. neighbours: whether recall and coverage are measured, which take the most time.
    """
    samples, reference = np.asarray(samples), np.asarray(reference)
    samples = np.clip(np.nan_to_num(samples.astype(np.float64), nan=1e3, posinf=1e3, neginf=-1e3), -1e3, 1e3)
    flat = samples.reshape(len(samples), -1), reference.reshape(len(reference), -1)
    w2, frechet, seen = sliced_wasserstein(*flat), None, flat
    if features is not None:
        seen = tuple(features(each) for each in (samples, reference))
        frechet = frechet_distance(*seen)
    recall = coverage = None
    if neighbours and min(map(len, seen)) > 3:
        found = precision_recall(*(each[:_NEIGHBOURS] for each in seen))
        recall, coverage = found.recall, found.coverage
    if points is None:
        return Quality(w2, recall, coverage, frechet=frechet)
    support = summarise_support(points.distance(samples), radius=points.radius)
    return Quality(w2, recall, coverage, support.mean, support.beyond)


def image_features(name: str, *, channels: int, field: str = "features") -> Features:
    """Returns features of images in [-1, 1]: "random", "pixels", or "inception:FILE" with published weights.

    Raises `InputError` naming `field` for others.
    """
    kind, _, path = name.partition(":")
    choice(field, kind, FEATURES)
    if kind == "inception":
        made = extractors.inception(path)
    else:
        made = extractors.pixels() if kind == "pixels" else extractors.random_features(channels=channels)
    apply = jax.jit(made.apply)

    def features(images: np.ndarray) -> np.ndarray:
        unit = np.clip((np.asarray(images, np.float32) + 1) / 2, 0, 1)
        count = min(_BATCH, len(unit))
        blocks = range(0, len(unit), count)
        # The last block is filled up, so that one program serves all.
        padded = np.concatenate([unit, np.repeat(unit[:1], -len(unit) % count, 0)])
        return np.concatenate([np.asarray(apply(made.params, padded[i : i + count])) for i in blocks])[: len(unit)]

    return features


def averaged(found: list[Quality]) -> dict[str, float | None]:
    """Returns mean and standard error over repeats for each measure."""
    numbers: dict[str, float | None] = {}
    for name in Quality._fields:
        values = [getattr(each, name) for each in found]
        summary = None if values[0] is None else repeated(values)
        numbers[name] = None if summary is None else summary.mean
        numbers[f"{name}_error"] = None if summary is None else summary.error
    return numbers


def evaluate(
    samplers: Mapping[int, Callable[..., np.ndarray]],
    key: jax.Array,
    *,
    data: Callable[[int, int], np.ndarray],
    other: Callable[[int, int], np.ndarray],
    num: int,
    batch_size: int,
    repeats: int,
    points: Toy | None,
    features: Features | None = None,
) -> Evaluation:
    """Measures `samplers[nfe](key, num=, batch_size=)` at each number of evaluations, and other data as the floor.

    data: `data(i, count)`, the i-th set of held-out data; the first is what everything is compared with. other: the
    like for the floor, sets that have nothing in common with the first.
    """
    measure = functools.partial(quality, points=points, features=features)
    reference = data(0, num)
    floor = [measure(other(i + 1, len(reference)), reference) for i in range(repeats)]
    table: list[dict[str, Any]] = [{"nfe": "data", **averaged(floor)}]
    arrays: dict[str, np.ndarray] = {"reference": reference[:4096]}
    for nfe, draw in samplers.items():
        drawn = [draw(jax.random.fold_in(key, i), num=num, batch_size=batch_size) for i in range(repeats)]
        table.append({"nfe": nfe, **averaged([measure(each, reference) for each in drawn])})
        arrays[f"samples.{nfe}"] = drawn[0][: 4096 if points else 64]
    numbers = {"table": table, "num": len(reference), "repeats": repeats}
    if points is not None:
        numbers |= {"toy": points.name, "radius": points.radius}
    return Evaluation(numbers, arrays)
