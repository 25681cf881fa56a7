"""Small files of weights, as they come with a package: nested arrays in half precision, with a known checksum."""

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from common.errors import input_error
from common.io.files import write_atomically

_DAMAGED = (EOFError, LookupError, NotImplementedError, OSError, ValueError, zipfile.BadZipFile, zlib.error)
_AGAIN = "write it again with the verb export"


def save(path: str | Path, params: Mapping[str, Any], *, dtype: str = "float16", small: int = 0) -> str:
    """Writes nested dicts of arrays to `path` (`.npz`, keys joined by "/") and returns the file's sha256.

    Arrays of fewer than `small` numbers are stored in float32: they take little room and may decide much. Equal arrays
    give equal bytes. Raises `InputError` for numbers that are not finite in `dtype`.
    """
    leaves = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}
    with np.errstate(over="ignore"):  # what overflows is refused below
        leaves = {name: leaf.astype("float32" if leaf.size < small else dtype) for name, leaf in leaves.items()}
    for name, leaf in leaves.items():
        if not np.isfinite(leaf).all():
            raise input_error(
                f"weights {name}", expected=f"finite numbers in {dtype}", got="others", fix="use another run"
            )
    stream = io.BytesIO()
    np.savez_compressed(stream, **dict[str, Any](sorted(leaves.items())))
    write_atomically(path, stream.getvalue())
    return hashlib.sha256(stream.getvalue()).hexdigest()


def load(path: str | os.PathLike, *, sha256: str | None) -> dict[str, Any]:
    """Returns what `save` wrote, float32; `sha256` is the checksum the file must have, None any.

    Raises `InputError` for a file that is missing, damaged or another one.
    """
    path = Path(path)
    if not path.is_file():
        raise input_error(str(path), expected="a file of weights", got="none", fix="install the package again")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise input_error(str(path), expected=f"sha256 {sha256}", got=found, fix="install the package again")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            leaves = {name: arrays[name] for name in arrays.files}
    except _DAMAGED as error:
        got = f"a damaged one or another ({type(error).__name__})"
        raise input_error(str(path), expected="a file of weights", got=got, fix=_AGAIN) from None
    for name, leaf in leaves.items():
        if not np.issubdtype(leaf.dtype, np.floating):
            raise input_error(f"{path}: {name}", expected="floating-point numbers", got=leaf.dtype.name, fix=_AGAIN)
        if not np.isfinite(leaf).all():
            raise input_error(f"{path}: {name}", expected="finite numbers", got="others", fix=_AGAIN)
        if inside := [each for each in leaves if each.startswith(f"{name}/")]:
            raise input_error(f"{path}: {name}", expected="one array", got=f"also {inside[0]}", fix=_AGAIN)
    return unflatten_dict({tuple(name.split("/")): leaf.astype(np.float32) for name, leaf in leaves.items()})
