"""Arrays of images in one `.npz` file."""

import logging
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.source import TEST_NAMES, TRAIN_NAMES, ArraySource, Source
from common.errors import InputError, input_error, one_line

MAX_ARRAY_MB = 2048  # default of config.data.max_array_mb

_LOG = logging.getLogger(__name__)
_FIELD = "config.data.source"
_HEADER_BYTES = 10_000  # of the longest header that is parsed; those of images have about 100
_BLOCK = 1024  # images whose numbers are checked at once


class _Entry(NamedTuple):
    """The header of an array in the file."""

    file: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def open_npz(path: str | Path, *, labels: bool = False, max_array_mb: int = MAX_ARRAY_MB) -> dict[str, Source]:
    """Returns the arrays `train` and `test` of a file, or its only array as `train`.

    Validation images are the test images where there are no others; names are read as those of folders are.
    Images are `[N, H, W]` or `[N, H, W, C]`, uint8 or floating point in [0, 1] (kept as float32). With `labels` the
    classes of NAME are the array `NAME_labels`, of an array alone also `labels`: integers `[N]` from 0 on. What is read
    takes at most `max_array_mb` MiB, which is checked before reading. Raises `InputError` that names the key; an image
    with NaN is a bad record that names its index.
    """
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise input_error(_FIELD, expected="npz:FILE with an existing file", got=f"npz:{path}", fix="check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            return _open(archive, path, labels=labels, limit=max_array_mb * 2**20)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001  damaged archives raise errors of many kinds
        raise _unreadable(path, _what_it_is(path) or error) from None


def _open(archive: zipfile.ZipFile, path: Path, *, labels: bool, limit: int) -> dict[str, Source]:
    files = {
        file.removesuffix(".npy"): file
        for file in archive.namelist()
        if file.endswith(".npy") and not file.startswith("__MACOSX/")
    }
    names = [name for name in files if not name.endswith("labels")]
    train, test = _split(names, TRAIN_NAMES), _split(names, TEST_NAMES)
    if train is None and len(names) != 1:
        raise input_error(
            f"{path}",
            expected="keys 'train' and 'test', or one array",
            got=f"keys {sorted(files)}" if files else "no array",
            fix="rename the array of training images to 'train'" if names else "write it with numpy.savez",
        )
    first, second = (train, test) if train is not None else (names[0], None)
    if left_out := sorted({*names} - {first, second}):
        _LOG.warning("npz:%s: left out %s", path, ", ".join(left_out))
    entries = {name: _images_entry(archive, files[name], path, name) for name in (first, second) if name is not None}
    classes = {}
    if labels:
        for name, entry in entries.items():
            keys = (f"{name}_labels",) if second is not None else (f"{name}_labels", "labels")
            classes[name] = _labels_entry(archive, files, keys, path, entry.shape[0])
    wanted = [*entries.values(), *classes.values()]
    if (needed := sum(entry.nbytes for entry in wanted)) > limit:
        raise input_error(
            f"{path}",
            expected=f"arrays of at most {limit // 2**20} MiB",
            got=f"{math.ceil(needed / 2**20)} MiB",
            fix=f"set config.data.max_array_mb={math.ceil(needed / 2**20)} if that much memory is there",
        )

    def source(name: str) -> ArraySource:
        arrays = {"image": _images(_read(archive, entries[name]), path, name)}
        if labels:
            arrays["label"] = _labels(_read(archive, classes[name]), classes[name], path)
        return ArraySource(arrays, label=f"{path.name}['{name}']", defer_bad=True)

    return {split: source(name) for split, name in (("train", first), ("test", second)) if name is not None}


def _split(names: Sequence[str], groups: Sequence[Sequence[str]]) -> str | None:
    """Returns the array of a split: the first of `names`, in any case, in the first of `groups` that has one."""
    return next((name for group in groups for name in names if name.casefold() in group), None)


def _entry(archive: zipfile.ZipFile, file: str, path: Path) -> _Entry:
    """Returns the header of an array; `InputError` if the entry is no array of numbers or shorter than it claims."""
    size = archive.getinfo(file).file_size
    with archive.open(file) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read_header(stream, max_header_size=_HEADER_BYTES)
        except Exception:  # noqa: BLE001  NumPy evaluates the header, so that any text in it has its own error
            raise _unreadable(path, f"{file}, which is no array in NumPy's format") from None
        length = stream.tell()
    if dtype.hasobject:
        raise _unreadable(path, f"{file}, an array of Python objects")
    entry = _Entry(file, dtype, tuple(shape))
    if min(shape, default=1) < 0 or size - length != entry.nbytes:
        got = f"{file}, damaged: {size - length} bytes for shape {list(shape)} and {dtype}"
        raise _unreadable(path, got)
    return entry


def _read(archive: zipfile.ZipFile, entry: _Entry) -> np.ndarray:
    with archive.open(entry.file) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _unreadable(path: Path, got: object) -> InputError:
    return input_error(_FIELD, expected=f"numeric arrays in {path}", got=one_line(got), fix="write it with numpy.savez")


def _what_it_is(path: Path) -> str:
    """Returns the kind of a file that is no archive, as far as its first bytes show."""
    try:
        with path.open("rb") as file:
            start = file.read(6)
    except OSError as error:
        return str(error.strerror)
    if start == b"\x93NUMPY":
        return "one array without a name (a .npy file)"
    return "" if start.startswith(b"PK") else "no .npz archive"


def _images_entry(archive: zipfile.ZipFile, file: str, path: Path, name: str) -> _Entry:
    entry = _entry(archive, file, path)
    what, shape, dtype = f"{path.name}['{name}']", entry.shape, entry.dtype
    if dtype != np.uint8 and not np.issubdtype(dtype, np.floating):
        fix = "store one of these"
        if np.issubdtype(dtype, np.integer):
            fix = "store array.astype('uint8') if its numbers are 0 to 255, else array / M with the largest possible M"
        elif dtype.kind == "b":
            fix = "store array.astype('float32')"
        raise input_error(what, expected="uint8, or floating point in [0, 1]", got=dtype, fix=fix)
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)) or 0 in shape:
        raise input_error(
            what,
            expected="shape [N, H, W] or [N, H, W, C] with C = 1 or 3",
            got=f"shape {list(shape)}",
            fix="store at least one image" if 0 in shape else "reshape or transpose it (channels last)",
        )
    return entry


