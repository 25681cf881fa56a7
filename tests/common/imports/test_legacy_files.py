"""Files of PyTorch before 1.6: two that it wrote, and every kind of damage."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.imports import load_torch
from common.imports.torch_files import load_legacy_torch

DATA = Path(__file__).parent / "data"


def test_values():
    found = load_legacy_torch(DATA / "legacy.pt")
    with np.load(DATA / "protocol4.npz") as want:
        assert list(found) == ["weight", "steps"]
        for name, array in found.items():
            np.testing.assert_array_equal(array, want[name])
            assert array.dtype == want[name].dtype and array.flags.writeable


def test_views_of_one_storage():
    found, base = load_legacy_torch(DATA / "legacy_views.pt"), np.arange(24.0).reshape(4, 6)
    np.testing.assert_array_equal(found["turned"], base.T)
    np.testing.assert_array_equal(found["part"], base[1:3, ::2])
    assert found["one"].dtype.name == "bfloat16" and found["one"].tolist() == [1, 1]
    assert found["none"].shape == (0, 3)
    assert all(array.flags.c_contiguous for array in found.values())


def test_the_general_reader_still_refuses_it():
    with pytest.raises(InputError, match="got its legacy format from before version 1.6; convert it once"):
        load_torch(DATA / "legacy.pt")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_is_an_input_error(tmp_path_factory, data):
    whole = (DATA / "legacy_views.pt").read_bytes()
    path = tmp_path_factory.mktemp("damage") / "x.pt"
    if data.draw(st.booleans()):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(InputError, match="expected a legacy PyTorch file of tensors, got"):
            load_legacy_torch(path)
        return
    place = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[place + 1 :])
    try:
        found = load_legacy_torch(path)
    except InputError:
        return
    assert all(isinstance(array, np.ndarray) for array in found.values())


def parts(*objects):
    return b"".join(each if isinstance(each, bytes) else pickle.dumps(each, protocol=2) for each in objects)


HEAD = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            parts(*HEAD, b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00exit\x85R.", []),
            "posix.system, of which nothing was",
        ),
        (parts(1, *HEAD[1:], {}, []), "no magic number or version"),
        (parts(*HEAD[:2], {"little_endian": False}, {}, []), "not written on a little-endian machine"),
        (parts(*HEAD, [1], []), "no dictionary of tensors"),
        (parts(*HEAD, {"a": 1}, []), "an entry that is not a dense tensor"),
        (parts(*HEAD, {}, ["0"]), "data/0"),
        (parts(*HEAD, {}, [], b"more"), "bytes after the last storage"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_legacy_torch(tmp_path / "x.pt")


def test_a_missing_file():
    with pytest.raises(InputError, match="expected a checkpoint file, got nothing there"):
        load_legacy_torch(DATA / "nowhere.pt")
