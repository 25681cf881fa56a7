"""Parametric warps of the plane: homographies, affine maps, thin-plate splines, and motions of pasted objects.

All map positions of the target to positions of the source, (x, y) `[..., 2]`, in whatever unit the caller chose;
relative positions have the square [-1, 1]^2 as the image (see `matching.pixels_of_relative`).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from common.errors import input_error

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


def object_motion(
    size: tuple[int, int],
    *,
    rotation: float,
    scale: float,
    translation: tuple[float, float],
    centre: tuple[float, float] | None = None,
    compat: str | None = None,
) -> np.ndarray:
    """Returns the matrix `[3, 3]` (float64, pixels) that moves an object of the target into the source.

    It is turned by `rotation` degrees (counter-clockwise on the screen) and scaled about `centre` (x, y), the middle of
    the object, then shifted, so that the middle lands at centre + translation. compat="released": shifted first, then
    turned about the middle of the image of `size`, then scaled about a quarter of it. Raises `InputError` for a scale
    that is not positive, or without a centre.
    """
    if not scale > 0:
        raise input_error("scale", expected="a positive number", got=scale, fix="use 1 to keep the size")
    height, width = size
    cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    turn = np.array([[cosine, sine], [-sine, cosine]])
    if compat == "released":
        middle = np.array([width / 2, height / 2])
        scaling = _about(scale * np.eye(2), np.array([width, height]) * 0.25)
        return scaling @ _about(turn, middle) @ _shift(translation)
    if centre is None:
        raise input_error("centre", expected="the object's middle (x, y)", got="None", fix="give that of its box")
    return _shift(translation) @ _about(scale * turn, np.asarray(centre, np.float64))


def _about(linear: np.ndarray, middle: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = middle - linear @ middle
    return matrix


def _shift(by) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, 2] = by
    return matrix
