"""The released list of training pairs: warps of the original collection of photographs, one a row.

    fname, aff/tps/homo, t1 ... t18         a csv file with a header

`fname` is a path in the folder of photographs; type 0 is an affine map and 1 a thin-plate spline of a 640 x 480
canvas, 2 a homography of a 768 x 576 one, each at the scale size / 240. Source and target are the middle of the canvas
and of the warped canvas. Everything is corner-aligned (-1 and 1 are outermost pixel centres), as these lists mean it.

`half_pixel=True` repeats what the authors' code does with PyTorch of today: it samples affine maps and splines on
half-pixel grids and takes the result for corner-aligned positions, so that labels are up to half a pixel wrong.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from common.data.source import digest
from common.errors import input_error
from diffmatch_jax.data import warps
from diffmatch_jax.evaluation.datasets.record import Dataset, Example, centres, folder_of, inside, make, read_image
from diffmatch_jax.model.flow import grid, pixels_of_relative, relative_of_pixels, sample
from diffmatch_jax.model.resize import resize

KINDS = ("affine", "thin_plate", "homography")
_REFERENCE = 240  # the output for which the numbers were written
_CANVAS = ((480, 640), (480, 640), (576, 768))
_CROP = 0.8 * 9 / 16  # the fraction of the canvas that a pair shows


class Row(NamedTuple):
    """One line of a list: the photograph's path, its warp's index in `KINDS`, and the 18 numbers."""

    file: str
    kind: int
    numbers: np.ndarray


def read_list(path: str | Path) -> list[Row]:
    """Returns the rows of a csv list; raises `InputError` that names the line that cannot be read."""
    try:
        with Path(path).open(newline="") as file:
            lines = list(csv.reader(file))[1:]
    except OSError as error:
        raise input_error(str(path), expected="a csv list of pairs", got=error.strerror, fix="check the path") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise input_error(str(path), expected="a csv list of pairs", got=error, fix="check the path") from None
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            row = Row(line[0], int(line[1]), np.asarray([float(each) for each in line[2:20]]))
            if row.kind not in range(3) or len(row.numbers) != 18 or not np.isfinite(row.numbers).all():
                raise ValueError(f"type {line[1]} with {len(row.numbers)} numbers")
            if row.kind == 2 and not _invertible(row.numbers):
                raise ValueError("a homography without an inverse")
        except (ValueError, IndexError) as error:
            expected = "a name, a type from 0 to 2 and 18 numbers"
            raise input_error(f"{path}, line {number}", expected=expected, got=error, fix="download it again") from None
        rows.append(row)
    if not rows:
        raise input_error(str(path), expected="rows", got="none", fix="download it again")
    return rows


def _invertible(numbers: np.ndarray) -> bool:
    """Returns whether the first nine numbers are a homography with an inverse."""
    return abs(np.linalg.det(np.reshape(numbers[:9], (3, 3)))) >= 1e-12


def listed(
    directory: str | Path, path: str | Path, *, size: int = 520, half_pixel: bool = False, name: str = "listed"
) -> Dataset:
    """Returns the pairs of the csv list `path` whose photographs are in `directory`; groups are the kinds of warps.

    Raises `InputError` for a damaged list; a photograph that is missing is named when it is read.
    """
    root, rows = folder_of(directory), read_list(path)

    def load(index: int) -> Example:
        row = rows[index]
        image = read_image(root / row.file)
        return pair(image, row.kind, row.numbers, size=size, half_pixel=half_pixel, name=entries[index][0])

    entries = [(f"{index}/{row.file}", KINDS[row.kind]) for index, row in enumerate(rows)]
    return make(name, entries, load, content=[digest(Path(path).read_bytes()), size, half_pixel])


def pair(
    image: np.ndarray, kind: int, numbers: np.ndarray, *, size: int, half_pixel: bool = False, name: str = ""
) -> Example:
    """Returns the pair `[size, size, 3]` of a photograph `[H, W, 3]` (bytes) under one row's warp.

    Raises `InputError` for an unknown kind, or a homography without an inverse.
    """
    if kind not in range(3):
        raise input_error("kind", expected="0, 1 or 2", got=kind, fix="see KINDS")
    if kind == 2 and not _invertible(numbers):
        raise input_error(
            "numbers", expected="a homography with an inverse", got="one without", fix="leave the row out"
        )
    scale = size / _REFERENCE
    canvas = tuple(int(each * scale) for each in _CANVAS[kind])
    picture = jnp.asarray(_cut(image, canvas), jnp.float32)
    draw = _homography if kind == 2 else _in_plane
    source, target, flow, mask = draw(picture, canvas, kind, np.asarray(numbers, np.float64), size, half_pixel)
    # Truncated, not rounded, as the released pairs are.
    shown = [np.clip(np.asarray(each) + 1e-4, 0, 255).astype(np.uint8) for each in (source, target)]
    return Example(name, shown[0], shown[1], flow, mask)


def _cut(image: np.ndarray, canvas: tuple[int, ...]) -> np.ndarray:
    """Returns the middle of an image that is more than 1.5 times the canvas in height or width, else all of it."""
    wanted = tuple(int(1.5 * each) for each in canvas)
    if all(have <= most for have, most in zip(image.shape[:2], wanted, strict=True)):
        return image
    cut = np.zeros((*wanted, 3), image.dtype)
    place, part = [], []
    for have, want in zip(image.shape[:2], wanted, strict=True):
        short = min(have, want)
        place.append(slice((want - short) // 2, (want - short) // 2 + short))
        part.append(slice((have - short) // 2, (have - short) // 2 + short))
    cut[tuple(place)] = image[tuple(part)]
    return cut


def _in_plane(picture, canvas, kind, numbers, size, half_pixel):
    """An affine map or a spline: source and target are both drawn from the middle `_CROP` of the canvas."""
    alignment = "half_pixel" if half_pixel else "corner"
    regular, whole = (relative_of_pixels(grid(*each), each, alignment=alignment) for each in ((size, size), canvas))
    # The canvas, too, is drawn by an affine map.
    height, width = picture.shape[:2]
    picture = sample(picture, pixels_of_relative(whole, (height, width), alignment="corner"))
    if kind == 0:
        moved = warps.affine(jnp.asarray(numbers[:6].reshape(2, 3), jnp.float32), regular)
    else:
        controls = numbers.reshape(2, 9).T
        # Splines come from a grid made by hand, which was corner-aligned in every version.
        regular_of_spline = relative_of_pixels(grid(size, size), (size, size), alignment="corner")
        moved = warps.thin_plate(jnp.asarray(controls, jnp.float32), regular_of_spline)
    source, target = (
        sample(picture, pixels_of_relative(_CROP * each, canvas, alignment="corner")) for each in (regular, moved)
    )
    positions = np.asarray(pixels_of_relative(moved, (size, size), alignment="corner"))
    moved = np.asarray(moved)
    return source, target, (positions - centres((size, size))).astype(np.float32), (np.abs(moved) <= 1).all(-1)


def _homography(picture, canvas, kind, numbers, size, half_pixel):
    """A homography of the canvas: source and target are the middles of the canvas and of the warped canvas."""
    picture = resize(picture, canvas)
    scale = size / _REFERENCE
    matrix = np.diag([scale, scale, 1]) @ numbers[:9].reshape(3, 3) @ np.diag([1 / scale, 1 / scale, 1])
    height, width = canvas
    corner = np.asarray([width // 2 - size // 2, height // 2 - size // 2], np.float64)
    places = centres((size, size)) + corner
    moved = np.concatenate([places, np.ones((size, size, 1))], -1) @ np.linalg.inv(matrix).T
    with np.errstate(divide="ignore", invalid="ignore"):
        positions = moved[..., :2] / moved[..., 2:]
    target = sample(picture, jnp.asarray(positions, jnp.float32))
    left, top = corner.astype(int)
    source = picture[top : top + size, left : left + size]
    return source, target, (positions - places).astype(np.float32), inside(positions - corner, (size, size))
