"""Search over frames: rotation and zoom of a pair are found on the coarse grid, and the source is resampled by them.

Features distinguish places up to rotations of about 30 degrees and zooms of about 1.5. Where few matches of the images
as they are agree on one flow, copies of the source rotated in steps of 45 degrees, at the image's own scale and with
either side shrunk to a half, are compared with the target. Of the frame with most agreement, the global affine map
through its matches resamples the source once more (or twice), then the homography through them where more agree by it,
so that what is left to the matcher is a small flow.

Frames are homographies `[3, 3]` of relative positions (x, y) in [0, 1]^2, half-pixel: (x + 1/2) / W.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffmatch_jax.model import conditioning, motions, programs, robust_fit
from diffmatch_jax.model.features import Prepared, Pyramid
from diffmatch_jax.model.flow import grid, mapping_of, sample
from diffmatch_jax.model.resize import gaussian_matrix, resize

CLEAR = 0.8  # fraction of the cells in view whose mutual matches agree, from which images are taken as they are
ENOUGH = 0.35  # the same after resampling, from which no other frame is tried
PROMISING = 0.02  # the same, of all cells, from which the source is resampled by the affine map of a frame
LEAST = 0.02  # fraction of all cells that counts as in view at least
GAIN = 1.1  # times the agreement of the images as they are, below which a frame is not taken
REDRAWN = 2  # times the source is resampled by the affine map of the best frame, and by the homography
BETTER = 1.02  # times the agreement of an affine frame, from which a homography is taken
FEWEST = 20  # matches that decide a homography
SCALES = (4.0, 2.0, 1.0, 1.0, 0.7, 0.7)  # cells: of the reweighting of its matches
MOST_SLANT = 8.0  # ratio of the scales at which a homography shows any two places of the target
ROTATIONS = 8
ZOOMS = ((1.0, 1.0), (2.0, 1.0), (1.0, 2.0))  # by which source and target are shrunk
ZOOMS_BACK = ((1.0, 1.0), (1.0, 2.0))  # the same where the roles are exchanged
_REACH = 8.0  # pixels of the low-pass filter, from which on images shrink no further without aliasing
_NEAREST = 1e-3  # depth of a homography, below which places are behind the image
_IDENTITY = np.eye(3)


class Agreement(NamedTuple):
    """The quality of a match on the coarse grid: mutual matches that lie within one cell of the fit.

    fraction: their part of the target's cells that the fit leads into the source; total: of all cells; affine and
    homography: the maps of all matches, relative, `[3, 3]` from target to source (None without one).
    """

    fraction: float
    total: float
    affine: np.ndarray | None
    homography: np.ndarray | None = None


class Framed(NamedTuple):
    """A source resampled for its target: the images, and `frame [3, 3]` from these to the source as it was."""

    source: Prepared
    frame: np.ndarray


def find(
    pyramid: Pyramid,
    source: Prepared,
    target: Prepared,
    settings: conditioning.ConditioningConfig,
    *,
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
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
    plain = _descriptor(pyramid, target, settings)

    def compare(frame: np.ndarray) -> Agreement:
        return _agreement(_descriptor(pyramid, resampled(source, frame), settings), plain, settings)

    if not _is_enough(best, enough):
        # A source that shows little of the target has few matches in it, but all of its own cells have one.
        _, back, wanted = _search(pyramid, target, source, settings, sizes=sizes[::-1], zooms=ZOOMS_BACK, enough=enough)
        if wanted is not None and _is_enough(back, enough):
            wanted = np.linalg.inv(wanted)
            after = compare(wanted)
            if after.total > best.total:
                best, chosen = after, wanted
    if chosen is None or best.total < GAIN * own.total:
        best, chosen = own, None
    for _ in range(REDRAWN):
        if best.homography is None or best.fraction > CLEAR or best.total < PROMISING:
            break
        wanted = best.homography if chosen is None else chosen @ best.homography
        after = compare(wanted)
        if after.total < BETTER * best.total:
            break
        best, chosen = after, wanted
    return Framed(source, _IDENTITY) if chosen is None else Framed(resampled(source, chosen), chosen)


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
            wanted = frames[0] @ found.affine @ np.linalg.inv(frames[1])
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
    source: tuple[int, ...], target: tuple[int, ...], *, zooms: Sequence[tuple[float, float]] = ZOOMS
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
            frames.append((np.r_[np.c_[linear, 0.5 - linear @ [0.5, 0.5]], [[0, 0, 1]]], zoom))
    return frames


def resampled(images: Prepared, frame: np.ndarray) -> Prepared:
    """Returns images at the relative places `frame (u)`, low-pass filtered where they shrink, with their mask."""
    return _resampled(images, jnp.asarray(frame, jnp.float32))


def restore(flow: jax.Array, frame: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns normalised flow `[B, h, w, 2]` into resampled sources as flow into the sources as they were.

    `frame [B, 3, 3]` leads from the resampled to the sources as they were; its slopes `[B, h, w, 2, 2]` come second.
    """
    height, width = flow.shape[1:3]
    place = (grid(height, width) + 0.5) / jnp.asarray([width, height], jnp.float32)
    moved, slopes = _project(frame[:, None, None], place + flow)
    return moved - place, slopes


