"""Measures of flow against the truth, and of a confidence against the error; float64 on the host.

Errors are end-point errors, Euclidean lengths in pixels of the evaluated image. A result of one image is an
`ImageMeasures`; several are put together per image (each image counts the same), per data set (each pixel does), or per
rate, as the tables of the field do.

Whether hypotheses are whole flows: proper scores of what several places say together; float64 on the host.

Errors of neighbouring cells are alike. Hypotheses that differ in each cell for itself may be as good as any for single
cells, but take the mean over a region for far too sure and the difference of neighbours for far too unsure.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from common.arrays import AnyArray
from common.errors import input_error

THRESHOLDS = (1.0, 3.0, 5.0)


class ImageMeasures(NamedTuple):
    """One image: mean error `aepe`, share `fl_all` of outliers, and how many of the `valid` pixels are `correct`.

    `correct[i]` counts errors of at most `thresholds[i]`. Without valid pixels the shares and means are NaN.
    """

    aepe: float
    fl_all: float
    correct: tuple[int, ...]
    valid: int
    thresholds: tuple[float, ...]

    @property
    def pck(self) -> tuple[float, ...]:
        """The shares of valid pixels whose error is at most each threshold."""
        return tuple(count / self.valid if self.valid else np.nan for count in self.correct)


def endpoint_error(flow: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns |flow - truth| of pixel flows `[..., 2]`, `[...]`."""
    away = np.asarray(flow, np.float64) - np.asarray(truth, np.float64)
    return np.sqrt((away**2).sum(-1))


def measure(
    flow: np.ndarray, truth: np.ndarray, mask: np.ndarray, *, thresholds: Sequence[float] = THRESHOLDS
) -> ImageMeasures:
    """Returns the measures of one image from pixel flows `[H, W, 2]` on the valid pixels `mask [H, W]`.

    `fl_all` counts errors above 3 px and above 5 % of the true length (KITTI). Raises `InputError` if shapes differ
    or a predicted flow that counts is not finite.
    """
    flow, truth, mask = np.asarray(flow), np.asarray(truth), np.asarray(mask, bool)
    if flow.shape != truth.shape or flow.shape != (*mask.shape, 2):
        got = f"{list(flow.shape)}, {list(truth.shape)} and {list(mask.shape)}"
        raise input_error(
            "flow, truth, mask", expected="[H, W, 2], [H, W, 2] and [H, W]", got=got, fix="resize the flow first"
        )
    if not np.isfinite(flow[mask]).all():
        count = int((~np.isfinite(flow[mask]).all(-1)).sum())
        raise input_error("flow", expected="finite numbers", got=f"{count} valid pixels without", fix="check the model")
    error = endpoint_error(flow[mask], truth[mask])
    length = np.linalg.norm(truth[mask].astype(np.float64), axis=-1)
    valid = int(mask.sum())
    correct = tuple(int((error <= each).sum()) for each in thresholds)
    outliers = (error > 3) & (error > 0.05 * length)
    means = (float(error.mean()), float(outliers.mean())) if valid else (np.nan, np.nan)
    return ImageMeasures(*means, correct, valid, tuple(map(float, thresholds)))


def aggregate(images: Sequence[ImageMeasures]) -> dict[str, float]:
    """Returns the table's numbers of several images; those without valid pixels do not count.

    `aepe`, `fl_all` and `pck_T_per_image` are means over images, `pck_T_per_dataset` and `aepe_per_dataset` over all
    pixels; `correct_T` and `valid` are counts. Raises `InputError` without any valid pixel.
    """
    images = [each for each in images if each.valid]
    if not images:
        raise input_error("images", expected="at least one with valid pixels", got="none", fix="check the ground truth")
    if len({each.thresholds for each in images}) > 1:
        raise input_error("images", expected="the same thresholds", got="different ones", fix="measure them alike")
    valid = sum(each.valid for each in images)
    found = {
        "aepe": float(np.mean([each.aepe for each in images])),
        "fl_all": float(np.mean([each.fl_all for each in images])),
        "aepe_per_dataset": sum(each.aepe * each.valid for each in images) / valid,
        "valid": valid,
        "images": len(images),
    }
    for i, threshold in enumerate(images[0].thresholds):
        correct = sum(each.correct[i] for each in images)
        found[f"pck_{threshold:g}_per_image"] = float(np.mean([each.pck[i] for each in images]))
        found[f"pck_{threshold:g}_per_dataset"] = correct / valid
        found[f"correct_{threshold:g}"] = correct
    return found


def per_rate(sequences: Sequence[Mapping[str, float]], *, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, float]:
    """Returns the numbers of one rate (frame distance) from those of its sequences, as `aggregate` gives them.

    Means of `aepe` and `pck_T_per_image` over the sequences; `pck_T_per_rate` = correct / (valid + 1e-6) over all their
    pixels; `valid` is the sum.
    """
    if not sequences:
        raise input_error("sequences", expected="at least one", got="none", fix="check the data")
    valid = sum(each["valid"] for each in sequences)
    found = {"aepe": float(np.mean([each["aepe"] for each in sequences])), "valid": valid}
    for threshold in thresholds:
        name = f"{threshold:g}"
        found[f"pck_{name}_per_image"] = float(np.mean([each[f"pck_{name}_per_image"] for each in sequences]))
        found[f"pck_{name}_per_rate"] = sum(each[f"correct_{name}"] for each in sequences) / (valid + 1e-6)
    return found


