"""Exact nearest neighbours in Euclidean distance, in blocks, and what they say of samples: precision and recall.

The manifold of a set is the union of balls around its points that reach their k-th nearest neighbour in the set.
Kynkäänniemi et al., NeurIPS 2019 (precision, recall); Naeem et al., ICML 2020 (density, coverage).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from common.arrays import as_array
from common.errors import input_error, within

_CLOSE = 1e-6  # of |x|^2 + |y|^2
_TREE_DIMENSIONS = 16  # up to which a tree finds neighbours faster than all distances are computed


class Neighbours(NamedTuple):
    """For every point its `k` nearest references, nearest first: `index [N, k]` and `distance [N, k]`."""

    index: np.ndarray
    distance: np.ndarray


def flat(points: np.ndarray, *, field: str = "points") -> np.ndarray:
    """Returns points `[N, ...]` as floats `[N, D]`, integers by their values.

    Raises `InputError` for no points, for what is no real number, and for numbers that are not finite.
    """
    points = np.asarray(as_array(points, field, fix="give rows of one length"))
    if not (np.issubdtype(points.dtype, np.integer) or jnp.issubdtype(points.dtype, jnp.floating)):
        fix = "give features or intensities as real numbers"
        raise input_error(field, expected="real numbers", got=points.dtype, fix=fix)
    # Whole numbers are exact in float64, and differences of bytes would wrap around.
    if not np.issubdtype(points.dtype, np.floating) or points.dtype.itemsize < 4:
        points = points.astype(np.float32 if points.dtype.itemsize < 4 else np.float64)
    if points.ndim < 1 or len(points) == 0:
        raise input_error(
            field, expected="at least one point, [N, ...]", got=f"shape {points.shape}", fix="give more samples"
        )
    points = points.reshape(len(points), -1)
    if not np.isfinite(points).all():
        count = int((~np.isfinite(points).all(1)).sum())
        raise input_error(
            field, expected="finite numbers", got=f"{count} of {len(points)} rows without", fix="leave them out"
        )
    return points


def same_unit(x: object, y: object, *, names: tuple[str, str]) -> None:
    """Raises `InputError` for bytes beside floats: as images these are in [0, 1], and bytes in 0..255."""
    kinds = [getattr(each, "dtype", None) for each in (x, y)]
    if np.dtype(np.uint8) in kinds and any(kind is not None and jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        fix = f"bring both to one unit, {names[kinds.index(np.uint8)]} / 255 where the bytes are images"
        raise input_error(names[0], expected=f"the unit of {names[1]}", got=" and ".join(map(str, kinds)), fix=fix)


def pair(
    x: np.ndarray, y: np.ndarray, *, names: tuple[str, str] = ("samples", "reference")
) -> tuple[np.ndarray, np.ndarray]:
    """Returns two sets as `[N, D]` and `[M, D]`; raises `InputError` unless their points have the same size."""
    same_unit(x, y, names=names)
    x, y = flat(x, field=names[0]), flat(y, field=names[1])
    if x.shape[1] != y.shape[1]:
        raise input_error(
            names[0], expected=f"{y.shape[1]} numbers a point, as {names[1]}", got=x.shape[1], fix="check both"
        )
    return x, y


def nearest(
    points: np.ndarray, reference: np.ndarray, *, k: int = 1, skip_self: bool = False, block: int = 2048
) -> Neighbours:
    """Finds for each of `points [N, ...]` its `k` nearest in `reference [M, ...]`.

    With `skip_self` the two sets are the same one and a point is not its own neighbour. In float64: by a tree up to 16
    numbers a point, beyond by products of blocks of `block` points. Raises `InputError` if there are fewer than `k`
    references.
    """
    points, reference = pair(points, reference, names=("points", "reference"))
    within("k", k, 1, len(reference) - skip_self, what=", the number of references")
    if points.shape[1] <= _TREE_DIMENSIONS:
        return _by_tree(points, reference, k, skip_self)
    points, reference = centred(points, reference)
    parts = [_by_blocks(part, reference, start, k, skip_self, block) for start, part in _blocks(points, block)]
    return Neighbours(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _by_tree(points, reference, k, skip_self) -> Neighbours:
    distance: Any
    index: Any
    wanted = np.arange(1, k + 1 + skip_self)
    distance, index = KDTree(reference.astype(np.float64)).query(points.astype(np.float64), k=wanted)
    if not skip_self:
        return Neighbours(index, distance)
    own = index == np.arange(len(points))[:, None]
    # Among coinciding points a point may be missing from its own list; then the last one goes.
    own[:, -1] |= ~own.any(1)
    keep = ~own
    return Neighbours(index[keep].reshape(-1, k), distance[keep].reshape(-1, k))


def _by_blocks(points, reference, first, k, skip_self, block):
    best_value, best_index = np.full((len(points), k), np.inf), np.zeros((len(points), k), np.int64)
    for start, part in _blocks(reference, block):
        value = squared_distances(points, part)
        if skip_self:
            own = np.arange(len(points)) + first - start
            inside = (own >= 0) & (own < len(part))
            value[np.flatnonzero(inside), own[inside]] = np.inf
        value = np.concatenate([best_value, value], 1)
        index = np.concatenate([best_index, np.broadcast_to(start + np.arange(len(part)), (len(points), len(part)))], 1)
        order = np.argpartition(value, k - 1, axis=1)[:, :k]
        best_value, best_index = np.take_along_axis(value, order, 1), np.take_along_axis(index, order, 1)
    order = np.argsort(best_value, axis=1, kind="stable")
    return np.take_along_axis(best_index, order, 1), np.sqrt(np.take_along_axis(best_value, order, 1))


def centred(points: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both sets in float64 about the mean of the reference, where products lose the fewest digits."""
    centre = reference.mean(0, dtype=np.float64)
    return points - centre, reference - centre


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns |x_i - y_j|^2 of `[N, D]` and `[M, D]` in float64 as `[N, M]`, by products; from differences if small."""
    size = np.square(x).sum(1)[:, None] + np.square(y).sum(1)
    squared = size - 2 * (x @ y.T)
    # The difference of large numbers has few digits, and for equal points it is not even 0.
    rows, columns = np.nonzero(squared <= _CLOSE * size)
    for start in range(0, len(rows), 4096):
        part = slice(start, start + 4096)
        squared[rows[part], columns[part]] = np.square(x[rows[part]] - y[columns[part]]).sum(1)
    return squared


def _blocks(array: np.ndarray, block: int):
    for start in range(0, len(array), block):
        yield start, array[start : start + block]


_EXACT_DIMENSIONS = 16  # up to which all distances are computed from differences


class PrecisionRecall(NamedTuple):
    """Fractions: `precision` of samples inside the data's manifold, `recall` of data inside the samples'.

    `density`: mean number of data balls a sample lies in, over k (1 for equal distributions, not bounded by 1);
    `coverage`: fraction of data balls that hold a sample, which outliers among the samples cannot raise.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def radii(points: np.ndarray, *, k: int = 3) -> np.ndarray:
    """Returns each point's distance to its k-th nearest other point, `[N, ...] -> [N]`."""
    return nearest(flat(points), flat(points), k=k, skip_self=True).distance[:, -1]


