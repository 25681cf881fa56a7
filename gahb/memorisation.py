"""Memorisation over training time: which samples are copies, and when a run generalises and when it memorises.

Bonnaire, Urfin, Biroli, Mezard, "Why diffusion models don't memorize: the role of implicit dynamical regularization in
training", NeurIPS 2025: a sample is memorised if it is much nearer to one training image than to any other. Models
generalise from a time tau_gen on that does not depend on the number N of training images, and memorise from tau_mem
on, which grows with N.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.arrays import as_numbers
from common.errors import input_error
from gahb.similarity import unit_vectors


class TwoNearest(NamedTuple):
    """For each image its nearest reference, the distance to that and to the second nearest; `N` images."""

    index: np.ndarray  # [N]
    first: np.ndarray  # [N] d1 = ||a - b|| / sqrt(HWC), intensity units
    second: np.ndarray  # [N] d2; infinity where there is one reference only


class Times(NamedTuple):
    """The two times of a run in training steps; None where the run ended before."""

    generalises: int
    memorises: int | None


def two_nearest(images: np.ndarray, references: np.ndarray, *, block: int = 1024) -> TwoNearest:
    """Finds the two nearest of `references [M, H, W, C]` for each of `images [N, H, W, C]`, in float64.

    block: references compared at once. Raises `InputError` if there are no references.
    """
    if len(references) == 0:
        raise input_error("references", expected="at least one image", got="none", fix="give the training images")
    flat = np.asarray(as_numbers(images, "images"), np.float64).reshape(len(images), -1)
    index = np.zeros(len(flat), np.int64)
    best = np.full((len(flat), 2), np.inf)
    for start in range(0, len(references), block):
        part = np.asarray(as_numbers(references[start : start + block], "references"), np.float64)
        part = part.reshape(len(part), -1)
        squared = np.square(flat).sum(1)[:, None] + np.square(part).sum(1) - 2 * flat @ part.T
        squared = np.maximum(squared, 0) / flat.shape[1]
        index = np.where(squared.min(1) < best[:, 0], start + squared.argmin(1), index)
        best = np.sort(np.concatenate([best, squared], axis=1), axis=1)[:, :2]
    return TwoNearest(index, *np.sqrt(best.T))


def standardised(images: np.ndarray) -> np.ndarray:
    """Returns `images [N, H, W, C]` without their mean and with norm sqrt(HWC); a constant image becomes 0.

    Distances of these do not see brightness and contrast, in which a copy by a positively homogeneous network, or by a
    sampler that loses variance, differs from its image.
    """
    flat = np.asarray(as_numbers(images, "images"), np.float64).reshape(len(images), -1)
    vectors = np.asarray(unit_vectors(flat), np.float64) * np.sqrt(flat.shape[1])
    return vectors.reshape(np.shape(images))


def distance_ratio(near: TwoNearest) -> np.ndarray:
    """Returns d1 / d2 `[N]`, in [0, 1]: near 0 for a copy of one reference; NaN where there is no second reference."""
    # Between two equal references every distance is the same; a sample there is a copy of both.
    second = np.where(near.second > 0, near.second, 1)
    return np.where(np.isinf(near.second), np.nan, near.first / second)


def memorised_fraction(ratio: np.ndarray, *, threshold: float = 1 / 3) -> float:
    """Returns the fraction of samples with d1 / d2 < `threshold` (`ratio [N]`); NaN without a number in `ratio`."""
    known = np.asarray(ratio, np.float64)
    known = known[~np.isnan(known)]
    return float((known < threshold).mean()) if len(known) else float("nan")


def times(
    steps: Sequence[int],
    quality: Sequence[float],
    memorised: Sequence[float],
    *,
    settled: float = 0.25,
    level: float = 0.05,
) -> Times:
    """Returns tau_gen and tau_mem of a run from its checkpoints at `steps [T]`, ascending.

    tau_gen: the first step whose `quality [T]` (PSNR of held-out images, dB) is within `settled` dB of the best of all
    steps. tau_mem: the first step at which the `memorised [T]` fraction of samples exceeds `level`, None if it never
    does (NaN does not count). Both are as exact as the checkpoints are close. Raises `InputError` for no steps, steps
    that do not ascend, or other lengths.
    """
    steps = [int(step) for step in steps]
    if not steps or sorted(set(steps)) != steps:
        raise input_error("steps", expected="ascending steps, at least one", got=steps, fix="sort the checkpoints")
    for name, values in (("quality", quality), ("memorised", memorised)):
        if len(values) != len(steps):
            fix = "give one number for each step"
            raise input_error(name, expected=f"{len(steps)} numbers", got=len(values), fix=fix)
    quality, memorised = np.asarray(quality, np.float64), np.asarray(memorised, np.float64)
    # A comparison with NaN is false, so a checkpoint without samples does not count.
    above = memorised > level
    good = int(np.argmax(quality >= np.nanmax(quality) - settled))
    return Times(steps[good], steps[int(np.argmax(above))] if above.any() else None)
