"""Arrays of images in one `.npz` file."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.data import splits
from common.data.source import ArraySource, Source
from common.data.wrappers import Subset
from common.errors import input_error


def open_npz(path: str | Path, *, seed: int, labels: bool = False) -> dict[str, Source]:
    """Returns the arrays `train` and `test` of a file, or its only array with a seeded tenth held out for testing.

    Images are `[N, H, W]` or `[N, H, W, C]`, uint8 or floating point in [0, 1] (kept as float32). With `labels` the
    classes of NAME are the array `NAME_labels`, of an array alone also `labels`: integers `[N]` from 0 on. Raises
    `InputError` that names the key; an image with NaN is a bad record that names its index.
    """
    path = Path(path).expanduser()
    field = "config.data.source"
    if not path.is_file():
        raise input_error(field, expected="npz:FILE with an existing file", got=f"npz:{path}", fix="check the path")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise input_error(
            field, expected=f"numeric arrays in {path}", got=error, fix="write it with numpy.savez"
        ) from None
    classes = {name: arrays.pop(name) for name in tuple(arrays) if name.endswith("labels")}
    if "train" not in arrays and len(arrays) != 1:
        raise input_error(
            f"{path}",
            expected="keys 'train' and 'test', or one array",
            got=f"keys {sorted([*arrays, *classes])}",
            fix="rename the array of training images to 'train'",
        )
    name = "train" if "train" in arrays else next(iter(arrays))
    both = name == "train" and "test" in arrays

    def source(name: str) -> ArraySource:
        found = {"image": _images(arrays[name], path, name)}
        if labels:
            keys = (f"{name}_labels",) if both else (f"{name}_labels", "labels")
            found["label"] = _labels(classes, keys, path, len(found["image"]))
        return ArraySource(found, label=f"{path.name}['{name}']", defer_bad=True)

    train = source(name)
    if both:
        return {"train": train, "test": source("test")}
    first, second = splits.hold_out(len(train), seed=seed)
    return {"train": Subset(train, first, label="train"), "test": Subset(train, second, label="test")}


def _images(array: np.ndarray, path: Path, name: str) -> np.ndarray:
    what = f"{path.name}['{name}']"
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise input_error(
            what,
            expected="shape [N, H, W] or [N, H, W, C] with C = 1 or 3",
            got=f"shape {list(array.shape)}",
            fix="reshape or transpose it (channels last)",
        )
    if np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32, copy=False)
        outside = (array < 0) | (array > 1)  # NaN is neither: it is told apart as a bad record
        if outside.any():
            index = int(np.argmax(outside.reshape(len(array), -1).any(axis=1)))
            raise input_error(
                f"{what}[{index}]",
                expected="numbers in [0, 1]",
                got=f"{array[index].min():g} to {array[index].max():g}",
                fix="divide by 255, or store uint8",
            )
    elif array.dtype != np.uint8:
        raise input_error(what, expected="uint8, or floating point in [0, 1]", got=array.dtype, fix="convert it")
    return array


def _labels(arrays: Mapping[str, np.ndarray], keys: Sequence[str], path: Path, count: int) -> np.ndarray:
    key = next((key for key in keys if key in arrays), None)
    if key is None:
        raise input_error(
            "config.data.labels",
            expected=f"an array '{keys[0]}' in {path}",
            got=f"keys {sorted(arrays)}" if arrays else "none",
            fix="add it, or set config.data.labels=False",
        )
    labels = arrays[key]
    whole = np.issubdtype(labels.dtype, np.integer) and labels.shape == (count,)
    if not whole or labels.min() < 0 or labels.max() >= 2**31:
        got = f"{labels.dtype} of shape {list(labels.shape)}"
        raise input_error(
            f"{path.name}['{key}']",
            expected=f"{count} integers from 0 on, the classes of the images",
            got=f"{got} with numbers {labels.min()} to {labels.max()}" if whole else got,
            fix="number the classes 0, 1, ...",
        )
    return labels.astype(np.int32)
