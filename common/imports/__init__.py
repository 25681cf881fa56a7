"""Weights from files of other frameworks, without those frameworks and without running anything in the files.

tensors = load("model.pt")  # {"conv.weight": float32 [O, I, H, W], ...}
slots = {"conv/kernel": Slot("conv.weight", (8, 1, 3, 3), lambda weight: weight.transpose(2, 3, 1, 0))}
leaves = assign(tensors, slots, field="model.pt")  # {"conv/kernel": float32 [H, W, I, O]}
params = flax.traverse_util.unflatten_dict(leaves, sep="/")
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from common.errors import input_error, listed, nearest
from common.imports import archive
from common.imports.torch_files import load_torch

__all__ = ["Slot", "assign", "load", "load_safetensors", "load_torch"]


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the tensors of a PyTorch or safetensors file; the content decides, and the ending where it is damaged.

    >>> import pathlib, tempfile
    >>> from safetensors.numpy import save_file
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save_file({"weight": np.ones((2, 3), np.float32)}, path)
    >>> load(path)["weight"].shape
    (2, 3)
    """
    path = archive.existing_file(path)
    start = archive.first_bytes(path, 9)
    if path.suffix == ".safetensors" or (start[8:9] == b"{" and not start.startswith(b"PK")):
        return load_safetensors(path)
    return load_torch(path)


_SHOWN = 4


class Slot(NamedTuple):
    """Where a leaf of a network comes from: the `source` tensor, its `shape` there, and the change of its layout."""

    source: str
    shape: tuple[int, ...]
    transform: Callable[[np.ndarray], np.ndarray]


def assign(tensors: Mapping[str, np.ndarray], slots: Mapping[str, Slot], *, field: str) -> dict[str, np.ndarray]:
    """Returns `{target: slot.transform(tensors[slot.source])}` for every target of `slots`.

    Raises one `InputError` for `field` (what the tensors were read from) that lists the tensors which are missing,
    unexpected or of another shape, each with the nearest name of the other side.

    >>> slots = {"dense/kernel": Slot("weight", (2, 3), np.transpose)}
    >>> assign({"weight": np.ones((2, 3))}, slots, field="model.pt")["dense/kernel"].shape
    (3, 2)
    """
    wanted = {slot.source: slot.shape for slot in slots.values()}
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    shapes = [
        f"{name} expected {list(wanted[name])}, got {list(tensors[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != tuple(wanted[name])
    ]
    if missing or unexpected or shapes:
        parts = [
            _listed("missing", missing, nearest_in=unexpected or tensors),
            _listed("unexpected", unexpected, nearest_in=missing or wanted),
            _listed("of another shape", shapes),
        ]
        raise input_error(
            field,
            expected=f"the {len(wanted)} tensors of the network",
            got="; ".join(part for part in parts if part),
            fix="name the file and the kind of network that belong together",
        )
    return {target: slot.transform(tensors[slot.source]) for target, slot in slots.items()}


def _listed(what: str, items: list[str], nearest_in: Iterable[str] = ()) -> str:
    if not items:
        return ""

    def described(item):
        close = nearest(item, nearest_in)
        return f"{archive.shown(item)} (nearest: {archive.shown(close)})" if close else archive.shown(item)

    lines = [described(item) if place < _SHOWN else "" for place, item in enumerate(items)]
    return f"{len(items)} {what}: {listed(lines, most=_SHOWN)}"


_DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "C64": np.complex64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


def load_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns every tensor of a safetensors file as a writable C-contiguous array, in the order of its bytes.

    Raises `InputError` for any other file, and for a type that neither NumPy nor ml_dtypes has.

    >>> load_safetensors("model.safetensors")["conv.weight"]  # doctest: +SKIP
    """
    path = archive.existing_file(path)
    try:
        with safetensors.safe_open(path, "numpy") as table:
            names = table.offset_keys()
        tensors = dict(safetensors.deserialize(path.read_bytes()))
        return {name: _array(name, **tensors[name]) for name in names}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise input_error(
            str(path),
            expected="a safetensors file",
            got=f"a damaged or foreign one ({archive.shown(error)})",
            fix="download it again, or write it again",
        ) from None


def _array(name: str, *, dtype: str, shape: list[int], data: bytearray) -> np.ndarray:
    if dtype not in _DTYPES:
        raise ValueError(f"tensor {name} of the type {dtype}")
    if dtype == "BOOL":
        return (np.frombuffer(data, np.uint8) != 0).reshape(shape)
    little = np.dtype(_DTYPES[dtype])
    little = little.newbyteorder("<") if little.kind in "iufc" else little
    return np.frombuffer(data, little).astype(_DTYPES[dtype], copy=False).reshape(shape)
