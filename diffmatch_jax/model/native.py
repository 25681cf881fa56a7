"""Flow refined on the images' own pixels, coarse to fine and tile by tile: the last step of a match.

The matcher's grid has a fixed number of cells, for images of any size. From the level of a Gaussian pyramid that
is about as fine as that grid down to the image itself, each pixel's window of the target is compared with the source as
the flow so far warps it, both brought to mean 0 and deviation 1 over the window, and the flow is moved by robust
Gauss-Newton steps (Lucas & Kanade, IJCAI 1981, compositional: Baker & Matthews, IJCV 2004). Steps are damped, so that
flat windows do not move, and a place keeps its move only where the normalised cross-correlation of its window rose.

All work is on tiles of one shape, so that one program serves images of any size, and what it holds does not grow with
them. Beside the images and the flow there are their pyramids, 11 bytes a pixel of either image and of the flow, and
at most 40 bytes a pixel of the target while a level's moves are brought to the next.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffmatch_jax.model.flow import sample
from diffmatch_jax.model.resize import gaussian_matrix, interpolation

TILE = 256  # pixels of the target a side that a tile decides
HALO = 16  # pixels around them that it sees
WINDOW = 640  # pixels of the source a side that a tile sees
COARSEST = 384  # longer side of the target on the coarsest level, at most twice that
SIGMA = 5.0  # pixels of the window, one deviation
STEPS = 6
DAMPING = 0.003  # of squared gradients of images of unit variance, a pixel
RESIDUAL = 2.0  # unit deviations from which on a pixel counts less
NOISE = 0.012  # deviation, of the range, below which contrast counts as noise
GAIN = 0.02  # of the correlation, from which a move is kept whole, and below in part
CELL = 4  # pixels between the windows of a tile
SMOOTH = 1.0  # windows around, one deviation, over which it is averaged whether a move is kept
SEEN = 0.3  # fraction of a window that both images must show
SMALLEST = 32  # pixels, longer side of the coarsest level of a pyramid
FARTHEST = 3.0  # pixels that a level moves the flow


class Images(NamedTuple):
    """An image in gray `[H, W]` in [0, 1], and its mask `[H, W]`, at one level of a pyramid."""

    gray: np.ndarray
    mask: np.ndarray


def refined(
    source: np.ndarray, target: np.ndarray, flow: np.ndarray, source_mask: np.ndarray, target_mask: np.ndarray
) -> np.ndarray:
    """Returns the flow `[H, W, 2]` of one pair in pixels, moved to where windows of the images agree better.

    Args:
      source, target: `[Hs, Ws, C]` and `[H, W, C]`, bytes or floats in [0, 1].
      flow: from the target's pixels to the source's, `[H, W, 2]`.
      source_mask, target_mask: `[Hs, Ws, 1]`, `[H, W, 1]`, 1 where an image counts; elsewhere the flow stays.
    """
    sources, targets = _pyramid(source, source_mask), _pyramid(target, target_mask)
    top = max(max(target.shape[:2]) - 1, 1) // COARSEST
    top = top.bit_length()
    starts = [np.asarray(flow, np.float32)]
    for _ in range(top):
        starts.append((_halved(starts[-1]) / 2).astype(np.float32))
    moves = None
    for level in reversed(range(top + 1)):
        size = starts[level].shape[:2]
        moves = np.zeros((*size, 2), np.float32) if moves is None else 2 * _doubled(moves, size)
        moves = _level(sources, targets, starts[level] + moves, level) - starts[level]
    return starts[0] + moves * target_mask


def _level(sources, targets, flow, level):
    """Returns the flow of one level of the target, each tile matched with the source's level of the same scale."""
    target = _at(targets, level)
    height, width = flow.shape[:2]
    result = flow.copy()
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            core = slice(top, min(top + TILE, height)), slice(left, min(left + TILE, width))
            rows, columns = (np.arange(start - HALO, start + TILE + HALO) for start in (top, left))
            inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
            near = np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))
            if not target.mask[core].any():
                continue
            # Beyond the border the flow goes on as it ends, so that its slope is 0 there and not more.
            place = flow[near] + np.stack(np.meshgrid(columns, rows), -1)
            moved = _tile(sources, Images(target.gray[near], target.mask[near] * inside), place, level)
            if moved is not None:
                part = moved[HALO : HALO + core[0].stop - top, HALO : HALO + core[1].stop - left]
                result[core] += part
    return result


