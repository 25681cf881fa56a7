"""The record of a data set: pairs that are read on demand, each with its true flow and the mask of valid pixels.

The flow `[Ht, Wt, 2]` lives on the target's pixels and points to a pixel of the source, which may have another size;
the mask `[Ht, Wt]` says where it counts.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data import images
from common.data.source import Element, Source, digest
from common.errors import input_error, within
from diffmatch_jax.model import resize as resizing


class Cameras(NamedTuple):
    """Matrices `[3, 3]` of both cameras and the pose between them: x_source = rotation x_target + translation."""

    source: np.ndarray
    target: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray


class Regions(NamedTuple):
    """Regions of a generated pair, known at every target pixel.

    masks: `[H, W]` by the name of a region (`evaluation.regions.REGIONS`); covisible `[H, W]`: which pixels the source
    shows; equal `[M, H, W, 2]`: flows to places of the source that look the same, NaN where there are no more.
    """

    masks: Mapping[str, np.ndarray]
    covisible: np.ndarray
    equal: np.ndarray


class Example(NamedTuple):
    """A pair: source `[Hs, Ws, 3]` and target `[Ht, Wt, 3]` (bytes), flow `[Ht, Wt, 2]` (float32), mask `[Ht, Wt]`.

    homography: `[3, 3]` with x_source ~ H x_target in pixels, where one holds for the whole pair; cameras: of a pair
    whose relative pose is known; regions: of generated pairs, whose flow is known everywhere.
    """

    name: str
    source: np.ndarray
    target: np.ndarray
    flow: np.ndarray
    mask: np.ndarray
    homography: np.ndarray | None = None
    cameras: Cameras | None = None
    regions: Regions | None = None


@dataclass(frozen=True)
class Dataset:
    """Pairs in a fixed order; `load(i)` reads one of them.

    name: of the table's column; names: of the pairs; groups: the row each belongs to ("I", "rate 3", a scene);
    sequences: where those matter within a group; scheme: how the field puts the pairs together, see
    `evaluation.summary` ("images": all alike; "groups": the mean of the groups; "rates": the mean over sequences of
    each group, and of the groups); fingerprint: a hash of what is in it.
    """

    name: str
    names: tuple[str, ...]
    groups: tuple[str, ...]
    load: Callable[[int], Example]
    fingerprint: str
    scheme: str = "images"
    sequences: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)


def make(
    name: str,
    entries: Sequence[tuple[str, str]],
    load: Callable[[int], Example],
    *,
    content: Sequence[object],
    scheme: str = "images",
    sequences: Sequence[str] | None = None,
) -> Dataset:
    """Returns a data set of `entries` (name and group of each pair); `content` enters the fingerprint.

    Raises `InputError` if it has no pair.
    """
    if not entries:
        raise input_error(f"data {name}", expected="at least one pair", got="none", fix="check the directory")
    names, groups = zip(*entries, strict=True)
    fingerprint = digest(name, *names, *groups, *(sequences or ()), *content)
    return Dataset(name, names, groups, load, fingerprint, scheme, tuple(sequences) if sequences else None)


def subset(dataset: Dataset, count: int) -> Dataset:
    """Returns `count` pairs spread evenly over the data set, or all if there are no more."""
    within("count", count, 1)
    if count >= len(dataset):
        return dataset
    chosen = [round(each) for each in np.linspace(0, len(dataset) - 1, count)]
    return replace(
        dataset,
        names=tuple(dataset.names[i] for i in chosen),
        groups=tuple(dataset.groups[i] for i in chosen),
        sequences=tuple(dataset.sequences[i] for i in chosen) if dataset.sequences else None,
        load=lambda i: dataset.load(chosen[i]),
        fingerprint=digest(dataset.fingerprint, *chosen),
    )


def folder_of(directory: str | Path) -> Path:
    """Returns an existing directory; raises `InputError` if there is none."""
    root = Path(os.path.expanduser(directory))
    if not root.is_dir():
        raise input_error(str(root), expected="a directory", got="no such directory", fix="check the path")
    return root


class PairSource(Source):
    """A data set whose pairs have one size as a `common.data.source.Source`: elements source, target, flow and mask.

    So lists of pairs can be trained on, streamed from their files.
    """

    nbytes = None  # pyright: ignore[reportAssignmentType]  # read on demand, not kept

    def __init__(self, dataset: Dataset):
        self._dataset = dataset
        self.fingerprint = dataset.fingerprint

    def __repr__(self) -> str:
        return f"PairSource({self._dataset.name}, {len(self)}, {self.fingerprint})"

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Element:
        example = self._dataset.load(index)
        return {name: getattr(example, name) for name in ("source", "target", "flow", "mask")}

    def name(self, index: int) -> str:
        """Returns the pair's name, for messages."""
        return self._dataset.names[index]


def read_image(path) -> np.ndarray:
    """Returns an image file as bytes `[H, W, 3]`; raises `InputError` if it is missing or no image."""
    try:
        return images.as_channels(images.decode(path), 3)
    except ValueError as error:
        raise input_error(
            str(path), expected="an image file", got=error, fix="check that it was unpacked completely"
        ) from None


