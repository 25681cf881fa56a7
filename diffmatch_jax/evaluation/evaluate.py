"""Measuring matchers on data sets: one row of numbers a pair, kept on disk as they come, and the tables made of them.

A matcher is any function `(source [Hs, Ws, 3], target [Ht, Wt, 3]) -> (flow [Ht, Wt, 2], confidence [Ht, Wt] or
None)` on bytes and pixels; hypotheses `[n, Ht, Wt, 2]` may follow. Errors are end-point errors in pixels of the pair
as it was given.

What `evaluate` measures while a matcher is made: flow of generated warps of held-out photographs."""

import functools
import hashlib
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common.data.source import Source
from common.errors import input_error
from common.io import row_store
from common.method import Evaluation
from diffmatch_jax.data.pairs import PairConfig, pair_of
from diffmatch_jax.data.warps import Pair
from diffmatch_jax.evaluation import metrics, regions
from diffmatch_jax.evaluation.datasets.record import Dataset, Example
from diffmatch_jax.evaluation.metrics import Joint, measure_joint
from diffmatch_jax.model import conditioning, geometry
from diffmatch_jax.model.matcher import MatcherConfig, Model, Weights, match
from diffmatch_jax.model.pair_match import Match
from diffmatch_jax.model.resize import average_flow, resize_normalised

Matcher = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray | None, ...]]
Corrupt = Callable[[Example, int], Example]  # (pair, its seed) -> pair

POINTS = 50  # of a sparsification curve
_CHUNK = 8  # pairs that are computed again after an interruption, at most
_UNSURE = ("area", "gap", "skill", "rank_correlation")
AUC = (3, 5, 10)  # pixels (homographies) or degrees (poses)
_GEOMETRY = {"homography": "corner_error", "pose": "pose_error"}
_SAMPLES = 5000  # matches of a pair from which homography and pose are estimated
_VERSION = 2  # of a row's numbers


def evaluate_flow(
    matcher: Matcher,
    dataset: Dataset,
    *,
    directory: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    corrupt: Corrupt | None = None,
    thresholds: Sequence[float] = metrics.THRESHOLDS,
    should_stop: Callable[[], bool] = lambda: False,
    add: Callable[[int], object] = lambda count: None,
    compiled: set[tuple[int, ...]] | None = None,
) -> dict[str, np.ndarray] | None:
    """Returns a row for each pair, arrays `[N, ...]` by name as `measure_pair` gives them; None if it was stopped.

    directory: where rows are kept, so that the same call goes on where an earlier one stopped; `identity` (plain JSON
    values) identifies the matcher, and rows of another one are refused. `corrupt(pair, seed)` changes each pair
    first. `add(count)` is called with the number of finished pairs, `should_stop()` before each. Pairs of sizes that
    are not in `compiled` are matched twice, so that `seconds` are those of a compiled program; then their sizes are
    added to it.
    Raises `InputError` for a matcher that returns another shape or no numbers.
    """
    compiled = set() if compiled is None else compiled

    def compute(indices: np.ndarray) -> dict[str, np.ndarray]:
        index = int(indices[0])
        example = dataset.load(index)
        if corrupt is not None:
            example = corrupt(example, seed_of(dataset.names[index]))
        sizes = (*example.source.shape, *example.target.shape)
        if sizes not in compiled:
            matcher(example.source, example.target)
            compiled.add(sizes)
        row = measure_pair(matcher, example, thresholds=thresholds)
        return {name: np.asarray(value)[None] for name, value in row.items()}

    if directory is None:
        rows = []
        for index in range(len(dataset)):
            if should_stop():
                return None
            rows.append(compute(np.asarray([index])))
            add(1)
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    what = {
        "data": dataset.name,
        "fingerprint": dataset.fingerprint,
        "thresholds": list(thresholds),
        "measures": _VERSION,
        **(identity or {}),
    }
    store = row_store.Store(Path(directory), identity=what, batch_size=1, chunk_rows=_CHUNK)
    how: dict[str, Any] = {"batch_size": 1, "run_ahead": 0, "should_stop": should_stop, "add": add}
    if not row_store.fill(store, compute, num=len(dataset), **how):
        return None
    first = store.read(0)
    return {name: store.load(name, len(dataset)) for name in first}


def num_missing(directory: str | Path, dataset: Dataset) -> int:
    """Returns how many pairs of `evaluate_flow` with this directory are still to be computed, at most."""
    if row_store.read_index(Path(directory)) is None:
        return len(dataset)
    store = row_store.open_store(Path(directory))
    return sum(store.rows(chunk, len(dataset)) for chunk in store.missing(len(dataset)))


