"""The photographs inside the scikit-image wheel, real images that need no download."""

import importlib.util
from pathlib import Path

from common.data.folder import ImageFiles
from common.errors import input_error

# For testing three scenes that no training photograph shows, with smooth, textured and sharp-edged parts, two in
# colour. Left out:
# motorcycle_right (the scene of motorcycle_left); hubble_deep_field and retina (each larger than all but a few of the
# others together and mostly black or smooth, so random crops would see little else); cell, clock_motion and
# microaneurysms (hardly any detail); page and text (writing); color, horse, logo, phantom, chessboards (drawings).
TRAIN_PHOTOGRAPHS = ("astronaut.png", "brick.png", "coins.png", "grass.png", "gravel.png", "ihc.png", "moon.png",
                     "motorcycle_left.png", "rocket.jpg")  # fmt: skip
TEST_PHOTOGRAPHS = ("camera.png", "chelsea.png", "coffee.png")


def photographs_folder() -> Path:
    """Returns where the photographs lie, without importing scikit-image; `InputError` if it is not installed."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise input_error(
            "config.data.source",
            expected="scikit-image, which brings the photographs",
            got="no such package",
            fix="pip install scikit-image, or use folder:DIR",
        )
    return Path(found.origin).parent / "data"


def open_photographs(*, channels: int) -> dict[str, ImageFiles]:
    """Returns the training and the test photographs, uint8 `[H, W, 1 or 3]` as stored; colour ones for `channels` 3."""
    return {"train": _photographs(TRAIN_PHOTOGRAPHS, channels), "test": _photographs(TEST_PHOTOGRAPHS, channels)}


def _photographs(names: tuple[str, ...], channels: int) -> ImageFiles:
    files = ImageFiles(photographs_folder(), names)
    kinds = files.shapes()[:, 2].tolist()
    if 0 in kinds:
        raise input_error(
            "config.data.source",
            expected=f"{names[kinds.index(0)]} of scikit-image",
            got="no image that can be read",
            fix="reinstall scikit-image, or use folder:DIR",
        )
    if channels == 1:
        return files
    return ImageFiles(photographs_folder(), [name for name, kind in zip(names, kinds, strict=True) if kind == 3])
