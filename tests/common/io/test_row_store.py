"""Rows in chunks: whatever is interrupted, damaged or split anew, the same rows are there in the end."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.io import row_store
from common.io.row_store import Store, fill, open_store

IDENTITY = {"seed": 3, "values": (1, 2)}


def compute(indices):
    return {"square": indices.astype(np.float64) ** 2, "pair": np.stack([indices, -indices], 1).astype(np.int32)}


def store_at(directory, batch_size=4, **how):
    return Store(directory, identity=IDENTITY, batch_size=batch_size, **{"chunk_rows": 8, **how})


def assert_rows(store, num):
    np.testing.assert_array_equal(store.load("square", num), np.arange(num) ** 2.0)
    np.testing.assert_array_equal(store.load("pair", num), np.stack([np.arange(num), -np.arange(num)], 1))


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@settings(max_examples=25, deadline=None)
@given(
    num=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    chunk_rows=st.integers(1, 16),
    num_devices=st.integers(1, 4),
    run_ahead=st.integers(0, 3),
)
def test_any_split_gives_the_same_rows(tmp_path_factory, num, batch_size, chunk_rows, num_devices, run_ahead):
    store = store_at(tmp_path_factory.mktemp("rows"), batch_size, chunk_rows=chunk_rows)
    sizes, told = set(), []

    def seen(indices):
        sizes.add(len(indices))
        return compute(indices)

    how = {"num_devices": num_devices, "run_ahead": run_ahead, "add": told.append}
    assert fill(store, seen, num=num, batch_size=batch_size, **how)
    assert_rows(store, num)
    assert sum(told) == num
    assert sizes == {batch_size * num_devices}, "one shape, so one compiled program"
    assert store.chunk_size % batch_size == 0 and store.chunk_size - chunk_rows < batch_size
    assert store.missing(num) == []


@pytest.mark.parametrize("num_devices", [1, 3])
@pytest.mark.parametrize("run_ahead", [0, 2])
def test_stopped_and_killed_at_every_batch(tmp_path, num_devices, run_ahead):
    how = {"num": 30, "batch_size": 4, "num_devices": num_devices, "run_ahead": run_ahead}
    whole = store_at(tmp_path / "whole")
    assert fill(whole, compute, **how)
    store, polls, calls = store_at(tmp_path / "parts"), [0], [0]

    def stop_at_third():
        polls[0] += 1
        return polls[0] % 4 == 0

    def die_sometimes(indices):
        calls[0] += 1
        if calls[0] % 5 == 3:
            raise KeyboardInterrupt
        return compute(indices)

    for _ in range(50):
        try:
            if fill(store_at(tmp_path / "parts"), die_sometimes, should_stop=stop_at_third, **how):
                break
        except KeyboardInterrupt:
            pass
    assert contents(store.directory) == contents(whole.directory)


def test_only_what_is_missing_is_computed(tmp_path):
    store = store_at(tmp_path)
    fill(store, compute, num=16, batch_size=4)
    (tmp_path / "chunk-000000.npz").write_bytes(store.path(0).read_bytes()[:-40])
    asked = []
    fill(store_at(tmp_path), lambda i: asked.append(i) or compute(i), num=20, batch_size=4)
    np.testing.assert_array_equal(np.concatenate(asked), [*range(8), *range(16, 20)])
    assert_rows(store, 20)
    # The third chunk was shorter than a larger number needs.
    asked.clear()
    fill(store_at(tmp_path), lambda i: asked.append(i) or compute(i), num=23, batch_size=4)
    np.testing.assert_array_equal(np.concatenate(asked), range(16, 24))
    assert_rows(store, 23)
    asked.clear()
    assert fill(store_at(tmp_path), lambda i: asked.append(i) or compute(i), num=5, batch_size=4)
    assert asked == []
    assert_rows(store, 5)


def test_one_flipped_byte_is_found(tmp_path):
    store = store_at(tmp_path)
    fill(store, compute, num=16, batch_size=4)
    data = bytearray(store.path(1).read_bytes())
    data[data.index(b"NUMPY") + 150] ^= 1
    store.path(1).write_bytes(bytes(data))
    assert store.missing(16) == [1]
    with pytest.raises(InputError, match="chunk-000001.npz: expected a whole chunk, got Bad CRC-32"):
        store.load("square", 16)


def test_another_batch_size_goes_on_in_the_same_chunks(tmp_path):
    fill(store_at(tmp_path), compute, num=10, batch_size=4)
    other = store_at(tmp_path, 5, chunk_rows=100)
    assert other.chunk_size == 8
    fill(other, compute, num=30, batch_size=5)
    assert_rows(open_store(tmp_path), 30)


def test_other_rows_are_refused(tmp_path):
    fill(store_at(tmp_path), compute, num=3, batch_size=4)
    with pytest.raises(InputError, match=r'expected rows of {"seed": 4}, got those of {"seed": 3, "values": \[1, 2\]}'):
        Store(tmp_path, identity={"seed": 4}, batch_size=4)
    with pytest.raises(InputError, match="chunk-000000.npz: expected 3 rows of cube, got arrays square, pair"):
        store_at(tmp_path).load("cube", 3)
    with pytest.raises(InputError, match="chunk-000000.npz: expected 4 rows of square, got 3 rows"):
        store_at(tmp_path).load("square", 4)
    (tmp_path / row_store.INDEX).write_text(json.dumps({"chunk_size": 8}))
    with pytest.raises(InputError, match="index.json: expected a readable index"):
        store_at(tmp_path)
    with pytest.raises(InputError, match="expected a directory with index.json, got none"):
        open_store(tmp_path / "nowhere")
