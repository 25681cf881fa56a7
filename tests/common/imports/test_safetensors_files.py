"""Files written by the safetensors package come back bit for bit; inconsistent tables are refused."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from common.errors import InputError
from common.imports import load, load_safetensors


def write(path, table, data=b"", length=None):
    header = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


def row(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_arrays_of_every_type(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 4)) * 9
    kinds = ["bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
    arrays = {kind: values.astype(kind) for kind in kinds}
    arrays |= {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 3), np.float32)}
    save_file(arrays, tmp_path / "arrays.safetensors", metadata={"format": "np"})
    got = load(tmp_path / "arrays.safetensors")
    assert set(got) == set(arrays)
    for name, array in arrays.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape
        assert got[name].tobytes() == array.tobytes() and got[name].flags.writeable


def test_types_that_numpy_lacks(tmp_path):
    values = np.array([1.5, -2, 0.25], np.float32)
    kinds = {"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
    for kind, dtype in kinds.items():
        data = values.astype(dtype).tobytes()
        got = load_safetensors(write(tmp_path / "x.safetensors", {"x": row((3,), (0, len(data)), kind)}, data))["x"]
        assert got.dtype == dtype and got.astype(np.float32).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("table", "data", "reason"),
    [
        ({"x": row((3,))}, bytes(8), r"tensor x of shape \[3\] and float32 in 8 bytes"),
        ({"x": row((1 << 40,), (0, 1 << 42))}, bytes(8), "8 bytes for tensors of 4398046511104"),
        ({"x": row()}, bytes(12), "12 bytes for tensors of 8"),
        ({"x": row(), "y": row(offsets=(4, 12))}, bytes(12), "tensor y at 4 where 8 is next"),
        ({"x": row(offsets=(4, 12))}, bytes(12), "tensor x at 4 where 0 is next"),
        ({"x": row((-2,))}, bytes(8), "not a whole number"),
        ({"x": row((2.0,))}, bytes(8), "not a whole number"),
        ({"x": row(dtype="F1")}, bytes(8), "tensor x of the type F1"),
        ({"x": {"dtype": "F32"}}, bytes(8), "data_offsets"),
        ({"x": 1}, bytes(8), "damaged or foreign"),
        ([1], b"", "not a table"),
        (b'{"x": 1, "x": 2}', b"", "occurs twice"),
        (b"[" * 100_000, b"", "damaged or foreign"),
        (b"{", b"", "a header of 1 bytes"),
        (b"\xff\xff", b"", "damaged or foreign"),
    ],
)
def test_inconsistent_tables_are_refused(table, data, reason, tmp_path):
    path = write(tmp_path / "bad.safetensors", table, data)
    with pytest.raises(InputError, match=reason) as error:
        load_safetensors(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_cut_files_and_absurd_lengths(tmp_path):
    whole = write(tmp_path / "whole.safetensors", {"x": row()}, bytes(8)).read_bytes()
    for end in (0, 4, 8, 20, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:end])
        with pytest.raises(InputError):
            load_safetensors(tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match="a header of 1152921504606846976 bytes"):
        load_safetensors(write(tmp_path / "long.safetensors", {"x": row()}, bytes(8), length=1 << 60))
    with pytest.raises(InputError, match="a directory"):
        load_safetensors(tmp_path)
