"""Measures by region of generated pairs: what a matcher does where the answer is certain, ambiguous, hidden or absent.

The regions and every threshold here were fixed before any matcher was measured with them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from diffmatch_jax.evaluation import metrics
from diffmatch_jax.evaluation.datasets.record import Example
from diffmatch_jax.model.pair_match import covisible

# All pixels: visible (both views show it and its surroundings have one match), ambiguous (equal places), flat (no
# texture), occluded, outside (of the source's frame). Parts of visible: edges (near a boundary of planes), moving (of
# an object of its own motion). unrelated: all pixels of a pair of different scenes, which have no true flow.
REGIONS = ("visible", "edges", "moving", "ambiguous", "flat", "occluded", "outside", "unrelated")
MEASURES = ("pixels", "aepe", "pck_1", "pck_5", "best", "energy", "rank_correlation", "confidence", "equal")
_PARTS = ("edges", "moving")
FEWEST = 64  # pixels below which a region of a pair is not measured


class Answer(NamedTuple):
    """The result of a matcher: flow `[H, W, 2]`, and if it has them confidence `[H, W]` and hypotheses `[n, H, W, 2]`.

    All in pixels of the source; a larger confidence is surer.
    """

    flow: np.ndarray
    confidence: np.ndarray | None = None
    hypotheses: np.ndarray | None = None


def measure(answer: Answer, back: Answer, example: Example) -> dict[str, np.ndarray]:
    """Returns `regions [R, M]`, `REGIONS` by `MEASURES` of a pair, and `covisible [3]`.

    aepe, pck_1 and pck_5 are of the returned flow; best: the least mean error in the region among the hypotheses;
    energy: mean energy score of the hypotheses (`metrics.energy_score`), of a single flow its error; rank_correlation:
    of error and -confidence; confidence: its mean; equal: mean distance to the nearest place that looks the same.
    NaN where there is nothing to measure. covisible: numbers of pixels rightly predicted to be in both views,
    predicted to be, and truly so; predicted by `model.pair_match.covisible` for all matchers alike.

    Args:
      answer, back: answers for source and target, and for the two exchanged.
      example: a pair with `regions`.
    """
    assert example.regions is not None
    error = metrics.endpoint_error(answer.flow, example.flow)
    hypotheses = answer.hypotheses
    errors, energy = error[None], error
    if hypotheses is not None and len(hypotheses) > 1:
        errors = metrics.endpoint_error(hypotheses, example.flow)
        energy = metrics.energy_score(np.asarray(hypotheses, np.float64), example.flow)
    near = _to_nearest(answer.flow, example.regions.equal)
    found = np.full((len(REGIONS), len(MEASURES)), np.nan)
    for row, name in enumerate(REGIONS):
        mask = example.regions.masks.get(name)
        found[row, 0] = 0 if mask is None else mask.sum()
        if mask is None or mask.sum() < FEWEST:
            continue
        numbers = {}
        if name != "unrelated":
            numbers = {
                "aepe": error[mask].mean(),
                "pck_1": (error[mask] <= 1).mean(),
                "pck_5": (error[mask] <= 5).mean(),
                "best": errors[:, mask].mean(-1).min(),
                "energy": energy[mask].mean(),
            }
        if name == "ambiguous":
            numbers["equal"] = near[mask].mean()
        if answer.confidence is not None and _sure(answer) is not None:
            numbers["confidence"] = answer.confidence[mask].mean()
        if answer.confidence is not None and name != "unrelated":
            numbers["rank_correlation"] = metrics.rank_correlation(error, -answer.confidence, mask)
        for key, value in numbers.items():
            found[row, MEASURES.index(key)] = value
    said, true = seen_in_both(answer, back), example.regions.covisible
    return {"regions": found, "covisible": np.asarray([(said & true).sum(), said.sum(), true.sum()], np.int64)}


def seen_in_both(answer: Answer, back: Answer) -> np.ndarray:
    """Returns which pixels `[H, W]` an answer and that of the exchanged images say both of them show."""
    return covisible(answer.flow, back.flow, _sure(answer))


def _sure(answer: Answer) -> np.ndarray | None:
    """Returns a confidence that is a fraction; None for other measures, whose scale is arbitrary."""
    confidence = answer.confidence
    if confidence is None or confidence.min() < 0 or confidence.max() > 1:
        return None
    return confidence


def _to_nearest(flow: np.ndarray, equal: np.ndarray) -> np.ndarray:
    """Returns distances `[H, W]` to the nearest of flows `equal [M, H, W, 2]`, infinite where there is none."""
    nearest = np.full(flow.shape[:2], np.inf)
    for each in equal:
        nearest = np.fmin(nearest, metrics.endpoint_error(flow, each))
    return nearest


def summary(rows: Mapping[str, np.ndarray], chosen: np.ndarray) -> dict[str, float]:
    """Returns the numbers of some pairs, `REGION.MEASURE`: means over the pairs that have enough of the region.

    And covisible_precision and covisible_recall of all their pixels. What no pair has is left out.
    """
    numbers = {}
    regions = rows["regions"][chosen]
    for row, name in enumerate(REGIONS):
        for column, measure_name in enumerate(MEASURES[1:], start=1):
            values = regions[:, row, column]
            if np.isfinite(values).any():
                numbers[f"{name}.{measure_name}"] = float(np.nanmean(values))
        pixels = regions[:, row, 0]
        if pixels.any():
            numbers[f"{name}.pixels"] = int(pixels.sum())
    right, said, true = rows["covisible"][chosen].sum(0)
    if true:
        numbers["covisible_recall"] = float(right / true)
        numbers["covisible_precision"] = float(right / said) if said else float("nan")
    whole = [row for row, name in enumerate(REGIONS) if name not in _PARTS]
    numbers["covisible_said"] = float(said / regions[:, whole, 0].sum())
    return numbers


def tables(titles: Mapping[str, str], rows: Sequence[Mapping[str, float]]) -> list[tuple[str, list[str], list[list]]]:
    """Returns tables (title, head, lines) by region, of rows with `method` and the numbers of `summary`.

    Numbers are floats, None where there is none.
    """
    measures = {
        "aepe": "AEPE",
        "pck_1": "PCK-1",
        "pck_5": "PCK-5",
        "best": "AEPE of the best hypothesis",
        "energy": "energy score",
        "rank_correlation": "rank correlation of uncertainty and error",
        "confidence": "mean confidence",
    }
    shown = [name for name in REGIONS if any(key.startswith(f"{name}.") for key in rows[0])]
    found = []
    for key, title in measures.items():
        names = [name for name in shown if any(row.get(f"{name}.{key}") is not None for row in rows)]
        if names:
            cells = [[titles[str(row["method"])], *(row.get(f"{name}.{key}") for name in names)] for row in rows]
            found.append((f"{title} by region", ["matcher", *names], cells))
    extra = {
        "covisible_precision": "precision",
        "covisible_recall": "recall",
        "covisible_said": "said to be in both",
        "ambiguous.equal": "ambiguous: distance to the nearest equal place",
    }
    names = [name for name in extra if any(row.get(name) is not None for row in rows)]
    cells = [[titles[str(row["method"])], *(row.get(name) for name in names)] for row in rows]
    found.append(("Covisibility, and equal places", ["matcher", *(extra[name] for name in names)], cells))
    return found
