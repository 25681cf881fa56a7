"""How alike images are: correlation, cosine, patch by patch, and the nearest of a large set.

Images are `[N, ...]` of any shape per image (`[N, H, W, C]`, or `[N, D]` for feature vectors, by which other measures
of likeness plug in). Sets of references may be larger than the device: they stay on the host and pass in blocks. Bytes
count as numbers in [0, 1]; other integers, NaN and infinity raise `InputError`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import as_numbers
from common.errors import input_error


class Closest(NamedTuple):
    """For every image the index of the most similar reference (the lowest at a tie), and that similarity."""

    index: np.ndarray
    value: np.ndarray


def unit_vectors(vectors: jax.Array, *, remove_mean: bool = True) -> jax.Array:
    """Scales `[..., D]` to norm 1 after removing each vector's mean; a constant vector (or zero) becomes zero."""
    vectors = jnp.asarray(as_numbers(vectors, "vectors"))
    size = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    if remove_mean:
        vectors = vectors - vectors.mean(-1, keepdims=True)
    norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    # What rounding leaves of a constant image has a direction, but it means nothing.
    flat = norm <= 16 * jnp.finfo(vectors.dtype).eps * size
    return jnp.where(flat, 0, vectors / jnp.where(flat, 1, norm))


def correlation(images: jax.Array, references: jax.Array, *, remove_mean: bool = True) -> jax.Array:
    """Returns the matrix `[N, M]` of correlations of `images [N, ...]` with `references [M, ...]`.

    Each image's mean over pixels and channels is removed, unless `remove_mean` is false (then it is the cosine).
    """
    images, references = as_numbers(images, "images"), as_numbers(references, "references")
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
    images, others = (jnp.asarray(as_numbers(x, name)) for x, name in ((images, "images"), (others, "others")))
    return jnp.sqrt(jnp.square(images - others).mean(tuple(range(1, images.ndim))))


def closest(
    images: jax.Array,
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
    images = as_numbers(images, "images")
    images = images if feature is None else feature(jnp.asarray(images))
    index, value = _no_best(len(images))
    for start, part in _blocks(references, block):
        part = part if feature is None else feature(jnp.asarray(part))
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


def closest_patches(images: jax.Array, references: np.ndarray, *, size: int, stride: int, block: int = 1024) -> Closest:
    """Finds for each patch of `images [N, H, W, C]` the reference most correlated at that place; fields `[N, P]`."""
    images = as_numbers(images, "images")
    index, value = None, None
    for start, part in _blocks(references, block):
        similarity = np.asarray(_patch_correlation(images, part, size=size, stride=stride))
        if index is None:
            index, value = _no_best(similarity.shape[:-1])
        index, value = _better(index, value, start, similarity)
    return Closest(index, value)


def one_origin(index: np.ndarray) -> np.ndarray:
    """Tells which images have all their patches from one reference: `[N, P] -> [N]` booleans; the rest recombine."""
    return (index == index[:, :1]).all(1)


def _blocks(references: np.ndarray, block: int) -> Iterator[tuple[int, np.ndarray]]:
    count = len(references)
    for start in range(0, count, block):
        # The last block reaches back instead of being shorter, so that all have one shape and compile once.
        start = min(start, max(count - block, 0))
        yield start, as_numbers(references[start : start + block], "references")


def _no_best(shape):
    return np.zeros(shape, np.int64), np.full(shape, -np.inf)


def _better(index, value, start, similarity):
    best = similarity.argmax(-1)
    found = np.take_along_axis(similarity, best[..., None], -1)[..., 0]
    better = found > value
    return np.where(better, start + best, index), np.where(better, found, value)
