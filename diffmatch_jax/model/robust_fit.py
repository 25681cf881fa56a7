"""A smooth flow through the matches that can be trusted: moving least squares, robust against those that cannot.

Neighbouring cells of a scene move alike, wrong matches do not. Around each place the affine flow that most matches
nearby agree on is found by iteratively reweighted least squares with graduated non-convexity; first of nearly the whole
image, then of ever smaller neighbourhoods, each of which departs from the wider one only where its matches ask for it.

A global affine flow through mutual matches by random sampling (Fischler & Bolles, 1981), inside a compiled program.

Least squares from zero flow follow the mean of the matches; with more wrong matches than right ones that is no start.
A sample of three matches holds none of the wrong ones with some chance, and the affine map through it is confirmed by
all matches that it explains.

A flow made finer without weights: matches near where it leads, on the maps of the second stage.

A cell of those maps has few features, so that many places look alike. With the flow that is known the neighbours' looks
can be added up, and the best place of their sum is found between cells; the fit goes through those.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffmatch_jax.model import cost_volume
from diffmatch_jax.model.flow import compose, grid, mapping_of, to_pixels
from diffmatch_jax.model.resize import gaussian_matrix, resize_normalised

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


SAMPLES = 2048
THRESHOLD = 1.5  # cells between a match and the map that explains it
MUTUAL = 0.3  # weight from which a match is sampled
FEWEST = 8  # matches that must be sampled from, and that a map must explain
REFITS = 5  # least-squares fits to the matches explained
MOST_ZOOM = 5.0  # singular values of the map lie within 1 / MOST_ZOOM and MOST_ZOOM
MOST_STRETCH = 4.0  # largest ratio of the two singular values
_AREA = 4.0  # square cells of the triangle of a sample
_TINY = 1e-6


def affine_flow(
    flow: jax.Array, weight: jax.Array, *, reach: float = 0.0, seed: jax.Array | int = 0
) -> tuple[jax.Array, jax.Array]:
    """Returns the affine flow `[B, h, w, 2]` that explains the largest weight of matches, and whether there is one.

    Args:
      flow: matches `[B, h, w, 2]`, from each cell of the target to the source, in cells.
      weight: how mutual each match is, `[B, h, w]` in [0, 1].
      reach: cells between the first match of a sample and its others, one deviation, which finds small objects (0: they
        are taken anywhere).
      seed: of the samples.

    Returns:
      The flow of the affine map, zero without one; and `found [B]`, False where fewer than 8 matches are mutual or are
      explained, or where the map is degenerate: it mirrors, its singular values are beyond 1/5 and 5, or they differ by
      more than a factor of 4.
    """
    height, width = flow.shape[1:3]
    cells = grid(height, width, flow.dtype).reshape(-1, 2)
    key = jax.random.key(seed)

    def sampled(chance):
        if not reach:
            return jax.random.choice(key, len(cells), (SAMPLES, 3), p=chance / chance.sum())
        of_first, of_others = jax.random.split(key)
        first = jax.random.categorical(of_first, jnp.log(chance), shape=(SAMPLES,))
        # In proportion to mass and nearness, by the largest of perturbed logarithms.
        near = -0.5 * ((cells[first][:, None] - cells) ** 2).sum(-1) / reach**2
        others = jax.random.categorical(of_others, (jnp.log(chance) + near)[:, None], shape=(SAMPLES, 2))
        return jnp.concatenate([first[:, None], others], 1)

    def one(pair):
        to, mass = pair[0].reshape(-1, 2) + cells, pair[1].reshape(-1)
        mass = jnp.where(mass > MUTUAL, mass, 0)
        enough = (mass > 0).sum() >= FEWEST
        chance = jnp.where(enough, mass, 1.0)
        chosen = sampled(chance)
        corners, images = cells[chosen], to[chosen]
        edges, moved = corners[:, 1:] - corners[:, :1], images[:, 1:] - images[:, :1]
        area = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
        inverse = (
            jnp.stack(
                [
                    jnp.stack([edges[:, 1, 1], -edges[:, 0, 1]], -1),
                    jnp.stack([-edges[:, 1, 0], edges[:, 0, 0]], -1),
                ],
                -2,
            )
            / jnp.where(jnp.abs(area) < _TINY, 1, area)[:, None, None]
        )
        # Rows of `edges` are mapped to rows of `moved`: edges @ linear = moved.
        linear = jnp.einsum("nij,njk->nik", inverse, moved, precision="highest")
        shift = images[:, 0] - jnp.einsum("ni,nij->nj", corners[:, 0], linear, precision="highest")
        explained = ((_apply(linear, shift, cells) - to) ** 2).sum(-1) < THRESHOLD**2
        score = jnp.where((jnp.abs(area) > 2 * _AREA) & _is_sound(linear), explained @ mass, -1.0)
        best = score.argmax()

        def refit(_, maps):
            linear, shift = maps
            near = mass * (((cells @ linear + shift - to) ** 2).sum(-1) < THRESHOLD**2)
            total = jnp.maximum(near.sum(), _TINY)
            middle, moved = near @ cells / total, near @ to / total
            left, right = cells - middle, to - moved
            products = jnp.einsum("ni,nj->ij", left * near[:, None], left, precision="highest")
            products += 1e-3 * total * jnp.eye(2)
            slopes = jnp.linalg.solve(products, jnp.einsum("ni,nj->ij", left * near[:, None], right))
            return slopes, moved - middle @ slopes

        linear, shift = lax.fori_loop(0, REFITS, refit, (linear[best], shift[best]))
        away = ((cells @ linear + shift - to) ** 2).sum(-1)
        found = (
            enough & (score[best] > 0) & _is_sound(linear[None])[0] & ((mass * (away < THRESHOLD**2)).sum() >= FEWEST)
        )
        return jnp.where(found, cells @ linear + shift - cells, 0).reshape(height, width, 2), found

    return lax.map(one, (flow, weight))


def _apply(linear: jax.Array, shift: jax.Array, cells: jax.Array) -> jax.Array:
    """Returns the images `[n, cells, 2]` under n affine maps."""
    return jnp.einsum("ci,nij->ncj", cells, linear, precision="highest") + shift[:, None]


def _is_sound(linear: jax.Array) -> jax.Array:
    """Returns whether linear maps `[n, 2, 2]` keep the orientation and neither shrink nor stretch beyond reason."""
    det = linear[:, 0, 0] * linear[:, 1, 1] - linear[:, 0, 1] * linear[:, 1, 0]
    squares = (linear**2).sum((-2, -1))
    root = jnp.sqrt(jnp.maximum(squares**2 - 4 * det**2, 0))
    largest, smallest = jnp.sqrt((squares + root) / 2), jnp.sqrt(jnp.maximum((squares - root) / 2, 0))
    return (det > 0) & (largest < MOST_ZOOM) & (smallest > 1 / MOST_ZOOM) & (largest < MOST_STRETCH * smallest)


WINDOW = 2.0  # cells of the fine maps around a place whose looks are added up, one deviation
SEEN = 0.3  # fraction of a window that must lie inside the source
REFIT_AROUND = 2.0  # places around, one deviation, through whose matches the fit goes


class Refined(NamedTuple):
    """A finer flow, normalised `[B, H, W, 2]`, and what its last round of matches says at `[B, h, w, ...]` places.

    away: from the fit to the matches `[B, h, w, 2]`, in cells of the fine maps; weight: 1 where the best of the looks
    is inside the search window, else 0.
    """

    flow: jax.Array
    away: jax.Array
    weight: jax.Array


def refine(
    source: jax.Array,
    target: jax.Array,
    flow: jax.Array,
    *,
    places: tuple[int, ...],
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
        return cost_volume.local_features(of_source, of_target, positions, radius=radius)

    def around(_, found: Refined) -> Refined:
        looks = cost_volume.local_features(source, target, mapping_of(to_pixels(found.flow)), radius=radius)
        # Cosines of places outside the source are 0 and would draw the peak inwards: the mean is of what lies inside.
        inside = seen(mapping_of(to_pixels(found.flow)))
        looks, part = (jnp.einsum("yh,xw,bhwc->byxc", *windows, x, precision="highest") for x in (looks, inside))
        looks = jnp.where(part > SEEN, looks / jnp.maximum(part, SEEN), -1)
        peak = cost_volume.peak(looks, radius=radius)
        weight = peak.inside.astype(flow.dtype)
        fitted = fit(peak.offset, weight, sigma=REFIT_AROUND)
        return Refined(found.flow + resize_normalised(fitted, size) / scale, peak.offset - fitted, weight)

    at_places = jnp.zeros((flow.shape[0], *places), flow.dtype)
    start = Refined(flow, jnp.stack([at_places, at_places], -1), at_places)
    return lax.fori_loop(0, rounds, around, start)


def _inside(positions: jax.Array, size: tuple[int, ...], radius: int) -> jax.Array:
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
