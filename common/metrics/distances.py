"""Distances between two sets of features, and the scatter of a repeated measure; in float64 on the host.

Frechet distance, as if each set were Gaussian: d^2 = |m - m_r|^2 + tr(S + S_r - 2 (S S_r)^(1/2)) (Dowson &
Landau, 1982;
FID: Heusel et al., 2017, eq. 6). Maximum mean discrepancy: MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) (Gretton et
al., JMLR 2012, lemma 6); the estimate leaves out the pairs of a point with itself, so its mean is zero for equal
distributions and single values may be negative. The features may be any: those of Inception-v3, of a classifier,
pixels, or points of the plane.
"""

import functools
import io
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from common.errors import input_error, within
from common.io.files import write_atomically
from common.metrics.neighbours import flat, pair, same_unit


class Repeated(NamedTuple):
    """A measure repeated on independent samples: `values [R]`, their `mean`, `deviation`, and the mean's `error`."""

    values: Float[np.ndarray, " repeats"]
    mean: float
    deviation: float
    error: float


def repeated(values: Sequence[float] | np.ndarray) -> Repeated:
    """Returns mean, sample standard deviation and standard error of the mean (NaN for fewer than two values)."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise input_error("values", expected="a list of numbers", got=f"shape {values.shape}", fix="repeat the measure")
    deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Repeated(values, float(values.mean()), deviation, deviation / float(np.sqrt(len(values))))


_ASYMMETRY = 1e-6  # of a covariance, relative to its largest variance; float32 statistics have about 1e-7


class Moments(NamedTuple):
    """Count, mean `[D]` and sum of outer products of deviations `[D, D]` of feature vectors, float64."""

    count: int
    mean: Float[np.ndarray, " features"]
    scatter: Float[np.ndarray, "features features"]


class Gaussian(NamedTuple):
    """Mean `[D]` and covariance `[D, D]`, float64; `count` vectors they were estimated from, None if unknown."""

    mean: Float[np.ndarray, " features"]
    covariance: Float[np.ndarray, "features features"]
    count: int | None = None


def moments(features: Num[np.ndarray, "n ..."]) -> Moments:
    """Returns the moments of `features [N, ...]`; raises `InputError` for none, or for numbers that are not finite."""
    features = flat(features, field="features").astype(np.float64)
    mean = features.mean(0)
    deviation = features - mean
    return Moments(len(features), mean, deviation.T @ deviation)


def merge(a: Moments, b: Moments) -> Moments:
    """Returns the moments of two sets together, without the cancellation of sums of squares (Chan et al., 1979)."""
    count, step = a.count + b.count, b.mean - a.mean
    between = a.count * b.count / count * np.outer(step, step)
    return Moments(count, a.mean + b.count / count * step, a.scatter + b.scatter + between)


def merged(sets: Iterable[np.ndarray | Moments]) -> Moments:
    """Returns the moments of all sets together, which may come one by one; raises `InputError` if there is none."""
    found = (each if isinstance(each, Moments) else moments(each) for each in sets)
    try:
        return functools.reduce(merge, found)
    except TypeError:
        raise input_error("features", expected="at least one set", got="none", fix="extract features first") from None


def gaussian(of: np.ndarray | Moments | Gaussian) -> Gaussian:
    """Returns mean and unbiased covariance of features `[N, ...]` or their moments.

    Raises `InputError` for fewer than two vectors.
    """
    if isinstance(of, Gaussian):
        return of
    found = of if isinstance(of, Moments) else moments(of)
    if found.count < 2:
        raise input_error("features", expected="at least 2 vectors", got=found.count, fix="give more samples")
    return Gaussian(found.mean, found.scatter / (found.count - 1), found.count)


def frechet_distance(a: np.ndarray | Moments | Gaussian, b: np.ndarray | Moments | Gaussian) -> float:
    """Returns the squared Frechet distance d^2 (what is called FID) of two sets, in squared units of the features.

    Each is features `[N, ...]`, their `Moments`, or a `Gaussian`. The trace of (S S_r)^(1/2) is the sum of the singular
    values of S^(1/2) S_r^(1/2), which is real and stable also where covariances are singular.
    Raises `InputError` for sets of features of different size.
    """
    same_unit(a, b, names=("a", "b"))
    a, b = gaussian(a), gaussian(b)
    if a.mean.shape != b.mean.shape:
        got, expected = len(a.mean), f"{len(b.mean)} features as in the reference"
        raise input_error("features", expected=expected, got=got, fix="compute both with the same feature function")
    cross = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
    distance = np.square(a.mean - b.mean).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return float(max(distance, 0.0))


def _root(covariance: np.ndarray) -> np.ndarray:
    """Returns the symmetric square root; eigenvalues that are rounding only count as zero."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    values = np.where(values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0), values, 0)
    return (vectors * np.sqrt(values)) @ vectors.T


