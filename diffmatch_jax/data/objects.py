"""Moving objects pasted on pairs: flow that breaks at outlines, and background that is hidden in the source.

An object is a picture with a mask, here a random outline cut out of a photograph. Target and source show it by the same
continuous functions of the position, so its flow is that of its motion, an affine map, and what it hides is known.

Objects with outlines drawn by people, from COCO's published layout, as cut-outs to paste on pairs.

`instances_train2014.json` lists images (id, file_name) and annotations (image_id, iscrowd, area, bbox, segmentation as
polygons x1, y1, x2, y2, ... in pixels from the image's corner); crowds and small objects are left out.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from common.arrays import to_unit
from common.data import images as pictures
from common.data.source import OnDevice, Source, digest
from common.errors import input_error
from diffmatch_jax.data import warps
from diffmatch_jax.data.warps import Pair
from diffmatch_jax.model.flow import grid, mapping_of, sample, within

_WAVES = 5  # harmonics of a random outline
_RADIUS = 0.3  # its mean radius, sides of the cut-out


class Cutout(NamedTuple):
    """An object: its picture `[h, w, C]` in [0, 1] around its middle, and its mask `[h, w]`, 0 along the border."""

    image: Any  # an array
    mask: Any  # an array


@dataclass(frozen=True)
class Objects:
    """Sizes and motions of objects; hashable.

    area: fraction of the target, log-uniform between the two; rotation: degrees, U(-, +); log_scale: of the size in the
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


def draw_motion(key: jax.Array, size: tuple[int, ...], settings: Objects) -> Motion:
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
    """Returns the fraction of the target that an object covers."""
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


LEAST_AREA = 1300  # pixels, as in the released settings
_MARGIN = 1.1  # sides of the square around an object, in longer sides of its box
_FINE = 4  # positions along each side of a pixel that decide how much of it is covered


def read_coco(
    annotations: str | Path,
    folder: str | Path,
    *,
    side: int = 128,
    least_area: float = LEAST_AREA,
    most: int = 2000,
    seed: int = 0,
) -> Cutout:
    """Returns up to `most` objects, drawn by `seed`: image `[N, side, side, 3]` and mask `[N, side, side]`, uint8.

    Each fills the middle of its square; what lies beyond its photograph repeats the edge and is masked. Raises
    `InputError` for a list of another layout, without such objects, or for photographs that are missing or damaged.
    """
    try:
        listed = json.loads(Path(annotations).read_text(encoding="utf-8"))
        files = {each["id"]: each["file_name"] for each in listed["images"]}
        found = [
            (each["image_id"], each["bbox"], each["segmentation"])
            for each in listed["annotations"]
            if not each["iscrowd"] and each["area"] > least_area and isinstance(each["segmentation"], list)
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "give instances_train2014.json"
        raise input_error(str(annotations), expected="COCO's list of instances", got=repr(error), fix=fix) from None
    if not found:
        fix = "lower the least area"
        raise input_error(str(annotations), expected=f"objects of more than {least_area} pixels", got="none", fix=fix)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(found))[:most])
    # One after the other by image, so that each photograph is decoded once.
    chosen = sorted(chosen.tolist(), key=lambda index: (found[index][0], index))
    image, mask = np.empty((len(chosen), side, side, 3), np.uint8), np.empty((len(chosen), side, side), np.uint8)
    last, photograph = None, np.empty(0)
    for row, index in enumerate(chosen):
        of, box, polygons = found[index]
        if of != last:
            last, photograph = of, _photograph(Path(folder) / str(files.get(of, of)))
        image[row], mask[row] = cut_out(photograph, box, polygons, side=side, name=f"{annotations}, image {of}")
    return Cutout(image, mask)


def _photograph(path: Path) -> np.ndarray:
    try:
        return pictures.as_channels(pictures.decode(path), 3)
    except ValueError as error:
        raise input_error(
            str(path), expected="a photograph of the list", got=str(error), fix="unpack its archive"
        ) from None


