"""Whether hypotheses are whole flows: proper scores of what several places say together; float64 on the host.

Errors of neighbouring cells are alike. Hypotheses that differ in each cell for itself may be as good as any for single
cells, but take the mean over a region for far too sure and the difference of neighbours for far too unsure.
"""

from typing import NamedTuple

import numpy as np

from common.errors import input_error


class Joint(NamedTuple):
    """How good hypotheses are, in the unit of the flows; smaller energy scores are better.

    cells, steps, squares: mean energy score of the flow of a cell, of the difference of the flows of two cells that are
    1/8 of the side apart, and of the mean over squares of 1/4 of the side. coherence: correlation of two cells that are
    1/32 of the side apart in how hypotheses differ from their mean; coherence_of_errors: in how the middle of all there
    could be differs from the truth. Lengths are at least a cell. NaN where there is nothing to measure.
    """

    cells: float
    steps: float
    squares: float
    coherence: float
    coherence_of_errors: float


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


def measure(hypotheses: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> Joint:
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
        coherence=_correlation(*(np.einsum("nk,nk->", *pair) for pair in _neighbours(hypotheses - mean, valid, near))),
        coherence_of_errors=_correlation(*(_of_others(*pair) for pair in _neighbours(truth - hypotheses, valid, near))),
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
