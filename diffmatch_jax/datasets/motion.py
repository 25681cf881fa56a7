"""Optical flow and stereo: KITTI, Sintel and the pair of photographs inside scikit-image.

KITTI 2015 (Menze & Geiger, CVPR 2015) and 2012 (Geiger et al., CVPR 2012), their folder `training`:

    DIR/image_2/000000_10.png, 000000_11.png       2012: colored_0 or image_0
    DIR/flow_occ/000000_10.png, DIR/flow_noc/...    flow from frame 10 to frame 11, known where the laser saw

Sintel (Butler et al., ECCV 2012), its folder `training`:

    DIR/clean/SCENE/frame_0001.png, ...            and DIR/final/...
    DIR/flow/SCENE/frame_0001.flo                  flow from this frame to the next
    DIR/invalid/SCENE/frame_0001.png               white where it is not to be counted (may be missing)
    DIR/occlusions/SCENE/frame_0001.png            white where the next frame does not show it (may be missing)

Flow starts at the first frame, which therefore is the target; the second is the source.
"""

import importlib.util
from pathlib import Path

import numpy as np

from common.data.source import digest
from common.errors import bad, choice
from diffmatch_jax.datasets import flow_files
from diffmatch_jax.datasets.record import Dataset, Example, centres, folder_of, inside, make, read_image, resized

_KITTI_FOLDERS = ("image_2", "colored_0", "image_0")


def kitti(directory: str | Path, *, occluded: bool = True, name: str = "kitti") -> Dataset:
    """Returns KITTI's training pairs; without `occluded` only pixels that both frames show count (`flow_noc`)."""
    root = folder_of(directory)
    folder = next((root / each for each in _KITTI_FOLDERS if (root / each).is_dir()), None)
    files = sorted((root / ("flow_occ" if occluded else "flow_noc")).glob("*_10.png"))
    if folder is None or not files:
        expected = f"{' or '.join(_KITTI_FOLDERS)}, and flow_occ/*_10.png"
        raise bad(str(root), expected=expected, got="none", fix="name KITTI's folder training")

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
        raise bad(str(root), expected="flow/SCENE/frame_*.flo", got="none", fix="name Sintel's folder training")
    for path in files:
        if not path.stem.removeprefix("frame_").isdecimal():
            raise bad(str(path), expected="frame_0001.flo", got=path.name, fix="remove what is not Sintel's")

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


def stereo(*, side: int | None = None, name: str = "stereo") -> Dataset:
    """Returns the motorcycle of Middlebury 2014 (Scharstein et al., GCPR 2014) that scikit-image brings.

    The left view is the target; `side`: of the longer side, if it is to be shrunk. Occluded pixels count: their true
    place is known, though not seen. Raises `InputError` if the files cannot be had.
    """
    left, right, disparity = _motorcycle()
    known = np.isfinite(disparity)
    flow = np.zeros((*disparity.shape, 2), np.float32)
    flow[..., 0] = np.where(known, -disparity, 0)
    known &= inside(centres(disparity.shape) + flow, right.shape[:2])
    example = Example("motorcycle", right, left, flow, known)

    def load(index: int) -> Example:
        return example if side is None else resized(example, side)

    return make(name, [("motorcycle", name)], load, content=[digest(left, right, flow), side])


def _motorcycle() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns both views and the left one's disparity (infinite where it is unknown) from scikit-image's own files."""
    found = importlib.util.find_spec("skimage")
    root = Path(found.origin).parent / "data" if found is not None and found.origin else None
    try:
        if root is None:
            raise OSError("no such package")
        with np.load(root / "motorcycle_disp.npz", allow_pickle=False) as stored:
            disparity = stored["arr_0"]
        return (*(read_image(root / f"motorcycle_{side}.png") for side in ("left", "right")), disparity)
    except (OSError, KeyError, ValueError) as error:
        fix = "pip install scikit-image"
        raise bad("data stereo", expected="the stereo pair of scikit-image", got=error, fix=fix) from None


def _checked(example: Example, path: Path) -> Example:
    if example.target.shape[:2] != example.mask.shape:
        got = f"{list(example.mask.shape)} and {list(example.target.shape[:2])}"
        raise bad(str(path), expected="flow of the image's size", got=got, fix="unpack the data again")
    return example
