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
    source: jax.Array, target: jax.Array, flow: jax.Array, *, places: tuple[int, int], radius: int = 4, rounds: int = 1
) -> Refined:
    """Refines a normalised flow, on any grid, by maps `[B, H, W, C]`; matches are sought at `places` (rows, columns).

    In each of the `rounds`, 1 or more: the cosines `radius` cells around are averaged over a Gaussian window, their
    peak is taken between cells, and the robust fit to the peaks is added to the flow.
    """
    size = target.shape[1:3]
    flow = resize_normalised(flow, size)
    windows = [jnp.asarray(_windows(n, length), target.dtype) for n, length in zip(places, size, strict=True)]
    scale = jnp.asarray([size[1], size[0]], flow.dtype)

    def around(_, found: Refined) -> Refined:
        looks = correlation.local_features(source, target, mapping_of(to_pixels(found.flow)), radius=radius)
        looks = jnp.einsum("yh,xw,bhwc->byxc", *windows, looks, precision="highest")
        peak = correlation.peak(looks, radius=radius)
        weight = peak.inside.astype(flow.dtype)
        fitted = fitting.fit(peak.offset, weight, sigma=AROUND)
        return Refined(found.flow + resize_normalised(fitted, size) / scale, peak.offset - fitted, weight)

    at_places = jnp.zeros((flow.shape[0], *places), flow.dtype)
    start = Refined(flow, jnp.stack([at_places, at_places], -1), at_places)
    return lax.fori_loop(0, rounds, around, start)


def _windows(places: int, length: int) -> np.ndarray:
    """Returns Gaussian weights of the cells of one axis around the middles of equal parts, `[places, length]`."""
    middles = (np.arange(places) + 0.5) * length / places - 0.5
    weights = np.exp(-0.5 * ((np.arange(length) - middles[:, None]) / WINDOW) ** 2)
    return weights / weights.sum(1, keepdims=True)
