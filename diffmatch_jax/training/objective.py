"""Losses of predicted flow: per sample, on valid pixels of the full-resolution truth, squared or robust.

Flow is normalised (1 is a full image), so that prediction and truth may be on different grids.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from common.errors import choice, input_error
from diffmatch_jax.model.resize import resize_normalised

PENALTIES = ("squared", "charbonnier")


class Totals(NamedTuple):
    """A penalty's sum over the valid pixels of each sample, `total [B]`, and the weight of these, `count [B]`."""

    total: jax.Array
    count: jax.Array


def totals(
    prediction: jax.Array,
    truth: jax.Array,
    mask: jax.Array,
    *,
    penalty: str = "squared",
    scale: float = 1.0,
    epsilon: float | jax.Array = 0.01,
    alignment: str = "half_pixel",
) -> Totals:
    """Returns the sums of penalty(|prediction - truth| / scale) over valid pixels.

    prediction `[B, h, w, 2]` is brought to the grid of `truth [B, H, W, 2]` and `mask [B, H, W]` (0 to 1). "squared" is
    r^2, "charbonnier" sqrt(r^2 + epsilon^2) - epsilon. With alignment="corner" the truth may be coarser than the
    mask too and both are resized so; elsewhere it has the mask's resolution. Invalid truth may be anything.
    """
    choice("penalty", penalty, PENALTIES)
    size = mask.shape[1:3]
    if alignment == "half_pixel" and truth.shape[1:3] != size:
        fix = "do not resize the truth; resize.average_flow gives a coarse one with its mask"
        raise input_error("truth", expected=f"the mask's size {list(size)}", got=list(truth.shape[1:3]), fix=fix)
    prediction, truth = (
        each if each.shape[1:3] == size else resize_normalised(each, size, alignment=alignment)
        for each in (prediction, truth)
    )
    weight = mask.astype(prediction.dtype)
    # Not multiplied by 0: truth that is infinite there would give no number, here or in the gradient.
    away = jnp.where(mask[..., None] > 0, prediction - jnp.where(mask[..., None] > 0, truth, 0), 0) / scale
    value = (away**2).sum(-1)
    if penalty == "charbonnier":
        value = jnp.sqrt(value + epsilon**2) - epsilon
    return Totals((value * weight).sum((1, 2)), weight.sum((1, 2)))


def per_sample(sums: Totals) -> jax.Array:
    """Returns each sample's mean over its valid pixels, `[B]`; 0 without any."""
    return jnp.where(sums.count > 0, sums.total / jnp.where(sums.count > 0, sums.count, 1), 0)


def surprise(error: jax.Array, deviation: jax.Array, weight: jax.Array) -> Totals:
    """Returns the sums of -log p, up to a constant, of errors `[B, h, w, 2]` that count by `weight [B, h, w]`.

    -log p = k |e| / d + 2 log d, a Laplace law in the plane; with k = sqrt(8 / pi) the best `deviation [B, h, w, 1]` d
    is that of a Gaussian with the same mean of |e|, sqrt(pi / 2) d.
    """
    # Not multiplied by 0, as above.
    squared = jnp.where(weight[..., None] > 0, error, 0) ** 2
    length, deviation = jnp.sqrt(squared.sum(-1) + 1e-6), deviation[..., 0]
    each = math.sqrt(8 / math.pi) * length / deviation + 2 * jnp.log(deviation)
    return Totals((each * weight).sum((1, 2)), weight.sum((1, 2)))


def pooled(sums: Totals) -> jax.Array:
    """Returns the mean over the valid pixels of the whole batch, `[]`: the released loss, heavier on larger masks."""
    return sums.total.sum() / jnp.maximum(sums.count.sum(), 1e-12)
