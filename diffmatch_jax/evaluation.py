"""Measuring matchers on data sets: one row of numbers a pair, kept on disk as they come, and the tables made of them.

A matcher is any function `(source [Hs, Ws, 3], target [Ht, Wt, 3]) -> (flow [Ht, Wt, 2], confidence [Ht, Wt] or
None)` on bytes and pixels. Errors are end-point errors in pixels of the pair as it was given.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import input_error
from common.io import row_store
from diffmatch_jax import metrics
from diffmatch_jax.baselines import Matcher
from diffmatch_jax.datasets.record import Dataset, Example

Corrupt = Callable[[Example, int], Example]  # (pair, a seed of its own) -> pair

POINTS = 50  # of a sparsification curve
_CHUNK = 8  # pairs that are computed again after an interruption, at most
_UNSURE = ("area", "gap", "skill", "rank_correlation")


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
    values) says what the matcher is, and rows of another one are refused. `corrupt(pair, seed)` changes each pair
    first. `add(count)` is told of finished pairs, `should_stop()` asked before each. Pairs of sizes that are not in
    `compiled` are matched twice, so that `seconds` are those of a compiled program; then their sizes are added to it.
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
        **(identity or {}),
    }
    store = row_store.Store(Path(directory), identity=what, batch_size=1, chunk_rows=_CHUNK)
    how = {"batch_size": 1, "run_ahead": 0, "should_stop": should_stop, "add": add}
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
    `rank_correlation`, NaN where there is none.
    """
    start = time.perf_counter()
    flow, confidence = matcher(example.source, example.target)
    # Arrays of a device may still be computed.
    flow, confidence = np.asarray(flow), None if confidence is None else np.asarray(confidence)
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
    }
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


def summary(
    rows: Mapping[str, np.ndarray], dataset: Dataset, *, thresholds: Sequence[float] = metrics.THRESHOLDS
) -> dict[str, dict[str, float]]:
    """Returns the table's numbers of every group with a valid pixel, and under "all" those of the whole data set.

    "all" follows `dataset.scheme`: "images" puts all pairs together (`metrics.aggregate`), "groups" and "rates" take
    the mean of the groups, of which "rates" are means over sequences (`metrics.per_rate`). Numbers of the confidence
    are means over the pairs that have one. Raises `InputError` without any valid pixel.
    """
    valid = rows["valid"] > 0
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
    for name in ("median", "seconds", *_UNSURE):
        values = rows[name][chosen]
        known = values[np.isfinite(values)]
        numbers[name] = float(known.mean()) if known.size else float("nan")
    return numbers


def _aggregate(rows, chosen: np.ndarray, thresholds) -> dict[str, float]:
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
