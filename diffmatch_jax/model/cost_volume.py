"""The cost volume: cosines between all cells of two images' features, and what the two stages take from it.

The average of the cosines of several maps is one inner product: each cell's vectors, brought to length 1 / sqrt(n) and
put behind each other, are its descriptor. So no level needs a separate volume, and a block of target rows at a time
gives winners and look-ups without the whole one (`search`). Volumes have the target's cells first,
`[..., Ht, Wt, Hs, Ws]`; positions are (x, y) in cells of the source.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from common.errors import input_error
from diffmatch_jax.model.flow import flow_of
from diffmatch_jax.model.resize import resize

EPSILON = 1e-5


def unit(features: jax.Array) -> jax.Array:
    """Returns vectors `[..., C]` divided by (their length + 1e-5); a zero vector stays zero, also in the gradient."""
    squared = (features**2).sum(-1, keepdims=True)
    length = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
    return features / (length + EPSILON)


def descriptor(maps: Sequence[jax.Array], size: tuple[int, ...], *, alignment: str = "half_pixel") -> jax.Array:
    """Returns maps `[B, H_i, W_i, C_i]` as one `[B, h, w, sum C_i]` whose inner products are average cosines.

    Each map is resized first, with that `alignment` (see `model.resize`).
    """
    parts = [unit(resize(each, size, alignment=alignment)) for each in maps]
    return jnp.concatenate(parts, -1) / math.sqrt(len(parts))


def volume(source: jax.Array, target: jax.Array) -> jax.Array:
    """Returns all inner products of descriptors, `[B, Hs, Ws, C]`, `[B, Ht, Wt, C]` -> `[B, Ht, Wt, Hs, Ws]`."""
    return jnp.einsum("bijc,byxc->byxij", source, target, precision="highest")


def winner_take_all(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the best source position `[..., 2]` of each target cell of a volume, and its score `[...]`.

    Of equal scores the first in row-major order wins.
    """
    flat = scores.reshape(*scores.shape[:-2], -1)
    return _position(flat.argmax(-1), scores), flat.max(-1)


