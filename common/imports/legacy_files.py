"""Reads tensors from PyTorch's format before version 1.6, without PyTorch and without running anything in the file.

Five pickles follow each other (a magic number, a version, facts about the writer, the object, the order of its
storages), then for each storage its length and its bytes. `load_torch` refuses this format; it is read here for the
few published files that exist in no other and whose checksum is known.
"""

import io
import os

import numpy as np

from common.errors import InputError, input_error
from common.imports import archive, pickles, torch_names
from common.imports.torch_names import DTYPES, Storage, Tensor

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_MAX_BYTES = 1 << 30


def load_legacy_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the tensors of a flat dictionary (a `state_dict`) as writable C-contiguous arrays, in the file's order.

    Raises `InputError` for any other file: missing, larger than 1 GiB, damaged, hostile, or of another content.
    """
    path = archive.existing_file(path)
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise input_error(
            str(path), expected=f"at most {_MAX_BYTES} bytes", got=size, fix="convert it to the newer format"
        )
    stream = io.BytesIO(archive.first_bytes(path, size))
    try:
        return _tensors(stream)
    except InputError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        got = f"a damaged or foreign one ({archive.shown(error)})"
        raise input_error(str(path), expected="a legacy PyTorch file of tensors", got=got, fix=archive.AGAIN) from None


def _tensors(stream: io.BytesIO) -> dict[str, np.ndarray]:
    storages: dict[str, Storage] = {}

    def persistent(identifier: object) -> Storage:
        found = torch_names.storage(identifier, "data")
        return storages.setdefault(found.entry, found)

    if _read(stream) != _MAGIC or _read(stream) != _VERSION:
        raise ValueError("no magic number or version of this format")
    facts = _read(stream)
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise ValueError("not written on a little-endian machine")
    described, order = _read(stream, persistent), _read(stream)
    if not isinstance(described, dict) or not isinstance(order, list) or len(set(order)) != len(order):
        raise ValueError("no dictionary of tensors with an order of their storages")
    data = {f"data/{key}": _storage(stream, storages[f"data/{key}"]) for key in order}
    if stream.read(1):
        raise ValueError("bytes after the last storage")
    return {str(name): _array(tensor, data) for name, tensor in described.items()}


def _read(stream: io.BytesIO, persistent=None) -> object:
    """Returns what the pickle at this place of the stream describes, and goes behind it."""
    return pickles.read(stream, find=_find, persistent=persistent or _no_storage)


def _find(module: str, name: str) -> pickles.Name:
    stand_in = None if module.startswith("__torch__") else torch_names.find(module, name)
    if stand_in is None:
        raise ValueError(f"{module}.{name}, of which nothing was run")
    return stand_in


def _no_storage(identifier: object) -> object:
    raise ValueError("a storage outside the object")


def _storage(stream: io.BytesIO, storage: Storage) -> np.ndarray:
    length = int.from_bytes(stream.read(8), "little", signed=True)
    if length != storage.length or storage.dtype not in DTYPES or length < 0:
        raise ValueError(f"a storage of {length} elements where {storage.length} of {storage.dtype} were announced")
    data = stream.read(length * np.dtype(DTYPES[storage.dtype]).itemsize)
    return np.frombuffer(data, np.dtype(DTYPES[storage.dtype]).newbyteorder("<"), count=length)


def _array(tensor: object, data: dict[str, np.ndarray]) -> np.ndarray:
    """Returns a tensor as an array of its own; raises ValueError unless it is dense and inside its storage."""
    if not isinstance(tensor, Tensor):
        raise ValueError("an entry that is not a dense tensor")
    values, dtype = data[tensor.storage.entry], np.dtype(DTYPES[tensor.dtype])
    if 0 in tensor.shape:
        return np.empty(tensor.shape, dtype)
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if last >= len(values) or np.prod(tensor.shape, dtype=object) > len(values):
        raise ValueError("a tensor beyond its storage")
    strides = [stride * values.itemsize for stride in tensor.strides]
    view = np.ndarray(tensor.shape, values.dtype, values, tensor.offset * values.itemsize, strides)
    return np.array(view, dtype, order="C")
