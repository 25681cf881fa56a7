"""Moving objects pasted on pairs: flow that breaks at outlines, and background that is hidden in the source.

An object is a picture with a mask, here a random outline cut out of a photograph. Target and source show it by the same
continuous functions of the position, so its flow is that of its motion, an affine map, and what it hides is known.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.data.augment import to_unit
from common.errors import input_error
from diffmatch_jax import warps
from diffmatch_jax.matching import grid, mapping_of, sample, within
from diffmatch_jax.pairs import Pair

_WAVES = 5  # harmonics of a random outline
_RADIUS = 0.3  # its mean radius, sides of the cut-out


class Cutout(NamedTuple):
    """An object: its picture `[h, w, C]` in [0, 1] around its middle, and its mask `[h, w]`, 0 along the border."""

    image: jax.Array
    mask: jax.Array


@dataclass(frozen=True)
class Objects:
    """How large objects are and how they move; hashable.

    area: share of the target, log-uniform between the two; rotation: degrees, U(-, +); log_scale: of the size in the
    source, U(-, +); near: with probability `near_share` the object moves in x and y by U(-near, near) sides, otherwise
    to anywhere in the source; roughness: of random outlines. The motions are those of the released settings.
    """

    area: tuple[float, float] = (0.01, 0.2)
    rotation: float = 30.0
    log_scale: float = 0.3
    near: float = 8 / 520
    near_share: float = 0.5
    roughness: float = 0.35

    def __post_init__(self):
        low, high = self.area
        if not 0 < low <= high <= 1:
            raise input_error("objects.area", expected="0 < low <= high <= 1", got=[low, high], fix="use (0.01, 0.2)")
        for name in ("near_share", "roughness"):
            if not 0 <= getattr(self, name) <= 1:
                got = getattr(self, name)
                raise input_error(f"objects.{name}", expected="a number from 0 to 1", got=got, fix="use the default")


def outline(key: jax.Array, side: int, *, roughness: float) -> jax.Array:
    """Returns the mask `[side, side]` of a random star-shaped outline, with an edge one pixel wide."""
    of_size, of_phase = jax.random.split(key)
    waves = jnp.arange(2, 2 + _WAVES)
    sizes = roughness * jax.random.uniform(of_size, (_WAVES,)) / (waves - 1)
    phases = 2 * jnp.pi * jax.random.uniform(of_phase, (_WAVES,))
    x, y = jnp.moveaxis(grid(side, side) - (side - 1) / 2, -1, 0)
    angle = jnp.arctan2(y, x)[..., None]
    radius = 1 + (sizes * jnp.cos(waves * angle + phases)).sum(-1)
    # The largest of all these radii must stay within the picture.
    radius = _RADIUS * side * jnp.minimum(radius, 0.95 * (side / 2 - 1) / (_RADIUS * side))
    return jnp.clip(radius - jnp.hypot(x, y) + 0.5, 0, 1)


def cut(
    key: jax.Array, image: jax.Array, extent: jax.Array, *, side: int, window: jax.Array, roughness: float
) -> Cutout:
    """Returns an object of `side` x `side` pixels that shows a random square of `window` pixels of `image [H, W, C]`.

    Of the image the first rows and columns `extent [2]` count; the square is no larger.
    """
    of_outline, of_place = jax.random.split(key)
    extent = extent.astype(jnp.float32)[::-1]
    window = jnp.minimum(window, extent.min())
    corner = jax.random.uniform(of_place, (2,)) * (extent - window)
    positions = jnp.clip(corner + (grid(side, side) + 0.5) * (window / side) - 0.5, 0, extent - 1)
    mask = outline(of_outline, side, roughness=roughness)
    return Cutout(sample(to_unit(image), positions), mask)


class Motion(NamedTuple):
    """A similarity p -> to + linear (p - middle), from the target to the source, in pixels (x, y)."""

    middle: jax.Array
    linear: jax.Array
    to: jax.Array

    def __call__(self, positions: jax.Array) -> jax.Array:
        """Returns where target positions `[H, W, 2]` are in the source."""
        return warps.affine(jnp.concatenate([self.linear, self.to[:, None]], 1), positions - self.middle)

    def back(self, positions: jax.Array) -> jax.Array:
        """Returns where source positions `[H, W, 2]` are in the target."""
        moved = warps.affine(
            jnp.concatenate([self.linear.T / jnp.linalg.det(self.linear), jnp.zeros((2, 1))], 1), positions - self.to
        )
        return moved + self.middle


def draw_motion(key: jax.Array, size: tuple[int, int], settings: Objects) -> Motion:
    """Returns a random motion of an object whose middle is anywhere in the target of `size` (height, width)."""
    keys = jax.random.split(key, 6)
    last = jnp.asarray([size[1] - 1, size[0] - 1], jnp.float32)
    middle = jax.random.uniform(keys[0], (2,)) * last
    angle = jnp.radians(jax.random.uniform(keys[1], minval=-settings.rotation, maxval=settings.rotation))
    scale = jnp.exp(jax.random.uniform(keys[2], minval=-settings.log_scale, maxval=settings.log_scale))
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    linear = scale * jnp.stack([jnp.stack([cosine, sine]), jnp.stack([-sine, cosine])])
    by = settings.near * max(size) * jax.random.uniform(keys[3], (2,), minval=-1, maxval=1)
    # Turned back where it would leave the picture.
    near = jnp.where((middle + by >= 0) & (middle + by <= last), middle + by, middle - by)
    far = jax.random.uniform(keys[4], (2,)) * last
    return Motion(middle, linear, jnp.where(jax.random.uniform(keys[5]) < settings.near_share, near, far))


def place(pair: Pair, cutout: Cutout, motion: Motion, *, scale: jax.Array) -> Pair:
    """Returns the pair with an object on top, `scale` target pixels to each of its own, that moves by `motion`.

    A pixel belongs to what covers its centre by half or more. The mask holds where the flow ends in the source, and
    what it shows is not hidden there by the object.
    """
    height, width = cutout.mask.shape
    middle = jnp.asarray([(width - 1) / 2, (height - 1) / 2], jnp.float32)

    def look(positions):
        """Returns the object's colours and how much it covers at target positions."""
        inner = (positions - motion.middle) / scale + middle
        return sample(cutout.image, inner, outside="border"), sample(cutout.mask[..., None], inner)

    pixels = grid(*pair.target.shape[:2])
    target_colour, target_cover = look(pixels)
    source_colour, source_cover = look(motion.back(grid(*pair.source.shape[:2])))
    of_object = target_cover[..., 0] >= 0.5
    moved = motion(pixels)
    hidden = look(motion.back(mapping_of(pair.flow)))[1][..., 0] >= 0.5
    flow = jnp.where(of_object[..., None], moved - pixels, pair.flow)
    mask = jnp.where(of_object, within(moved, pair.source.shape[:2]), pair.mask & ~hidden)
    return pair._replace(
        source=pair.source + source_cover * (source_colour - pair.source),
        target=pair.target + target_cover * (target_colour - pair.target),
        flow=flow,
        mask=mask,
    )


