"""Optical flow and stereo: KITTI, Sintel, Middlebury and the pair of photographs inside scikit-image.

KITTI 2015 (Menze & Geiger, CVPR 2015) and 2012 (Geiger et al., CVPR 2012), their folder `training`:

    DIR/image_2/000000_10.png, 000000_11.png       2012: colored_0 or image_0
    DIR/flow_occ/000000_10.png, DIR/flow_noc/...    flow from frame 10 to frame 11, known where the laser saw

Sintel (Butler et al., ECCV 2012), its folder `training`:

    DIR/clean/SCENE/frame_0001.png, ...            and DIR/final/...
    DIR/flow/SCENE/frame_0001.flo                  flow from this frame to the next
    DIR/invalid/SCENE/frame_0001.png               white where it is not to be counted (may be missing)
    DIR/occlusions/SCENE/frame_0001.png            white where the next frame does not show it (may be missing)

Middlebury stereo 2014 (Scharstein et al., GCPR 2014), also in the layout of its evaluation:

    DIR/SCENE/im0.png, im1.png                     left and right view, rectified
    DIR/SCENE/disp0.pfm                            or disp0GT.pfm: disparity of the left view, infinite where unknown
    DIR/SCENE/mask0nocc.png                        white where both views show it (may be missing)

Flow starts at the first frame, which therefore is the target; the second is the source.
"""

import importlib.util
from pathlib import Path

import numpy as np

from common.data.source import digest
from common.errors import choice, input_error
from diffmatch_jax.evaluation.datasets import flow_files
from diffmatch_jax.evaluation.datasets.record import (
    Dataset,
    Example,
    centres,
    folder_of,
    inside,
    make,
    read_image,
    resized,
)

_DISPARITIES = ("disp0.pfm", "disp0GT.pfm")
_KITTI_FOLDERS = ("image_2", "colored_0", "image_0")


def kitti(directory: str | Path, *, occluded: bool = True, name: str = "kitti") -> Dataset:
    """Returns KITTI's training pairs; without `occluded` only pixels that both frames show count (`flow_noc`)."""
    root = folder_of(directory)
    folder = next((root / each for each in _KITTI_FOLDERS if (root / each).is_dir()), None)
    files = sorted((root / ("flow_occ" if occluded else "flow_noc")).glob("*_10.png"))
    if folder is None or not files:
        expected = f"{' or '.join(_KITTI_FOLDERS)}, and flow_occ/*_10.png"
        raise input_error(str(root), expected=expected, got="none", fix="name KITTI's folder training")

    def load(index: int) -> Example:
        stem = files[index].name.removesuffix("_10.png")
        target, source = (read_image(folder / f"{stem}_{frame}.png") for frame in (10, 11))
        flow, mask = flow_files.read_kitti(files[index])
        return _checked(Example(f"{stem}", source, target, flow, mask), files[index])

    entries = [(each.name.removesuffix("_10.png"), name) for each in files]
    return make(name, entries, load, content=[*(each.stat().st_size for each in files), occluded])


def sintel(directory: str | Path, *, render: str = "clean", occluded: bool = True, name: str | None = None) -> Dataset:
    """Returns Sintel's training pairs; groups are the scenes, `render` is "clean" or "final"."""
    choice("render", render, ("clean", "final"))
    root = folder_of(directory)
    files = sorted((root / "flow").glob("*/frame_*.flo"))
    if not files:
        raise input_error(str(root), expected="flow/SCENE/frame_*.flo", got="none", fix="name Sintel's folder training")
    for path in files:
        if not path.stem.removeprefix("frame_").isdecimal():
            raise input_error(str(path), expected="frame_0001.flo", got=path.name, fix="remove what is not Sintel's")

    def load(index: int) -> Example:
        path = files[index]
        scene, number = path.parent.name, int(path.stem.removeprefix("frame_"))
        frames = root / render / scene
        target, source = (read_image(frames / f"frame_{each:04d}.png") for each in (number, number + 1))
        flow, mask = flow_files.read_flo(path)
        for folder in ("invalid",) if occluded else ("invalid", "occlusions"):
            marked = root / folder / scene / f"{path.stem}.png"
            if marked.is_file():
                mask = mask & (read_image(marked)[..., 0] < 128)
        return _checked(Example(f"{scene}/{path.stem}", source, target, flow, mask), path)

    entries = [(f"{each.parent.name}/{each.stem}", each.parent.name) for each in files]
    content = [*(each.stat().st_size for each in files), render, occluded]
    return make(name or f"sintel-{render}", entries, load, content=content)


