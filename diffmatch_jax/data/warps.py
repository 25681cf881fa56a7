"""Parametric warps of the plane: homographies, affine maps, thin-plate splines, and motions of pasted objects.

All map positions of the target to positions of the source, (x, y) `[..., 2]`, in any unit that the caller chose;
relative positions have the square [-1, 1]^2 as the image (see `matching.pixels_of_relative`).

Training pairs by warping images on the device: the true flow is exact, because source and target are both drawn
from the same image and only positions are computed.

A square window of an image is the source. The target's pixel p shows what the source has at g(p), g a homography, an
affine map or a thin-plate spline with the distributions of the released training pairs; so flow(p) = g(p) - p, known
also where it leaves the window. Positions within the window are relative, [-1, 1]^2 from edge to edge (half-pixel).
Every pair is a pure function of its key.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import to_unit
from common.errors import input_error
from common.errors import within as check_within
from diffmatch_jax.model.flow import flow_of, grid, pixels_of_relative, sample, within

# Corners and control points in the released order: x is the slow index.
CORNERS = np.array([(x, y) for x in (-1.0, 1.0) for y in (-1.0, 1.0)])
CONTROL_POINTS = np.array([(x, y) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)])


def homography_of_corners(corners: jax.Array) -> jax.Array:
    """Returns the homography that moves (-1, -1), (-1, 1), (1, -1), (1, 1) to `corners [..., 4, 2]`, `[..., 3, 3]`.

    In closed form (Heckbert, 1989, section 2.2.3), last entry 1. The centre (0, 0) must not go to infinity.
    """
    top_left, bottom_left, top_right, bottom_right = (corners[..., i, :] for i in range(4))
    right, down = top_right - bottom_right, bottom_left - bottom_right
    rest = top_left - top_right - bottom_left + bottom_right
    det = _cross(right, down)
    g, h = _cross(rest, down) / det, _cross(right, rest) / det
    # The unit square (u, v) goes to the corners by these columns; (u, v) = ((x + 1)/2, (y + 1)/2).
    along = top_right - top_left + g[..., None] * top_right
    across = bottom_left - top_left + h[..., None] * bottom_left
    columns = [_homogeneous(along, g), _homogeneous(across, h), _homogeneous(top_left, jnp.ones_like(g))]
    x, y = columns[0] / 2, columns[1] / 2
    matrix = jnp.stack([x, y, columns[2] + x + y], -1)
    return matrix / matrix[..., 2:, 2:]


def _cross(a, b):
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _homogeneous(xy, w):
    return jnp.concatenate([xy, w[..., None]], -1)


def inverse(matrix: jax.Array) -> jax.Array:
    """Returns the inverses of homographies `[..., 3, 3]` (up to scale, which means nothing) by their adjugates."""
    a, b, c = (matrix[..., i, :] for i in range(3))
    return jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], -1)


def project(matrix: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns positions `[..., n, m, 2]` moved by homographies `[..., 3, 3]`, and the third coordinate `[..., n, m]`.

    Where that has not the sign it has elsewhere in the image, the position is behind the viewer. Zero gives no number.
    """
    moved = jnp.einsum(
        "...ij,...nmj->...nmi", matrix, _homogeneous(positions, jnp.ones_like(positions[..., 0])), precision="highest"
    )
    return moved[..., :2] / moved[..., 2:], moved[..., 2]


def affine(theta: jax.Array, positions: jax.Array) -> jax.Array:
    """Returns positions `[..., n, m, 2]` moved by `theta [..., 2, 3]` = [A, t]: A p + t."""
    moved = jnp.einsum("...ij,...nmj->...nmi", theta[..., :2], positions, precision="highest")
    return moved + theta[..., None, None, :, 2]


def _bend(squared):
    """The spline's kernel r^2 log r^2, 0 at 0."""
    xp = jnp if isinstance(squared, jax.Array) else np
    return xp.where(squared > 0, squared * xp.log(xp.where(squared > 0, squared, 1)), 0)


