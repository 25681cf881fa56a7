"""The measures of `evaluate`: samples at several numbers of evaluations against held-out data; data against data.

Among them distances of samples from data: Wasserstein distances of order 2, sliced and exact, and to the support.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from common.errors import choice, input_error, within
from common.method import Evaluation
from common.metrics import features as extractors
from common.metrics.distances import frechet_distance, repeated
from common.metrics.neighbours import flat, nearest, pair, precision_recall
from phase_bridge.toy import Toy

FEATURES = ("random", "pixels", "inception")
_NEIGHBOURS = 4096  # samples and data whose neighbours are compared, at most
_BATCH = 256
_MOST_PAIRED = 8192  # beyond, the matrix of costs takes more than 512 MiB and the assignment many minutes
_BLOCK = 64  # directions projected on at a time

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
    vectors = samples.reshape(len(samples), -1), reference.reshape(len(reference), -1)
    w2, frechet, seen = sliced_wasserstein(*vectors), None, vectors
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
