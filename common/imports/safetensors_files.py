"""Reads safetensors files: eight bytes of length, a JSON table, then the bytes of all tensors."""

import json
import math
import os

import ml_dtypes
import numpy as np

from common.errors import InputError, input_error
from common.imports import archive

_MAX_HEADER_BYTES = 100_000_000  # the format's own bound
_AGAIN = "download it again, or write it again"
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

    The tensors must fill the file without gap or overlap, as the format asks. Raises `InputError` otherwise.
    """
    path = archive.existing_file(path)
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            table = json.loads(stream.read(length), object_pairs_hook=_unique)
            if not isinstance(table, dict):
                raise ValueError("a header that is not a table")
            table.pop("__metadata__", None)
            places = sorted((_place(name, entry) for name, entry in table.items()), key=lambda place: place[1:3])
            end = 0
            for name, start, stop, *_ in places:
                if start != end:
                    raise ValueError(f"tensor {name} at {start} where {end} is next")
                end = stop
            if end != size - 8 - length:
                raise ValueError(f"{size - 8 - length} bytes for tensors of {end}")
            return {name: _array(stream.read(stop - start), dtype, shape) for name, start, stop, dtype, shape in places}
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise input_error(
            str(path),
            expected="a safetensors file",
            got=f"a damaged or foreign one ({archive.shown(error)})",
            fix=_AGAIN,
        ) from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name that occurs twice")
    return table


def _place(name: str, entry: dict) -> tuple[str, int, int, np.dtype, tuple[int, ...]]:
    """Returns (name, first byte, end, type, shape) of one row of the table; raises ValueError if it is inconsistent."""
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"tensor {name} of the type {entry['dtype']}")
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    start, stop = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(type(each) is int and each >= 0 for each in (start, stop, *shape)):
        raise ValueError(f"tensor {name} with a size that is not a whole number")
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"tensor {name} of shape {list(shape)} and {dtype} in {stop - start} bytes")
    return name, start, stop, dtype, shape


def _array(data: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    if dtype == np.bool_:
        return (np.frombuffer(data, np.uint8) != 0).reshape(shape)
    return np.frombuffer(data, dtype.newbyteorder("<") if dtype.kind in "iufc" else dtype).astype(dtype).reshape(shape)
