import numpy as np
import pytest

from common.data.npz import open_npz
from common.data.source import BadRecordError, known_bad, name_of, read_all
from common.errors import InputError

BYTES = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3)).astype(np.uint8)


def saved(tmp_path, **arrays):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    return path


def values(part):
    return np.stack([element["image"] for element in read_all(part, range(len(part)))])


def test_train_and_test_keys(tmp_path):
    parts = open_npz(saved(tmp_path, train=BYTES, test=BYTES[:2, :, :, 0]), seed=0)
    np.testing.assert_array_equal(values(parts["train"]), BYTES)
    np.testing.assert_array_equal(values(parts["test"]), BYTES[:2, :, :, :1])


@pytest.mark.parametrize("key", ["train", "faces"])
def test_one_array_is_split(tmp_path, key):
    parts = open_npz(saved(tmp_path, **{key: BYTES}), seed=4)
    assert (len(parts["train"]), len(parts["test"])) == (9, 1)
    together = np.concatenate([values(parts["train"]), values(parts["test"])])
    assert {image.tobytes() for image in together} == {image.tobytes() for image in BYTES}


def test_floats_become_float32(tmp_path):
    parts = open_npz(saved(tmp_path, train=BYTES / 255, test=BYTES / 255), seed=0)
    got = values(parts["train"])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, BYTES / 255, atol=1e-7)


def test_a_nan_is_a_bad_record_named_by_key_and_index(tmp_path):
    images = (BYTES / 255).astype(np.float32)
    images[6, 0, 0, 0] = np.nan
    train = open_npz(saved(tmp_path, train=images, test=images[:2]), seed=0)["train"]
    assert list(known_bad(train)) == [6]
    with pytest.raises(BadRecordError, match=r"set.npz\['train'\]\[6\]: image has NaN or infinite numbers"):
        train[6]
    split = open_npz(saved(tmp_path, faces=images), seed=0)
    named = [name_of(part, index) for part in split.values() for index in known_bad(part)]
    assert named == ["set.npz['faces'][6]"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": BYTES, "b": BYTES}, r"expected keys 'train' and 'test', or one array, got keys \['a', 'b'\]"),
        ({"test": BYTES, "b": BYTES}, r"got keys \['b', 'test'\]"),
        ({"train": BYTES[0, 0]}, r"set.npz\['train'\]: expected shape .* got shape \[5, 3\]"),
        ({"train": np.moveaxis(BYTES, -1, 1)}, r"got shape \[10, 3, 4, 5\]; reshape or transpose it"),
        ({"train": BYTES, "test": BYTES[:0]}, r"set.npz\['test'\]: expected shape .* got shape \[0, 4, 5, 3\]"),
        ({"train": BYTES.astype(np.int32)}, r"set.npz\['train'\]: expected uint8, or floating point .* got int32"),
        ({"train": BYTES.astype(np.float32)}, r"set.npz\['train'\]\[0\]: expected numbers in \[0, 1\], got .*; divide"),
        ({"train": BYTES / 255 - 0.5}, r"set.npz\['train'\]\[0\]: expected numbers in \[0, 1\]"),
        ({"train": BYTES[:1]}, "expected at least 2 images"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        open_npz(saved(tmp_path, **arrays), seed=0)


def test_files_that_are_no_npz_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected npz:FILE with an existing file"):
        open_npz(tmp_path / "nowhere.npz", seed=0)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match="config.data.source: expected numeric arrays in .*text.npz"):
        open_npz(tmp_path / "text.npz", seed=0)
    np.savez(tmp_path / "objects.npz", train=np.asarray([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="config.data.source: expected numeric arrays in .*objects.npz"):
        open_npz(tmp_path / "objects.npz", seed=0)
    path = saved(tmp_path, train=BYTES)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="config.data.source: expected numeric arrays in"):
        open_npz(path, seed=0)
