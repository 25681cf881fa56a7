"""The reader agrees with Python's own on plain data, whatever the protocol."""

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
