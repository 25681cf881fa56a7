"""A flow made finer without weights: matches near where it leads, on the maps of the second stage.

A cell of those maps has few features, so that many places look alike. With the flow that is known the neighbours' looks
can be added up, and the best place of their sum is found between cells; `diffmatch_jax.fitting` goes through those.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffmatch_jax import correlation, fitting
from diffmatch_jax.matching import mapping_of, to_pixels
from diffmatch_jax.resize import resize_normalised

WINDOW = 2.0  # cells of the fine maps around a place whose looks are added up, one deviation
SEEN = 0.3  # fraction of a window that must lie inside the source
AROUND = 2.0  # places around, one deviation, through whose matches the fit goes


class Refined(NamedTuple):
    """A finer flow, normalised `[B, H, W, 2]`, and what its last round of matches says at `[B, h, w, ...]` places.

    away: from the fit to the matches `[B, h, w, 2]`, in cells of the fine maps; weight: 1 where the best of the looks
    is inside of what was looked at, else 0.
    """

    flow: jax.Array
    away: jax.Array
    weight: jax.Array


def refine(
    source: jax.Array,
    target: jax.Array,
    flow: jax.Array,
    *,
    places: tuple[int, int],
    radius: int = 4,
    rounds: int = 1,
    masks: tuple[jax.Array, jax.Array] | None = None,
) -> Refined:
    """Refines a normalised flow, on any grid, by maps `[B, H, W, C]`; matches are sought at `places` (rows, columns).

    In each of the `rounds`, 1 or more: the cosines `radius` cells around are averaged over a Gaussian window, their
    peak is taken between cells, and the robust fit to the peaks is added to the flow. `masks [B, H, W]` of source and
    target say which cells count (None: all).
    """
    size = target.shape[1:3]
    flow = resize_normalised(flow, size)
    windows = [jnp.asarray(_windows(n, length), target.dtype) for n, length in zip(places, size, strict=True)]
    scale = jnp.asarray([size[1], size[0]], flow.dtype)

    def seen(positions):
        if masks is None:
            return _inside(positions, source.shape[1:3], radius)
        # A mask has one channel, whose cosine is 1 inside.
        of_source, of_target = (mask[..., None] for mask in masks)
        return correlation.local_features(of_source, of_target, positions, radius=radius)

    def around(_, found: Refined) -> Refined:
        looks = correlation.local_features(source, target, mapping_of(to_pixels(found.flow)), radius=radius)
        # Cosines of places outside the source are 0 and would draw the peak inwards: the mean is of what lies inside.
        inside = seen(mapping_of(to_pixels(found.flow)))
        looks, part = (jnp.einsum("yh,xw,bhwc->byxc", *windows, x, precision="highest") for x in (looks, inside))
        looks = jnp.where(part > SEEN, looks / jnp.maximum(part, SEEN), -1)
        peak = correlation.peak(looks, radius=radius)
        weight = peak.inside.astype(flow.dtype)
        fitted = fitting.fit(peak.offset, weight, sigma=AROUND)
        return Refined(found.flow + resize_normalised(fitted, size) / scale, peak.offset - fitted, weight)

    at_places = jnp.zeros((flow.shape[0], *places), flow.dtype)
    start = Refined(flow, jnp.stack([at_places, at_places], -1), at_places)
    return lax.fori_loop(0, rounds, around, start)


def _inside(positions: jax.Array, size: tuple[int, int], radius: int) -> jax.Array:
    """Returns which part of each look lies inside the source, `[B, h, w, (2 radius + 1)^2]` as in `correlation.local`.

    1 inside, 0 outside, linear within the cell around the border, as a bilinear look-up of ones has it.
    """
    steps = jnp.arange(-radius, radius + 1, dtype=positions.dtype)
    columns, rows = (
        jnp.clip(1 + jnp.minimum(place, length - 1 - place), 0, 1)
        for place, length in ((positions[..., i, None] + steps, size[1 - i]) for i in (0, 1))
    )
    return (columns[..., :, None] * rows[..., None, :]).reshape(*positions.shape[:-1], -1)


def _windows(places: int, length: int) -> np.ndarray:
    """Returns Gaussian weights of the cells of one axis around the middles of equal parts, `[places, length]`."""
    middles = (np.arange(places) + 0.5) * length / places - 0.5
    weights = np.exp(-0.5 * ((np.arange(length) - middles[:, None]) / WINDOW) ** 2)
    return weights / weights.sum(1, keepdims=True)
