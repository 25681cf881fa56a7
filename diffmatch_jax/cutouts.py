"""Objects with outlines drawn by people, from COCO's published layout, as cut-outs to paste on pairs.

`instances_train2014.json` lists images (id, file_name) and annotations (image_id, iscrowd, area, bbox, segmentation as
polygons x1, y1, x2, y2, ... in pixels from the image's corner); crowds and small objects are left out.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from common.data import images as pictures
from common.data.source import OnDevice, Source, digest
from common.errors import input_error
from diffmatch_jax.objects import Cutout

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
    last, photograph = None, None
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
    for outline in outlines:
        points = (outline - corner) * (side * _FINE / length) - 0.5
        if len(points) > 2:
            ImageDraw.Draw(fine).polygon([tuple(point) for point in points.tolist()], fill=255)
    cover = np.asarray(fine, np.float32).reshape(side, _FINE, side, _FINE).mean((1, 3))
    mask = np.zeros((side, side), np.uint8)
    mask[1:-1, 1:-1] = np.round(cover[1:-1, 1:-1])
    return pictures.resize(photograph[np.ix_(rows, columns)], side), mask


class WithObjects(Source):
    """A source whose elements also have an object: `object_image [s, s, 3]` and `object_mask [s, s]`, uint8.

    A random number of the example, taken modulo the number of objects, says which one; without it they come in turn.
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

    def read(self, index: Sequence[int], random: np.ndarray | None = None) -> dict[str, np.ndarray]:
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
