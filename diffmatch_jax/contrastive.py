"""Dense contrastive learning of features from pairs of known flow.

Each cell of the target's map has one true place in the source's, between four cells. The loss is the cross entropy of a
softmax over all cells of the source, of cosines divided by a temperature, with the bilinear weights of that place as
the truth (InfoNCE, van den Oord et al., 2018, equation 4, with soft positives).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffmatch_jax.correlation import unit, volume, winner
from diffmatch_jax.matching import mapping_of, sample, within
from diffmatch_jax.resize import resize_flow


class Matched(NamedTuple):
    """The loss of each pair `[B]`, mean over the cells that count, and the share of these found within one cell."""

    loss: jax.Array
    found: jax.Array


def matched(
    source: jax.Array, target: jax.Array, positions: jax.Array, mask: jax.Array, *, temperature: jax.Array | float
) -> Matched:
    """Returns the loss of maps `source [B, Hs, Ws, C]` and `target [B, Ht, Wt, C]`, of any scale.

    positions `[B, Ht, Wt, 2]`: of each target cell, in cells of the source; mask `[B, Ht, Wt]` says which count.
    """
    source, target = unit(source), unit(target)
    cosines = volume(source, target)
    flat = cosines.reshape(*cosines.shape[:3], -1)
    # Sum of the truth's weights times cosines: one inner product with the interpolated source.
    true = (target * sample(source, positions, outside="border")).sum(-1)
    entropy = jax.nn.logsumexp(flat / temperature, axis=-1) - true / temperature
    best, _ = winner(jax.lax.stop_gradient(cosines))
    near = (jnp.abs(best - positions) <= 1).all(-1)
    return Matched(_mean(entropy, mask), _mean(near, mask))


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the mean over cells where `mask`, `[B]`; 0 without any."""
    return jnp.where(mask, values, 0).sum((1, 2)) / jnp.maximum(mask.sum((1, 2)), 1)


def cells(flow: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Returns where the cells of a map of `size` lie in the source's map, `[B, h, w, 2]`, and which end within it.

    `flow [B, H, W, 2]` in pixels is taken at the cells' centres, which for even strides is between pixels.
    """
    positions = mapping_of(resize_flow(flow, size))
    # From edge to edge of the image, half a cell beyond the outermost centres.
    return positions, within(positions + 0.5, (size[0] + 1, size[1] + 1))


def loss(sources, targets, flow: jax.Array, temperatures: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the mean loss `[B]` over maps (a sequence for the sources, one for the targets), and means of it by map.

    flow `[B, H, W, 2]` in pixels of the images that the maps are of; `temperatures [number of maps]`. The metrics
    `found_S` and `loss_S` are of the map of stride S.
    """
    total, metrics = [], {}
    for source, target, temperature in zip(sources, targets, temperatures, strict=True):
        positions, mask = cells(flow, target.shape[1:3])
        one = matched(source, target, positions, mask, temperature=temperature)
        stride = math.ceil(flow.shape[1] / target.shape[1])
        metrics |= {f"loss_{stride}": one.loss.mean(), f"found_{stride}": one.found.mean()}
        total.append(one.loss)
    return sum(total) / len(total), metrics
