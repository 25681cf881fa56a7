"""A smooth flow through the matches that can be trusted: locally affine, robust against those that cannot.

Neighbouring cells of a scene move alike, wrong matches do not. Around each place the flow that most matches nearby
agree on is found by iteratively reweighted least squares.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffmatch_jax.matching import grid, mapping_of, sample
from diffmatch_jax.resize import resize_normalised
from diffmatch_jax.smoothing import gaussian_matrix

SCALES = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5)  # cells: from nearly any flow to the sampling of the matches
TOLERANCE = 0.6  # cells between a cell and where its match's own match leads, one deviation
AROUND = 2.0  # cells over which distances from the fit are averaged, one deviation
FAR = 8.0  # cells
_FLOOR = 3e-3  # weight of a match that does not come back: where there are no others they count
_RIDGE = 1e-3  # of the neighbourhood's variance, against slopes that few matches decide


def mutual(flow: jax.Array, back: jax.Array) -> jax.Array:
    """Returns exp(-d^2 / 2 s^2), s = 0.6 cells, where d is how far from itself a cell ends that goes there and back.

    `flow [B, h, w, 2]` leads from the target to the source, `back [B, H, W, 2]` from there to the target, in cells.
    """
    away = flow + sample(back, mapping_of(flow), outside="border")
    return jnp.exp(-0.5 * (away**2).sum(-1) / TOLERANCE**2)


def fit(flow: jax.Array, weight: jax.Array, *, sigma: float) -> jax.Array:
    """Returns a smooth flow `[B, h, w, 2]` through matches `flow [B, h, w, 2]`, in cells, that count by `weight`.

    At a place c, of every second row and column of a grid of even sides, and between them by interpolation, it is b of
    the affine map A (x - c) + b that minimises sum_x weight exp(-|x - c|^2 / 2 sigma^2) rho(A (x - c) + b - flow(x))
    with rho(r) = s^2 r^2 / (s^2 + r^2) (Geman & McClure, 1987), reweighted once for each s of `SCALES` in turn.
    """
    height, width = flow.shape[1:3]
    size = tuple(length if length % 2 or length == 2 else length // 2 for length in (height, width))
    cells = grid(height, width).reshape(-1, 2)
    steps = np.asarray([width / size[1], height / size[0]], np.float32)
    centres = (grid(*size).reshape(-1, 2) + 0.5) * steps - 0.5
    near = jnp.exp(-0.5 * ((cells - centres[:, None]) ** 2).sum(-1) / sigma**2)
    ridge = _RIDGE * sigma**2

    def one(flow, weight):
        flow, prior = flow.reshape(-1, 2), near * (weight.reshape(-1) + _FLOOR)
        products = (cells[:, :, None] * jnp.concatenate([cells, flow], -1)[:, None]).reshape(-1, 8)
        table = jnp.concatenate([cells, flow, products], -1)

        def fitted(weights):
            means = jnp.matmul(weights, table, precision="highest") / weights.sum(-1, keepdims=True)
            place, value, second = means[:, :2], means[:, 2:4], means[:, 4:].reshape(-1, 2, 4)
            moments = second - place[:, :, None] * means[:, None, :4]
            a, b, c = moments[:, 0, 0] + ridge, moments[:, 0, 1], moments[:, 1, 1] + ridge
            inverse = jnp.stack([jnp.stack([c, -b], -1), jnp.stack([-b, a], -1)], -2) / (a * c - b * b)[:, None, None]
            slope = inverse @ moments[:, :, 2:]
            return slope, value - jnp.einsum("ni,nij->nj", place, slope)

        weights = prior
        for scale in SCALES:
            slope, start = fitted(weights)
            away = [cells @ slope[:, :, i].T - flow[:, i][:, None] + start[:, i] for i in (0, 1)]
            weights = prior * (scale**2 / (scale**2 + (away[0] ** 2 + away[1] ** 2).T)) ** 2
        slope, start = fitted(weights)
        return jnp.einsum("ni,nij->nj", centres, slope) + start

    return resize_normalised(jax.vmap(one)(flow, weight).reshape(-1, *size, 2), (height, width))


def doubt(away: jax.Array) -> jax.Array:
    """Returns how far matches are from a fit to them, `away [B, h, w, 2]` in cells -> `[B, h, w, 1]`.

    1/4 cell, which they are by being cells, and their mean distance over a few cells, each counted as at most 8.
    """
    length = jnp.minimum(jnp.sqrt((away**2).sum(-1, keepdims=True)), FAR)
    rows, columns = (gaussian_matrix(n, AROUND, reach=4 * AROUND) for n in away.shape[1:3])
    mean = jnp.einsum("yh,xw,bhwc->byxc", rows, columns, length, precision="highest")
    return 0.25 + mean
