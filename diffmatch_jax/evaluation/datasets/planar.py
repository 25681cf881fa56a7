"""Planar scenes, whose true flow is a homography: folders of scenes, and HPatches in the protocol of the tables.

A scene folder, as the affine-region data of Oxford's VGG come (Mikolajczyk et al., IJCV 2005):

    DIR/SCENE/img1.ppm ... img6.ppm        (or .jpg, .png)
    DIR/SCENE/H1to2p ... H1to6p            3 x 3 numbers, from pixels of image 1 to pixels of image k

HPatches (Balntas et al., CVPR 2017), `hpatches-sequences-release`, of which the 59 scenes of moving viewpoint count:

    DIR/v_SCENE/1.ppm ... 6.ppm
    DIR/v_SCENE/H_1_2 ... H_1_6

Image 1 is the source and image k the target. Homographies are given in float64 and turned into flow only at the size
that is asked for, so that no flow is interpolated.
"""

from pathlib import Path
from typing import Any

import numpy as np

from common.data.source import digest
from common.errors import input_error
from diffmatch_jax.evaluation.datasets.record import (
    Dataset,
    Example,
    centres,
    fitting,
    folder_of,
    inside,
    make,
    read_image,
    rescaling,
    resized_image,
)

VIEWPOINTS = ("I", "II", "III", "IV", "V")
_SUFFIXES = (".ppm", ".png", ".jpg", ".jpeg", ".pgm")


