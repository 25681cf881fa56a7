"""Pairs whose every pixel has a known state: layered scenes with their regions, and photographs that share nothing."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common.data import images
from common.data.source import digest
from common.errors import input_error
from diffmatch_jax.data.layered import KINDS, LayeredConfig, pair, scene
from diffmatch_jax.evaluation.datasets.record import Dataset, Example, Regions, make

NUM_SEEDS = 3  # that a data set has, one after another, as groups of its table


def layered(
    photographs: Sequence[np.ndarray],
    *,
    count: int = 72,
    size: int = 256,
    settings: LayeredConfig | None = None,
    seed: int = 0,
    name: str = "layered",
) -> Dataset:
    """Returns `count` scenes of `size` x `size` pixels made of photographs `[H, W, 3]` (bytes).

    Seeds `seed`, `seed` + 1 and `seed` + 2 take turns and are the groups; of each seed the kinds of scenes do. Flow is
    known everywhere, the mask is what both views show. Raises `InputError` for impossible numbers.
    """
    settings = settings or LayeredConfig()
    if count < 1 or size < 64:
        got = f"{count} of {size}"
        raise input_error("layered", expected="at least 1 pair of at least 64 pixels", got=got, fix="use 72 of 256")
    of_pair = [(seed + k % NUM_SEEDS, k // NUM_SEEDS) for k in range(count)]
    entries = [(f"{KINDS[i % len(KINDS)]}/{own}-{i}", f"seed {own}") for own, i in of_pair]

    def load(index: int) -> Example:
        own, i = of_pair[index]
        made = pair(scene(photographs, seed=own, index=i, size=size, settings=settings), settings=settings)
        visible = made.covisible & ~made.ambiguous & ~made.flat
        masks = {
            "visible": visible,
            "edges": visible & made.edges,
            "moving": visible & made.moving,
            "ambiguous": made.ambiguous,
            "flat": made.flat,
            "occluded": made.occluded,
            "outside": made.outside,
        }
        regions = Regions(masks, made.covisible, made.equal)
        return Example(entries[index][0], made.source, made.target, made.flow, made.covisible, regions=regions)

    return _growing(name, entries, load, content=[digest(*photographs), settings, size, seed])


def unrelated(
    photographs: Sequence[np.ndarray], *, count: int | None = None, size: int = 256, name: str = "unrelated"
) -> Dataset:
    """Returns pairs of one photograph and the next, the central squares of both at `size` pixels: none has a match.

    `count`: the first so many, all by default. Raises `InputError` for fewer than 2 photographs.
    """
    if len(photographs) < 2:
        got = len(photographs)
        raise input_error(name, expected="at least 2 photographs", got=got, fix="name a larger data source")
    count = min(count or len(photographs), len(photographs))

    def square(index: int) -> np.ndarray:
        return images.resize(images.central_square(np.asarray(photographs[index % len(photographs)])), size)

    def load(index: int) -> Example:
        nowhere = np.zeros((size, size), bool)
        regions = Regions({"unrelated": ~nowhere}, nowhere, np.zeros((0, size, size, 2), np.float32))
        nothing = np.zeros((size, size, 2), np.float32)
        return Example(str(index), square(index + 1), square(index), nothing, nowhere, regions=regions)

    entries = [(str(index), "all") for index in range(count)]
    return _growing(name, entries, load, content=[digest(*photographs), size])


def _growing(name, entries, load, *, content) -> Dataset:
    """Returns a data set whose fingerprint does not depend on the number of pairs, so that rows serve a larger one."""
    return replace(make(name, entries, load, content=content), fingerprint=digest(name, *content))
