"""Every kind of tensor comes back with PyTorch's bits; every other file is refused in one line, and nothing runs."""

import builtins
import os
import pickle
import re
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.imports import load, load_torch, pickles

DATA = Path(__file__).parent / "data"


def expected(name):
    """Returns what PyTorch says that `name.pt` holds."""
    arrays = {}
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as stored:
        for key, array in stored.items():
            key, _, kind = key.partition("|")
            arrays[key] = array.view(getattr(ml_dtypes, kind)) if kind else array
    return arrays


def assert_same_bits(got, want):
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert got.tobytes() == want.tobytes()


def write(path, description, entries=(), byteorder=b"little", compression=zipfile.ZIP_STORED):
    """Writes a checkpoint from the bytes of its pickle and of its storages."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", description)
        if byteorder is not None:
            archive.writestr("model/byteorder", byteorder)
        for key, data in dict(entries).items():
            archive.writestr(f"model/data/{key}", data)
    return path


def described(shape, strides, offset=0, storage="FloatStorage", length=4, key="0"):
    """Returns the pickle of {"x": one tensor}."""
    reference = b"(" + pickled("storage") + f"ctorch\n{storage}\n".encode() + pickled(key) + pickled("cpu")
    reference += pickled(length) + b"tQ"
    arguments = reference + pickled(offset) + pickled(tuple(shape)) + pickled(tuple(strides)) + b"\x89"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}" + pickled("x") + tensor + b"s."


def pickled(value):
    """Returns the opcodes that push `value`."""
    return pickle.dumps(value, 2)[2:-1]


@pytest.mark.parametrize("name", ["kinds", "script", "protocol4"])
def test_tensors_have_the_bits_that_pytorch_saved(name):
    got, want = load_torch(DATA / f"{name}.pt"), expected(name)
    assert set(got) == set(want)
    for key in want:
        assert_same_bits(got[key], want[key])
        assert got[key].flags.writeable and got[key].flags.c_contiguous


def test_a_bare_tensor_and_the_order_of_names():
    ((name, values),) = load_torch(DATA / "bare.pt").items()
    assert name == "" and values.tolist() == [0, 1, 2, 3]
    names = [name for name in load_torch(DATA / "kinds.pt") if name.startswith("model.")]
    assert names == [
        f"model.{each}"
        for each in (
            "0.weight",
            "0.bias",
            "1.weight",
            "1.bias",
            "1.running_mean",
            "1.running_var",
            "1.num_batches_tracked",
        )
    ]


def test_tensors_of_one_storage_are_separate_arrays():
    arrays = load_torch(DATA / "kinds.pt")
    arrays["views.whole"][:] = -1
    np.testing.assert_array_equal(arrays["views.transposed"], np.arange(60.0).reshape(3, 4, 5).transpose(2, 0, 1))


def test_a_file_written_on_a_big_endian_machine(tmp_path):
    swapped = {"f2": "HalfStorage", "f8": "DoubleStorage", "c8": "ComplexFloatStorage", "?": "BoolStorage"}
    for code, storage in swapped.items():
        values = np.array([1, 0, 1.5 - 2j, 3]).astype(code) if code == "c8" else np.array([1, 0, 1, 3]).astype(code)
        data = values.astype(values.dtype.newbyteorder(">")).tobytes()
        path = write(tmp_path / "big.pt", described((4,), (1,), storage=storage), {"0": data}, b"big")
        assert_same_bits(load_torch(path)["x"], values)
    bfloat16 = np.array([1.5, -2, 3, 0], ml_dtypes.bfloat16)
    data = bfloat16.view(np.uint16).byteswap().tobytes()
    path = write(tmp_path / "big.pt", described((4,), (1,), storage="BFloat16Storage"), {"0": data}, b"big")
    assert_same_bits(load_torch(path)["x"], bfloat16)


def test_files_that_do_not_tell_their_byte_order_are_little_endian(tmp_path):
    values = np.array([1, 2.5, -3, 4], "<f4")
    entries = {"0": values.tobytes()}
    path = write(tmp_path / "old.pt", described((4,), (1,)), entries, byteorder=None)
    assert_same_bits(load_torch(path)["x"], values.astype(np.float32))
    with pytest.raises(InputError, match="byteorder: expected little or big, got b'middle'"):
        load_torch(write(tmp_path / "odd.pt", described((4,), (1,)), entries, b"middle"))


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    strides=st.lists(st.integers(0, 6), min_size=4, max_size=4),
    offset=st.integers(0, 20),
    storage=st.sampled_from(["FloatStorage", "ShortStorage", "ComplexDoubleStorage"]),
)
def test_strides_agree_with_numpy_or_are_refused(tmp_path_factory, shape, strides, offset, storage):
    dtype = {"FloatStorage": np.float32, "ShortStorage": np.int16, "ComplexDoubleStorage": np.complex128}[storage]
    values = np.arange(1, 31).astype(dtype)
    strides = strides[: len(shape)]
    path = write(
        tmp_path_factory.getbasetemp() / "strided.pt",
        described(shape, strides, offset, storage, len(values)),
        {"0": values.tobytes()},
    )
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 in shape:
        assert load_torch(path)["x"].shape == tuple(shape)
    elif last >= len(values):
        with pytest.raises(InputError, match=r"tensor x: expected a view of its \d+ bytes, got one that ends at"):
            load_torch(path)
    else:
        want = np.lib.stride_tricks.as_strided(values[offset:], shape, [each * values.itemsize for each in strides])
        assert_same_bits(load_torch(path)["x"], np.ascontiguousarray(want).reshape(shape))


class Attack:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(marker):
    """Returns pickles that would make the file `marker` if they were run, with the name each has to be refused for."""
    make = f"open({str(marker)!r}, 'w').close()"
    return {
        "reduce": (pickle.dumps({"x": Attack(os.system, f"touch {marker}")}, 2), f"{os.name}.system"),
        "eval": (pickle.dumps(Attack(eval, make), 2), "__builtin__.eval"),
        "exec in protocol 4": (pickle.dumps(Attack(builtins.exec, make), 4), "builtins.exec"),
        "global": (b"\x80\x02cbuiltins\neval\n" + pickled(make) + b"\x85R.", "builtins.eval"),
        "inst": (b"(" + pickled(make) + b"ibuiltins\neval\n.", "builtins.eval"),
        "obj": (b"(cbuiltins\neval\n" + pickled(make) + b"o.", "builtins.eval"),
        "dotted": (pickle.dumps(Attack(eval, make), 4).replace(b"\x04eval", b"\x08__self__"), "builtins.__self__"),
        "by way of a tensor's module": (b"\x80\x02ctorch\nos.system\n" + pickled(make) + b"\x85R.", "torch.os.system"),
        "getattr": (b"\x80\x02cbuiltins\ngetattr\n0.", "builtins.getattr"),
        "extension": (b"\x80\x02\x82\x01.", "EXT1"),
        "reconstructor": (b"\x80\x02ccopyreg\n_reconstructor\n.", "copyreg._reconstructor"),
        "load by reference": (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "torch.storage._load_from_bytes"),
    }


@pytest.mark.parametrize("name", hostile(""))
def test_hostile_files_are_refused_by_name_and_run_nothing(name, tmp_path):
    marker = tmp_path / "it-ran"
    description, refused = hostile(marker)[name]
    path = write(tmp_path / "hostile.pt", description)
    with pytest.raises(InputError) as error:
        load_torch(path)
    assert refused in str(error.value)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert not marker.exists()


def test_hostile_files_import_no_module(tmp_path):
    (tmp_path / "surprise.py").write_text("raise SystemExit")
    path = write(tmp_path / "hostile.pt", b"\x80\x02csurprise\nthing\n.")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(InputError, match=r"surprise\.thing"):
            load_torch(path)
    finally:
        sys.path.remove(str(tmp_path))
    assert "surprise" not in sys.modules


def test_a_name_can_be_allowed_as_inert(tmp_path):
    description = b"\x80\x02}(" + pickled("a") + b"cmine\nMeter\n)\x81}" + pickled("sum") + b"K\x01sb"
    description += described((2,), (1,))[3:-2] + b"u."
    path = write(tmp_path / "meter.pt", description, {"0": bytes(16)})
    with pytest.raises(InputError, match=r"mine\.Meter"):
        load_torch(path)
    assert list(load_torch(path, inert=["mine.Meter"])) == ["x"]


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (b"\x80\x02(X\x07\x00\x00\x00storageX\x01\x00\x00\x000tQ.", "a persistent id that is not a storage"),
        (b"\x80\x02" + pickled("storage") + b"Q.", "a persistent id that is not a storage"),
        (b"Pstorage\n.", "a persistent id that is not a storage"),
        (described((2,), (1,)).replace(b"X\x01\x00\x00\x000", described((2,), (1,))[3:-2][6:]), "not a storage"),
        (b"\x80\x02}K\x01\x85R.", "a call of something that is not a name"),
        (b"\x80\x02]K\x01K\x02s.", "keys for something that is not a dictionary"),
        (b"\x80\x02}K\x01a.", "items for something that is not a list"),
        (b"\x80\x02}(K\x01u.", "a key without a value"),
        (b"\x80\x02}" + b")" + b"\x85" * 40 + b"K\x01s.", "a dictionary key that is not a plain value"),
        (b"\x80\x02h\x07.", "7"),
        (b"\x80\x02.", "pop from empty list"),
        (b"\x80\x02}", "STOP"),
        (b"\x80\x02\xff.", "unknown"),
        (b"\x80\x02\x8e" + struct.pack("<Q", 1 << 60) + b"x.", "only 2 remain"),
        (b"\x80\x02X\xff\xff\xff\x7fx.", "only 2 remain"),
        (described((2,), (1, 1)), "a tensor of shape [2] and strides [1, 1]"),
        (described((-2,), (1,)), "a tensor of shape [-2]"),
        (described((2,), (-1,)), "strides [-1]"),
        (described((2,), (1,), offset=-1), "at -1"),
        (described((2,), (1,), offset="0"), "a tensor without storage, type, shape or strides"),
        (described((1,) * 65, (1,) * 65), "a tensor of shape [1, 1, 1, 1, 1, 1, 1, 1]"),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R.", "argument"),
    ],
)
def test_damaged_descriptions_are_refused(description, reason, tmp_path):
    path = write(tmp_path / "damaged.pt", description, {"0": bytes(16)})
    with pytest.raises(InputError, match=r"data\.pkl: expected a description of tensors") as error:
        load_torch(path)
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("description", "entries", "reason"),
    [
        (
            described((4,), (1,), length=1 << 50),
            {"0": bytes(16)},
            "4503599627370496 bytes in data/0, got an entry of 16",
        ),
        (described((4,), (1,), length=-4), {"0": bytes(16)}, "-16 bytes"),
        (described((4,), (1,)), {}, "got no such entry"),
        (described((4,), (1,), key="../data.pkl"), {"0": bytes(16)}, "got no such entry"),
        (described((1 << 40,), (1,)), {"0": bytes(16)}, "a view of its 16 bytes, got one that ends at 4398046511104"),
        (described((2,), (1,), offset=1 << 62), {"0": bytes(16)}, "a view of its 16 bytes"),
        (described((1 << 40,), (0,)), {"0": bytes(16)}, "at most 67108864 bytes of tensors, got 4398046511104"),
        (described((1 << 40, 1 << 40), (0, 0)), {"0": bytes(16)}, "bytes of tensors"),
    ],
)
def test_sizes_are_refused_before_memory_is_taken(description, entries, reason, tmp_path):
    path = write(tmp_path / "huge.pt", description, entries)
    with pytest.raises(InputError) as error:
        load_torch(path)
    assert reason in str(error.value)


def test_the_limit_is_an_argument():
    size = sum(array.nbytes for array in load_torch(DATA / "unet.pt").values())
    assert len(load_torch(DATA / "unet.pt", limit_bytes=size)) == 28
    with pytest.raises(InputError, match=f"at most {size - 1} bytes of tensors, got {size} described by a file of"):
        load_torch(DATA / "unet.pt", limit_bytes=size - 1)


@pytest.mark.parametrize(
    "description",
    [
        b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b".",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02" + b"]" * 200 + b"a" * 199 + b".",
    ],
)
def test_containers_that_multiply_or_nest_without_end_are_refused(description, tmp_path):
    with pytest.raises(InputError, match="containers nested without end"):
        load_torch(write(tmp_path / "deep.pt", description))


def test_numbers_claimed_for_the_memo_take_no_memory(tmp_path):
    assert load_torch(write(tmp_path / "memo.pt", b"\x80\x02]r\xff\xff\xff\x7f.")) == {}


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_change_of_a_description_is_read_or_refused(tmp_path_factory, data):
    with zipfile.ZipFile(DATA / "protocol4.pt") as archive:
        description = bytearray(archive.read("protocol4/data.pkl"))
        entries = {key: archive.read(f"protocol4/data/{key}") for key in "01"}
    for _ in range(data.draw(st.integers(1, 4))):
        description[data.draw(st.integers(0, len(description) - 1))] = data.draw(st.integers(0, 255))
    path = write(tmp_path_factory.getbasetemp() / "changed.pt", bytes(description), entries)
    try:
        arrays = load_torch(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(array, np.ndarray) for array in arrays.values())


@settings(deadline=None, max_examples=100)
@given(position=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans())
def test_a_changed_or_cut_file_gives_the_same_tensors_or_is_refused(tmp_path_factory, position, value, cut):
    whole = (DATA / "protocol4.pt").read_bytes()
    position %= len(whole)
    path = tmp_path_factory.getbasetemp() / "changed.pt"
    path.write_bytes(whole[:position] if cut else whole[:position] + bytes([value]) + whole[position + 1 :])
    want = expected("protocol4")
    try:
        got = load_torch(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert not cut
        assert all(got[name].tobytes() == want[name].tobytes() for name in want)


def test_every_other_kind_of_file_is_named(tmp_path):
    def refusal(path):
        with pytest.raises(InputError) as error:
            load_torch(path)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
        return str(error.value)

    def holding(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    whole = (DATA / "unet.pt").read_bytes()
    assert "expected a checkpoint file, got a directory" in refusal(tmp_path)
    holding("model_final.pt", whole)
    assert f'got nothing there; did you mean "{tmp_path}/model_final.pt"?' in refusal(tmp_path / "model_finl.pt")
    assert "got nothing there; check the path" in refusal(tmp_path / "no" / "such.pt")
    assert "legacy format from before version 1.6; convert it once" in refusal(DATA / "legacy.pt")
    assert "a cut or damaged one" in refusal(holding("cut.pt", whole[:-1000]))
    assert "an empty file" in refusal(holding("empty.pt", b""))
    assert "begins with b'version http'" in refusal(holding("pointer.pt", b"version https://git-lfs\noid 1"))
    assert "begins with b'\\x80\\x04" in refusal(holding("plain.pt", pickle.dumps({"a": 1}, 4)))
    np.savez(tmp_path / "arrays.npz", a=np.ones(2))
    assert "one data.pkl, got a zip archive with none" in refusal(tmp_path / "arrays.npz")
    assert "got torch.nn.modules.linear.Linear (nothing of it was run)" in refusal(DATA / "module.pt")
    for name, kind in {
        "sparse": "tensor table: expected a dense array of numbers, got a sparse tensor",
        "quantised": "tensor kernel: expected a dense array of numbers, got a quantised tensor",
        "meta": "tensor absent: expected a dense array of numbers, got a tensor without data",
        "complex32": "tensor half: expected a dense array of numbers, got a complex32 tensor",
    }.items():
        assert kind in refusal(DATA / f"{name}.pt")


@pytest.mark.parametrize("name", ["kinds", "script"])
def test_one_flipped_bit_of_the_name_of_an_entry_is_found(name, tmp_path):
    content = (DATA / f"{name}.pt").read_bytes()
    want = load_torch(DATA / f"{name}.pt")
    with zipfile.ZipFile(DATA / f"{name}.pt") as archive:
        entries = archive.namelist()
    for i, entry in enumerate(entries):
        headers = [match.start() for match in re.finditer(re.escape(entry.encode()), content)]
        exact = [
            place
            for place in headers
            if content[place - 30 : place - 26] == b"PK\x03\x04" or content[place - 46 : place - 42] == b"PK\x01\x02"
        ]
        for place in exact:
            changed = bytearray(content)
            changed[place + (7 * i) % len(entry)] ^= 1 << i % 7
            (tmp_path / "flipped.pt").write_bytes(changed)
            try:
                got = load_torch(tmp_path / "flipped.pt")
            except InputError as error:
                assert "\n" not in str(error)
            else:
                assert set(got) == set(want), (entry, place)


def test_entries_that_nothing_refers_to_are_named(tmp_path):
    path = write(tmp_path / "more.pt", described((4,), (1,)), {"0": bytes(16), "1": bytes(16)})
    with pytest.raises(InputError, match="expected storages of its tensors only, got data/1, which belongs to none"):
        load_torch(path)
    with zipfile.ZipFile(DATA / "script.pt") as old, zipfile.ZipFile(tmp_path / "script.pt", "w") as new:
        for entry in old.namelist():
            new.writestr(entry.replace("constants.pkl", "constantt.pkl"), old.read(entry))
    with pytest.raises(InputError, match="got constants/0, which belongs to none"):
        load_torch(tmp_path / "script.pt")


def test_entries_beside_the_folder_of_the_checkpoint_are_named(tmp_path):
    path = write(tmp_path / "beside.pt", described((4,), (1,)), {"0": bytes(16)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("modem/constants.pkl", b"N.")
    with pytest.raises(InputError, match="expected every entry below model/, got modem/constants.pkl beside it"):
        load_torch(path)


def test_the_two_names_of_an_entry_must_agree(tmp_path):
    path = write(tmp_path / "x.pt", described((4,), (1,)), {"0": bytes(16)})
    content = path.read_bytes()
    for place in (content.find(b"model/byteorder"), content.rfind(b"model/byteorder")):
        path.write_bytes(content[:place] + b"model/bytfordes" + content[place + 15 :])
        with pytest.raises(InputError, match="damaged one .*model/byt.order.* differ"):
            load_torch(path)


def test_many_views_of_one_storage_cost_their_own_size(tmp_path, monkeypatch):
    """What a tensor needs is done to its own elements, not to the storage that thousands may share."""
    seen = []
    monkeypatch.setattr(np, "not_equal", lambda array, *rest, **out: seen.append(array.size))
    path = write(tmp_path / "x.pt", described((2,), (1,), storage="BoolStorage", length=1000), {"0": bytes(1000)})
    load_torch(path)
    assert seen == [2]


@pytest.mark.parametrize("byte", [2, 255])
def test_booleans_are_zeros_and_ones(byte, tmp_path):
    for shape in ((2, 2), ()):
        path = write(
            tmp_path / "x.pt",
            described(shape, (2, 1)[: len(shape)], storage="BoolStorage"),
            {"0": bytes([byte, 0, 1, byte])},
        )
        got = load_torch(path)["x"]
        assert got.dtype == bool and got.view(np.uint8).reshape(-1).tolist() == [1, 0, 1, 1][: got.size]


def test_keys_that_collide_and_endless_lists_are_refused_soon(tmp_path, monkeypatch):
    # Python's own dictionary of these keys would take the time that the reader must not take.
    items = b"".join(pickle.dumps(i * (2**61 - 1), 2)[2:-1] + b"N" for i in range(60_000))
    colliding = b"\x80\x02}(" + items + b"u."
    with pytest.raises(InputError, match=r"data\.pkl: expected a description of tensors, got .*more than 64 keys"):
        load_torch(write(tmp_path / "colliding.pt", colliding))
    assert pickles.MAX_OPCODES == 1 << 21
    monkeypatch.setattr(pickles, "MAX_OPCODES", 1 << 15)  # the same in less time
    with pytest.raises(InputError, match=r"data\.pkl: expected a description of tensors, got .* than 32768 opcodes"):
        load_torch(write(tmp_path / "lists.pt", b"\x80\x02(" + b"]" * 500_000 + b"l."))


def test_one_flipped_byte_of_a_weight_is_found(tmp_path):
    content = bytearray((DATA / "protocol4.pt").read_bytes())
    place = content.find(np.arange(6, dtype=np.float32).tobytes())
    content[place + 5] ^= 1
    (tmp_path / "flipped.pt").write_bytes(content)
    with pytest.raises(InputError, match="damaged one .*CRC"):
        load_torch(tmp_path / "flipped.pt")


def test_compressed_entries_are_not_unfolded(tmp_path):
    length = 1 << 22
    description = described((length,), (1,), length=length)
    path = write(tmp_path / "bomb.pt", description, {"0": bytes(4 * length)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 50_000
    with pytest.raises(InputError, match=r"stored as it is, as PyTorch does, got a compressed one"):
        load_torch(path)


def test_repeated_and_ambiguous_entries_are_refused(tmp_path):
    path = write(tmp_path / "twice.pt", described((2,), (1,)), {"0": bytes(16)})
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/data/0", bytes(16))
    with pytest.raises(InputError, match="each entry once, got model/data/0 2 times"):
        load_torch(path)
    path = write(tmp_path / "two.pt", described((2,), (1,)), {"0": bytes(16)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"N.")
    with pytest.raises(InputError, match="one data.pkl, got a zip archive with 2"):
        load_torch(path)


@pytest.mark.parametrize("name", ["a\n\x1b[31m", "b" * 999])
def test_names_from_a_file_stay_on_one_short_line(name, tmp_path):
    description = described((2,), (1,)).replace(pickled("x"), pickled(name))
    with pytest.raises(InputError) as error:
        load_torch(write(tmp_path / "name.pt", description))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_two_tensors_of_one_name_are_refused(tmp_path):
    tensor = described((2,), (1,))[3:-2].partition(pickled("x"))[2]
    inner = b"}" + pickled("b") + tensor + b"s"
    description = b"\x80\x02}(" + pickled("a") + inner + pickled("a.b") + tensor + b"u."
    with pytest.raises(InputError, match=r"two tensors named a\.b"):
        load_torch(write(tmp_path / "same.pt", description, {"0": bytes(16)}))


def test_load_chooses_by_content(tmp_path):
    shutil.copy(DATA / "protocol4.pt", tmp_path / "renamed.bin")
    assert set(load(tmp_path / "renamed.bin")) == {"weight", "steps"}
    with pytest.raises(InputError, match="expected a safetensors file"):
        load(shutil.copy(DATA / "protocol4.pt", tmp_path / "renamed.safetensors"))