def _tile(sources, target: Images, place: np.ndarray, level: int) -> np.ndarray | None:
    """Returns the move of a tile's flow `[n, n, 2]` in pixels of the source's `level`; None where it sees nothing."""
    counts = target.mask > 0
    slopes = np.stack([np.diff(place, axis=i)[: -1 if i else None, : None if i else -1] for i in (1, 0)], -1)
    area = np.abs(np.median(slopes[..., 0, 0] * slopes[..., 1, 1] - slopes[..., 0, 1] * slopes[..., 1, 0]))
    # Where the source shrinks it is read from a coarser level, whose pixels are about the target's.
    extra = int(np.clip(np.round(0.5 * np.log2(max(area, 1e-6))), -level, len(sources) - 1 - level))
    seen, scale = sources[level + extra], 2.0**-extra
    local = scale * (place + 0.5) - 0.5
    height, width = seen.gray.shape
    lands = counts & ((local >= 0) & (local <= [width - 1, height - 1])).all(-1)
    if not lands.any():
        return None
    middle = np.median(local[lands], axis=0)
    first = np.floor(middle).astype(int) - WINDOW // 2
    window = np.zeros((WINDOW, WINDOW, 2), np.float32)
    low, high = np.maximum(first, 0), np.minimum(first + WINDOW, [width, height])
    there = slice(low[1] - first[1], high[1] - first[1]), slice(low[0] - first[0], high[0] - first[0])
    for i, each in enumerate(seen):
        window[(*there, i)] = each[low[1] : high[1], low[0] : high[0]]
    moved = _moved(window, np.stack(target, -1), (local - first).astype(np.float32))
    return np.asarray(moved) / scale


