"""Flow, mapping, look-up and warping.

Pixel centres are integers, (0, 0) is the top left one. A flow lives on the target's grid and points into the source:
source position = target pixel + flow, a mapping is that position itself. Channel 0 is x (to the right), 1 is y (down).
Normalised flow divides x by the width and y by the height: 1 is a full image.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from common.errors import choice

OUTSIDE = ("zeros", "border")


def grid(height: int, width: int, dtype=jnp.float32) -> jax.Array:
    """Returns the positions (x, y) of all pixels, `[height, width, 2]`."""
    y, x = jnp.meshgrid(jnp.arange(height, dtype=dtype), jnp.arange(width, dtype=dtype), indexing="ij")
    return jnp.stack([x, y], -1)


def mapping_of(flow: jax.Array) -> jax.Array:
    """Returns the source position `[..., H, W, 2]` of every target pixel."""
    return flow + grid(*flow.shape[-3:-1], dtype=flow.dtype)


def flow_of(mapping: jax.Array) -> jax.Array:
    """Returns the flow `[..., H, W, 2]` to the source positions of a mapping."""
    return mapping - grid(*mapping.shape[-3:-1], dtype=mapping.dtype)


def to_pixels(flow: jax.Array, *, source: tuple[int, ...] | None = None) -> jax.Array:
    """Returns normalised flow `[..., H, W, 2]`, which is on the target's own pixel grid, in pixels.

    Where source and target differ in size (`source` is the former's height and width), normalised flow is the
    difference of the two relative positions (x + 1/2)/W, and the pixel flow goes to a pixel of the source.
    """
    height, width = flow.shape[-3:-1]
    to = _wide(source or (height, width), flow.dtype)
    away = flow * to
    if source is None or tuple(source) == (height, width):
        return away
    return away + (grid(height, width, flow.dtype) + 0.5) * (to / _wide((height, width), flow.dtype) - 1)


def to_normalised(flow: jax.Array, *, source: tuple[int, ...] | None = None) -> jax.Array:
    """Returns pixel flow `[..., H, W, 2]` normalised; the inverse of `to_pixels`."""
    height, width = flow.shape[-3:-1]
    to = _wide(source or (height, width), flow.dtype)
    if source is not None and tuple(source) != (height, width):
        flow = flow - (grid(height, width, flow.dtype) + 0.5) * (to / _wide((height, width), flow.dtype) - 1)
    return flow / to


def pixels_of_relative(relative: jax.Array, size: tuple[int, ...], *, alignment: str = "half_pixel") -> jax.Array:
    """Returns pixel positions from relative ones in [-1, 1] `[..., 2]` of an image of `size` (height, width).

    -1 and 1 are the image's edges with "half_pixel" and its outermost pixel centres with "corner".
    """
    choice("alignment", alignment, ("half_pixel", "corner"))
    length = _wide(size, relative.dtype)
    if alignment == "half_pixel":
        return (relative + 1) * length / 2 - 0.5
    return (relative + 1) * (length - 1) / 2


def relative_of_pixels(positions: jax.Array, size: tuple[int, ...], *, alignment: str = "half_pixel") -> jax.Array:
    """Returns positions in [-1, 1] from pixel positions `[..., 2]`; the inverse of `pixels_of_relative`."""
    choice("alignment", alignment, ("half_pixel", "corner"))
    length = _wide(size, positions.dtype)
    if alignment == "half_pixel":
        return (2 * positions + 1) / length - 1
    return 2 * positions / (length - 1) - 1


def sample(image: jax.Array, positions: jax.Array, *, outside: str = "zeros") -> jax.Array:
    """Returns `image [..., H, W, C]` at pixel positions `[..., h, w, 2]` by bilinear interpolation, `[..., h, w, C]`.

    With "zeros" each of the four neighbours that is outside the image counts 0; with "border" positions are moved to
    the nearest one inside. The leading axes of both are the same. Gradients reach image and positions.
    """
    choice("outside", outside, OUTSIDE)
    lead = image.shape[:-3]
    if lead != positions.shape[:-3]:
        raise ValueError(f"positions: expected leading axes {lead}, got {positions.shape[:-3]}")
    one = _sample_zeros if outside == "zeros" else _sample_border
    for _ in lead:
        one = jax.vmap(one)
    return one(image if jnp.issubdtype(image.dtype, jnp.floating) else image.astype(jnp.float32), positions)


def _sample_border(image, positions):
    height, width, _ = image.shape
    # By minimum and maximum, not clip by where: a position that is no number stays none.
    limits = jnp.asarray([width - 1, height - 1], positions.dtype)
    return _sample_zeros(image, jnp.minimum(jnp.maximum(positions, 0), limits))


def _sample_zeros(image, positions):
    height, width, channels = image.shape
    flat = image.reshape(height * width, channels)
    below = jnp.floor(positions)
    part = positions - below
    total = jnp.zeros((*positions.shape[:-1], channels), image.dtype)
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = below[..., 0] + dx, below[..., 1] + dy
            weight = jnp.abs(1 - dx - part[..., 0]) * jnp.abs(1 - dy - part[..., 1])
            # Compared before the cast: positions far outside are no int32.
            inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
            index = jnp.where(inside, y, 0).astype(jnp.int32) * width + jnp.where(inside, x, 0).astype(jnp.int32)
            value = flat.at[index].get(mode="promise_in_bounds")
            total += jnp.where(inside, weight, 0)[..., None].astype(image.dtype) * value
    return total


def warp(source: jax.Array, flow: jax.Array, *, outside: str = "zeros") -> jax.Array:
    """Returns the source `[..., H, W, C]` drawn on the target's grid by a pixel flow `[..., h, w, 2]`."""
    return sample(source, mapping_of(flow), outside=outside)


def valid(flow: jax.Array, *, source: tuple[int, ...] | None = None, strict: bool = False) -> jax.Array:
    """Returns which target pixels point into the source, `[..., H, W]`: 0 <= x <= W - 1 and likewise y.

    `source` is its height and width if it is not the target's; `strict` leaves the outermost centres out.
    """
    return within(mapping_of(flow), source or flow.shape[-3:-1], strict=strict)


def within(positions: jax.Array, size: tuple[int, ...], *, strict: bool = False) -> jax.Array:
    """Returns which pixel positions `[..., 2]` lie in an image of `size` between its outermost pixel centres."""
    last = _wide(size, positions.dtype) - 1
    if strict:
        return ((positions > 0) & (positions < last)).all(-1)
    return ((positions >= 0) & (positions <= last)).all(-1)


class Composed(NamedTuple):
    """A flow `[..., H, W, 2]` through an intermediate image, and where it is known `[..., H, W]`."""

    flow: jax.Array
    valid: jax.Array


def compose(first: jax.Array, second: jax.Array) -> Composed:
    """Returns p -> first(p) + second(p + first(p)): from grid A to B by `first`, and on to C by `second` (on grid B).

    It is valid where `first` points into B; `second` is interpolated there, and its own validity ignored.
    """
    positions = mapping_of(first)
    return Composed(first + sample(second, positions, outside="border"), within(positions, second.shape[-3:-1]))


class Consistency(NamedTuple):
    """Forward-backward `error` in pixels and whether it is small where it is known, both `[..., H, W]`."""

    error: jax.Array
    consistent: jax.Array


def consistency(forward: jax.Array, backward: jax.Array, *, absolute: float = 0.5, relative: float = 0.01):
    """Follows `forward` and then `backward`, which should lead back, and returns a `Consistency`.

    Consistent is |f + b|^2 <= relative (|f|^2 + |b|^2) + absolute with b at the end of f (Sundaram et al., ECCV 2010,
    equation 5) where f points into the other image.
    """
    positions = mapping_of(forward)
    back = sample(backward, positions, outside="border")
    squared = ((forward + back) ** 2).sum(-1)
    allowed = relative * ((forward**2).sum(-1) + (back**2).sum(-1)) + absolute
    known = within(positions, backward.shape[-3:-1])
    return Consistency(_root(squared), known & (squared <= allowed))


def _root(squared):
    """A square root whose gradient at 0 is 0."""
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


def _wide(size, dtype):
    return jnp.asarray([size[1], size[0]], dtype)