def auc(errors: Sequence[float] | np.ndarray, thresholds: Sequence[float] = (3.0, 5.0, 10.0)) -> list[float]:
    """Returns the area under the recall of errors up to each threshold, divided by it, in [0, 1].

    recall(e) is the fraction of pairs with an error of at most e, linear between the errors (Sarlin et al., CVPR 2020).
    """
    ordered = np.sort(np.asarray(errors, np.float64))
    recall = np.append(0.0, np.arange(1, len(ordered) + 1) / max(len(ordered), 1))
    ordered = np.append(0.0, ordered)
    areas = []
    for threshold in thresholds:
        last = np.searchsorted(ordered, threshold, side="right")
        x, y = np.append(ordered[:last], threshold), np.append(recall[:last], recall[last - 1])
        areas.append(float(np.trapezoid(y, x) / threshold))
    return areas


def average(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the plain means over rows (rates, or the scenes I to V) of every number that all of them have."""
    if not rows:
        raise input_error("rows", expected="at least one", got="none", fix="check the data")
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: float(np.mean([row[name] for row in rows])) for name in shared}


class Sparsification(NamedTuple):
    """Mean error of the pixels that remain when the `removed [K]` fraction with the largest uncertainty is left out.

    `error [K]` by the given uncertainty, `oracle [K]` by the error itself, both divided by the error of all pixels;
    `area` is that under `error`, `gap` that between both (AUSE, Ilg et al., ECCV 2018): 0 is a perfect order. An order
    by chance has area 1, and `skill` = 1 - gap / (1 - area of the oracle) is 0 for it, 1 for the perfect one.
    """

    removed: np.ndarray
    error: np.ndarray
    oracle: np.ndarray
    area: float
    gap: float
    skill: float


def sparsification(
    error: np.ndarray, uncertainty: np.ndarray, mask: AnyArray | None = None, *, points: int = 100
) -> Sparsification:
    """Returns the sparsification curves of errors and uncertainties of the same shape (larger is less sure).

    Pixels of equal uncertainty are taken away in part, by their mean error, so no order of the array matters. The last
    point removes (points - 1) / points. Raises `InputError` without valid pixels, for other shapes, or numbers that are
    not finite.
    """
    error, uncertainty = _pixels(error, uncertainty, mask)
    removed = np.arange(points) / points
    if error.mean() == 0:
        ones = np.ones(points)
        return Sparsification(removed, ones, ones, 1.0, 0.0, 1.0)
    curve = _remaining(error, uncertainty, removed) / error.mean()
    oracle = _remaining(error, error, removed) / error.mean()
    area, best = (float(np.trapezoid(each, removed) / removed[-1]) for each in (curve, oracle))
    gap = area - best
    return Sparsification(removed, curve, oracle, area, gap, 1 - gap / (1 - best) if best < 1 else 1.0)


def _remaining(error: np.ndarray, uncertainty: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Returns the mean error of the surest 1 - removed, with ties shared evenly."""
    _, group = np.unique(uncertainty, return_inverse=True)
    counts = np.bincount(group)
    sums = np.append(0.0, np.cumsum(np.bincount(group, error)))
    kept = (1 - removed) * len(error)
    return np.interp(kept, np.append(0, np.cumsum(counts)), sums) / kept


class Calibration(NamedTuple):
    """Root mean squares of the spread and of the error in equal parts of the pixels, `[parts]`, the surest first.

    They are the same for a spread that is the deviation of the flow in the plane.
    """

    std: np.ndarray
    error: np.ndarray


def calibration(error: np.ndarray, std: np.ndarray, mask: AnyArray | None = None, *, parts: int = 6) -> Calibration:
    """Returns how large spread and error are in `parts` of the pixels, as equal as can be; NaN in parts without any.

    Raises `InputError` as `sparsification` does.
    """
    error, std = _pixels(error, std, mask)
    order = np.argsort(std, kind="stable")
    found = [[_root_mean_square(x[part]) for part in np.array_split(order, parts)] for x in (std, error)]
    return Calibration(*map(np.asarray, found))


def _root_mean_square(x: np.ndarray) -> float:
    return float(np.sqrt((x**2).mean())) if x.size else float("nan")


def rank_correlation(error: np.ndarray, uncertainty: np.ndarray, mask: AnyArray | None = None) -> float:
    """Returns Spearman's rank correlation of errors and uncertainties, with mean ranks of ties; NaN if one is constant.

    Raises `InputError` as `sparsification` does.
    """
    ranks = [rankdata(each) for each in _pixels(error, uncertainty, mask)]
    away = [each - each.mean() for each in ranks]
    scale = np.sqrt((away[0] ** 2).sum() * (away[1] ** 2).sum())
    return float((away[0] * away[1]).sum() / scale) if scale > 0 else float("nan")


def _pixels(error, uncertainty, mask) -> tuple[np.ndarray, np.ndarray]:
    error, uncertainty = (np.asarray(each, np.float64) for each in (error, uncertainty))
    mask = np.ones(error.shape, bool) if mask is None else np.asarray(mask, bool)
    if not error.shape == uncertainty.shape == mask.shape:
        got = f"{list(error.shape)}, {list(uncertainty.shape)} and {list(mask.shape)}"
        raise input_error("error, uncertainty, mask", expected="one shape", got=got, fix="give one number a pixel")
    error, uncertainty = error[mask], uncertainty[mask]
    if not error.size:
        raise input_error("mask", expected="at least one valid pixel", got="none", fix="leave this image out")
    if not (np.isfinite(error).all() and np.isfinite(uncertainty).all()):
        raise input_error("error, uncertainty", expected="finite numbers", got="others", fix="mask such pixels")
    return error, uncertainty


class Joint(NamedTuple):
    """Quality of hypotheses, in the unit of the flows; smaller energy scores are better.

    cells, steps, squares: mean energy score of the flow of a cell, of the difference of the flows of two cells that are
    1/8 of the side apart, and of the mean over squares of 1/4 of the side. correlation: of two cells that are 1/32 of
    the side apart in how hypotheses differ from their mean; correlation_of_errors: in how the middle of all there could
    be differs from the truth. Lengths are at least a cell. NaN where there is nothing to measure.
    """

    cells: float
    steps: float
    squares: float
    correlation: float
    correlation_of_errors: float


def energy_score(hypotheses: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the energy scores of hypotheses `[n, ..., d]` for truths `[..., d]`, `[...]`.

    The mean of |X_i - y| minus half that of |X_i - X_j| over i != j (Gneiting & Raftery, JASA 2007, equation 22, with
    the unbiased mean of Ferro, QJRMS 2014, so that as few as 2 hypotheses are compared with more). Raises `InputError`
    for fewer than 2.
    """
    n = len(hypotheses)
    if n < 2:
        raise input_error("hypotheses", expected="at least 2", got=n, fix="draw several")
    away = np.linalg.norm(hypotheses - truth, axis=-1).mean(0)
    apart = sum(np.linalg.norm(hypotheses[i + 1 :] - hypotheses[i], axis=-1).sum(0) for i in range(n - 1))
    return away - apart / (n * (n - 1))


def measure_joint(hypotheses: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> Joint:
    """Returns the measures of hypotheses `[B, n, h, w, 2]` for flows `truth [B, h, w, 2]` where `valid [B, h, w]`.

    Raises `InputError` for fewer than 2 hypotheses.
    """
    side = min(valid.shape[1:])
    hypotheses = np.moveaxis(np.asarray(hypotheses, np.float64), 1, 0)
    truth = np.where(valid[..., None], np.asarray(truth, np.float64), 0)
    near, far, square = (max(side // each, 1) for each in (32, 8, 4))

    def step(x: np.ndarray) -> np.ndarray:
        return x[..., far:, :] - x[..., :-far, :]

    squares, whole = (_squares(each, square) for each in (hypotheses, valid[..., None]))
    mean = hypotheses.mean(0)
    return Joint(
        cells=_mean(energy_score(hypotheses, truth), valid),
        steps=_mean(energy_score(step(hypotheses), step(truth)), valid[..., far:] & valid[..., :-far]),
        squares=_mean(energy_score(squares, _squares(truth, square)), whole[..., 0] == 1),
        correlation=_correlation(
            *(np.einsum("nk,nk->", *pair) for pair in _neighbours(hypotheses - mean, valid, near))
        ),
        correlation_of_errors=_correlation(
            *(_of_others(*pair) for pair in _neighbours(truth - hypotheses, valid, near))
        ),
    )


def _squares(x: np.ndarray, side: int) -> np.ndarray:
    """Returns the means of `[..., h, w, C]` over squares; what is left over at the end is left out."""
    height, width = (length // side for length in x.shape[-3:-1])
    x = x[..., : height * side, : width * side, :]
    return x.reshape(*x.shape[:-3], height, side, width, side, x.shape[-1]).mean((-4, -2))


def _mean(values: np.ndarray, valid: np.ndarray) -> float:
    return float(values[valid].mean()) if valid.any() else float("nan")


def _neighbours(away: np.ndarray, valid: np.ndarray, apart: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Returns pairs of `away [n, B, h, w, 2]`, flat `[n, k]`: of cells so many columns apart, and each with itself."""
    both = valid[..., apart:] & valid[..., :-apart]
    one, other = (each[:, both].reshape(len(away), -1) for each in (away[..., apart:, :], away[..., :-apart, :]))
    return (one, other), (one, one), (other, other)


def _of_others(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the sum of products of different hypotheses, in which what each has of its own averages out."""
    n = len(one)
    return float((one.sum(0) * other.sum(0)).sum() - (one * other).sum()) / (n * (n - 1))


def _correlation(product: float, square: float, other: float) -> float:
    return float(product / np.sqrt(square * other)) if square > 0 and other > 0 else float("nan")
