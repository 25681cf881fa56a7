"""The reader agrees with Python's own on plain data, whatever the protocol."""

import io
import pickle
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.imports import pickles

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.tuples(inner)
        | st.lists(inner, min_size=4, max_size=6).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def refuse(*names):
    raise AssertionError(names)


@settings(deadline=None, max_examples=100)
@given(value=plain, protocol=st.integers(0, 5))
def test_plain_data_is_what_python_reads(value, protocol):
    got = pickles.read(pickle.dumps(value, protocol), find=refuse, persistent=refuse)
    assert got == value and repr(got) == repr(value)


def test_bytes_and_shared_parts():
    shared = [1]
    first, second, data = pickles.read(pickle.dumps((shared, shared, b"\x00\xff"), 4), find=refuse, persistent=refuse)
    assert first is second and data == b"\x00\xff"


def test_calls_reach_only_what_find_returns():
    asked = []

    def find(module, name):
        asked.append((module, name))
        return pickles.Name(name, lambda *pairs: {"called": len(pairs)})

    value = pickles.read(pickle.dumps(OrderedDict(a=1), 2), find=find, persistent=refuse)
    assert asked == [("collections", "OrderedDict")]
    assert value == {"called": 0, "a": 1}


def test_state_goes_to_stand_ins_and_nowhere_else():
    stand_in = pickles.Name("thing", lambda: pickles.Object("thing"))
    built = pickles.read(
        b"\x80\x02cm\nthing\n)\x81}X\x01\x00\x00\x00aK\x05sb.", find=lambda *_: stand_in, persistent=refuse
    )
    assert (built.kind, built.state) == ("thing", {"a": 5})
    name = pickles.read(
        b"\x80\x02cm\nthing\n}X\x05\x00\x00\x00applyK\x05sb.", find=lambda *_: stand_in, persistent=refuse
    )
    assert name is stand_in and callable(name.apply)


def test_stacks_that_run_empty():
    for description in (
        b"0.",
        b"2.",
        b"\x85.",
        b"\x87.",
        b"t.",
        b"K\x01\x86.",
        b"1.",
        b"e.",
        b"q\x00.",
        b"s.",
        b"\x81.",
    ):
        with pytest.raises((ValueError, LookupError)):
            pickles.read(description, find=refuse, persistent=refuse)


MODULUS = 2**61 - 1


@pytest.mark.parametrize(
    "keys",
    [
        [i * MODULUS for i in range(60_000)],  # one hash for all
        [-i * MODULUS for i in range(60_000)],
        [i * MODULUS + 5 for i in range(60_000)],
        [(i * MODULUS, 0) for i in range(60_000)],
        [("", i, None) for i in range(60_000)],  # empty text has no salt
    ],
    ids=["integers", "negative", "shifted", "tuples", "tuples with empty text"],
)
@pytest.mark.parametrize("one_by_one", [False, True])
def test_keys_whose_hashes_can_be_chosen_are_few(keys, one_by_one):
    # Python's own dictionary of all these keys would take the time that the reader must not take.
    texts = [pickle.dumps(key, 2)[2:-1] + b"N" for key in (keys[:200] if one_by_one else keys)]
    body = b"s".join(texts) + b"s" if one_by_one else b"(" + b"".join(texts) + b"u"
    data = b"\x80\x02}" + body + b"."
    with pytest.raises(ValueError, match="more than 64 keys that are large integers or tuples of numbers"):
        pickles.read(data, find=refuse, persistent=refuse)


@pytest.mark.parametrize(
    "value",
    [
        {i * MODULUS: i for i in range(60)},
        {(i, i + 1): i for i in range(60)},
        {("layer", i): i for i in range(5000)},
        {f"layer.{i}": i for i in range(5000)},
        {i - 2500: i for i in range(5000)},
        {i << 40: i for i in range(5000)},
        {i / 7: i for i in range(5000)},
    ],
    ids=["large", "tuples", "tuples with text", "text", "integers", "multiples", "floats"],
)
def test_keys_of_real_files_are_many(value):
    assert pickles.read(pickle.dumps(value, 2), find=refuse, persistent=refuse) == value


def test_keys_whose_hash_takes_long_are_refused():
    for key in (1 << 5000, -(1 << 5000), (1 << 5000, "text"), ("text",) * 17):
        with pytest.raises(ValueError, match="not a plain value"):
            pickles.read(pickle.dumps({key: 0}, 2), find=refuse, persistent=refuse)


@pytest.mark.parametrize("opcode", [b"]", b"}", b"\x8f", b")", b"(", b"N0"], ids=repr)
def test_the_number_of_opcodes_is_limited(opcode, monkeypatch):
    assert 1 << 20 <= pickles.MAX_OPCODES <= 1 << 22
    monkeypatch.setattr(pickles, "MAX_OPCODES", 1000)
    most = b"\x80\x02" + opcode * (997 // len(opcode))
    assert pickles.read(most + b"N.", find=refuse, persistent=refuse) is None
    with pytest.raises(ValueError, match="more than 1000 opcodes"):
        pickles.read(most + opcode * 3 + b"N.", find=refuse, persistent=refuse)


def test_a_stream_is_left_behind_the_pickle():
    stream = io.BytesIO(pickle.dumps([1], 2) + pickle.dumps("next", 2) + b"rest")
    assert pickles.read(stream, find=refuse, persistent=refuse) == [1]
    assert pickles.read(stream, find=refuse, persistent=refuse) == "next"
    assert stream.read() == b"rest"
