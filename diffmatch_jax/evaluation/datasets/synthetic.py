"""Warps of photographs that were not trained on: exact flow at every pixel, as many pairs as wanted."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from common.data.source import digest
from common.errors import input_error
from diffmatch_jax.data.warps import KINDS, Warps, make_pair
from diffmatch_jax.evaluation.datasets.record import Dataset, Example, make


def warps(
    photographs: Sequence[np.ndarray],
    *,
    count: int = 32,
    size: int = 256,
    settings: Warps | None = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
    name: str = "warps",
) -> Dataset:
    """Returns `count` pairs of `size` x `size` pixels from photographs `[H, W, 3]` (bytes), one after another.

    Pair i depends on the seed, i and its photograph alone; groups are the kinds of warps in turn, homography, affine
    map, spline (as `settings.shares` has them: kinds of share 0 are left out). Raises `InputError` for impossible
    numbers.
    """
    settings = settings or Warps()
    if count < 1 or size < 8:
        got = f"{count} of {size}"
        raise input_error("warps", expected="at least 1 pair of at least 8 pixels", got=got, fix="use 32 of 256")
    if not len(photographs):
        raise input_error("warps", expected="at least one photograph", got="none", fix="check the data")
    kinds = [i for i, share in enumerate(settings.shares) if share > 0]
    of_pair = [kinds[i % len(kinds)] for i in range(count)]
    labels = names or [str(i) for i in range(len(photographs))]
    draw = _drawing(size, settings)

    def load(index: int) -> Example:
        image = np.asarray(photographs[index % len(photographs)])
        # Padded to one size for all, so that all photographs share a program.
        padded = np.zeros((*largest, 3), np.uint8)
        padded[: image.shape[0], : image.shape[1]] = image
        key = jax.random.fold_in(jax.random.key(seed), index)
        pair = draw(key, padded, np.asarray(image.shape[:2], np.int32), of_pair[index])
        source, target = (np.round(np.asarray(each) * 255).astype(np.uint8) for each in (pair.source, pair.target))
        return Example(entries[index][0], source, target, np.asarray(pair.flow), np.asarray(pair.mask))

    largest = np.max([each.shape[:2] for each in photographs], axis=0)
    entries = [(f"{labels[i % len(labels)]}/{i}", KINDS[of_pair[i]]) for i in range(count)]
    return make(name, entries, load, content=[digest(*photographs), settings, size, seed])


@functools.cache
def _drawing(size: int, settings: Warps):
    """Returns the compiled drawing of one pair; windows are larger than most pairs, so two positions a side."""

    def draw(key, image, extent, kind):
        return make_pair(key, image, extent, size=size, settings=settings, supersample=2, kind=kind)

    return jax.jit(draw)
