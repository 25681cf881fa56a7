"""Pairs whose truth is a list of matched points: ETH3D's intervals, and the MegaDepth test pairs of RANSAC-Flow.

ETH3D (Schoeps et al., CVPR 2017) with the lists of GLU-Net (Truong et al., CVPR 2020):

    DIR/multiview_testing/..., DIR/multiview_training/...      the images
    DIR/info_ETH3D_files/lakeside_every_5_rate_of_3, ...        a list for each sequence and interval

A list is a pickle of dictionaries with the images' paths from DIR (source_image, target_image) and the coordinates Xs,
Ys, Xt, Yt of the matches. It is read without running anything in it.

MegaDepth (Li & Snavely, CVPR 2018) with the 1600 pairs of RANSAC-Flow (Shen et al., ECCV 2020):

    DIR/test1600Pairs.csv                                       or DIR/Test/...
    DIR/test1600Pairs/SCENE/IMAGE.jpg

with the columns source_image, target_image, XA, YA (matches in the source, separated by semicolons), XB, YB (in the
target) and scene ("/" for none). Images are resized to a shorter side of 480 pixels, sides cut to multiples of 16.

WxBS (Mishkin et al., BMVC 2015), pairs with points clicked by hand:

    DIR/CATEGORY/PAIR/01.png, 02.png, corrs.txt

A row of corrs.txt is x1 y1 x2 y2, pixels of both images; 01 is the target and 02 the source.

Images with cameras, whose relative pose is known and no flow:

    DIR/cameras.json and the images it names

It has for each image K, R `[3, 3]` and t `[3]`: x ~ K (R X + t) for a place X in the world.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.data.source import digest
from common.errors import input_error
from common.imports import pickles
from diffmatch_jax.evaluation.datasets.record import (
    Cameras,
    Dataset,
    Example,
    folder_of,
    inside,
    make,
    read_image,
    scattered,
)

SEQUENCES = (
    "lakeside",
    "sand_box",
    "storage_room",
    "storage_room_2",
    "tunnel",
    "delivery_area",
    "electro",
    "forest",
    "playground",
    "terrains",
)
RATES = (3, 5, 7, 9, 11, 13, 15)
_COLUMNS = ("source_image", "target_image", "XA", "YA", "XB", "YB", "scene")
_SHORTER, _MULTIPLE = 480, 16


def eth3d(
    directory: str | Path,
    *,
    rates: tuple[int, ...] = RATES,
    sequences: tuple[str, ...] = SEQUENCES,
    name: str = "eth3d",
) -> Dataset:
    """Returns ETH3D's pairs at every interval (groups "rate 3", ...), in their original size.

    The table's numbers are means over sequences for each rate, and over rates. Raises `InputError` for missing or
    damaged lists.
    """
    root = folder_of(directory)
    entries, of_pair, pairs, content = [], [], [], []
    for rate in rates:
        for sequence in sequences:
            path = root / "info_ETH3D_files" / f"{sequence}_every_5_rate_of_{rate}"
            rows = read_matches(path)
            content.append(digest(path.read_bytes()))
            for number, row in enumerate(rows):
                entries.append((f"{sequence}/rate {rate}/{number}", f"rate {rate}"))
                of_pair.append(sequence)
                pairs.append(row)

    def load(index: int) -> Example:
        row = pairs[index]
        source, target = (read_image(root / row[f"{which}_image"]) for which in ("source", "target"))
        places, sources = (np.stack([row["X" + which], row["Y" + which]], -1) for which in ("t", "s"))
        return Example(entries[index][0], source, target, *scattered(places, sources, target.shape[:2]))

    return make(name, entries, load, content=content, scheme="rates", sequences=of_pair)


def read_matches(path: str | Path) -> list[dict[str, Any]]:
    """Returns the pairs of a pickled list: images' paths, and `Xs, Ys, Xt, Yt [N]` in float32.

    Numbers may be lists or NumPy arrays; anything else in the file is refused and nothing is run. Raises `InputError`.
    """
    try:
        found: Any = pickles.read(Path(path).read_bytes(), find=_find, persistent=_refuse)
        return [_pair(each) for each in found]
    except OSError as error:
        raise input_error(
            str(path), expected="a list of matches", got=error.strerror, fix="unpack info_ETH3D_files"
        ) from None
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        fix = "download it again"
        raise input_error(str(path), expected="a pickled list of pairs with matches", got=error, fix=fix) from None


def _pair(row: Mapping[str, Any]) -> dict[str, Any]:
    pair: dict[str, Any] = {}
    for name in ("source_image", "target_image"):
        text = row[name]
        if not isinstance(text, str) or Path(text).is_absolute() or ".." in Path(text).parts:
            raise ValueError(f"{name} {text!r}")
        pair[name] = text
    for name in ("Xs", "Ys", "Xt", "Yt"):
        value = row[name]
        array = _array(value) if isinstance(value, pickles.Object) else np.asarray([_number(each) for each in value])
        pair[name] = array.astype(np.float32).reshape(-1)
        if not np.isfinite(pair[name]).all() or len(pair[name]) != len(pair["Xs"]):
            raise ValueError(f"{len(pair[name])} numbers {name} for {len(pair['Xs'])} Xs, or some that are not finite")
    return pair


def _array(described: Any) -> np.ndarray:
    """Returns the array that a pickle describes (version, shape, type, order, bytes)."""
    kind: Any
    _, shape, kind, fortran, data = described.state
    if (
        described.kind != "array"
        or fortran
        or not isinstance(data, bytes | bytearray)
        or not isinstance(kind, pickles.Object)
        or not isinstance(kind.state, tuple)
    ):
        raise ValueError("an array of another kind")
    if kind.kind not in ("f4", "f8", "i4", "i8") or kind.state[1] != "<":
        raise ValueError(f"numbers of type {kind.kind}")
    return np.frombuffer(data, "<" + kind.kind).reshape(shape)


def _find(module: str, name: str) -> pickles.Name:
    known = {
        "numpy._reconstruct": lambda *_: pickles.Object("array"),
        "numpy.ndarray": lambda *_: pickles.Object("array"),
        "numpy._frombuffer": lambda data, kind, shape, order: pickles.Object(
            "array", (1, shape, kind, order != "C", data)
        ),
        "numpy.dtype": lambda text, *_: pickles.Object(str(text)),
        "_codecs.encode": lambda text, coding: text.encode("latin-1"),
    }
    # The module that rebuilds arrays has moved within NumPy.
    text = f"{module.split('.')[0]}.{name}"
    if text not in known:
        raise ValueError(f"{module}.{name}, of which nothing was run")
    return pickles.Name(text, known[text])


def _refuse(identifier: object) -> object:
    raise ValueError("a reference to something outside the file")


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise ValueError(f"{type(value).__name__} in the place of a number")
    return float(value)


def megadepth(directory: str | Path, *, name: str = "megadepth") -> Dataset:
    """Returns the 1600 pairs of MegaDepth; groups are the scenes of the list.

    Raises `InputError` for a missing or damaged list.
    """
    root = folder_of(directory)
    root = root / "Test" if (root / "Test").is_dir() else root
    path = root / "test1600Pairs.csv"
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        missing = [column for column in _COLUMNS if not rows or column not in rows[0]]
        if missing:
            raise ValueError(f"no column {', '.join(missing)}")
        for number, row in enumerate(rows):
            if any(row[column] is None for column in _COLUMNS):
                raise ValueError(f"pair {number} with fewer columns")
    except (OSError, ValueError, csv.Error) as error:
        fix = "name the folder with test1600Pairs.csv"
        raise input_error(str(path), expected="the list of pairs", got=error, fix=fix) from None

    def load(index: int) -> Example:
        row = rows[index]
        folder = root / "test1600Pairs"
        folder = folder if row["scene"] in ("/", "") else folder / row["scene"]
        source, sources, seen = _fitted(folder / row["source_image"], row["XA"], row["YA"])
        target, places, known = _fitted(folder / row["target_image"], row["XB"], row["YB"])
        if len(places) != len(sources):
            got = f"{len(sources)} and {len(places)}"
            raise input_error(f"{path}, pair {index}", expected="as many XA as XB", got=got, fix="download it again")
        both = seen & known
        return Example(entries[index][0], source, target, *scattered(places[both], sources[both], target.shape[:2]))

    scenes = ["all" if row["scene"] in ("/", "") else row["scene"].strip("/") for row in rows]
    entries = [(f"{scene}/{index}", scene) for index, scene in enumerate(scenes)]
    return make(name, entries, load, content=[digest(path.read_bytes())])


def _fitted(path: Path, x: str, y: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns an image of the protocol's size, its matches `[N, 2]` on it, and which of them it holds."""
    image = read_image(path)
    height, width = image.shape[:2]
    ratio = min(height, width) / _SHORTER
    size = [int(round(each / ratio)) // _MULTIPLE * _MULTIPLE for each in (width, height)]
    try:
        columns, rows = (np.asarray([float(each) for each in text.split(";")]) for text in (x, y))
        points = np.stack([columns * (size[0] / width), rows * (size[1] / height)], -1)
    except ValueError as error:
        raise input_error(
            f"{path}", expected="numbers separated by semicolons", got=error, fix="download it again"
        ) from None
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    return resized, points, inside(points, (size[1], size[0]))


def wxbs(directory: str | Path, *, name: str = "wxbs") -> Dataset:
    """Returns the pairs of WxBS or of a directory like it; groups are the categories.

    Raises `InputError` for a directory without pairs, and damaged lists of points.
    """
    root = folder_of(directory)
    lists = sorted(root.glob("*/*/corrs.txt"))
    if not lists:
        raise input_error(str(root), expected="CATEGORY/PAIR/corrs.txt", got="none", fix="name the unpacked WxBS")

    def load(index: int) -> Example:
        path = lists[index]
        target, source = (read_image(_numbered(path.parent, number)) for number in ("01", "02"))
        try:
            points = np.loadtxt(path, ndmin=2, usecols=range(4))
        except ValueError as error:
            raise input_error(str(path), expected="rows x1 y1 x2 y2", got=error, fix="download it again") from None
        seen = inside(points[:, 2:], source.shape[:2])
        flow, mask = scattered(points[seen, :2], points[seen, 2:], target.shape[:2])
        return Example(entries[index][0], source, target, flow, mask)

    entries = [(f"{path.parent.parent.name}/{path.parent.name}", path.parent.parent.name) for path in lists]
    return make(name, entries, load, content=[digest(path.read_bytes()) for path in lists])


def _numbered(folder: Path, stem: str) -> Path:
    found = sorted(folder.glob(f"{stem}.*"))
    if not found:
        raise input_error(f"{folder / stem}.*", expected="an image", got="none", fix="unpack the data set again")
    return found[0]


def posed(directory: str | Path, *, apart: int = 3, name: str = "cameras") -> Dataset:
    """Returns the pairs of images up to `apart` places apart in the order of their names, with cameras and no flow.

    Groups say how far apart they are. Raises `InputError` for a missing or damaged `cameras.json`.
    """
    root = folder_of(directory)
    path = root / "cameras.json"
    try:
        content = path.read_bytes()
        cameras = {
            image: {
                "K": np.reshape(each["K"], (3, 3)),
                "R": np.reshape(each["R"], (3, 3)),
                "t": np.reshape(each["t"], 3),
            }
            for image, each in json.loads(content).items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        expected, got = "K, R and t of each image", error.strerror if isinstance(error, OSError) else repr(error)
        raise input_error(
            str(path), expected=expected, got=got, fix="write it as docs/diffmatch_data.md has it"
        ) from None
    images = sorted(cameras)
    pairs = [(a, b, far) for far in range(1, apart + 1) for a, b in zip(images, images[far:], strict=False)]

    def load(index: int) -> Example:
        of_target, of_source, _ = pairs[index]
        source, target = read_image(root / of_source), read_image(root / of_target)
        there, here = cameras[of_source], cameras[of_target]
        rotation = there["R"] @ here["R"].T
        pose = Cameras(there["K"], here["K"], rotation, there["t"] - rotation @ here["t"])
        empty = np.zeros((*target.shape[:2], 2), np.float32)
        return Example(entries[index][0], source, target, empty, np.zeros(target.shape[:2], bool), cameras=pose)

    entries = [(f"{Path(a).stem}-{Path(b).stem}", f"{far} apart") for a, b, far in pairs]
    return make(name, entries, load, content=[digest(content)])