def seed_of(name: str) -> int:
    """Returns a pair's own seed, which no other pair and no order of evaluation changes."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def measure_pair(
    matcher: Matcher, example: Example, *, thresholds: Sequence[float] = metrics.THRESHOLDS
) -> dict[str, Any]:
    """Returns the numbers of one pair.

    `aepe`, `median`, `fl_all`, `valid` pixels, how many are `correct [T]`, the matcher's wall time in `seconds`; and
    of its confidence `curve` and `oracle` (`metrics.Sparsification`, `[POINTS]`), `area`, `gap`, `skill` and
    `rank_correlation`, NaN where there is none. Of pairs with regions also what `regions.measure` returns.
    """
    start = time.perf_counter()
    answer = asked(matcher, example.source, example.target)
    flow, confidence, _ = answer
    seconds = time.perf_counter() - start
    found = metrics.measure(flow, example.flow, example.mask, thresholds=thresholds)
    row = {
        "aepe": found.aepe,
        "median": np.nan,
        "fl_all": found.fl_all,
        "valid": found.valid,
        "correct": np.asarray(found.correct, np.int64),
        "seconds": seconds,
        "curve": np.full(POINTS, np.nan),
        "oracle": np.full(POINTS, np.nan),
        **dict.fromkeys(_UNSURE, np.nan),
        **geometry_errors(flow, confidence, example),
    }
    if example.regions is not None:
        row |= regions.measure(answer, asked(matcher, example.target, example.source), example)
    if not found.valid:
        return row
    error = metrics.endpoint_error(flow, example.flow)
    row["median"] = float(np.median(error[example.mask]))
    if confidence is not None:
        unsure = -confidence.astype(np.float64)
        if unsure.shape != example.mask.shape:
            got, fix = list(unsure.shape), "resize it first"
            raise input_error("confidence", expected=f"{list(example.mask.shape)}", got=got, fix=fix)
        curves = metrics.sparsification(error, unsure, example.mask, points=POINTS)
        row |= {"curve": curves.error, "oracle": curves.oracle}
        row |= {"area": curves.area, "gap": curves.gap, "skill": curves.skill}
        row["rank_correlation"] = metrics.rank_correlation(error, unsure, example.mask)
    return row


def asked(matcher: Matcher, source: np.ndarray, target: np.ndarray) -> regions.Answer:
    """Returns the answer of a matcher as NumPy arrays: those of a device may still be computed."""
    found: list[Any] = [None if each is None else np.asarray(each) for each in matcher(source, target)]
    return regions.Answer(*found)


def geometry_errors(flow: np.ndarray, confidence: np.ndarray | None, example: Example) -> dict[str, float]:
    """Returns the errors of what OpenCV's USAC estimates from matches sampled by confidence.

    corner_error: mean distance, pixels of the source, of the target's corners under the estimated homography from their
    true places; pose_error: the larger angle of rotation and translation, degrees. NaN where the pair has no such truth
    or OpenCV is not installed.
    """
    errors = dict.fromkeys(_GEOMETRY.values(), np.nan)
    if (example.homography is None and example.cameras is None) or importlib.util.find_spec("cv2") is None:
        return errors
    weight = np.ones(flow.shape[:2]) if confidence is None else confidence - min(confidence.min(), 0)
    target, source, _ = geometry.sampled(flow, weight, example.source.shape[:2], n=_SAMPLES, seed=0)
    if example.homography is not None:
        estimate = geometry.homography(target, source)
        errors["corner_error"] = geometry.corner_error(estimate.matrix, example.homography, example.target.shape[:2])
    if example.cameras is not None:
        of_source, of_target, rotation, translation = example.cameras
        found = geometry.pose(target, source, target_camera=of_target, source_camera=of_source)
        errors["pose_error"] = geometry.pose_error(found, rotation, translation)
    return errors


def summary(
    rows: Mapping[str, np.ndarray], dataset: Dataset, *, thresholds: Sequence[float] = metrics.THRESHOLDS
) -> dict[str, dict[str, float]]:
    """Returns the table's numbers of every group with a valid pixel, and under "all" those of the whole data set.

    `homography_auc_T` and `pose_auc_T` are areas under the recall of `geometry_errors` (`metrics.auc`), where known.

    "all" follows `dataset.scheme`: "images" puts all pairs together (`metrics.aggregate`), "groups" and "rates" take
    the mean of the groups, of which "rates" are means over sequences (`metrics.per_rate`). Numbers of the confidence
    are means over the pairs that have one. Raises `InputError` without any valid pixel.
    """
    valid = rows["valid"] > 0
    for name in _GEOMETRY.values():
        valid |= ~np.isnan(rows[name])
    if "regions" in rows:
        valid[:] = True
    found = {}
    for group in dict.fromkeys(dataset.groups):
        chosen = np.asarray([each == group for each in dataset.groups]) & valid
        if chosen.any():
            found[group] = _of(rows, dataset, chosen, thresholds)
    if dataset.scheme == "images" or not found:
        whole = _of(rows, replace(dataset, scheme="images"), valid, thresholds)
    else:
        whole = metrics.average(list(found.values()))
        whole |= {name: sum(each[name] for each in found.values()) for name in ("images", "valid")}
    return {"all": whole, **(found if len(found) > 1 else {})}


def _of(rows, dataset: Dataset, chosen: np.ndarray, thresholds) -> dict[str, float]:
    """Returns the numbers of some pairs of one group."""
    if dataset.scheme == "rates":
        sequences = np.asarray(dataset.sequences)
        each = [_aggregate(rows, chosen & (sequences == name), thresholds) for name in dict.fromkeys(sequences[chosen])]
        numbers = metrics.per_rate(each, thresholds=thresholds)
        numbers["fl_all"] = float(np.mean([one["fl_all"] for one in each]))
        numbers["images"] = int(chosen.sum())
    else:
        numbers = _aggregate(rows, chosen, thresholds)
    for kind, name in _GEOMETRY.items():
        errors = rows[name][chosen]
        if not np.isnan(errors).all():
            areas = metrics.auc(errors[~np.isnan(errors)], AUC)
            numbers |= {f"{kind}_auc_{threshold}": area for threshold, area in zip(AUC, areas, strict=True)}
    if "regions" in rows:
        numbers |= regions.summary(rows, chosen)
    for name in ("median", "seconds", *_UNSURE):
        values = rows[name][chosen]
        known = values[np.isfinite(values)]
        numbers[name] = float(known.mean()) if known.size else float("nan")
    return numbers


def _aggregate(rows, chosen: np.ndarray, thresholds) -> dict[str, float]:
    if chosen.any() and not (rows["valid"][chosen] > 0).any():  # pairs whose pose alone is known
        unknown = ("aepe", "fl_all", *(f"pck_{each:g}_per_image" for each in thresholds))
        return {**dict.fromkeys(unknown, float("nan")), "valid": 0, "images": int(chosen.sum())}
    return metrics.aggregate(
        [
            metrics.ImageMeasures(
                float(rows["aepe"][i]),
                float(rows["fl_all"][i]),
                tuple(int(each) for each in rows["correct"][i]),
                int(rows["valid"][i]),
                tuple(map(float, thresholds)),
            )
            for i in np.flatnonzero(chosen)
        ]
    )


def mean_curves(rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the mean sparsification curve and the mean oracle `[POINTS]` over pairs; None without confidence."""
    known = np.isfinite(rows["curve"]).all(-1)
    if not known.any():
        return None
    return rows["curve"][known].mean(0), rows["oracle"][known].mean(0)