def _system() -> np.ndarray:
    """Returns the inverse of [[K, P], [P^T, 0]] for the control points, `[12, 12]` in float64."""
    squared = ((CONTROL_POINTS[:, None] - CONTROL_POINTS) ** 2).sum(-1)
    plane = np.concatenate([np.ones((9, 1)), CONTROL_POINTS], 1)
    return np.linalg.inv(np.block([[_bend(squared), plane], [plane.T, np.zeros((3, 3))]]))


SPLINE_INVERSE = _system()


def thin_plate(controls: jax.Array, positions: jax.Array) -> jax.Array:
    """Returns positions `[..., n, m, 2]` moved by the spline that takes `CONTROL_POINTS` to `controls [..., 9, 2]`."""
    inverse_of_points = jnp.asarray(SPLINE_INVERSE[:, :9], controls.dtype)
    weights = jnp.einsum("ij,...jd->...id", inverse_of_points, controls, precision="highest")
    points = jnp.asarray(CONTROL_POINTS, positions.dtype)
    away = positions[..., None, :] - points
    basis = jnp.concatenate(
        [_bend((away**2).sum(-1)), jnp.ones_like(positions[..., :1]), positions],
        -1,
    )
    return jnp.einsum("...nmi,...id->...nmd", basis, weights, precision="highest")


KINDS = ("homography", "affine", "thin_plate")

_TRIES = 8  # one draw in four is rejected, so eight fail once in 40,000 pairs; then the warp is none


@dataclass(frozen=True)
class Warps:
    """Strengths of the warps and probability of each kind; hashable. Lengths are in halves of the window's side.

    shares: of `KINDS`; corner: each corner of a homography moves by U(-corner, corner) in x and y, drawn again where
    the target would look further than `reach` (x, y) from the middle; rotation: degrees, U(-, +); stretch: two scales
    U(low, high) along axes at U(-stretch_angle, +) degrees; shift: U(-, +) in x and y; control: standard deviation of
    the spline's control points; window: fraction of the image's shorter side that the window takes, U(low, high). The
    defaults are those of the released list of pairs, which has neither frame_rotation (degrees) nor frame_zoom: every
    warp is composed with a rotation by U(-, +) about the window's middle and a zoom by exp U(-frame_zoom, +).
    """

    shares: tuple[float, float, float] = (0.5, 0.25, 0.25)
    corner: float = 2 / 3
    reach: tuple[float, float] = (3.2, 2.4)
    rotation: float = 15.0
    stretch: tuple[float, float] = (0.75, 1.25)
    stretch_angle: float = 30.0
    shift: float = 0.25
    control: float = 0.2
    window: tuple[float, float] = (0.7, 0.8)
    frame_rotation: float = 0.0
    frame_zoom: float = 0.0

    def __post_init__(self):
        if len(self.shares) != len(KINDS) or min(self.shares) < 0 or not sum(self.shares) > 0:
            got = list(self.shares)
            raise input_error(
                "pairs.shares", expected="three shares, not all zero", got=got, fix="use (0.5, 0.25, 0.25)"
            )
        for name in ("stretch", "window"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name == "window" and high > 1):
                most = " at most 1" if name == "window" else ""
                fix = f"use {getattr(type(self), name)}"
                raise input_error(f"pairs.{name}", expected=f"0 < low <= high{most}", got=[low, high], fix=fix)
        if min(self.reach) < 1:
            fix = "use (3.2, 2.4)"
            raise input_error("pairs.reach", expected="at least 1 in x and y", got=list(self.reach), fix=fix)
        check_within("pairs.frame_rotation", self.frame_rotation, 0, 180)
        check_within("pairs.frame_zoom", self.frame_zoom, 0, 2)
        # A corner that moves further may turn the square inside out.
        if not 0 <= self.corner < 1:
            raise input_error("pairs.corner", expected="a number from 0 to below 1", got=self.corner, fix="use 2/3")


