"""A smooth flow through the matches that can be trusted: moving least squares, robust against those that cannot.

Neighbouring cells of a scene move alike, wrong matches do not. Around each place the affine flow that most matches
nearby agree on is found by iteratively reweighted least squares with graduated non-convexity; first of nearly the whole
image, then of ever smaller neighbourhoods, each of which departs from the wider one only where its matches ask for it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffmatch_jax.matching import compose, grid
from diffmatch_jax.resize import resize_normalised
from diffmatch_jax.smoothing import gaussian_matrix

WIDTHS = (4.0, 2.83, 2.0, 1.41, 1.0)  # of the neighbourhoods, of the last one's
SCALES = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5)  # cells: from nearly any flow to the sampling of the matches
NARROW = (4.0, 2.0, 1.0, 0.5)  # the same where a wider fit is known
PRIOR = 1.0  # matches for which a wider fit counts
TOLERANCE = 0.6  # cells between a cell and where its match's own match leads, one deviation
AROUND = 2.0  # cells over which distances from the fit are averaged, one deviation
FAR = 8.0  # cells
SMALLEST = 0.25  # cells that matches are from the truth by being cells
_FLOOR = 3e-3  # weight of a match that does not come back: where there are no others they count
_RIDGE = 1e-3  # of the neighbourhood's variance, against slopes that few matches decide


def mutual(flow: jax.Array, back: jax.Array) -> jax.Array:
    """Returns exp(-d^2 / 2 s^2), s = 0.6 cells, where d is how far from itself a cell ends that goes there and back.

    `flow [B, h, w, 2]` leads from the target to the source, `back [B, H, W, 2]` from there to the target, in cells.
    """
    away = compose(flow, back).flow
    return jnp.exp(-0.5 * (away**2).sum(-1) / TOLERANCE**2)


def fit(flow: jax.Array, weight: jax.Array, *, sigma: float) -> jax.Array:
    """Returns a smooth flow `[B, h, w, 2]` through matches `flow [B, h, w, 2]`, in cells, that count by `weight`.

    At a place c it is b of the affine map A (x - c) + b that minimises the sum over cells x of
    (weight + .003) exp(-|x - c|^2 / 2 sigma^2) rho(A (x - c) + b - flow(x)), rho(r) = s^2 r^2 / (s^2 + r^2) (Geman &
    McClure, 1987), with a small ridge on A, reweighted once for each s of `SCALES`. That is done for `WIDTHS` times
    sigma, and from the second width on for what is left of the flow, with one match more that says 0 at c. Places are
    the middles of 2x2 cells where sides are even; between them it is interpolated. `sigma` is at least 1.
    """
    height, width = flow.shape[1:3]
    size = tuple(length if length % 2 or length == 2 else length // 2 for length in (height, width))
    cells = grid(height, width).reshape(-1, 2)
    steps = np.asarray([width / size[1], height / size[0]], np.float32)
    # From each place to each cell: in positions from a corner the moments would cancel to the last digits.
    away = cells - ((grid(*size).reshape(-1, 1, 2) + 0.5) * steps - 0.5)
    squared = (away**2).sum(-1)

    def one(pair):
        flow, weight = (each.reshape(-1, each.shape[-1]) for each in pair)

        def refitted(known, factor, scales, mass):
            """Returns a known flow of the cells with what affine maps through the rest of the matches add to it."""
            radius = factor * sigma
            prior = jnp.exp(-0.5 * squared / radius**2) * (weight[:, 0] + _FLOOR)
            places = _affine(flow - known, away, prior, scales, mass=mass, ridge=_RIDGE * radius**2)
            return known + resize_normalised(places.reshape(*size, 2), (height, width)).reshape(-1, 2)

        known = refitted(jnp.zeros_like(flow), WIDTHS[0], SCALES, 0.0)
        narrower = jnp.asarray(WIDTHS[1:], flow.dtype)
        known, _ = lax.scan(lambda known, factor: (refitted(known, factor, NARROW, PRIOR), None), known, narrower)
        return known.reshape(height, width, 2)

    # One pair after another: products of a batch round otherwise, which the reweighting makes visible.
    return lax.map(one, (flow, weight[..., None]))


def _affine(flow, away, prior, scales, *, mass, ridge):
    """Returns the values `[n, 2]` at n places of robust affine maps through flows `[m, 2]` of cells `away [n, m, 2]`.

    `prior [n, m]` are the weights before the residuals are known; `mass` counts for a flow of 0 at the place itself.
    """
    x, y = away[..., 0], away[..., 1]
    table = jnp.concatenate([jnp.ones_like(flow[:, :1]), flow], -1)

    def fitted(weights):
        """Returns the slopes in x and y and the value of the affine maps `[3, n, 2]`."""
        sums, of_x, of_y = (
            jnp.matmul(each, table, precision="highest") for each in (weights, weights * x, weights * y)
        )
        total = sums[:, :1] + mass
        value, mean_x, mean_y = sums[:, 1:] / total, of_x[:, :1] / total, of_y[:, :1] / total
        xx, xy, yy = (
            (weights * product).sum(-1, keepdims=True) / total - one * other
            for product, one, other in (
                (x * x, mean_x, mean_x),
                (x * y, mean_x, mean_y),
                (y * y, mean_y, mean_y),
            )
        )
        along, across = of_x[:, 1:] / total - mean_x * value, of_y[:, 1:] / total - mean_y * value
        xx, yy = xx + ridge, yy + ridge
        det = xx * yy - xy**2
        slope_x, slope_y = (yy * along - xy * across) / det, (xx * across - xy * along) / det
        return slope_x, slope_y, value - mean_x * slope_x - mean_y * slope_y

    def reweighted(weights, scale):
        slope_x, slope_y, value = fitted(weights)
        left = sum(
            (x * slope_x[:, i, None] + y * slope_y[:, i, None] + value[:, i, None] - flow[:, i]) ** 2 for i in (0, 1)
        )
        return prior * (scale**2 / (scale**2 + left)) ** 2, None

    weights, _ = lax.scan(reweighted, prior, jnp.asarray(scales, flow.dtype))
    return fitted(weights)[2]


def uncertainty(away: jax.Array) -> jax.Array:
    """Returns how far matches are from a fit to them, `away [B, h, w, 2]` in cells -> `[B, h, w, 1]`.

    1/4 cell, which they are by being cells, and their mean distance over a few cells, each counted as at most 8.
    """
    length = jnp.minimum(jnp.sqrt((away**2).sum(-1, keepdims=True)), FAR)
    rows, columns = (gaussian_matrix(n, AROUND, reach=4 * AROUND) for n in away.shape[1:3])
    mean = jnp.einsum("yh,xw,bhwc->byxc", rows, columns, length, precision="highest")
    return SMALLEST + mean
