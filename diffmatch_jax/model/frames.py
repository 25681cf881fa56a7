"""Search over frames: rotation and zoom of a pair are found on the coarse grid, and the source is resampled by them.

Features tell places apart up to rotations of about 30 degrees and zooms of about 1.5. Where few matches of the images
as they are agree on one flow, copies of the source rotated in steps of 45 degrees, at the image's own scale and with
either side shrunk to a half, are compared with the target. Of the frame with most agreement, the global affine map
through its matches resamples the source once more (or twice), so that what is left to the matcher is a small flow.

Affine maps `[2, 3]` act on relative positions (x, y) in [0, 1]^2, half-pixel: (x + 1/2) / W.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffmatch_jax.model import conditioning, robust_fit
from diffmatch_jax.model.features import Prepared, Pyramid
from diffmatch_jax.model.flow import grid, mapping_of, sample
from diffmatch_jax.model.resize import gaussian_matrix, resize

CLEAR = 0.8  # fraction of the cells in view whose mutual matches agree, from which images are taken as they are
ENOUGH = 0.35  # the same after resampling, from which no other frame is tried
PROMISING = 0.02  # the same, of all cells, from which the source is resampled by the affine map of a frame
LEAST = 0.02  # fraction of all cells that counts as in view at least
GAIN = 1.1  # times the agreement of the images as they are, below which a frame is not taken
REDRAWN = 2  # times the source is resampled by the affine map of the best frame
ROTATIONS = 8
ZOOMS = ((1.0, 1.0), (2.0, 1.0), (1.0, 2.0))  # by which source and target are shrunk
ZOOMS_BACK = ((1.0, 1.0), (1.0, 2.0))  # the same where the roles are exchanged
_REACH = 8.0  # pixels of the low-pass filter, from which on images shrink no further without aliasing
_IDENTITY = np.eye(2, 3)


class Agreement(NamedTuple):
    """The quality of a match on the coarse grid: mutual matches that lie within one cell of the fit.

    fraction: their part of the target's cells that the fit leads into the source; total: of all cells; affine: the map
    of all matches, relative, `[2, 3]` from target to source (None without one).
    """

    fraction: float
    total: float
    affine: np.ndarray | None


class Framed(NamedTuple):
    """A source resampled for its target: the images, and `affine [2, 3]` from these to the source as it was."""

    source: Prepared
    affine: np.ndarray


def find(
    pyramid: Pyramid,
    source: Prepared,
    target: Prepared,
    settings: conditioning.ConditioningConfig,
    *,
    sizes: tuple[tuple[int, int], tuple[int, int]],
    enough: float = ENOUGH,
) -> Framed:
    """Returns the source of one pair, resampled where another frame than its own has more matches that agree.

    Args:
      pyramid: features, a `jax.tree_util.Partial`.
      source, target: the images of one pair, first axis 1.
      settings: conditions with a fit.
      sizes: (height, width) of the source and of the target, which decide what a rotation is.
      enough: agreement from which the images are taken as they are, or a frame without trying the others.
    """

    own, best, chosen = _search(pyramid, source, target, settings, sizes=sizes, zooms=ZOOMS, enough=enough)
    if own.fraction > CLEAR:
        return Framed(source, _IDENTITY)
    if not _is_enough(best, enough):
        # A source that shows little of the target has few matches in it, but all of its own cells have one.
        _, back, wanted = _search(pyramid, target, source, settings, sizes=sizes[::-1], zooms=ZOOMS_BACK, enough=enough)
        if wanted is not None and _is_enough(back, enough):
            wanted = _inverse(wanted)
            after = _agreement(
                _descriptor(pyramid, resampled(source, wanted), settings),
                _descriptor(pyramid, target, settings),
                settings,
            )
            if after.total > best.total:
                best, chosen = after, wanted
    if chosen is None or best.total < GAIN * own.total:
        return Framed(source, _IDENTITY)
    return Framed(resampled(source, chosen), chosen)


def _is_enough(agreement: Agreement, enough: float) -> bool:
    return agreement.fraction >= enough and agreement.total >= PROMISING


def _search(
    pyramid, source, target, settings, *, sizes, zooms, enough
) -> tuple[Agreement, Agreement, np.ndarray | None]:
    """Returns the agreement of a pair as it is, the best one of a resampled source, and the affine map of that."""
    plain = _descriptor(pyramid, target, settings)

    def compare(frame: np.ndarray, of_target=plain) -> Agreement:
        return _agreement(_descriptor(pyramid, resampled(source, frame), settings), of_target, settings)

    def resample(found: Agreement, frames) -> tuple[Agreement, np.ndarray | None]:
        """Returns the best agreement of sources resampled by the affine map of a frame's matches, and that map."""
        best, chosen = Agreement(0.0, 0.0, None), None
        for _ in range(REDRAWN):
            if found.affine is None:
                break
            # From the target as it is, to the target's frame, over the affine map, to the source as it is.
            wanted = _after(frames[0], _after(found.affine, _inverse(frames[1])))
            found, frames = compare(wanted), (wanted, _IDENTITY)
            if found.total <= best.total:
                break
            best, chosen = found, wanted
            if best.fraction > CLEAR:
                break
        return best, chosen

    own = _agreement(_descriptor(pyramid, source, settings), plain, settings)
    if own.fraction > CLEAR:
        return own, own, None
    best, chosen = resample(own, (_IDENTITY, _IDENTITY))
    if _is_enough(best, enough):
        return own, best, chosen
    shrunk = functools.cache(lambda zoom: _descriptor(pyramid, resampled(target, _shrinking(zoom)), settings))
    most = own.total
    for frame, zoom in candidates(*sizes, zooms=zooms):
        there = compare(frame, plain if zoom == 1 else shrunk(zoom))
        if there.total < max(PROMISING, most):
            continue
        most = there.total
        after, wanted = resample(there, (frame, _shrinking(zoom)))
        if after.total > best.total:
            best, chosen = after, wanted
        if _is_enough(best, enough):
            break
    return own, best, chosen