class Bank(NamedTuple):
    """Images on the device: `images [N, H, W, C]`, smaller ones padded with zeros, and their `sizes [N, 2]` (h, w)."""

    images: jax.Array
    sizes: jax.Array


class Pair(NamedTuple):
    """A pair, or a batch of them with a first axis more.

    source, target `[S, S, C]` in [0, 1]; flow `[S, S, 2]` in pixels from target to source; mask `[S, S]`, where the
    flow ends between the source's outermost pixel centres; kind: its index in `KINDS`; image: its index in the bank.
    """

    source: jax.Array
    target: jax.Array
    flow: jax.Array
    mask: jax.Array
    kind: jax.Array
    image: jax.Array


def make_bank(images) -> Bank:
    """Returns a bank from a sequence of images `[H, W, C]` of one type and number of channels, of any sizes.

    Raises `InputError` if there are none, or they differ in more than size.
    """
    images = [np.asarray(each) for each in images]
    kinds = sorted({(str(each.dtype), each.ndim, each.shape[-1]) for each in images})
    if len(kinds) != 1 or kinds[0][1] != 3:
        fix = "convert them to RGB bytes"
        raise input_error(
            "images", expected="images [H, W, C] of one type", got=f"{len(images)} of kinds {kinds}", fix=fix
        )
    sizes = np.asarray([each.shape[:2] for each in images], np.int32)
    padded = np.zeros((len(images), *sizes.max(0), images[0].shape[-1]), images[0].dtype)
    for place, each in zip(padded, images, strict=True):
        place[: each.shape[0], : each.shape[1]] = each
    return Bank(jnp.asarray(padded), jnp.asarray(sizes))


def make_pairs(keys: jax.Array, bank: Bank, *, size: int, settings: Warps, supersample: int = 1) -> Pair:
    """Returns one pair of `size` x `size` pixels for each key `[B]`, of an image drawn from the bank.

    `supersample` averages that many positions along each side of a pixel; 2 where windows are larger than `size`.
    """

    def one(key):
        pick, rest = jax.random.split(key)
        index = jax.random.randint(pick, (), 0, len(bank.images))
        return make_pair(
            rest,
            bank.images[index],
            bank.sizes[index],
            size=size,
            settings=settings,
            supersample=supersample,
        )._replace(image=index)

    return jax.vmap(one)(keys)


def make_pair(
    key: jax.Array,
    image: jax.Array,
    image_size: jax.Array,
    *,
    size: int,
    settings: Warps,
    supersample: int = 1,
    kind: jax.Array | None = None,
) -> Pair:
    """Returns the pair of one key and `image [H, W, C]`, of which the first rows and columns `image_size [2]` count.

    `kind`, an index in `KINDS` with a positive probability, is drawn unless it is given.
    """
    place, warp = jax.random.split(key)
    middle, half = _window(place, image_size, settings)
    kind, move = draw_warp(warp, settings, kind)
    if settings.frame_rotation or settings.frame_zoom:
        move = _in_frame(jax.random.fold_in(key, 2), settings, move)

    def draw(positions):
        """Samples the image at relative positions of the window."""
        return sample(to_unit(image), middle + positions * half - 0.5)

    def picture(through):
        offsets = (np.arange(supersample) + 0.5) / supersample - 0.5
        shifts = [np.asarray((x, y), np.float32) for y in offsets for x in offsets]
        total: Any = sum(draw(through(_relative(grid(size, size) + shift, size))) for shift in shifts)
        return total / len(shifts)

    positions = pixels_of_relative(move(_relative(grid(size, size), size)), (size, size))
    mask = within(positions, (size, size))
    return Pair(picture(lambda p: p), picture(move), flow_of(positions), mask, kind, jnp.zeros((), jnp.int32))


def _relative(pixels, size):
    return (2 * pixels + 1) / size - 1


