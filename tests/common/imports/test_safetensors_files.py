"""Files written by the safetensors package come back bit for bit; inconsistent tables are refused."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

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
    kinds["C64"] = np.complex64
    for kind, dtype in kinds.items():
        data = values.astype(dtype).tobytes()
        got = load_safetensors(write(tmp_path / "x.safetensors", {"x": row((3,), (0, len(data)), kind)}, data))["x"]
        assert got.dtype == dtype and got.astype(np.complex64).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("table", "data"),
    [
        ({"x": row((3,))}, bytes(8)),  # another size than its shape's
        ({"x": row((1 << 40,), (0, 1 << 42))}, bytes(8)),  # beyond the end
        ({"x": row((1 << 62, 4), (0, 0))}, b""),
        ({"x": row((1 << 63, 1 << 63))}, bytes(8)),
        ({"x": row()}, bytes(12)),  # bytes that belong to no tensor
        ({"x": row(), "y": row(offsets=(4, 12))}, bytes(12)),  # overlap
        ({"x": row(offsets=(4, 12))}, bytes(12)),  # gap
        ({"x": row((-2,))}, bytes(8)),
        ({"x": row((2.0,))}, bytes(8)),
        ({"x": row(dtype="F1")}, bytes(8)),
        ({"x": {"dtype": "F32"}}, bytes(8)),
        ({"x": row(), "__metadata__": {"format": 1}}, bytes(8)),
        ({"x": 1}, bytes(8)),
        ([1], b""),
        (b'{"x": 1, "x": 2}', b""),
        (b"[" * 100_000, b""),
        (b"{", b""),
        (b"\xff\xff", b""),
    ],
)
def test_inconsistent_tables_are_refused(table, data, tmp_path):
    path = write(tmp_path / "bad.safetensors", table, data)
    with pytest.raises(InputError) as error:
        load_safetensors(path)
    assert str(error.value).startswith(f"{path}: expected a safetensors file, got a damaged or foreign one (")
    assert "Error while deserializing" in str(error.value) and "\n" not in str(error.value)


def test_the_order_is_that_of_the_bytes(tmp_path):
    names = [f"layer{i * 37 % 60}.weight" for i in range(60)]
    table = {name: row((1,), (4 * i, 4 * i + 4)) for i, name in enumerate(names)}
    shuffled = {name: table[name] for name in sorted(names)}
    data = np.arange(60, dtype="<f4").tobytes()
    got = load_safetensors(write(tmp_path / "x.safetensors", shuffled, data))
    assert list(got) == names and [array[0] for array in got.values()] == list(range(60))


def test_a_type_without_a_numpy_form_is_named(tmp_path):
    path = write(tmp_path / "x.safetensors", {"a": row((2,), (0, 1), "F4")}, bytes(1))
    with pytest.raises(InputError, match="tensor a of the type F4"):
        load_safetensors(path)


def test_bytes_of_booleans_are_made_zeros_and_ones(tmp_path):
    got = load_safetensors(write(tmp_path / "x.safetensors", {"a": row((3,), (0, 3), "BOOL")}, b"\0\1\7"))["a"]
    assert got.view(np.uint8).tolist() == [0, 1, 1]


@settings(deadline=None, max_examples=150)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans())
def test_a_changed_or_cut_file_is_read_or_refused(tmp_path_factory, place, value, cut):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3, dtype=np.int64)}
    whole = save(arrays, metadata={"format": "np"})
    place %= len(whole)
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(whole[:place] if cut else whole[:place] + bytes([value]) + whole[place + 1 :])
    try:
        got = load_safetensors(path)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert not cut and sum(array.nbytes for array in got.values()) <= 48


def test_cut_files_and_absurd_lengths(tmp_path):
    whole = write(tmp_path / "whole.safetensors", {"x": row()}, bytes(8)).read_bytes()
    for end in (0, 4, 8, 20, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:end])
        with pytest.raises(InputError):
            load_safetensors(tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match="header too large"):
        load_safetensors(write(tmp_path / "long.safetensors", {"x": row()}, bytes(8), length=1 << 60))
    with pytest.raises(InputError, match="a directory"):
        load_safetensors(tmp_path)