@jax.jit
def _moved(source: jax.Array, target: jax.Array, place: jax.Array) -> jax.Array:
    """Returns how far places `[n, n, 2]` in a source `[m, m, 2]` move until it agrees with the target `[n, n, 2]`.

    The last axes of the images are gray and mask.
    """
    side = target.shape[0]
    cells = side // CELL
    middles = (np.arange(cells) + 0.5) * CELL - 0.5
    windows = np.exp(-0.5 * ((np.arange(side) - middles[:, None]) / SIGMA) ** 2)
    windows = jnp.asarray(windows / windows.sum(1, keepdims=True), jnp.float32)
    wide = jnp.asarray(interpolation(cells, side, "half_pixel", "linear", False), jnp.float32)
    smooth = jnp.asarray(gaussian_matrix(cells, SMOOTH, reach=4 * SMOOTH), jnp.float32)

    def separable(matrix, *maps):
        return jnp.einsum("yh,xw,hwc->cyx", matrix, matrix, jnp.stack(maps, -1), precision="highest")

    gray, mask = target[..., 0], target[..., 1]

    def compared(place):
        """Returns both images normalised, their weights, and the correlation of windows and what they see of these."""
        found = sample(source, place)
        weight = mask * (found[..., 1] > 0.99)
        x = found[..., 0]
        total, of_x, of_y, xx, yy, xy = separable(
            windows, weight, weight * x, weight * gray, weight * x * x, weight * gray * gray, weight * x * gray
        )
        part = jnp.maximum(total, 1e-3)
        mean_x, mean_y = of_x / part, of_y / part
        var_x, var_y = (jnp.maximum(s / part - m * m, 0) + NOISE**2 for s, m in ((xx, mean_x), (yy, mean_y)))
        score = (xy / part - mean_x * mean_y) / jnp.sqrt(var_x * var_y)
        mx, my, sx, sy = separable(wide, mean_x, mean_y, jnp.sqrt(var_x), jnp.sqrt(var_y))
        return (x - mx) / jnp.maximum(sx, NOISE), (gray - my) / jnp.maximum(sy, NOISE), weight, score, total

    def step(_, place):
        x, y, weight, _, _ = compared(place)
        along, across = (0.5 * jnp.asarray(jnp.gradient(x + y, axis=i)) for i in (1, 0))
        left = x - y
        # A slope is known where the pixels on both sides count.
        known = weight * (jnp.gradient(weight, axis=0) == 0) * (jnp.gradient(weight, axis=1) == 0)
        weight = known / (1 + (left / RESIDUAL) ** 2) ** 2
        xx, xy, yy, x_left, y_left = separable(
            windows,
            weight * along**2,
            weight * along * across,
            weight * across**2,
            weight * along * left,
            weight * across * left,
        )
        xx, yy = xx + DAMPING, yy + DAMPING
        det = xx * yy - xy**2
        back = jnp.stack([yy * x_left - xy * y_left, xx * y_left - xy * x_left], -1) / det[..., None]
        # The image as warped is the target moved by `back`: so many pixels of the target the place must go back.
        around = jnp.moveaxis(separable(windows, place[..., 0], place[..., 1]), 0, -1)
        slopes = [jnp.asarray(jnp.gradient(around, axis=i)) / CELL for i in (1, 0)]
        move = -(slopes[0] * back[..., :1] + slopes[1] * back[..., 1:])
        return place + jnp.moveaxis(separable(wide, move[..., 0], move[..., 1]), 0, -1)

    moved = lax.fori_loop(0, STEPS, step, place)
    before, after = compared(place), compared(moved)
    move = moved - place
    far = jnp.sqrt((move**2).sum(-1))
    move = move * jnp.minimum(1, FARTHEST / jnp.maximum(far, FARTHEST))[..., None]
    # A ramp, not a step: what differs by rounding moves alike.
    keep = jnp.clip((after[3] - before[3]) / GAIN, 0, 1) * (jnp.minimum(before[4], after[4]) > SEEN)
    (keep,) = separable(smooth, keep)
    return move * separable(wide, keep)[0][..., None]


def _pyramid(image: np.ndarray, mask: np.ndarray) -> list[Images]:
    """Returns an image and its halves, down to one of at most `COARSEST` pixels a side."""
    gray = image.mean(-1, dtype=np.float32) / (255 if image.dtype == np.uint8 else 1)
    levels = [Images(gray, mask[..., 0].astype(np.float32))]
    while max(levels[-1].gray.shape) > SMALLEST:
        gray, mask = (_halved(each) for each in levels[-1])
        levels.append(Images(gray, np.floor(mask)))
    return levels


def _at(levels: list[Images], level: int) -> Images:
    return levels[min(level, len(levels) - 1)]


def _halved(x: np.ndarray) -> np.ndarray:
    """Returns the means of squares of 2 x 2 pixels; an odd last row or column counts twice."""
    x = np.pad(x, [(0, n % 2) for n in x.shape[:2]] + [(0, 0)] * (x.ndim - 2), mode="edge")
    return 0.25 * (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2])


def _doubled(x: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Returns `x` at twice its size, cut to `size`, by bilinear interpolation: the reverse of `_halved`."""
    for axis in (0, 1):
        x = np.moveaxis(x, axis, 0)
        near = np.concatenate([x[:1], x, x[-1:]])
        both = np.stack([0.75 * x + 0.25 * near[:-2], 0.75 * x + 0.25 * near[2:]], 1)
        x = np.moveaxis(both.reshape(-1, *x.shape[1:]), 0, axis)
    return x[: size[0], : size[1]]
