import io
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from common.data.npz import open_npz
from common.data.source import BadRecordError
from common.errors import InputError
from tests.common.data.raw import unusable

BYTES = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3)).astype(np.uint8)


def saved(tmp_path, **arrays):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    return path


def values(part):
    return np.stack([element["image"] for element in part.elements(range(len(part)))])


def test_train_and_test_keys(tmp_path):
    parts = open_npz(saved(tmp_path, train=BYTES, test=BYTES[:2, :, :, 0]))
    np.testing.assert_array_equal(values(parts["train"]), BYTES)
    np.testing.assert_array_equal(values(parts["test"]), BYTES[:2, :, :, :1])


@pytest.mark.parametrize("key", ["train", "faces"])
def test_one_array_has_no_test_split(tmp_path, key):
    parts = open_npz(saved(tmp_path, **{key: BYTES}))
    assert list(parts) == ["train"]
    np.testing.assert_array_equal(values(parts["train"]), BYTES)


def test_floats_become_float32(tmp_path):
    parts = open_npz(saved(tmp_path, train=BYTES / 255, test=BYTES / 255))
    got = values(parts["train"])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, BYTES / 255, atol=1e-7)


def test_a_nan_is_a_bad_record_named_by_key_and_index(tmp_path):
    images = (BYTES / 255).astype(np.float32)
    images[6, 0, 0, 0] = np.nan
    train = open_npz(saved(tmp_path, train=images, test=images[:2]))["train"]
    np.testing.assert_array_equal(np.flatnonzero(train.shapes()[:, 0] == 0), [6])
    with pytest.raises(BadRecordError, match=r"set.npz\['train'\]\[6\]: image has NaN or infinite numbers"):
        train[6]
    assert open_npz(saved(tmp_path, faces=images))["train"].name(6) == "set.npz['faces'][6]"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": BYTES, "b": BYTES}, r"expected keys 'train' and 'test', or one array, got keys \['a', 'b'\]"),
        ({"test": BYTES, "b": BYTES}, r"got keys \['b', 'test'\]"),
        ({"train": BYTES[0, 0]}, r"set.npz\['train'\]: expected shape .* got shape \[5, 3\]"),
        ({"train": BYTES[:0]}, r"got shape \[0, 4, 5, 3\]; store at least one image"),
        ({"train": np.moveaxis(BYTES, -1, 1)}, r"got shape \[10, 3, 4, 5\]; reshape or transpose it"),
        ({"train": BYTES, "test": BYTES[:0]}, r"set.npz\['test'\]: expected shape .* got shape \[0, 4, 5, 3\]"),
        ({"train": BYTES.astype(np.int32)}, r"set.npz\['train'\]: expected uint8, or floating point .* got int32"),
        ({"train": BYTES.astype(np.float32)}, r"set.npz\['train'\]\[0\]: expected numbers in \[0, 1\], got .*; divide"),
        ({"train": BYTES / 255 - 0.5}, r"set.npz\['train'\]\[0\]: expected numbers in \[0, 1\]"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        open_npz(saved(tmp_path, **arrays))


def test_files_that_are_no_npz_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected npz:FILE with an existing file"):
        open_npz(tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match="config.data.source: expected numeric arrays in .*text.npz"):
        open_npz(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", train=np.asarray([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="config.data.source: expected numeric arrays in .*objects.npz"):
        open_npz(tmp_path / "objects.npz")
    path = saved(tmp_path, train=BYTES)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="config.data.source: expected numeric arrays in"):
        open_npz(path)


class Evil:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def claiming(shape, dtype="|u1", data=b"", version=1):
    """An array's file whose header claims `shape`, whatever `data` there is."""
    out = io.BytesIO()
    write = np.lib.format.write_array_header_1_0 if version == 1 else np.lib.format.write_array_header_2_0
    write(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue() + data


def header(text):
    text = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(100)


def zipped(tmp_path, files):
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def refused(path, **options):
    with pytest.raises(InputError) as caught:
        open_npz(path, **options)
    message = str(caught.value)
    assert "\n" not in message and "allow_pickle" not in message
    return message


NO_ARRAY = "got train.npy, which is no array in NumPy's format; write it with numpy.savez"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", NO_ARRAY),
        (b"hello", NO_ARRAY),
        (pickle.dumps([1, 2]), NO_ARRAY),
        (b"\x93NUMPY\3\0" + bytes(100), NO_ARRAY),
        (b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(100), NO_ARRAY),
        (header("{"), NO_ARRAY),
        (header("(" * 100), NO_ARRAY),
        (header("__import__('os').system('false')"), NO_ARRAY),
        (header("{'descr': '|u1', 'fortran_order': False}"), NO_ARRAY),
        (header("{'descr': 'zzz', 'fortran_order': False, 'shape': (2,)}"), NO_ARRAY),
        (claiming((10**15, 10, 10, 1)), "got train.npy, damaged: 0 bytes for shape [1000000000000000, 10, 10, 1]"),
        (claiming((4, 5, 6), data=bytes(100), version=2), "got train.npy, damaged: 100 bytes for shape [4, 5, 6]"),
        (claiming((4, 5, 6), data=bytes(130)), "got train.npy, damaged: 130 bytes for shape [4, 5, 6]"),
        (claiming((-4, 5, -6), data=bytes(120)), "got train.npy, damaged: 120 bytes for shape [-4, 5, -6]"),
        (claiming((2**63, 2**63), data=bytes(120)), "got train.npy, damaged: 120 bytes"),
        (claiming((1, 1, 1), "|O", pickle.dumps(1)), "got train.npy, an array of Python objects; write it"),
    ],
)
def test_entries_that_are_no_arrays_are_named(tmp_path, data, message):
    assert message in refused(zipped(tmp_path, {"train.npy": data}))