def candidates(
    source: tuple[int, int], target: tuple[int, int], *, zooms: Sequence[tuple[float, float]] = ZOOMS
) -> list[tuple[np.ndarray, float]]:
    """Returns frames to try: the map from the resampled source to the source, and by how much the target is shrunk.

    Sides are (height, width), `zooms` by how much source and target are shrunk. A frame has the target's proportions
    and the source's scale, about the source's centre.
    """
    wide = [np.diag([size[1], size[0]]).astype(float) for size in (source, target)]
    scale = math.sqrt(np.linalg.det(wide[0]) / np.linalg.det(wide[1]))
    frames = []
    for shrink, zoom in zooms:
        for turn in range(ROTATIONS):
            if turn == 0 and shrink == zoom == 1:
                continue
            angle = 2 * math.pi * turn / ROTATIONS
            rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            linear = np.linalg.inv(wide[0]) @ (shrink * scale * rotation) @ wide[1]
            frames.append((np.c_[linear, 0.5 - linear @ [0.5, 0.5]], zoom))
    return frames


def resampled(images: Prepared, affine: np.ndarray) -> Prepared:
    """Returns images at the relative places `affine (u)`, low-pass filtered where they shrink, with their mask."""
    return _resampled(images, jnp.asarray(affine, jnp.float32))


def restore(flow: jax.Array, affine: jax.Array) -> jax.Array:
    """Returns normalised flow `[B, h, w, 2]` into resampled sources as flow into the sources as they were.

    `affine [B, 2, 3]` leads from the resampled to the sources as they were.
    """
    height, width = flow.shape[1:3]
    place = (grid(height, width) + 0.5) / jnp.asarray([width, height], jnp.float32)
    moved = jnp.einsum("bij,bhwj->bhwi", affine[..., :2], place + flow, precision="highest")
    return moved + affine[:, None, None, :, 2] - place


@jax.jit
def _resampled(images: Prepared, affine: jax.Array) -> Prepared:
    side, coarse = images.fine.shape[1], images.coarse.shape[1]
    place = (grid(side, side) + 0.5) / side
    wanted = (jnp.einsum("ij,hwj->hwi", affine[:, :2], place, precision="highest") + affine[:, 2]) * side - 0.5
    zoom = jnp.sqrt(jnp.abs(jnp.linalg.det(affine[:, :2])))
    sigma = 0.5 * jnp.sqrt(jnp.maximum(zoom**2 - 1, 1e-4))
    blur = gaussian_matrix(side, sigma, reach=_REACH).astype(images.fine.dtype)
    smooth = jnp.einsum("yh,xw,bhwc->byxc", blur, blur, images.fine, precision="highest")
    fine = sample(smooth, wanted[None], outside="border")
    inside = ((wanted >= -0.5) & (wanted <= side - 0.5)).all(-1)[None, ..., None].astype(jnp.float32)
    mask, texture = (inside * sample(each, wanted[None], outside="border") for each in (images.mask, images.texture))
    fine = mask * fine + (1 - mask) * 0.5
    return Prepared(fine, resize(fine, (coarse, coarse), antialias=True), mask, texture)


@functools.partial(jax.jit, static_argnames="settings")
def _descriptor(pyramid: Pyramid, images: Prepared, settings: conditioning.ConditioningConfig):
    made = conditioning.maps(pyramid, images, settings)
    return made.first, made.mask


@functools.partial(jax.jit, static_argnames="settings")
def _compared(source, target, settings):
    (of_source, source_mask), (of_target, mask) = source, target
    matches = conditioning.matches(of_source, of_target, settings, mask=mask)
    flow = conditioning.robust(matches.flow, matches.weight, sigma=settings.fit)
    agreeing = (matches.weight * (((matches.flow - flow) ** 2).sum(-1) < 1)).mean()
    in_view = mask * (sample(source_mask[..., None], mapping_of(flow))[..., 0] > 0.5)
    start, found = robust_fit.affine_flow(matches.flow, matches.weight)
    corners = ((0, 0), (0, -1), (-1, 0))
    # Three cells give the affine map back.
    height, width = start.shape[1:3]
    size = jnp.asarray([width, height], jnp.float32)
    place = grid(height, width)
    at = jnp.stack([place[i, j] for i, j in corners])
    to = at + jnp.stack([start[0, i, j] for i, j in corners])
    at, to = (at + 0.5) / size, (to + 0.5) / size
    solved = jnp.linalg.solve(jnp.concatenate([at, jnp.ones((3, 1))], -1), to).T
    return agreeing / jnp.maximum(in_view.mean(), LEAST), agreeing, jnp.where(found[0], solved, jnp.nan)


def _agreement(source, target, settings) -> Agreement:
    fraction, total, affine = _compared(source, target, settings)
    affine = np.asarray(affine, np.float64)
    return Agreement(float(fraction), float(total), affine if np.isfinite(affine).all() else None)


def _shrinking(zoom: float) -> np.ndarray:
    return _IDENTITY if zoom == 1 else np.c_[zoom * np.eye(2), np.full(2, 0.5 - 0.5 * zoom)]


def _after(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Returns the affine map u -> outer(inner(u))."""
    return np.c_[outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2] + outer[:, 2]]


def _inverse(affine: np.ndarray) -> np.ndarray:
    linear = np.linalg.inv(affine[:, :2])
    return np.c_[linear, -linear @ affine[:, 2]]