def _project(frame: jax.Array, place: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns where homographies `[..., 3, 3]` take places `[..., 2]`, and their slopes there `[..., 2, 2]`."""
    moved = jnp.einsum("...ij,...j->...i", frame[..., :2], place, precision="highest") + frame[..., 2]
    depth = jnp.maximum(moved[..., 2:], _NEAREST)
    moved = moved[..., :2] / depth
    return moved, (frame[..., :2, :2] - moved[..., None] * frame[..., 2:, :2]) / depth[..., None]


@jax.jit
def _resampled(images: Prepared, frame: jax.Array) -> Prepared:
    side, coarse = images.fine.shape[1], images.coarse.shape[1]
    moved, slopes = _project(frame, (grid(side, side) + 0.5) / side)
    wanted = moved * side - 0.5
    zoom = jnp.sqrt(jnp.abs(jnp.linalg.det(slopes[side // 2, side // 2])))
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


def _compared(source, target, settings):
    (of_source, source_mask), (of_target, mask) = source, target
    matches = conditioning.matches(of_source, of_target, settings, mask=mask)
    flow = motions.robust(matches.flow, matches.weight, sigma=settings.fit)
    agreed = matches.weight * (((matches.flow - flow) ** 2).sum(-1) < 1)
    agreeing = agreed.mean()
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
    affine = jnp.where(found[0], solved, jnp.nan)
    return agreeing / jnp.maximum(in_view.mean(), LEAST), agreeing, affine, matches.flow[0], agreed[0]


def _agreement(source, target, settings) -> Agreement:
    fraction, total, affine, flow, weight = jax.device_get(
        programs.quick(_compared, "settings")(source, target, settings)
    )
    affine = np.r_[affine.astype(np.float64), [[0, 0, 1]]]
    affine = affine if np.isfinite(affine).all() else None
    return Agreement(float(fraction), float(total), affine, homography_of(flow, weight))


def homography_of(flow: np.ndarray, weight: np.ndarray) -> np.ndarray | None:
    """Returns the homography `[3, 3]` of relative positions through matches `flow [h, w, 2]`, in cells.

    The direct linear transform of matches that count by `weight [h, w]`, reweighted by w (s^2 / (s^2 + d^2))^2 with
    their distance d from it in cells, for each s of `SCALES`. None for fewer than 20 matches, or where it mirrors or
    its scale (the square root of its determinant) varies by more than a factor of 8 over the target.
    """
    height, width = weight.shape
    size = np.asarray([width, height], np.float64)
    used = weight > 0.3
    if used.sum() < FEWEST:
        return None
    cells = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    # About the middle, so that the equations are well conditioned.
    at, to = ((each[used] + 0.5) / size - 0.5 for each in (cells, cells + flow))
    ones, zeros = np.ones((len(at), 1)), np.zeros((len(at), 3))
    lifted = np.c_[at, ones]
    rows = np.stack([np.c_[lifted, zeros, -to[:, :1] * lifted], np.c_[zeros, lifted, -to[:, 1:] * lifted]], 1)
    mass, depth = weight[used].astype(np.float64), ones[:, 0]
    for scale in SCALES:
        equations = rows * (np.sqrt(mass) / depth)[:, None, None]
        found = np.linalg.eigh(np.einsum("nki,nkj->ij", equations, equations))[1][:, 0].reshape(3, 3)
        if abs(found[2, 2]) < 1e-6:
            return None
        found = found / found[2, 2]
        moved = lifted @ found.T
        if (moved[:, 2] < 0.1).any():
            return None
        depth = moved[:, 2]
        away = (((moved[:, :2] / depth[:, None] - to) * size) ** 2).sum(-1)
        mass = weight[used] * (scale**2 / (scale**2 + away)) ** 2
    corners = np.array([[x, y, 1] for x in (-0.5, 0.5) for y in (-0.5, 0.5)]) @ found[2]
    # The determinant of a homography's slopes is that of its matrix over the cube of the depth.
    if np.linalg.det(found) <= 0 or corners.min() <= 0 or (corners.max() / corners.min()) ** 1.5 > MOST_SLANT:
        return None
    centre = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return centre @ found @ np.linalg.inv(centre)


def _shrinking(zoom: float) -> np.ndarray:
    shift = 0.5 - 0.5 * zoom
    return np.array([[zoom, 0, shift], [0, zoom, shift], [0, 0, 1]], float)