def top_k(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Returns the `k` best source positions `[..., k, 2]` of each target cell, best first, and scores `[..., k]`."""
    count = scores.shape[-2] * scores.shape[-1]
    if not 1 <= k <= count:
        raise input_error("k", expected=f"1 to {count}, the cells of the source", got=k, fix="ask for fewer")
    best, index = lax.top_k(scores.reshape(*scores.shape[:-2], -1), k)
    return _position(index, scores), best


def _position(index: jax.Array, scores: jax.Array) -> jax.Array:
    y, x = jnp.divmod(index, scores.shape[-1])
    return jnp.stack([x, y], -1).astype(scores.dtype)


def local(scores: jax.Array, positions: jax.Array, *, radius: int = 4) -> jax.Array:
    """Returns scores at `positions [..., 2] + (dx, dy)` in each target cell's own map, `[..., (2 radius + 1)^2]`.

    Bilinear, zero outside the source. Channel k has dx = k // n - radius and dy = k % n - radius, n = 2 radius + 1:
    the x offset is the slow one. Two products with hat functions, which need no gather.
    """
    columns = _hats(positions[..., 0], scores.shape[-1], radius)
    rows = _hats(positions[..., 1], scores.shape[-2], radius)
    part = jnp.einsum("...ki,...ij->...kj", rows, scores, precision="highest")
    patch = jnp.einsum("...mj,...kj->...mk", columns, part, precision="highest")
    return patch.reshape(*positions.shape[:-1], -1)


def _hats(place: jax.Array, length: int, radius: int) -> jax.Array:
    """Returns bilinear weights `[..., 2 radius + 1, length]` of the cells at place - radius, ..., place + radius."""
    wanted = place[..., None, None] + jnp.arange(-radius, radius + 1, dtype=place.dtype)[:, None]
    return jnp.maximum(0, 1 - jnp.abs(wanted - jnp.arange(length, dtype=place.dtype)))


class Found(NamedTuple):
    """Statistics of a cost volume for each target cell; `[B, Ht, Wt, ...]`.

    positions: the k best in the source `[..., k, 2]`, best first; flow: from the cell to the chosen one `[..., 2]`, in
    cells; local: scores around it `[..., (2 radius + 1)^2]`; scores: of the k best `[..., k]`.
    """

    positions: jax.Array
    flow: jax.Array
    local: jax.Array
    scores: jax.Array


def search(
    source: jax.Array,
    target: jax.Array,
    *,
    k: int = 1,
    radius: int = 4,
    rows: int = 8,
) -> Found:
    """Finds matches between descriptors `[B, Hs, Ws, C]` and `[B, Ht, Wt, C]` without storing their cost volume.

    `flow` goes to the winner. At most about `rows` target rows are worked on at once (the largest divisor of their
    number), for all pairs of the batch.
    """
    height, width = target.shape[1:3]
    if source.shape[0] != target.shape[0] or source.shape[-1] != target.shape[-1]:
        got = f"{list(source.shape)} and {list(target.shape)}"
        raise input_error(
            "descriptors", expected="as many pairs and channels on both sides", got=got, fix="use one pyramid"
        )

    def block(part: jax.Array) -> tuple:
        scores = volume(source, part)
        if k == 1:
            best, score = winner_take_all(scores)
            positions, best_scores = best[..., None, :], score[..., None]
        else:
            positions, best_scores = top_k(scores, k)
            best = positions[..., 0, :]
        return positions, best, local(scores, best, radius=radius), best_scores

    positions, best, around, scores = _in_rows(block, divisor(height, rows), target)
    return Found(positions, flow_of(best), around, scores)


class LookedUp(NamedTuple):
    """Statistics of a cost volume around given positions; `[B, Ht, Wt, ...]`.

    local: scores around them `[..., (2 radius + 1)^2]`; wide: the same of the largest scores in squares of cells, None
    if not asked for; score: the largest of all `[...]`; share: of softmax(scores / temperature) that lies in the patch.
    """

    local: jax.Array
    wide: Any  # an array or None
    score: jax.Array
    share: jax.Array


def look_up(
    source: jax.Array,
    target: jax.Array,
    positions: jax.Array,
    *,
    radius: int = 4,
    wide: int = 0,
    temperature: float = 0.02,
    rows: int = 8,
) -> LookedUp:
    """Looks up scores of descriptors `[B, Hs, Ws, C]` and `[B, Ht, Wt, C]` around positions `[B, Ht, Wt, 2]`.

    `wide` cells a side, a divisor of the source's sides, make the squares of the wide patch, which so reaches
    wide * radius cells; 0 leaves it out. Memory is as in `search`.
    """
    if wide and any(length % wide for length in source.shape[1:3]):
        got = f"{wide} for {source.shape[1]} x {source.shape[2]} cells"
        raise input_error("wide", expected="a divisor of the source's sides", got=got, fix="use 4, or 0 for none")

    def block(part: jax.Array, place: jax.Array) -> LookedUp:
        scores = volume(source, part)
        around = None
        if wide:
            largest = scores.reshape(*scores.shape[:3], scores.shape[3] // wide, wide, -1, wide).max((-3, -1))
            around = local(largest, (place + 0.5) / wide - 0.5, radius=radius)
        weights = jax.nn.softmax(scores.reshape(*scores.shape[:3], -1) / temperature, axis=-1).reshape(scores.shape)
        near = [_hats(place[..., i], scores.shape[4 - i], radius).sum(-2) for i in (0, 1)]
        share = jnp.einsum("...ij,...i,...j->...", weights, near[1], near[0], precision="highest")
        return LookedUp(local(scores, place, radius=radius), around, scores.max((-2, -1)), share)

    return _in_rows(block, divisor(target.shape[1], rows), target, positions)


def margin(source: jax.Array, target: jax.Array, positions: jax.Array, *, apart: float, rows: int = 8) -> jax.Array:
    """Returns the best score near positions less the best of all other places, `[B, Ht, Wt]`.

    Arguments as of `look_up`; near are cells less than `apart` from the position in x and in y. -1 counts where there
    are none.
    """

    def block(part: jax.Array, place: jax.Array) -> jax.Array:
        scores = volume(source, part)
        columns, rows = (
            jnp.abs(place[..., i, None] - jnp.arange(scores.shape[4 - i], dtype=place.dtype)) < apart for i in (0, 1)
        )
        near = rows[..., :, None] & columns[..., None, :]
        own, other = (jnp.where(mask, scores, -1).max((-2, -1)) for mask in (near, ~near))
        return own - other

    return _in_rows(block, divisor(target.shape[1], rows), target, positions)


def divisor(number: int, most: int) -> int:
    """Returns the largest divisor of `number` that is at most `most`."""
    return max(each for each in range(1, max(min(number, most), 1) + 1) if number % each == 0)


def _in_rows(function, rows: int, *arrays: jax.Array):
    """Applies a function of arrays `[B, rows, ...]` to blocks of rows of `[B, H, ...]` one after another."""
    count = arrays[0].shape[1] // rows
    if count == 1:
        return function(*arrays)

    def blocks(x):
        return jnp.moveaxis(x.reshape(x.shape[0], count, rows, *x.shape[2:]), 1, 0)

    def together(x):
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], count * rows, *x.shape[3:])

    return jax.tree.map(together, lax.map(lambda each: function(*each), tuple(map(blocks, arrays))))


def local_features(
    source: jax.Array,
    target: jax.Array,
    positions: jax.Array,
    *,
    radius: int = 4,
    rows: int = 4,
) -> jax.Array:
    """Returns cosines of target features and source features around positions, `[B, Ht, Wt, (2 radius + 1)^2]`.

    source `[B, Hs, Ws, C]`, target `[B, Ht, Wt, C]`, positions `[B, Ht, Wt, 2]` in cells of the source; channels are
    ordered as in `local`, outside the source is zero. Vectors are normalised before they are interpolated, so that the
    cosine fades at the border.
    """

    def cosines(neighbours: jax.Array, part: jax.Array, fraction: jax.Array) -> jax.Array:
        products = jnp.einsum("bhwijc,bhwc->bhwij", neighbours, part, precision="highest")
        return interpolate(products[..., None], fraction)[..., 0]

    return compare_around(unit(source), unit(target), positions, cosines, radius=radius, rows=rows)


def compare_around(
    source: jax.Array,
    target: jax.Array,
    positions: jax.Array,
    compare: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    *,
    radius: int,
    rows: int,
) -> jax.Array:
    """Returns the scores of `compare` for target cells and source cells around positions, `[B, Ht, Wt, (2 r + 1)^2]`.

    compare: (neighbours `[B, h, w, 2 r + 2, 2 r + 2, C]`, cells `[B, h, w, C]`, fraction `[B, h, w, 2]` of the position
    between cells) -> `[B, h, w, 2 r + 1, 2 r + 1]`. Each cell's neighbours are read once, for about `rows` rows of the
    target at a time.
    """
    size, pad = 2 * radius + 2, 2 * radius + 2
    height, width = source.shape[1:3]
    padded = jnp.pad(source, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    last = jnp.asarray([width + pad, height + pad])

    def windows(image: jax.Array, starts: jax.Array) -> jax.Array:
        def one(start):
            return lax.dynamic_slice(image, (start[1], start[0], 0), (size, size, image.shape[-1]))

        return jax.vmap(jax.vmap(one))(starts)

    def block(part: jax.Array, place: jax.Array) -> jax.Array:
        below = jnp.floor(place)
        fraction = place - below
        # Compared as floating point: positions may be too far away for integers.
        starts = jnp.clip(below + (pad - radius), 0, last).astype(jnp.int32)
        neighbours = jax.vmap(windows)(padded, starts)
        values = compare(neighbours, part, fraction)
        return values.swapaxes(-1, -2).reshape(*place.shape[:-1], -1)

    return _in_rows(block, divisor(target.shape[1], rows), target, positions)


class Peak(NamedTuple):
    """Of patches `[..., (2 radius + 1)^2]`: the `offset [..., 2]` of the largest score, and whether it is `inside`.

    It is inside if none of the patch's border is as large, `[...]`; offsets are (x, y) in cells from the middle.
    """

    offset: jax.Array
    inside: jax.Array


def peak(patches: jax.Array, *, radius: int) -> Peak:
    """Returns the peaks of patches with channels as in `local`, between cells by a parabola along each axis."""
    side = 2 * radius + 1
    best = patches.argmax(-1)
    x, y = jnp.divmod(best, side)

    def beside(dx: int, dy: int) -> jax.Array:
        index = jnp.clip(x + dx, 0, side - 1) * side + jnp.clip(y + dy, 0, side - 1)
        return jnp.take_along_axis(patches, index[..., None], -1)[..., 0]

    top = beside(0, 0)

    def between(before: jax.Array, after: jax.Array) -> jax.Array:
        bend = before - 2 * top + after
        return jnp.where(bend < 0, jnp.clip(0.5 * (before - after) / jnp.where(bend < 0, bend, 1), -0.5, 0.5), 0)

    inside = (x > 0) & (x < side - 1) & (y > 0) & (y < side - 1)
    part = jnp.stack([between(beside(-1, 0), beside(1, 0)), between(beside(0, -1), beside(0, 1))], -1)
    part = jnp.where(inside[..., None], part, 0)
    return Peak(jnp.stack([x, y], -1) - radius + part, inside)


def interpolate(values: jax.Array, fraction: jax.Array) -> jax.Array:
    """Interpolates `[..., n, n, C]` at the same `fraction [..., 2]` of every cell, `[..., n - 1, n - 1, C]`."""
    x, y = fraction[..., 0, None, None, None], fraction[..., 1, None, None, None]
    values = values[..., :-1, :, :] * (1 - y) + values[..., 1:, :, :] * y
    return values[..., :-1, :] * (1 - x) + values[..., 1:, :] * x
