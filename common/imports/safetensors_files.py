"""Reads safetensors files with the format's own package, types included that NumPy does not have."""

import os

import ml_dtypes
import numpy as np
import safetensors

from common.errors import input_error
from common.imports import archive

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