FIT, REFINED = "its fit", "its fit, refined"


def pairs(pair_config: PairConfig, source: Source, key: jax.Array, *, num: int) -> Pair:
    """Returns `num` pairs of the photographs of `source`, in turn, as NumPy arrays; pair i depends on key and i."""
    run = _make(pair_config)
    parts = []
    for start in range(0, num, 8):
        index = np.arange(start, start + 8)  # always as many, so that one program serves all
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(index))
        made = run(keys, source.read((index % len(source)).tolist()))
        parts.append(jax.tree.map(lambda x, n=num - start: np.asarray(x[:n]), made))
    return jax.tree.map(lambda *each: np.concatenate(each), *parts)


@functools.cache
def _make(pair_config: PairConfig) -> Callable[..., Pair]:
    return jax.jit(jax.vmap(functools.partial(pair_of, pair_config)))


def matched(model: Model, made: Pair, key: jax.Array, *, hypotheses: int, batch_size: int) -> Match:
    """Returns the matches of all pairs, `batch_size` at once, each with independent noise."""
    num = len(made.source)
    parts = []
    for start in range(0, num, batch_size):
        index = np.minimum(np.arange(start, start + batch_size), num - 1)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(index))
        found = match(made.source[index], made.target[index], model=model, key=keys, hypotheses=hypotheses)
        parts.append(jax.tree.map(lambda x, n=num - start: x[:n], found))
    return jax.tree.map(lambda *each: np.concatenate(each), *parts)


