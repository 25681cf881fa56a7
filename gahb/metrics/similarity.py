"""Similarity of images: correlation, cosine, patch by patch, and the nearest of a large set.

Images are `[N, ...]` of any shape per image (`[N, H, W, C]`, or `[N, D]` for feature vectors, by which other measures
of likeness plug in). Sets of references may be larger than the device: they stay on the host and pass in blocks. Bytes
count as numbers in [0, 1]; other integers, NaN and infinity raise `InputError`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from common.arrays import as_numbers
from common.errors import input_error


class Closest(NamedTuple):
    """For every image the index of the most similar reference (the lowest at a tie), and that similarity."""

    index: np.ndarray
    value: np.ndarray


def _set(images, field, *, axes=2):
    """Returns a set `[N, ...]` of at least one image as numbers; `InputError` for fewer than `axes` axes."""
    images = as_numbers(images, field)
    if images.ndim < axes or images.size == 0:
        expected = "at least one image, " + ("[N, H, W, C]" if axes == 4 else "[N, ...]")
        raise input_error(field, expected=expected, got=f"shape {list(images.shape)}", fix="give a batch of images")
    return images


def _alike(images, others, field):
    """Raises `InputError` unless images of both sets have one shape."""
    if images.shape[1:] != others.shape[1:]:
        expected, got = f"images of shape {list(images.shape[1:])}", list(others.shape[1:])
        raise input_error(field, expected=expected, got=got, fix="bring both sets to one shape")


def unit_vectors(vectors: ArrayLike, *, remove_mean: bool = True) -> jax.Array:
    """Scales `[..., D]` to norm 1 after removing each vector's mean; a constant vector (or zero) becomes zero."""
    vectors = jnp.asarray(as_numbers(vectors, "vectors"))
    if vectors.ndim < 1:
        raise input_error("vectors", expected="vectors [..., D]", got="one number", fix="give at least one axis")
    size = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    if remove_mean:
        vectors = vectors - vectors.mean(-1, keepdims=True)
    norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    # The rounding error of a constant image has a direction, which is meaningless.
    flat = norm <= 16 * jnp.finfo(vectors.dtype).eps * size
    return jnp.where(flat, 0, vectors / jnp.where(flat, 1, norm))


def correlation(images: jax.Array, references: jax.Array, *, remove_mean: bool = True) -> jax.Array:
    """Returns the matrix `[N, M]` of correlations of `images [N, ...]` with `references [M, ...]`.

    Each image's mean over pixels and channels is removed, unless `remove_mean` is false (then it is the cosine).
    """
    images, references = _set(images, "images"), _set(references, "references")
    if np.prod(images.shape[1:]) != np.prod(references.shape[1:]):
        _alike(images, references, "references")
    return _correlation(images, references, remove_mean=remove_mean)


@functools.partial(jax.jit, static_argnames="remove_mean")
def _correlation(images, references, *, remove_mean):
    images, references = (unit_vectors(x.reshape(len(x), -1), remove_mean=remove_mean) for x in (images, references))
    return jnp.matmul(images, references.T, precision="highest")


def cosine(images: jax.Array, references: jax.Array) -> jax.Array:
    """Returns the matrix `[N, M]` of normalised inner products."""
    return correlation(images, references, remove_mean=False)


def distance(images: jax.Array, others: jax.Array) -> jax.Array:
    """Returns ||a - b|| / sqrt(d) for each pair of rows, `[N, ...] -> [N]`; comparable with a noise deviation."""
    images, others = (jnp.asarray(_set(x, name, axes=1)) for x, name in ((images, "images"), (others, "others")))
    if len(others) not in (1, len(images)):
        got = f"{len(others)} for {len(images)}"
        raise input_error("others", expected="as many as images, or one", got=got, fix="pair them up")
    _alike(images, others, "others")
    return jnp.sqrt(jnp.square(images - others).mean(tuple(range(1, images.ndim))))