def cut_out(
    photograph: np.ndarray,
    box: Sequence[float],
    polygons: Sequence[Sequence[float]],
    *,
    side: int,
    name: str = "annotation",
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a square `[side, side, 3]` around box (x, y, width, height) and its mask `[side, side]`, uint8.

    The union of the polygons counts; the mask's outermost pixels are empty. Raises `InputError`, which begins with
    `name`, for a box or polygons that are none.
    """
    try:
        left, top, width, height = (float(each) for each in box)
        outlines = [np.asarray(each, np.float64).reshape(-1, 2) for each in polygons]
        if not all(np.isfinite(each).all() for each in (np.asarray([left, top, width, height]), *outlines)):
            raise ValueError("numbers that are not finite")
    except (TypeError, ValueError) as error:
        expected = "a box x, y, width, height and polygons x1, y1, x2, y2, ..."
        raise input_error(name, expected=expected, got=error, fix="download the list again") from None
    length = max(2, round(_MARGIN * max(width, height, 1)))
    corner = np.round([left + width / 2 - length / 2, top + height / 2 - length / 2]).astype(int)
    rows, columns = (
        np.clip(start + np.arange(length), 0, limit - 1)
        for start, limit in ((corner[1], photograph.shape[0]), (corner[0], photograph.shape[1]))
    )
    fine = Image.new("L", (side * _FINE, side * _FINE))
    for each in outlines:
        points = (each - corner) * (side * _FINE / length) - 0.5
        if len(points) > 2:
            ImageDraw.Draw(fine).polygon([tuple(point) for point in points.tolist()], fill=255)
    cover = np.asarray(fine, np.float32).reshape(side, _FINE, side, _FINE).mean((1, 3))
    mask = np.zeros((side, side), np.uint8)
    mask[1:-1, 1:-1] = np.round(cover[1:-1, 1:-1])
    return pictures.resize(photograph[np.ix_(rows, columns)], side), mask


class WithObjects(Source):
    """A source whose elements also have an object: `object_image [s, s, 3]` and `object_mask [s, s]`, uint8.

    A random number of the example, taken modulo the number of objects, chooses one; without it they come in turn.
    """

    def __init__(self, source: Source, cutouts: Cutout):
        self._source, self._cutouts = source, cutouts
        self.num_classes, self.num_random = source.num_classes, source.num_random + 1
        self.fingerprint = digest("objects", source.fingerprint, cutouts.image, cutouts.mask)

    def __repr__(self) -> str:
        return f"WithObjects({self._source!r}, {len(self._cutouts.mask)} objects, {self.fingerprint})"

    def __len__(self) -> int:
        return len(self._source)

    def name(self, index: int) -> str:
        """Returns what a message calls an element: the name of its image."""
        return self._source.name(index)

    def read(self, index: Sequence[int] | np.ndarray, random: np.ndarray | None = None) -> dict[str, Any]:
        """Returns the examples at `index`, each with its object."""
        own, rest = (np.asarray(index), None) if random is None else (random[:, 0], random[:, 1:])
        which = own % len(self._cutouts.mask)
        objects = {"object_image": self._cutouts.image[which], "object_mask": self._cutouts.mask[which]}
        return {**self._source.read(index, rest), **objects}

    @property
    def nbytes(self) -> int | None:
        """Returns the bytes of images and objects; None if they must be streamed."""
        inner = self._source.nbytes
        return None if inner is None else inner + sum(each.nbytes for each in self._cutouts)

    def on_device(self) -> OnDevice:
        """Returns images and objects as arrays for a device, and what brings them together there."""
        inner = self._source.on_device()

        def gather(arrays: Any, index: Any, random: Any) -> dict[str, Any]:
            import jax.numpy as jnp

            image, mask = (jnp.asarray(each) for each in arrays["cutouts"])
            which = random[:, 0] % len(mask)
            element = inner.gather(arrays["source"], index, random[:, 1:])
            return {**element, "object_image": image[which], "object_mask": mask[which]}

        return OnDevice({"source": inner.arrays, "cutouts": tuple(self._cutouts)}, gather)