def test_no_object_is_unpickled(tmp_path):
    objects = np.empty((1, 1, 1), object)
    objects[0, 0, 0] = Evil(tmp_path / "run")
    path = tmp_path / "set.npz"
    np.savez(path, train=objects)
    assert "an array of Python objects" in refused(path)
    assert "no array in NumPy's format" in refused(
        zipped(tmp_path, {"train.npy": pickle.dumps(Evil(tmp_path / "run"))})
    )
    path.write_bytes(pickle.dumps(Evil(tmp_path / "run")))
    assert "got no .npz archive" in refused(path)
    assert not (tmp_path / "run").exists()


def test_other_files_with_this_ending_are_named(tmp_path):
    path = tmp_path / "set.npz"
    with path.open("wb") as file:
        np.save(file, BYTES)
    assert "got one array without a name (a .npy file); write it with numpy.savez" in refused(path)
    for data in (b"", b"hello", bytes(1000)):
        path.write_bytes(data)
        assert "got no .npz archive" in refused(path)
    assert "got no array; write it with numpy.savez" in refused(zipped(tmp_path, {}))
    assert "got no array" in refused(zipped(tmp_path, {"train": b"x", "notes.txt": b"x"}))


def test_sizes_are_checked_before_reading(tmp_path):
    path = zipped(tmp_path, {"train.npy": claiming((40, 1024, 1024), data=bytes(40 * 2**20))})
    assert path.stat().st_size < 2**20
    tracemalloc.start()
    message = refused(path, max_array_mb=39)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert message == f"{path}: expected arrays of at most 39 MiB, got 40 MiB; " + (
        "set config.data.max_array_mb=40 if that much memory is there"
    )
    assert len(open_npz(path, max_array_mb=40)["train"]) == 40
    both = saved(tmp_path, train=np.zeros((6, 512, 512), np.uint8), test=np.zeros((6, 512, 512), np.uint8))
    assert "expected arrays of at most 2 MiB, got 3 MiB" in refused(both, max_array_mb=2)
    assert len(open_npz(both, max_array_mb=3)["train"]) == 6


def test_arrays_that_are_not_asked_for_are_not_read(tmp_path):
    labels = claiming((10**15,), "<i8")
    data = claiming((4, 2, 2), data=bytes(16))
    path = zipped(
        tmp_path, {"train.npy": data, "test.npy": data, "train_labels.npy": labels, "__MACOSX/._train.npy": b"x"}
    )
    assert len(open_npz(path)["train"]) == 4
    assert "train_labels.npy, damaged" in refused(path, labels=True)