def evaluate(model: Model, made: Pair, key: jax.Array, *, hypotheses: int, batch_size: int) -> Evaluation:
    """Measures the model beside winner-take-all, its median and what the model starts from, in pixels of the pairs.

    `ratio` is the model's mean end-point error over that of winner-take-all; `rank_correlation` that of spread and
    error over the valid pixels of all pairs, that `of_fit` of error and the fit's own uncertainty; `sparsification` the
    skill of the spread (1 is the error itself); `calibration` the sizes of both in six parts of the pixels; and `joint`
    the measures of the hypotheses by `diffmatch_jax.evaluation.metrics`, if there are several.
    """
    found = matched(model, made, key, hypotheses=hypotheses, batch_size=batch_size)
    rivals = {"winner-take-all": found.wta_flow, "its median": filtered(model, found.wta_flow)}
    fits = {
        name: matched(each, made, key, hypotheses=1, batch_size=batch_size) for name, each in fits_of(model).items()
    }
    rivals |= {name: each.flow for name, each in fits.items()} | {"model": found.flow}
    rows = [{"method": name, **measured(flow, made)} for name, flow in rivals.items()]
    numbers: dict[str, Any] = {
        "table": rows,
        "num_images": len(made.source),
        "hypotheses": hypotheses,
        "nfe": model.config.nfe(hypotheses),
        "ratio": rows[-1]["aepe"] / rows[0]["aepe"],
    }
    error = metrics.endpoint_error(found.flow, np.where(made.mask[..., None], made.flow, 0))
    unsure = 1 - found.confidence
    if made.mask.any():
        numbers["rank_correlation"] = metrics.rank_correlation(error, unsure, made.mask)
        curve = metrics.sparsification(error, unsure, made.mask)
        numbers["sparsification"] = curve.skill
        numbers["sparsification_area"] = curve.area
        numbers["calibration"] = metrics.calibration(error, found.std, made.mask)._asdict()
        if fits:
            numbers["rank_correlation_of_fit"] = metrics.rank_correlation(error, 1 - fits[FIT].confidence, made.mask)
    # Released hypotheses lie on corners, between cells of the truth.
    if found.hypotheses.shape[1] > 1 and not model.config.conditioning.released:
        numbers["joint"] = of_hypotheses(found, made)._asdict()
    few = slice(0, 8)
    arrays = {
        "source": made.source[few],
        "target": made.target[few],
        "flow": made.flow[few],
        "mask": made.mask[few],
        "predicted": found.flow[few],
        "wta_flow": found.wta_flow[few],
        "confidence": found.confidence[few],
        "std": found.std[few],
    }
    return Evaluation(numbers, arrays)


def of_hypotheses(found: Match, made: Pair) -> Joint:
    """Returns how good the hypotheses of matches are, in pixels of the pairs, on cells that are valid throughout."""
    side = made.flow.shape[1]
    truth, share = average_flow(jnp.asarray(made.flow), jnp.asarray(made.mask), found.hypotheses.shape[2:4])
    valid = np.asarray(share) > 1 - 1e-6  # all of it, up to rounding
    return measure_joint(found.hypotheses * np.float32(side), np.asarray(truth), valid)


def filtered(model: Model, flow: np.ndarray) -> np.ndarray:
    """Returns winner-take-all flow `[B, H, W, 2]` under a median of 5x5 cells."""
    size, cells = flow.shape[1:3], (model.config.conditioning.cells,) * 2
    coarse = resize_normalised(jnp.asarray(flow), cells)
    return np.asarray(resize_normalised(conditioning.median(coarse, conditioning.MEDIAN), size))


def fits_of(model: Model) -> dict[str, Model]:
    """Returns what the model starts from as matchers without networks: its fit, and that refined; none without."""
    settings, weights = model.config.conditioning, Weights(model.weights.pyramid)
    if not settings.fit:
        return {}
    rounds = {FIT: 0} | ({REFINED: settings.refine} if settings.refine else {})
    return {name: Model(MatcherConfig(replace(settings, refine=n)), weights) for name, n in rounds.items()}


def measured(flows: Sequence[np.ndarray] | np.ndarray, made: Pair) -> dict[str, float]:
    """Returns AEPE in pixels and PCK-1, 3 and 5 in percent, means over images of their valid pixels."""
    each = [metrics.measure(*one) for one in zip(flows, made.flow, made.mask, strict=True)]
    means = metrics.aggregate(each)
    return {"aepe": means["aepe"]} | {f"pck_{n} %": 100 * means[f"pck_{n}_per_image"] for n in (1, 3, 5)}
