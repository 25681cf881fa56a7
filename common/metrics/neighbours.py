"""Exact nearest neighbours in Euclidean distance, in blocks, so that no whole matrix of distances is ever held."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import cKDTree

from common.errors import input_error

_TREE_DIMENSIONS = 16  # up to which a tree finds neighbours faster than all distances are computed


class Neighbours(NamedTuple):
    """For every point its `k` nearest references, nearest first: `index [N, k]` and `distance [N, k]`."""

    index: np.ndarray
    distance: np.ndarray


def flat(points: np.ndarray, *, field: str = "points") -> np.ndarray:
    """Returns points `[N, ...]` as `[N, D]`; raises `InputError` for none, or for numbers that are not finite."""
    points = np.asarray(points)
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


def pair(
    x: np.ndarray, y: np.ndarray, *, names: tuple[str, str] = ("samples", "reference")
) -> tuple[np.ndarray, np.ndarray]:
    """Returns two sets as `[N, D]` and `[M, D]`; raises `InputError` unless their points have the same size."""
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

    With `skip_self` the two sets are the same one and a point is not its own neighbour. Up to 16 numbers a point a tree
    in float64 is used; beyond, products of blocks of `block` points at the highest float32 precision, about the mean
    of the references (an error of about 1e-6 of a point's squared distance from that mean).
    Raises `InputError` if there are fewer than `k` references.
    """
    points, reference = pair(points, reference, names=("points", "reference"))
    available = len(reference) - skip_self
    if not 1 <= k <= available:
        raise input_error("k", expected=f"1 to {available}, the number of references", got=k, fix="use more references")
    if points.shape[1] <= _TREE_DIMENSIONS:
        return _by_tree(points, reference, k, skip_self)
    centre = reference.mean(0, dtype=np.float64)
    points, reference = ((each - centre).astype(np.float32) for each in (points, reference))
    parts = [_by_blocks(part, reference, start, k, skip_self, block) for start, part in _blocks(points, block)]
    return Neighbours(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _by_tree(points, reference, k, skip_self) -> Neighbours:
    wanted = np.arange(1, k + 1 + skip_self)
    distance, index = cKDTree(reference.astype(np.float64)).query(points.astype(np.float64), k=wanted)
    if not skip_self:
        return Neighbours(index, distance)
    own = index == np.arange(len(points))[:, None]
    # Among coinciding points a point may be missing from its own list; then the last one goes.
    own[:, -1] |= ~own.any(1)
    keep = ~own
    return Neighbours(index[keep].reshape(-1, k), distance[keep].reshape(-1, k))


def _by_blocks(points, reference, first, k, skip_self, block):
    best_value = np.full((len(points), k), np.inf, np.float32)
    best_index = np.zeros((len(points), k), np.int64)
    for start, part in _blocks(reference, block):
        own = first - start if skip_self else -len(points) - len(part)  # a diagonal outside the block
        value, index = _smallest(points, part, own, min(k, len(part)))
        value = np.concatenate([best_value, value], 1)
        index = np.concatenate([best_index, np.asarray(index) + start], 1)
        order = np.argsort(value, axis=1, kind="stable")[:, :k]
        best_value, best_index = np.take_along_axis(value, order, 1), np.take_along_axis(index, order, 1)
    return best_index, np.sqrt(np.maximum(best_value, 0))


@functools.partial(jax.jit, static_argnames="k")
def _smallest(points, part, own, k):
    squared = squared_distances(points, part)
    squared = jnp.where(jnp.arange(len(part)) == jnp.arange(len(points))[:, None] + own, jnp.inf, squared)
    value, index = jax.lax.top_k(-squared, k)
    return -value, index


def squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns |x_i - y_j|^2 of `[N, D]` and `[M, D]` as `[N, M]`, at the highest precision of their type."""
    inner = jnp.matmul(x, y.T, precision="highest")
    return jnp.maximum(jnp.square(x).sum(1)[:, None] + jnp.square(y).sum(1) - 2 * inner, 0)


def _blocks(array: np.ndarray, block: int):
    for start in range(0, len(array), block):
        yield start, array[start : start + block]