def middlebury(directory: str | Path, *, occluded: bool = True, name: str = "middlebury") -> Dataset:
    """Returns Middlebury's stereo pairs, as `stereo` has its one; without `occluded` only what both views show counts.

    Raises `InputError` for a folder without scenes, and missing or damaged files.
    """
    root = folder_of(directory)
    folders = sorted(each.parent for each in root.glob("*/im0.png"))
    if not folders:
        raise input_error(str(root), expected="SCENE/im0.png", got="none", fix="name the folder of the scenes")
    files = []
    for folder in folders:
        disparity = next((folder / each for each in _DISPARITIES if (folder / each).is_file()), folder / "disp0.pfm")
        files.append((folder / "im0.png", folder / "im1.png", disparity, *[folder / "mask0nocc.png"] * (not occluded)))
        for path in files[-1]:
            if not path.is_file():
                raise input_error(str(path), expected="a file", got="none", fix="unpack the scene again")

    def load(index: int) -> Example:
        left, right, path, *masks = files[index]
        images = read_image(left), read_image(right)
        example = _checked(_of_disparity(folders[index].name, *images, flow_files.read_pfm(path)), path)
        for each in masks:
            seen = read_image(each)[..., 0] == 255
            example = _checked(example._replace(mask=seen), each)._replace(mask=example.mask & seen)
        return example

    entries = [(each.name, name) for each in folders]
    content = [path.stat().st_size for group in files for path in group]
    return make(name, entries, load, content=[*content, occluded])


def _of_disparity(name: str, left: np.ndarray, right: np.ndarray, disparity: np.ndarray) -> Example:
    """Returns the pair whose target is the left view, from its `disparity [H, W]`, not finite where it is unknown."""
    known = np.isfinite(disparity)
    flow = np.zeros((*disparity.shape, 2), np.float32)
    flow[..., 0] = np.where(known, -disparity, 0)
    known &= inside(centres(disparity.shape) + flow, right.shape[:2])
    return Example(name, right, left, flow, known)


def stereo(*, side: int | None = None, name: str = "stereo") -> Dataset:
    """Returns the motorcycle of Middlebury 2014 (Scharstein et al., GCPR 2014) that scikit-image brings.

    The left view is the target; `side`: of the longer side, if it is to be shrunk. Occluded pixels count: their true
    place is known, though not seen. Raises `InputError` if the files cannot be had.
    """
    left, right, disparity = _motorcycle()
    example = _of_disparity("motorcycle", left, right, disparity)

    def load(index: int) -> Example:
        return example if side is None else resized(example, side)

    return make(name, [("motorcycle", name)], load, content=[digest(left, right, example.flow), side])


def _motorcycle() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns both views and the left one's disparity (infinite where it is unknown) from scikit-image's own files."""
    found = importlib.util.find_spec("skimage")
    root = Path(found.origin).parent / "data" if found is not None and found.origin else None
    try:
        if root is None:
            raise OSError("no such package")
        with np.load(root / "motorcycle_disp.npz", allow_pickle=False) as stored:
            disparity = stored["arr_0"]
        left, right = (read_image(root / f"motorcycle_{side}.png") for side in ("left", "right"))
        return left, right, disparity
    except (OSError, KeyError, ValueError) as error:
        fix = "pip install scikit-image"
        raise input_error("data stereo", expected="the stereo pair of scikit-image", got=error, fix=fix) from None


def _checked(example: Example, path: Path) -> Example:
    if example.target.shape[:2] != example.mask.shape:
        got = f"{list(example.mask.shape)} and {list(example.target.shape[:2])}"
        raise input_error(str(path), expected="flow of the image's size", got=got, fix="unpack the data again")
    return example