def draw_area(key: jax.Array, settings: Objects) -> jax.Array:
    """Returns the share of the target that an object takes."""
    low, high = (math.log(each) for each in settings.area)
    return jnp.exp(jax.random.uniform(key, minval=low, maxval=high))


def paste_cutout(key: jax.Array, pair: Pair, cutout: Cutout, *, settings: Objects | None = None) -> Pair:
    """Returns the pair with a given object (numbers in [0, 1], or bytes) of random size, place and motion on top."""
    settings = settings or Objects()
    cutout = Cutout(to_unit(cutout.image), to_unit(cutout.mask))
    of_area, of_motion = jax.random.split(key)
    return _paste(of_motion, pair, cutout, draw_area(of_area, settings), settings)


def paste(
    key: jax.Array,
    pair: Pair,
    image: jax.Array,
    extent: jax.Array | None = None,
    *,
    settings: Objects | None = None,
) -> Pair:
    """Returns the pair with a random piece of `image [H, W, C]` (uint8 or in [0, 1]) moving on top of it.

    Of the image the first rows and columns `extent [2]` count, all by default. Shapes are static, so it vmaps.
    """
    settings = settings or Objects()
    of_area, of_cut, of_motion = jax.random.split(key, 3)
    height, width = pair.target.shape[:2]
    side = max(16, max(height, width) // 2)
    area = draw_area(of_area, settings)
    extent = jnp.asarray(image.shape[:2] if extent is None else extent)
    # A square as large as the object will be: its pixels keep the photograph's sharpness.
    window = jnp.sqrt(area * height * width / np.pi) / _RADIUS
    cutout = cut(of_cut, image, extent, side=side, window=window, roughness=settings.roughness)
    return _paste(of_motion, pair, cutout, area, settings)


def _paste(key, pair, cutout, area, settings):
    size = pair.target.shape[:2]
    scale = jnp.sqrt(area * size[0] * size[1] / jnp.maximum(cutout.mask.sum(), 1))
    return place(pair, cutout, draw_motion(key, size, settings), scale=scale)