def resized_image(image: np.ndarray, size: tuple[int, ...], *, antialias: bool = True) -> np.ndarray:
    """Returns bytes `[H, W, 3]` at `size` (height, width), half-pixel bilinear, rounded.

    Without `antialias` pixels are skipped when it shrinks, as OpenCV's linear resize of the published protocols does.
    """
    if image.shape[:2] == tuple(size):
        return image
    rows, columns = (
        resizing.interpolation(n, m, "half_pixel", "repeat", antialias)
        for n, m in zip(image.shape[:2], size, strict=True)
    )
    return np.clip(np.round(_apply(image.astype(np.float32), rows, columns)), 0, 255).astype(np.uint8)


def resized(example: Example, side: int) -> Example:
    """Returns a pair whose images have the longer side `side`, proportions kept; flow is averaged over valid pixels.

    A pixel of the smaller grid counts where more than half of its area has a known flow. Images are never enlarged.
    """
    to_source, to_target = (fitting(each.shape[:2], side) for each in (example.source, example.target))
    if to_target == example.target.shape[:2] and to_source == example.source.shape[:2]:
        return example
    size = example.mask.shape
    rows, columns = (resizing.areas(n, m) for n, m in zip(size, to_target, strict=True))
    known = example.mask[..., None]
    # Relative positions do not change with the size; of invalid flow nothing must enter the mean.
    before = (centres(size) + example.flow + 0.5) / _wide(example.source.shape[:2])
    away = np.where(known, before - (centres(size) + 0.5) / _wide(size), 0)
    share = _apply(known.astype(np.float64), rows, columns)
    mean = _apply(away, rows, columns) / np.where(share > 0, share, 1)
    places = centres(to_target)
    flow = (mean + (places + 0.5) / _wide(to_target)) * _wide(to_source) - 0.5 - places
    return Example(
        example.name,
        resized_image(example.source, to_source),
        resized_image(example.target, to_target),
        np.where(share > 0, flow, 0).astype(np.float32),
        share[..., 0] > 0.5 + 1e-9,
        *_rescaled(example, to_source, to_target),
    )


def _rescaled(example: Example, source: tuple[int, ...], target: tuple[int, ...]):
    """Returns homography and cameras of a pair whose images get these sizes."""
    of_source, of_target = (
        rescaling(image.shape[:2], size) for image, size in ((example.source, source), (example.target, target))
    )
    homography, cameras = example.homography, example.cameras
    if homography is not None:
        homography = of_source @ homography @ np.linalg.inv(of_target)
    if cameras is not None:
        cameras = cameras._replace(source=of_source @ cameras.source, target=of_target @ cameras.target)
    return homography, cameras


def rescaling(old: tuple[int, ...], new: tuple[int, ...], *, half_pixel: bool = True) -> np.ndarray:
    """Returns the matrix `[3, 3]` that takes pixels of an image of size `old` to those of the image resized to `new`.

    Resized images are half-pixel samples, x' = (x + 1/2) w'/w - 1/2; `half_pixel=False`: x' = x w'/w.
    """
    factors = np.asarray([new[1] / old[1], new[0] / old[0]])
    matrix = np.diag([*factors, 1.0])
    if half_pixel:
        matrix[:2, 2] = (factors - 1) / 2
    return matrix


def _apply(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns `x [H, W, C]` multiplied by a matrix for its rows and one for its columns."""
    height, width, channels = x.shape
    x = (rows.astype(x.dtype) @ x.reshape(height, -1)).reshape(-1, width, channels)
    # One product of two matrices each, which is many times as fast as one a row.
    x = columns.astype(x.dtype) @ x.swapaxes(0, 1).reshape(width, -1)
    return x.reshape(len(columns), len(rows), channels).swapaxes(0, 1)


def fitting(size: tuple[int, ...], side: int) -> tuple[int, int]:
    """Returns `size` (height, width) shrunk in proportion to the longer side `side`, if that is smaller."""
    factor = min(1.0, side / max(size))
    height, width = (max(1, round(each * factor)) for each in size)
    return height, width


def centres(size: tuple[int, ...]) -> np.ndarray:
    """Returns the positions (x, y) of all pixels, float64 `[H, W, 2]`."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    return np.stack([x, y], -1)


def inside(positions: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Returns which positions `[..., 2]` lie between the outermost pixel centres of an image of `size`."""
    return np.all((positions >= 0) & (positions <= _wide(size) - 1), axis=-1)


def scattered(places: np.ndarray, sources: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns flow `[H, W, 2]` and mask `[H, W]` that hold matches of target `places [N, 2]` and `sources [N, 2]`.

    Each is written to the pixel nearest to its place (half to even), the last of several; those outside are left out.
    """
    flow, mask = np.zeros((*size, 2), np.float32), np.zeros(size, bool)
    pixel = np.round(places).astype(np.int64)
    known = inside(pixel, size)
    x, y = pixel[known].T
    flow[y, x] = (sources - places)[known]
    mask[y, x] = True
    return flow, mask


def _wide(size: tuple[int, ...]) -> np.ndarray:
    return np.asarray([size[1], size[0]], np.float64)