def flow_of_homography(
    matrix: np.ndarray, *, source: tuple[int, ...], target: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns flow `[H, W, 2]` (float32) of the target and its mask, for a homography from source to target pixels.

    The mask holds target pixels that show a point of the source between its outermost pixel centres, in front of the
    viewer. Sizes are (height, width).
    """
    inverse = np.linalg.inv(matrix)
    places = centres(target)
    moved = np.concatenate([places, np.ones((*target, 1))], -1) @ inverse.T
    third = moved[..., 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        positions = moved[..., :2] / third
    # 1 / third is the third coordinate of the way there, whose sign is that of the source's middle in front.
    middle = np.asarray([(source[1] - 1) / 2, (source[0] - 1) / 2, 1.0])
    front = third[..., 0] * np.sign(matrix[2] @ middle) > 0
    mask = front & inside(positions, source)
    # Elsewhere it may be huge or no number, which no user of a flow expects.
    flow = np.where(mask[..., None] | _is_near(positions, source), positions - places, 0)
    return flow.astype(np.float32), mask


def _is_near(positions: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    return np.all(np.abs(np.nan_to_num(positions, nan=np.inf)) < 100 * max(size), axis=-1, keepdims=True)


def scaled_homography(
    matrix: np.ndarray,
    *,
    source: tuple[tuple[int, ...], tuple[int, ...]],
    target: tuple[tuple[int, ...], tuple[int, ...]],
    half_pixel: bool = True,
) -> np.ndarray:
    """Returns the homography after both images were resized; `source` and `target` are (old size, new size).

    Resized images are half-pixel samples, x' = (x + 1/2) w'/w - 1/2; `half_pixel=False`: x' = x w'/w, as in the
    published tables.
    """
    of_source, of_target = (rescaling(*each, half_pixel=half_pixel) for each in (source, target))
    return of_target @ matrix @ np.linalg.inv(of_source)


def example_of(
    name: str,
    source: np.ndarray,
    target: np.ndarray,
    matrix: np.ndarray,
    *,
    source_size: tuple[int, ...] | None = None,
    target_size: tuple[int, ...] | None = None,
    antialias: bool = True,
    half_pixel: bool = True,
) -> Example:
    """Returns the pair of two images `[H, W, 3]` and the homography between them, resized to the sizes given."""
    to_source, to_target = source_size or source.shape[:2], target_size or target.shape[:2]
    sizes = {"source": (source.shape[:2], to_source), "target": (target.shape[:2], to_target)}
    scaled = scaled_homography(matrix, **sizes, half_pixel=half_pixel)
    flow, mask = flow_of_homography(scaled, source=to_source, target=to_target)
    return Example(
        name,
        resized_image(source, to_source, antialias=antialias),
        resized_image(target, to_target, antialias=antialias),
        flow,
        mask,
        np.linalg.inv(scaled),
    )


def scenes(directory: str | Path, *, side: int | None = None, name: str = "scenes") -> Dataset:
    """Returns the pairs (1, k) of every scene of a folder; `side`: of the longer sides, if they are to be shrunk.

    Groups are the scenes. Raises `InputError` for a folder without scenes, and missing or damaged files.
    """
    root = folder_of(directory)
    entries, files = [], []
    for matrix in sorted(root.glob("*/H1to*p")):
        number = matrix.name.removeprefix("H1to").removesuffix("p")
        if number.isdigit():
            entries.append((f"{matrix.parent.name}/1-{number}", matrix.parent.name))
            files.append((_image(matrix.parent, "img1"), _image(matrix.parent, f"img{number}"), matrix))
    if not files:
        raise input_error(str(root), expected="SCENE/img1.* and SCENE/H1to2p", got="none", fix="check the directory")

    def load(index: int) -> Example:
        first, second, matrix = files[index]
        source, target = read_image(first), read_image(second)
        sizes: dict[str, Any] = {}
        if side is not None:
            sizes = {"source_size": fitting(source.shape[:2], side), "target_size": fitting(target.shape[:2], side)}
        return example_of(entries[index][0], source, target, read_matrix(matrix), **sizes)

    return make(name, entries, load, content=_content(files, side))


def hpatches(
    directory: str | Path, *, size: int | None = None, half_pixel: bool = False, name: str | None = None
) -> Dataset:
    """Returns HPatches' viewpoint pairs in the tables' protocol: both images at the target's size, or at `size`^2.

    Groups are I ... V, targets 2 ... 6, whose mean is the table's average. Images are resized as OpenCV does.
    `half_pixel=False` (the default here: published numbers were made so) scales homographies without the half-pixel
    shift; True is exact. Raises `InputError` for missing scenes.
    """
    root = folder_of(directory)
    entries, files = [], []
    for scene in sorted(each for each in root.glob("v_*") if each.is_dir()):
        for number, group in enumerate(VIEWPOINTS, start=2):
            entries.append((f"{scene.name}/1-{number}", group))
            matrix = scene / f"H_1_{number}"
            if not matrix.is_file():
                raise input_error(
                    str(matrix), expected="a homography", got="no such file", fix="unpack the release again"
                )
            files.append((_image(scene, "1"), _image(scene, str(number)), matrix))
    if not files:
        raise input_error(str(root), expected="folders v_SCENE", got="none", fix="name hpatches-sequences-release")

    def load(index: int) -> Example:
        first, second, matrix = files[index]
        source, target = read_image(first), read_image(second)
        to = target.shape[:2] if size is None else (size, size)
        sizes = {"source_size": to, "target_size": to}
        return example_of(
            entries[index][0], source, target, read_matrix(matrix), **sizes, antialias=False, half_pixel=half_pixel
        )

    title = name or ("hpatches" if size is None else f"hpatches-{size}")
    return make(title, entries, load, content=_content(files, size, half_pixel), scheme="groups")


def read_matrix(path: Path) -> np.ndarray:
    """Returns a homography `[3, 3]` (float64) from a text file; raises `InputError` if it holds none."""
    try:
        matrix = np.loadtxt(path)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
            raise ValueError(f"an array of shape {list(matrix.shape)} or without an inverse")
    except (OSError, ValueError) as error:
        fix = "check that it was unpacked completely"
        raise input_error(str(path), expected="a 3 x 3 homography", got=error, fix=fix) from None
    return matrix


def _image(folder: Path, stem: str) -> Path:
    for suffix in _SUFFIXES:
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    expected = f"{stem}.ppm (or {', '.join(_SUFFIXES[1:])})"
    raise input_error(str(folder), expected=expected, got="no such file", fix="unpack the data again")


def _content(files, *settings: object) -> list[object]:
    """Returns a fingerprint of a set of files: their sizes, and the matrices themselves."""
    found = [digest(*(each.stat().st_size for each in group), group[-1].read_bytes()) for group in files]
    return [*found, *settings]