FLOATS = (BYTES / 255).astype(np.float32)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (FLOATS * 255, "divide by 255, or store uint8"),
        (FLOATS.astype(np.float64) * 65535, "divide by the largest number it can have, such as 65535 for 16 bits"),
        (FLOATS * 2 - 1, r"if its range is -1 to 1, store \(array \+ 1\) / 2"),
        (FLOATS * 1.002 - 0.001, r"store numpy.clip\(array, 0, 1\)"),
        (FLOATS * 6 - 3, r"store \(array - low\) / \(high - low\) with the range of the data, here -3 to 3"),
        (FLOATS * 3, r"here 0 to 3"),
        (np.full((10, 4, 5), 1e300), "the range of the data"),
    ],
)
def test_the_fix_fits_the_range(tmp_path, images, message):
    with pytest.raises(
        InputError, match=rf"set.npz\['train'\]\[\d\]: expected numbers in \[0, 1\], got .*; .*{message}"
    ):
        open_npz(saved(tmp_path, train=images))


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "int64", "uint32"])
def test_other_integers_are_refused_with_what_keeps_their_values(tmp_path, dtype):
    message = refused(saved(tmp_path, train=(BYTES // 2).astype(dtype)))
    assert message == (
        f"set.npz['train']: expected uint8, or floating point in [0, 1], got {dtype}; "
        "store array.astype('uint8') if its numbers are 0 to 255, else array / M with the largest possible M"
    )


@pytest.mark.parametrize("images", [FLOATS > 0.5, FLOATS.astype(np.complex64), BYTES.astype(str)])
def test_other_kinds_of_numbers_are_refused(tmp_path, images):
    assert f"expected uint8, or floating point in [0, 1], got {images.dtype}" in refused(saved(tmp_path, train=images))


def test_numbers_that_float32_rounds_into_the_range_are_taken(tmp_path):
    images = FLOATS.astype(np.float64)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 1 + 1e-12, np.inf
    train = open_npz(saved(tmp_path, train=images, test=images))["train"]
    assert train[0]["image"].dtype == np.float32 and train[0]["image"][0, 0, 0] == 1
    assert list(unusable(train)) == [1]


@pytest.mark.parametrize("dtype", [">f4", "<f8", ">f8", "<f2"])
def test_every_width_and_byte_order_of_floats(tmp_path, dtype):
    got = values(open_npz(saved(tmp_path, train=FLOATS.astype(dtype), test=FLOATS))["train"])
    assert got.dtype == np.dtype("float32") and got.dtype.isnative
    np.testing.assert_allclose(got, FLOATS, atol=1e-3)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_random_damage_gives_the_same_images_or_a_reason(tmp_path, save):
    draw = np.random.default_rng(3)
    path = tmp_path / "set.npz"
    save(path, train=BYTES, test=BYTES[:3], train_labels=np.arange(10), test_labels=np.arange(3))
    data = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(data[: draw.integers(len(data))] if draw.random() < 0.2 else data)
        for _ in range(draw.integers(0, 4)):
            if damaged:
                damaged[draw.integers(len(damaged))] ^= 1 << draw.integers(8)
        path.write_bytes(damaged)
        try:
            train = open_npz(path, labels=True)["train"]
        except InputError as error:
            assert "\n" not in str(error) and "allow_pickle" not in str(error)
        else:
            np.testing.assert_array_equal(values(train), BYTES)


@pytest.mark.parametrize(("train", "test"), [("train", "val"), ("Train", "Test"), ("TRAINING", "validation")])
def test_names_of_splits_are_those_of_folders(tmp_path, caplog, train, test):
    arrays = {train: BYTES, test: BYTES[:2], f"{train}_labels": np.arange(10), f"{test}_labels": np.arange(2)}
    parts = open_npz(saved(tmp_path, **arrays), labels=True)
    np.testing.assert_array_equal(values(parts["train"]), BYTES)
    np.testing.assert_array_equal(values(parts["test"]), BYTES[:2])
    assert not caplog.records
    open_npz(saved(tmp_path, **arrays, mean=np.zeros(3)))
    assert [record.getMessage() for record in caplog.records] == [f"npz:{tmp_path}/set.npz: left out mean"]