def _images(array: np.ndarray, path: Path, name: str) -> np.ndarray:
    """Returns images `[N, H, W, C]`, uint8 or float32; raises `InputError` for numbers outside [0, 1]."""
    array = array[..., None] if array.ndim == 3 else array
    if array.dtype == np.uint8:
        return array
    low, high, first = 0.0, 1.0, None  # range of all finite numbers, and the first image that leaves [0, 1]
    for start in range(0, len(array), _BLOCK):
        finite = np.isfinite(array[start : start + _BLOCK])
        with np.errstate(over="ignore"):  # what float32 rounds to 1 is within the range
            block = array[start : start + _BLOCK].astype(np.float32)
        low = min(low, float(block.min(initial=0, where=finite)))
        high = max(high, float(block.max(initial=0, where=finite)))
        if first is None and (low < 0 or high > 1):
            outside = finite & ((block < 0) | (block > 1))
            first = start + int(np.argmax(outside.any(axis=(1, 2, 3))))
    if first is not None:
        image = array[first][np.isfinite(array[first])]
        raise input_error(
            f"{path.name}['{name}'][{first}]",
            expected="numbers in [0, 1]",
            got=f"{image.min():g} to {image.max():g}",
            fix=_fix_of_range(low, high),
        )
    return array.astype(np.float32, copy=False)


def _fix_of_range(low: float, high: float) -> str:
    """Returns how numbers between `low` and `high` become numbers in [0, 1]."""
    if low >= -0.01 and high <= 1.01:
        return "store numpy.clip(array, 0, 1)"
    if low >= -1.01 and high <= 1.01:
        return "if its range is -1 to 1, store (array + 1) / 2"
    if low >= 0 and 32 < high <= 255:
        return "divide by 255, or store uint8"
    if low >= 0 and 255 < high <= 65535:
        return "divide by the largest number it can have, such as 65535 for 16 bits"
    return f"store (array - low) / (high - low) with the range of the data, here {low:g} to {high:g}"


def _labels_entry(
    archive: zipfile.ZipFile, files: Mapping[str, str], keys: Sequence[str], path: Path, count: int
) -> _Entry:
    key = next((key for key in keys if key in files), None)
    if key is None:
        others = sorted(name for name in files if name.endswith("labels"))
        raise input_error(
            "config.data.labels",
            expected=f"an array '{keys[0]}' in {path}",
            got=f"keys {others}" if others else "none",
            fix="add it, or set config.data.labels=False",
        )
    entry = _entry(archive, files[key], path)
    if not np.issubdtype(entry.dtype, np.integer) or entry.shape != (count,):
        raise _wrong_labels(entry, path, count, "")
    return entry


def _labels(labels: np.ndarray, entry: _Entry, path: Path) -> np.ndarray:
    if labels.min() < 0 or labels.max() >= 2**31:
        raise _wrong_labels(entry, path, len(labels), f" with numbers {labels.min()} to {labels.max()}")
    return labels.astype(np.int32)


def _wrong_labels(entry: _Entry, path: Path, count: int, numbers: str) -> InputError:
    return input_error(
        f"{path.name}['{entry.file.removesuffix('.npy')}']",
        expected=f"{count} integers from 0 on, the classes of the images",
        got=f"{entry.dtype} of shape {list(entry.shape)}{numbers}",
        fix="number the classes 0, 1, ...",
    )