def precision_recall(samples: np.ndarray, reference: np.ndarray, *, k: int = 3, block: int = 1024) -> PrecisionRecall:
    """Returns precision, recall, density and coverage of features `[N, ...]` against `[M, ...]`, exactly.

    The usual numbers are of 10,000 to 50,000 features each with k = 3; they depend on both numbers. `block` points at
    a time are compared. Raises `InputError` for sets of k points or fewer.
    """
    samples, reference = pair(samples, reference)
    # A ball has its k-th neighbour on its edge, which rounding must not push out.
    sample_radii, reference_radii = (radii(each, k=k) * (1 + 1e-10) for each in (samples, reference))
    inside_data, hits = np.zeros(len(samples), int), np.zeros(len(reference), bool)
    reached = np.zeros(len(reference), bool)
    for rows, distances in _distances(samples, reference, block):
        in_ball = distances <= reference_radii
        inside_data[rows] = in_ball.sum(1)
        hits |= in_ball.any(0)
        reached |= (distances <= sample_radii[rows, None]).any(0)
    return PrecisionRecall(
        precision=float((inside_data > 0).mean()),
        recall=float(reached.mean()),
        density=float(inside_data.mean() / k),
        coverage=float(hits.mean()),
    )


def _distances(x: np.ndarray, y: np.ndarray, block: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields the rows of the matrix of distances, `block` at a time."""
    exact = x.shape[1] <= _EXACT_DIMENSIONS
    if not exact:
        x, y = centred(x, y)
    for start in range(0, len(x), block):
        rows = slice(start, min(start + block, len(x)))
        yield rows, cdist(x[rows], y) if exact else np.sqrt(squared_distances(x[rows], y))
