"""Measures of memorisation and generalisation, of pairs of denoisers trained on disjoint sets of one size.

Kadkhodaie, Guth, Simoncelli, Mallat, ICLR 2024, section 2. Every measure is a function of arrays and denoisers; none
reads a file. Agreement of two networks proves nothing alone, since two nearly untrained ones agree too: each measure
is meant to be read beside its control.

Memorisation over training time: Bonnaire, Urfin, Biroli, Mezard, "Why diffusion models don't memorize: the role of
implicit dynamical regularization in training", NeurIPS 2025. A sample is memorised if it is much nearer to one training
image than to any other. Models generalise from a time tau_gen on that does not depend on the number N of training
images, and memorise from tau_mem on, which grows with N.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from common.arrays import AnyArray, as_images, as_numbers
from common.errors import input_error
from common.prng import as_key
from gahb.denoisers import Denoiser, as_denoiser, denoised
from gahb.metrics.similarity import Closest, closest, one_origin, unit_vectors
from gahb.sampler_settings import DEFAULT, SamplerSettings, changed
from gahb.sampling import rms, sample

ORIGINS = ("copy", "recombination", "new")


class Interval(NamedTuple):
    """A mean, and the bootstrap interval of 95 % around it."""

    mean: float
    low: float
    high: float


class Feature(NamedTuple):
    """A feature of images: `function` maps `[N, H, W, C]` to `[N, ...]`, correlated or as a plain cosine."""

    function: Callable[[jax.Array], jax.Array]
    remove_mean: bool


def gradients(images: jax.Array) -> jax.Array:
    """Returns the differences of vertical and horizontal neighbours, `[N, H, W, C] -> [N, D]`; bytes count as [0, 1].

    Two smooth blobs at one place have correlated pixels; their differences are less alike.
    """
    images = jnp.asarray(as_numbers(images, "images"))
    down, right = images[:, 1:] - images[:, :-1], images[:, :, 1:] - images[:, :, :-1]
    return jnp.concatenate([down.reshape(len(images), -1), right.reshape(len(images), -1)], axis=1)


FEATURES = {
    "pixels": Feature(lambda images: images, True),
    "cosine": Feature(lambda images: images, False),
    "gradients": Feature(gradients, False),
}


def l1_normalise(images: jax.Array) -> jax.Array:
    """Divides each channel of each image `[N, H, W, C]` by its sum of absolute values; zero channels stay zero."""
    images = jnp.asarray(as_numbers(images, "images"))
    norm = jnp.abs(images).sum((1, 2), keepdims=True)
    return images / jnp.where(norm > 0, norm, 1)


def level_weights(sigma: Float[np.ndarray, " levels"], *, measure: str) -> Float[np.ndarray, " levels"]:
    """Returns the weights `[S]`, of sum 1, of a mean over noise levels by the trapezoid rule (any order of `sigma`).

    measure: "sigma", uniform in sigma, as in figure 15; "log", uniform in the PSNR of the input. Raises `InputError`
    for another one.
    """
    if measure not in ("sigma", "log"):
        raise input_error("measure", expected='"sigma" or "log"', got=repr(measure), fix="use one of them")
    sigma = np.asarray(sigma, np.float64)
    if len(sigma) == 1:
        return np.ones(1)
    x = sigma if measure == "sigma" else np.log(sigma)
    order = np.argsort(x)
    step = np.diff(x[order])
    weights = np.zeros(len(x))
    weights[order] = (np.append(step, 0) + np.append(0, step)) / 2
    return weights / weights.sum()


def bootstrap(key: jax.Array, *groups: np.ndarray, draws: int = 1000) -> Interval:
    """Returns the mean of one group of numbers `[N]`, or of the first minus that of the second, with its interval.

    The numbers of each group are drawn anew, with replacement, `draws` times; the interval is that between the 2.5 %
    and the 97.5 % quantile. Raises `InputError` for an empty group.
    """
    key, means, resampled = as_key(key), [], []
    for i, group in enumerate(groups):
        values = np.asarray(group, np.float64)
        if len(values) == 0:
            raise input_error(
                "groups", expected="at least one number in each", got="none", fix="leave this comparison out"
            )
        drawn = np.asarray(jax.random.randint(jax.random.fold_in(key, i), (draws, len(values)), 0, len(values)))
        means.append(values.mean())
        resampled.append(values[drawn].mean(1))
    mean = means[0] - sum(means[1:])
    low, high = np.quantile(resampled[0] - sum(resampled[1:]), (0.025, 0.975))
    return Interval(float(mean), float(low), float(high))


def squared_distances(
    first: Denoiser,
    second: Denoiser,
    images: Real[AnyArray, "images height width channels"],
    sigmas: Sequence[float] | np.ndarray,
    key: jax.Array,
    *,
    batch_size: int = 64,
) -> Float[np.ndarray, "levels images"]:
    """Returns ||f_A(y) - f_B(y)||^2 (a sum over pixels), float64 `[S, N]`, for each of `images [N, H, W, C]` in noise.

    images: bytes, or floats in [0, 1]; else `InputError`.

    Divided by sigma^4 it is the squared distance of the two scores (`score_disagreement`). The noise of image i at
    level s is drawn from fold_in(fold_in(key, s), i), as in `gahb.metrics.psnr.psnr_curve`.
    """
    key, images = as_key(key), as_images(images, "images")
    first, second = as_denoiser(first), as_denoiser(second)
    found = np.zeros((len(sigmas), len(images)))
    batch_size = min(batch_size, len(images))
    for s, sigma in enumerate(sigmas):
        for start in range(0, len(images), batch_size):
            # The last batch reaches back instead of being shorter, so that all have one shape.
            start = min(start, len(images) - batch_size)
            rows = slice(start, start + batch_size)
            level_key, level = jax.random.fold_in(key, s), jnp.asarray(sigma, float)
            found[s, rows] = _squared_distance(first, second, images[rows], level, level_key, jnp.uint32(start))
    return found


@jax.jit
def _squared_distance(first, second, clean, sigma, key, start):
    clean = jnp.asarray(clean)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(start + jnp.arange(len(clean), dtype=jnp.uint32))
    z = jax.vmap(lambda key: jax.random.normal(key, clean.shape[1:], clean.dtype))(keys)
    noisy = clean + sigma.astype(clean.dtype) * z
    return jnp.square(denoised(first, noisy) - denoised(second, noisy)).sum((1, 2, 3))


def score_disagreement(sigma: np.ndarray, squared: np.ndarray, *, size: int, lowest: float) -> np.ndarray:
    """Returns sigma^2 ||s_A - s_B||^2 / d, averaged uniformly in log sigma from `lowest` up; `[S, ...] -> [...]`.

    squared: ||f_A(y) - f_B(y)||^2, a sum over the d = `size` pixels and channels (`squared_distances`), at the levels
    `sigma [S]`; the scores are (f(y) - y) / sigma^2. In units of the score of the noise itself, 1 / sigma a pixel: 0
    for one score, about 1 for two that have nothing in common. lowest: the noise at which sampling ends (sigma_L),
    below which scores decide nothing. Linear in log sigma between levels (trapezoid rule). Raises `InputError` for
    fewer than two levels, or none above `lowest`.
    """
    sigma = np.asarray(sigma, np.float64)
    if len(sigma) < 2 or sigma.max() <= lowest:
        expected = f"at least two levels, one of them above {lowest:g}"
        raise input_error("sigma", expected=expected, got=sigma.tolist(), fix="use a curve of more levels")
    order = np.argsort(sigma)
    x = np.log(sigma[order])
    values = np.asarray(squared, np.float64)[order] / (
        size * sigma[order].reshape(-1, *(1,) * (np.ndim(squared) - 1)) ** 2
    )
    start = max(np.log(lowest), x[0])
    after = int(np.searchsorted(x, start, side="right"))
    weight = (start - x[after - 1]) / (x[after] - x[after - 1])
    first = (1 - weight) * values[after - 1] + weight * values[after]
    x, values = np.append(start, x[after:]), np.concatenate([first[None], values[after:]])
    return np.trapezoid(values, x, axis=0) / (x[-1] - x[0])


def pair_similarity(images: ArrayLike, others: ArrayLike, feature: Feature) -> np.ndarray:
    """Returns the similarity of each image to its partner, `[N, H, W, C]` twice `-> [N]`."""
    images, others = (jnp.asarray(as_numbers(x, "images")) for x in (images, others))
    first, second = (
        unit_vectors(feature.function(x).reshape(len(x), -1), remove_mean=feature.remove_mean) for x in (images, others)
    )
    return np.asarray((first * second).sum(-1), np.float64)


def nearest(images: np.ndarray, references: np.ndarray, feature: Feature, *, block: int = 4096) -> Closest:
    """Finds for each of `images` the most similar of `references`, `block` at a time; see `similarity.closest`."""
    return closest(images, references, feature=feature.function, remove_mean=feature.remove_mean, block=block)


def classify(patches: Closest, whole: np.ndarray, *, least: float) -> np.ndarray:
    """Returns for each image its place in `ORIGINS`, int8 `[N]`, from its patches' origins (fields `[N, P]`).

    A copy has similarity `whole [N]` >= `least` to one training image; of the others, a recombination has patches of
    several training images, each at least that similar to its origin; what remains is new. Similarities to a set grow
    with the set: read the fractions beside those of held-out images.
    """
    alike = (patches.value >= least).all(1)
    recombined = alike & ~one_origin(patches.index)
    return np.where(np.asarray(whole) >= least, 0, np.where(recombined, 1, 2)).astype(np.int8)


def trajectories(
    denoisers: Sequence[Denoiser],
    key: jax.Array,
    shape: tuple[int, int, int, int],
    sampler: SamplerSettings = DEFAULT,
    *,
    every: int,
    frames: int = 8,
    **changes: Any,
) -> dict[str, np.ndarray]:
    """Samples with several denoisers from the same noise and denoises every `every`-th iterate in one step (figure 8).

    Two models that have learnt the same density end in the same image; others bifurcate at some noise level. Returns
    `step [T]` (the iteration that each stored iterate enters), `sigma [M, N, T]` (noise level then; NaN after the end),
    `distance [N, T]` (||a - b|| / sqrt(HWC) of the first two denoisers' images), `frames [M, F, N, H, W, C]` and
    `frame_step [F]`, evenly spread from the first to the last iterate. sampler, or its fields by name: as of
    `gahb.sample`; with the settings and the key of a sample, this is the way to that sample.
    """
    key, sampler = as_key(key), changed(sampler, changes)
    runs = [sample(denoise, key, shape, sampler, store_every=every) for denoise in denoisers]
    steps = np.stack([np.asarray(info["steps"]) for _, info in runs])
    slots = int(steps.max()) // every + 2
    images, levels = [], []
    for denoise, (samples, info), ended in zip(denoisers, runs, steps, strict=True):
        stored = jnp.moveaxis(info["trajectory"], 1, 0)[:slots]
        # The iterates are still noisy; once a sample has ended, its slots hold the result itself.
        seen = [np.asarray(_apply(as_denoiser(denoise), y)) for y in stored]
        after = np.arange(slots)[:, None] > ended // every
        images.append(np.where(after[..., None, None, None], np.asarray(samples), np.stack(seen)))
        position = np.minimum(np.arange(slots) * every, info["sigmas"].shape[1] - 1)
        levels.append(np.where(after.T, np.nan, np.asarray(info["sigmas"])[:, position]))
    chosen = np.unique(np.linspace(0, slots - 1, min(frames, slots)).round().astype(int))
    first, second = images[0], images[min(1, len(images) - 1)]
    return {
        "step": np.arange(slots) * every,
        "sigma": np.stack(levels),
        "distance": np.stack([np.asarray(rms(a - b)) for a, b in zip(first, second, strict=True)], axis=1),
        "frames": np.stack(images)[:, chosen],
        "frame_step": chosen * every,
    }


@jax.jit
def _apply(denoise, y):
    return denoised(denoise, y)


class TwoNearest(NamedTuple):
    """For each image its nearest reference, the distance to that and to the second nearest; `N` images."""

    index: np.ndarray  # [N]
    first: np.ndarray  # [N] d1 = ||a - b|| / sqrt(HWC), intensity units
    second: np.ndarray  # [N] d2; infinity where there is one reference only


class Times(NamedTuple):
    """The two times of a run in training steps; None where the run ended before."""

    generalises: int
    memorises: int | None


def two_nearest(
    images: Real[AnyArray, "images height width channels"],
    references: Real[AnyArray, "references height width channels"],
    *,
    block: int = 1024,
) -> TwoNearest:
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


def standardised(
    images: Real[AnyArray, "images height width channels"],
) -> Float[np.ndarray, "images height width channels"]:
    """Returns `images [N, H, W, C]` without their mean and with norm sqrt(HWC); a constant image becomes 0.

    Distances of these do not see brightness and contrast, in which a copy by a positively homogeneous network, or by a
    sampler that loses variance, differs from its image.
    """
    flat = np.asarray(as_numbers(images, "images"), np.float64).reshape(len(images), -1)
    vectors = np.asarray(unit_vectors(flat), np.float64) * np.sqrt(flat.shape[1])
    return vectors.reshape(np.shape(images))


def distance_ratio(near: TwoNearest) -> Float[np.ndarray, " images"]:
    """Returns d1 / d2 `[N]`, in [0, 1]: near 0 for a copy of one reference; NaN where there is no second reference."""
    # Between two equal references every distance is the same; a sample there is a copy of both.
    second = np.where(near.second > 0, near.second, 1)
    return np.where(np.isinf(near.second), np.nan, near.first / second)


def memorised_fraction(ratio: Float[np.ndarray, " images"], *, threshold: float = 1 / 3) -> float:
    """Returns the fraction of samples with d1 / d2 < `threshold` (`ratio [N]`); NaN without a number in `ratio`."""
    known = np.asarray(ratio, np.float64)
    known = known[~np.isnan(known)]
    return float((known < threshold).mean()) if len(known) else float("nan")


def times(
    steps: Sequence[int],
    quality: Sequence[float] | np.ndarray,
    memorised: Sequence[float] | np.ndarray,
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