def _window(key, image_size, settings):
    """Returns the middle of the window (x, y), from the image's corner in pixels, and half its side."""
    of_side, of_place = jax.random.split(key)
    extent = image_size[::-1].astype(jnp.float32)
    low, high = settings.window
    side = extent.min() * jax.random.uniform(of_side, minval=low, maxval=high)
    return side / 2 + jax.random.uniform(of_place, (2,)) * (extent - side), side / 2


def draw_warp(key: jax.Array, settings: Warps, kind: jax.Array | None = None):
    """Returns the kind of a warp (its index in `KINDS`), and the map of relative positions `[n, m, 2]` itself."""
    of_kind, *of_each = jax.random.split(key, 4)
    shares = np.asarray(settings.shares) / sum(settings.shares)
    if kind is None:
        kind = jax.random.choice(of_kind, len(KINDS), p=jnp.asarray(shares, jnp.float32))
    draws = (_homography, _affine, _thin_plate)
    moves = [draw(each, settings) if share else None for draw, each, share in zip(draws, of_each, shares, strict=True)]

    def move(positions):
        # All are computed and one is chosen: under vmap a branch would do no less.
        moved = positions
        for index, each in enumerate(moves):
            if each is not None:
                moved = jnp.where(kind == index, each(positions), moved)
        return moved

    return kind, move


def _homography(key, settings):
    away = jax.random.uniform(key, (_TRIES, 4, 2), minval=-settings.corner, maxval=settings.corner)
    square = jnp.asarray(CORNERS, jnp.float32)
    corners = square + away
    # The source's corners go to these places of the target; flow asks the other way.
    back = inverse(homography_of_corners(corners))
    middle = jnp.append(corners.mean(1), jnp.ones((_TRIES, 1)), -1)
    back = back * jnp.sign((back[:, 2] * middle).sum(-1))[:, None, None]
    reached, third = project(back, jnp.broadcast_to(square[:, None], (_TRIES, 4, 1, 2)))
    fits = ((jnp.abs(reached) <= jnp.asarray(settings.reach)) & (third[..., None] > 0)).all((1, 2, 3))
    back = jnp.where(fits.any(), back[fits.argmax()], jnp.eye(3))

    # In the square no position is behind the viewer, since no corner is.
    return lambda positions: project(back, positions)[0]


def _affine(key, settings):
    keys = jax.random.split(key, 4)
    turn, axis = (
        jnp.radians(jax.random.uniform(each, minval=-most, maxval=most))
        for each, most in ((keys[0], settings.rotation), (keys[1], settings.stretch_angle))
    )
    low, high = settings.stretch
    scales = jax.random.uniform(keys[2], (2,), minval=low, maxval=high)
    shift = jax.random.uniform(keys[3], (2, 1), minval=-settings.shift, maxval=settings.shift)
    linear = _rotation(turn) @ (_rotation(axis).T * scales) @ _rotation(axis)
    return lambda positions: affine(jnp.concatenate([linear, shift], -1), positions)


def _in_frame(key, settings, move):
    """Returns the map of a warp `move` of positions that are rotated and zoomed first."""
    of_angle, of_zoom = jax.random.split(key)
    angle = jnp.radians(settings.frame_rotation) * jax.random.uniform(of_angle, minval=-1.0)
    zoom = jnp.exp(settings.frame_zoom * jax.random.uniform(of_zoom, minval=-1.0))
    frame = jnp.concatenate([zoom * _rotation(angle), jnp.zeros((2, 1))], -1)
    return lambda positions: affine(frame, move(positions))


def _rotation(angle):
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cosine, -sine]), jnp.stack([sine, cosine])])


def _thin_plate(key, settings):
    away = settings.control * jax.random.normal(key, (len(CONTROL_POINTS), 2))
    controls = jnp.asarray(CONTROL_POINTS, jnp.float32) + away
    return lambda positions: thin_plate(controls, positions)
