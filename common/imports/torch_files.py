"""Reads the tensors of a PyTorch checkpoint without PyTorch and without running anything the file contains.

The zip format of PyTorch 1.6 and later holds a pickle that describes the tensors, and one entry with the bytes of each
storage. The pickle is read by `common.imports.pickles`; sizes are checked before memory is taken.
"""

import io
import os
import sys
from collections.abc import Collection
from typing import Any

import numpy as np

from common.errors import InputError, input_error
from common.imports import archive, pickles, torch_names
from common.imports import archive as archives
from common.imports.torch_names import DTYPES, Storage, Tensor, Unsupported

_MAX_PICKLE_BYTES = 1 << 25  # a description is far smaller, and each of its bytes may cost a hundred in memory
_MAX_DEPTH = 100
_MAX_VISITS = 1 << 24  # of objects, and letters of their names
_MIN_LIMIT_BYTES = 1 << 26
_FILE_MULTIPLE = 4


def load_torch(
    path: str | os.PathLike, *, limit_bytes: int | None = None, inert: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Returns every tensor of a PyTorch checkpoint (`.pt`, `.pth`, `.ckpt`, TorchScript), in the file's order.

    The keys of nested dictionaries, the positions in lists and the attributes of TorchScript modules are joined with
    ".", so `{"model": state_dict, "ema": [...]}` gives `model.conv.weight` and `ema.0`. A file that holds one bare
    tensor gives the name "". The constants of a TorchScript archive are `CONSTANTS.c0`, `CONSTANTS.c1`, ... Leaves
    that are not tensors (counters, options, pickled NumPy arrays) are left out.

    Arrays are writable C-contiguous copies; bfloat16 and float8 come in the types of `ml_dtypes`. All of them together
    may take `limit_bytes` (default: 4 times the file, at least 64 MiB; a stride of 0 can make a tensor larger than its
    file). `inert` allows further globals, written "module.name", whose instances are skipped and never run.

    Raises `InputError` for a file that is missing, damaged, hostile, too large, in the format from before PyTorch 1.6,
    or that holds a tensor without a dense NumPy form (sparse, quantised, nested, without data).

    >>> load_torch("model.pt")["conv.weight"]  # doctest: +SKIP
    """
    with archives.opened(path) as archive:
        tensors: dict[str, Any]
        tensors, used = _described(archive, "data", inert)
        if "constants.pkl" in archive.entries:
            constants, also = _described(archive, "constants", inert)
            tensors |= {f"CONSTANTS.c{name}": each for name, each in constants.items()}
            used |= also
        for name, tensor in tensors.items():
            _check(archive, name, tensor)
        _check_entries(archive, used)
        limit = max(_MIN_LIMIT_BYTES, _FILE_MULTIPLE * archive.num_bytes) if limit_bytes is None else limit_bytes
        total = sum(tensor.num_bytes for tensor in tensors.values())
        if total > limit:
            raise input_error(
                str(path),
                expected=f"at most {limit} bytes of tensors",
                got=f"{total} described by a file of {archive.num_bytes}",
                fix="allow more with limit_bytes if you trust it",
            )
        return _values(archive, tensors)


def _described(
    archive: archives.Archive, folder: str, inert: Collection[str]
) -> tuple[dict[str, Tensor | Unsupported], set[str]]:
    """Returns the tensors that the pickle beside `folder` describes, by their joined names, and the entries it uses."""
    field = f"{archive.path}, {folder}.pkl"
    size = archive.entries[f"{folder}.pkl"].file_size
    if size > _MAX_PICKLE_BYTES:
        raise input_error(field, expected=f"at most {_MAX_PICKLE_BYTES} bytes", got=size, fix="save the tensors alone")
    data = archives.read(archive, f"{folder}.pkl").tobytes()

    def find(module: str, name: str) -> pickles.Name:
        text = f"{module}.{name}"
        stand_in = torch_names.skipped(text) if text in inert else torch_names.find(module, name)
        if stand_in is None:
            raise input_error(
                field,
                expected="names of tensors and plain containers only",
                got=f"{archives.shown(text)} (nothing of it was run)",
                fix="save the tensors alone, for example model.state_dict()",
            )
        return stand_in

    used = set()

    def persistent(identifier: object) -> Storage:
        storage = torch_names.storage(identifier, folder)
        used.add(storage.entry)
        return storage

    try:
        root = pickles.read(data, find=find, persistent=persistent)
        return _flat(root, budget=min(16 * len(data), _MAX_VISITS)), used
    except InputError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise input_error(
            field,
            expected="a description of tensors",
            got=f"a damaged or foreign one ({archives.shown(error)})",
            fix=archives.AGAIN,
        ) from None


def _flat(root: object, budget: int) -> dict[str, Tensor | Unsupported]:
    """Returns the tensors inside nested containers, by their joined names.

    `budget` bounds the objects visited plus the letters of the names: containers may hold themselves, or share their
    parts so that a walk takes time exponential in their number. Raises ValueError beyond it.
    """
    tensors = {}
    waiting = [("", root, 0)]
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, Tensor | Unsupported):
            if name in tensors:
                raise ValueError(f"two tensors named {name}")
            tensors[name] = value
            continue
        start = f"{name}." if depth else ""
        for key, child in reversed(torch_names.children(value)):
            budget -= 1
            if torch_names.may_hold_tensors(child):
                waiting.append((f"{start}{key}", child, depth + 1))
                budget -= len(waiting[-1][0])
            if budget < 0 or depth >= _MAX_DEPTH:
                raise ValueError("containers nested without end")
    return tensors


def _check_entries(archive: archives.Archive, used: set[str]) -> None:
    """Raises `InputError` for a storage that no pickle names: the tensors in it would be missing without a word."""
    folders = {"data"} if "bytecode.pkl" in archive.entries else {"data", "constants"}
    for name in archive.entries:
        if name.partition("/")[0] in folders and not name.endswith((".pkl", "/")) and name not in used:
            raise input_error(
                str(archive.path),
                expected="storages of its tensors only",
                got=f"{archives.shown(name)}, which belongs to none",
                fix=archives.AGAIN,
            )


def _check(archive: archives.Archive, name: str, tensor: Tensor | Unsupported) -> None:
    """Raises `InputError` unless the tensor lies inside its storage, and the storage inside the file."""
    field = f"{archive.path}, tensor {archives.shown(name)}"
    if isinstance(tensor, Unsupported):
        raise input_error(field, expected="a dense array of numbers", got=tensor.kind, fix="save it as a dense tensor")
    storage = tensor.storage
    info = archive.entries.get(storage.entry)
    claimed = storage.length * np.dtype(DTYPES[storage.dtype]).itemsize
    if info is None or not 0 <= claimed <= info.file_size:
        got = "no such entry" if info is None else f"an entry of {info.file_size}"
        raise input_error(
            field, expected=f"{claimed} bytes in {archives.shown(storage.entry)}", got=got, fix=archives.AGAIN
        )
    if 0 in tensor.shape:
        return
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    end = (last + 1) * np.dtype(DTYPES[tensor.dtype]).itemsize
    if end > claimed:
        raise input_error(
            field, expected=f"a view of its {claimed} bytes", got=f"one that ends at {end}", fix=archives.AGAIN
        )


def _values(archive: archives.Archive, tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    order = archives.read(archive, "byteorder").tobytes() if "byteorder" in archive.entries else b"little"
    if order not in (b"little", b"big"):
        raise input_error(f"{archive.path}, byteorder", expected="little or big", got=order[:12], fix=archives.AGAIN)
    names_of: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        names_of.setdefault(tensor.storage.entry, []).append(name)
    arrays: dict[str, np.ndarray] = {}
    for entry, names in names_of.items():
        data = archives.read(archive, entry)  # besides the results, one storage at a time is in memory
        arrays |= {name: _array(data, tensors[name], swap=order.decode() != sys.byteorder) for name in names}
    return {name: arrays[name] for name in tensors}


def _array(data: np.ndarray, tensor: Tensor, *, swap: bool) -> np.ndarray:
    """Returns the tensor as a new array, copied from the bytes of its storage."""
    dtype = np.dtype(DTYPES[tensor.dtype])
    if 0 in tensor.shape:
        return np.empty(tensor.shape, dtype)
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    view = np.ndarray(tensor.shape, dtype, buffer=data, offset=tensor.offset * dtype.itemsize, strides=strides)
    array = np.array(view, order="C")  # changed only now: thousands of tensors may be views of one large storage
    part = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    if swap and part > 1:
        array.reshape(-1).view(f"u{part}").byteswap(inplace=True)
    if dtype == np.bool_:
        np.not_equal(array.view(np.uint8), 0, out=array)
    if tensor.conjugate:
        np.conj(array, out=array)
    if tensor.negative:
        np.negative(array, out=array)
    return array


# The format before version 1.6: five pickles follow each other (a magic number, a version, facts about the writer, the
# object, the order of its storages), then for each storage its length and its bytes. `load_torch` refuses it; it is
# read here for the few published files that exist in no other and whose checksum is known.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_LEGACY_MAX_BYTES = 1 << 30


def load_legacy_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the tensors of a flat dictionary (a `state_dict`) as writable C-contiguous arrays, in the file's order.

    Raises `InputError` for any other file: missing, larger than 1 GiB, damaged, hostile, or of another content.
    """
    path = archive.existing_file(path)
    size = path.stat().st_size
    if size > _LEGACY_MAX_BYTES:
        raise input_error(
            str(path), expected=f"at most {_LEGACY_MAX_BYTES} bytes", got=size, fix="convert it to the newer format"
        )
    stream = io.BytesIO(archive.first_bytes(path, size))
    try:
        return _legacy_tensors(stream)
    except InputError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        got = f"a damaged or foreign one ({archive.shown(error)})"
        raise input_error(str(path), expected="a legacy PyTorch file of tensors", got=got, fix=archive.AGAIN) from None


def _legacy_tensors(stream: io.BytesIO) -> dict[str, np.ndarray]:
    storages: dict[str, Storage] = {}

    def persistent(identifier: object) -> Storage:
        found = torch_names.storage(identifier, "data")
        return storages.setdefault(found.entry, found)

    if _legacy_read(stream) != _LEGACY_MAGIC or _legacy_read(stream) != _LEGACY_VERSION:
        raise ValueError("no magic number or version of this format")
    facts = _legacy_read(stream)
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise ValueError("not written on a little-endian machine")
    described, order = _legacy_read(stream, persistent), _legacy_read(stream)
    if not isinstance(described, dict) or not isinstance(order, list) or len(set(order)) != len(order):
        raise ValueError("no dictionary of tensors with an order of their storages")
    data = {f"data/{key}": _legacy_storage(stream, storages[f"data/{key}"]) for key in order}
    if stream.read(1):
        raise ValueError("bytes after the last storage")
    return {str(name): _legacy_array(tensor, data) for name, tensor in described.items()}


def _legacy_read(stream: io.BytesIO, persistent=None) -> object:
    """Returns what the pickle at this place of the stream describes, and goes behind it."""
    return pickles.read(stream, find=_legacy_find, persistent=persistent or _no_storage)


def _legacy_find(module: str, name: str) -> pickles.Name:
    stand_in = None if module.startswith("__torch__") else torch_names.find(module, name)
    if stand_in is None:
        raise ValueError(f"{module}.{name}, of which nothing was run")
    return stand_in


def _no_storage(identifier: object) -> object:
    raise ValueError("a storage outside the object")


def _legacy_storage(stream: io.BytesIO, storage: Storage) -> np.ndarray:
    length = int.from_bytes(stream.read(8), "little", signed=True)
    if length != storage.length or storage.dtype not in DTYPES or length < 0:
        raise ValueError(f"a storage of {length} elements where {storage.length} of {storage.dtype} were announced")
    data = stream.read(length * np.dtype(DTYPES[storage.dtype]).itemsize)
    return np.frombuffer(data, np.dtype(DTYPES[storage.dtype]).newbyteorder("<"), count=length)


def _legacy_array(tensor: object, data: dict[str, np.ndarray]) -> np.ndarray:
    """Returns a tensor as a new array; raises ValueError unless it is dense and inside its storage."""
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