def write_statistics(path: str | os.PathLike, of: np.ndarray | Moments | Gaussian, *, about: str = "") -> Path:
    """Writes `mu`, `sigma` as EDM's reference files have them, and `count` and `about`; returns the path."""
    found, stream = gaussian(of), io.BytesIO()
    count = -1 if found.count is None else found.count
    np.savez(stream, mu=found.mean, sigma=found.covariance, count=np.asarray(count), about=np.asarray(about))
    return write_atomically(path, stream.getvalue())


def read_statistics(path: str | os.PathLike) -> Gaussian:
    """Returns the statistics in an `.npz` with `mu [D]` and `sigma [D, D]` (EDM's format; `count` may be there too).

    Raises `InputError` for a file that is missing or damaged, or whose arrays are no mean and covariance.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        fix = "name an .npz with mu and sigma"
        raise input_error(str(path), expected="reference statistics", got=error, fix=fix) from None
    if not {"mu", "sigma"} <= set(arrays):
        got = ", ".join(arrays) or "nothing"
        raise input_error(str(path), expected="arrays mu and sigma", got=got, fix="write it with write_statistics")
    mean, covariance = (arrays[name].astype(np.float64) for name in ("mu", "sigma"))
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        got = f"mu {mean.shape}, sigma {covariance.shape}"
        raise input_error(str(path), expected="mu [D] and sigma [D, D]", got=got, fix="write it again")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise input_error(str(path), expected="finite numbers", got="others", fix="write it again")
    largest = np.abs(covariance.diagonal()).max(initial=0)
    if np.abs(covariance - covariance.T).max(initial=0) > _ASYMMETRY * largest or (covariance.diagonal() < 0).any():
        raise input_error(
            str(path), expected="sigma to be a covariance", got="an asymmetric matrix", fix="write it again"
        )
    count = int(arrays["count"]) if "count" in arrays else -1
    return Gaussian(mean, covariance, count if count > 0 else None)


Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]  # [N, D], [M, D] -> [N, M]


def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns (<x, y> / D + 1)^3: with it and Inception features MMD^2 is the KID (Binkowski et al., ICLR 2018)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def mmd_squared(samples: np.ndarray, reference: np.ndarray, *, kernel: Kernel, block: int = 1024) -> float:
    """Returns the unbiased estimate of MMD^2 of `[N, ...]` and `[M, ...]`, `block` rows of the kernel at a time.

    Raises `InputError` for fewer than two points in either.
    """
    samples, reference = (each.astype(np.float64) for each in pair(samples, reference))
    if min(len(samples), len(reference)) < 2:
        got = f"{len(samples)} and {len(reference)}"
        raise input_error("samples", expected="at least 2 points, and 2 of reference", got=got, fix="give more")
    inside = sum(_mean(each, each, kernel, block, apart=True) for each in (samples, reference))
    return inside - 2 * _mean(samples, reference, kernel, block)


def _mean(x: np.ndarray, y: np.ndarray, kernel: Kernel, block: int, *, apart: bool = False) -> float:
    """Returns the mean of the kernel over all pairs, or over those of different index if `apart`."""
    total = 0.0
    for start in range(0, len(x), block):
        values = kernel(x[start : start + block], y)
        if apart:
            values[np.arange(len(values)), start + np.arange(len(values))] = 0.0
        total += values.sum()
    return float(total / (len(x) * (len(y) - apart)))


def mmd_squared_of_subsets(
    samples: np.ndarray,
    reference: np.ndarray,
    *,
    kernel: Kernel = cubic,
    size: int = 1000,
    subsets: int = 100,
    seed: int = 0,
) -> Repeated:
    """Returns MMD^2 between random subsets of `size` points, with mean and scatter, as KID is reported.

    The subsets overlap when they are many, so `error` is too small where subsets * size is beyond the number of points.
    Raises `InputError` if a set is smaller than `size`.
    """
    samples, reference = pair(samples, reference)
    within("size", size, 2, min(len(samples), len(reference)), what=", the points there are")
    rng = np.random.default_rng(seed)
    parts = ([each[rng.permutation(len(each))[:size]] for each in (samples, reference)] for _ in range(subsets))
    return repeated([mmd_squared(x, y, kernel=kernel) for x, y in parts])
