"""How good features are: the flow that the best match of every cell gives, without any network on top.

Measured on warps of held-out photographs, whose truth is exact, with clean pictures and under two corruptions.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common.data.source import Source
from common.method import Evaluation
from diffmatch_jax import contrastive, pairs, photometric
from diffmatch_jax.correlation import descriptor, search
from diffmatch_jax.features import Pyramid, prepared, stage1_maps
from diffmatch_jax.metrics import aggregate, measure
from diffmatch_jax.pairs import Pair, Warps
from diffmatch_jax.resize import resize_flow

# Clean pictures, and two corruptions at their worst severity in ImageNet-C.
NOISE, CONTRAST = 0.38, 0.05
CONDITIONS = ("clean", "noise", "contrast")

_WAVE = 8  # pairs at once


def held_out_pairs(key: jax.Array, source: Source, *, num: int, size: int, settings: Warps) -> Pair:
    """Returns `num` pairs of `size` x `size` pixels of images evenly spread over a source of padded ones, unchanged."""
    chosen = [i * len(source) // num for i in range(num)] if num < len(source) else np.arange(num) % len(source)
    make = _make(size, settings)
    found = []
    for start in range(0, num, _WAVE):
        numbers = np.minimum(np.arange(start, start + _WAVE), num - 1)  # the last wave repeats, for one program
        shown = source.read([int(chosen[i]) for i in numbers])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(numbers))
        pair = make(keys, jnp.asarray(shown["image"]), jnp.asarray(shown["size"]))
        found.append(jax.device_get(pair))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:num], *found)


@functools.cache
def _make(size: int, settings: Warps) -> Callable[..., Pair]:
    def one(key, image, extent):
        return pairs.make_pair(key, image, extent, size=size, settings=settings)

    return jax.jit(jax.vmap(one))


def found_flow(pyramid: Pyramid, pair: Pair, *, fine: int, coarse: int):
    """Returns the winner-take-all flow `[B, h, w, 2]` of pairs, its score `[B, h, w]`, the truth and where it is known.

    One flow for each of the fine / 8 cells a side, in pixels of the fine image; so is the truth, at the cells' centres.
    """
    parts = []
    for start in range(0, len(pair.source), _WAVE):
        part = jax.tree.map(lambda x, start=start: x[start : start + _WAVE], pair)
        parts.append(jax.device_get(_winners(pyramid, part.source, part.target, part.flow, fine=fine, coarse=coarse)))
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))


@functools.partial(jax.jit, static_argnames=("fine", "coarse"))
def _winners(pyramid, source, target, truth, *, fine, coarse):
    cells = (fine // 8, fine // 8)
    both = prepared(jnp.concatenate([source, target]), fine=fine, coarse=coarse)
    descriptors = descriptor(stage1_maps(pyramid, both), cells)
    first, second = jnp.split(descriptors, 2)
    found = search(first, second, radius=0)
    _, known = contrastive.cells(truth, cells)
    return found.flow * 8, found.scores[..., 0], resize_flow(truth, cells) * 8, known


def evaluate(pyramids: Mapping[str, Pyramid], key: jax.Array, pair: Pair, *, fine: int, coarse: int) -> Evaluation:
    """Measures winner-take-all flow of pairs by several pyramids: AEPE and PCK in pixels at the centres of cells.

    "noise" adds Gaussian noise of deviation 0.38 to both pictures, "contrast" keeps 0.05 of their contrast; both are
    rounded to bytes. Arrays: the errors of every cell, no number where it is not known.
    """
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for condition in CONDITIONS:
        changed = corrupted(key, pair, condition)
        for name, pyramid in pyramids.items():
            flow, _, truth, known = found_flow(pyramid, changed, fine=fine, coarse=coarse)
            total = aggregate([measure(*each) for each in zip(flow, truth, known, strict=True)])
            shares = {f"pck_{each}": total[f"pck_{each}_per_image"] for each in (1, 3, 5)}
            rows.append({"features": name, "pictures": condition, "aepe": total["aepe"], **shares})
            error = np.linalg.norm(flow - truth, axis=-1).astype(np.float32)
            arrays[f"error.{name}.{condition}"] = np.where(known, error, np.nan)
    return Evaluation({"table": rows, "pairs": len(pair.source)}, arrays)


def corrupted(key: jax.Array, pair: Pair, condition: str) -> Pair:
    """Returns pairs whose two pictures are as `evaluate` says."""
    if condition == "clean":
        return pair
    both = jnp.stack([pair.source, pair.target])
    if condition == "noise":
        both = jnp.clip(both, 0, 1) + NOISE * jax.random.normal(key, both.shape)
    else:
        both = photometric.contrasted(both, CONTRAST)
    source, target = np.asarray(photometric.as_bytes(both))
    return pair._replace(source=source, target=target)
