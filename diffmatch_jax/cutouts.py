"""Objects with outlines drawn by people, from COCO's published layout, as cut-outs to paste on pairs.

`instances_train2014.json` lists images (id, file_name) and annotations (image_id, iscrowd, area, bbox, segmentation as
polygons x1, y1, x2, y2, ... in pixels from the image's corner); crowds and small objects are left out.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from common.data import images as pictures
from common.data.source import Element, Resident, Source, digest, known_bad, name_of, nbytes, read, resident, shapes_of
from common.data.source import num_classes as classes_of
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


class WithObjects:
    """A source whose elements also have an object: `object_image [s, s, 3]` and `object_mask [s, s]`, uint8.

    It is `repeats` times as long as the source: element i is that at i modulo its length, with an object that a hash
    of i names, so that every image meets many objects. Labels, names and shapes are the source's.
    """

    def __init__(self, source: Source, cutouts: Cutout, *, repeats: int = 64, seed: int = 0):
        if repeats < 1 or repeats * len(source) >= 2**31:
            expected = f"1 to {2**31 // max(len(source), 1)}"
            raise input_error("repeats", expected=expected, got=repeats, fix="use 64")
        self._source, self._cutouts, self._repeats, self._seed = source, cutouts, repeats, seed
        self.fingerprint = digest("objects", source.fingerprint, cutouts.image, cutouts.mask, repeats, seed)

    def __repr__(self) -> str:
        return f"WithObjects({self._source!r}, {len(self._cutouts.mask)} objects, {self.fingerprint})"

    def __len__(self) -> int:
        return len(self._source) * self._repeats

    def __getitem__(self, index: int) -> Element:
        if not 0 <= index < len(self):
            raise IndexError(f"{self!r}: index {index} is outside [0, {len(self)})")
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[Element]:
        """Returns the elements at `indices`, each with its object."""
        indices = np.asarray(indices, np.int64)
        elements = read(self._source, (indices % len(self._source)).tolist())
        objects = _hash(indices.astype(np.uint32), self._seed) % len(self._cutouts.mask)
        return [
            {**element, "object_image": self._cutouts.image[which], "object_mask": self._cutouts.mask[which]}
            for element, which in zip(elements, objects.tolist(), strict=True)
        ]

    def name(self, index: int) -> str:
        """Returns what a message calls an element: the name of its image."""
        return name_of(self._source, index % len(self._source))

    def known_bad(self) -> Mapping[int, str]:
        """Returns the elements of images that are known to be unusable, with the reason."""
        inner, count = known_bad(self._source), len(self._source)
        return {index + turn * count: reason for turn in range(self._repeats) for index, reason in inner.items()}

    def shapes(self) -> np.ndarray:
        """Returns the shapes of the images, `[N, 3]`."""
        return np.tile(shapes_of(self._source), (self._repeats, 1))

    @property
    def num_classes(self) -> int | None:
        """Returns the number of classes of the labels, None without labels."""
        return classes_of(self._source)

    @property
    def nbytes(self) -> int | None:
        """Returns the bytes of images and objects, each counted once; None if they must be streamed."""
        inner = nbytes(self._source)
        return None if inner is None else inner + sum(each.nbytes for each in self._cutouts)

    def resident(self) -> Resident:
        """Returns images and objects as arrays for a device, and what brings them together there."""
        inner, count, seed = resident(self._source), len(self._source), self._seed
        arrays = {"source": inner.arrays, "cutouts": tuple(self._cutouts)}

        def take(arrays, indices):
            import jax.numpy as jnp

            image, mask = (jnp.asarray(each) for each in arrays["cutouts"])
            which = (_hash(indices.astype(jnp.uint32), seed) % np.uint32(len(mask))).astype(jnp.int32)
            element = inner.take(arrays["source"], indices % count)
            return {**element, "object_image": image[which], "object_mask": mask[which]}

        return Resident(arrays, take, inner.nbytes + sum(each.nbytes for each in self._cutouts))


def _hash(indices, seed: int):
    """Returns a hash of uint32 indices, the same for numpy and JAX (the finaliser of MurmurHash3)."""
    h = indices * np.uint32(2654435761) + np.uint32(seed % 2**32)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(2246822507)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(3266489909)
    return h ^ (h >> np.uint32(16))