def closest(
    images: Any,
    references: np.ndarray,
    *,
    feature: Callable[[jax.Array], jax.Array] | None = None,
    remove_mean: bool = True,
    block: int = 4096,
    skip_self: bool = False,
) -> Closest:
    """Finds for each of `images [N, ...]` the most correlated of `references [M, ...]`, `block` of them at a time.

    feature: what is compared in place of the images, `[N, ...] -> [N, D]`. With `skip_self` the two sets are the same
    one and an image is not compared with itself.
    """
    images = _set(images, "images")
    images = images if feature is None else feature(jnp.asarray(images))
    index, value = _no_best(len(images))
    for start, part in _blocks(references, block):
        part = part if feature is None else feature(jnp.asarray(part))
        _alike(images, part, "references")
        similarity = _correlation(images, part, remove_mean=remove_mean)
        if skip_self:
            own = jnp.arange(len(images))[:, None] == start + jnp.arange(len(part))
            similarity = jnp.where(own, -jnp.inf, similarity)
        index, value = _better(index, value, start, np.asarray(similarity))
    return Closest(index, value)


def patches(images: jax.Array, *, size: int, stride: int) -> jax.Array:
    """Cuts square patches: `[N, H, W, C] -> [N, P, size * size * C]`, positions row by row.

    Positions are multiples of `stride` whose patch lies inside the first floor(H / stride) * stride rows (and so for
    the columns). Raises `InputError` if there are none.
    """
    images = jnp.asarray(_set(images, "images", axes=4))
    rows, columns = (range(0, length // stride * stride - size + 1, stride) for length in images.shape[1:3])
    if not rows or not columns:
        got = f"{size} with stride {stride} in {images.shape[1]}x{images.shape[2]}"
        raise input_error(
            "size", expected="a patch that fits into the images", got=got, fix="use smaller patches or strides"
        )
    cut = [images[:, r : r + size, c : c + size].reshape(len(images), -1) for r in rows for c in columns]
    return jnp.stack(cut, axis=1)


@functools.partial(jax.jit, static_argnames=("size", "stride"))
def _patch_correlation(images, references, *, size, stride):
    images, references = (unit_vectors(patches(x, size=size, stride=stride)) for x in (images, references))
    return jnp.einsum("npd,mpd->npm", images, references, precision="highest")


def closest_patches(images: Any, references: np.ndarray, *, size: int, stride: int, block: int = 1024) -> Closest:
    """Finds for each patch of `images [N, H, W, C]` the reference most correlated at that place; fields `[N, P]`."""
    images = _set(images, "images", axes=4)
    index: Any = None
    value: Any = None
    for start, part in _blocks(references, block, axes=4):
        _alike(images, part, "references")
        similarity = np.asarray(_patch_correlation(images, part, size=size, stride=stride))
        if index is None:
            index, value = _no_best(similarity.shape[:-1])
        index, value = _better(index, value, start, similarity)
    return Closest(index, value)


def one_origin(index: np.ndarray) -> np.ndarray:
    """Returns which images have all their patches from one reference: `[N, P] -> [N]` booleans; the rest recombine."""
    return (index == index[:, :1]).all(1)


def _blocks(references: np.ndarray, block: int, *, axes: int = 2) -> Iterator[tuple[int, np.ndarray]]:
    if not hasattr(references, "shape"):
        references = np.asarray(as_numbers(references, "references"))
    count = len(references) if np.ndim(references) else 0
    if not count:
        _set(references, "references", axes=axes)
    for start in range(0, count, block):
        # The last block reaches back instead of being shorter, so that all have one shape and compile once.
        start = min(start, max(count - block, 0))
        yield start, _set(references[start : start + block], "references", axes=axes)


def _no_best(shape):
    return np.zeros(shape, np.int64), np.full(shape, -np.inf)


def _better(index, value, start, similarity):
    best = similarity.argmax(-1)
    found = np.take_along_axis(similarity, best[..., None], -1)[..., 0]
    better = found > value
    return np.where(better, start + best, index), np.where(better, found, value)
