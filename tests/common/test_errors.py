"""Errors say what helps: the nearest bound, the first field that is wrong, one line."""

import pytest

from common.errors import InputError, at_least, listed, one_line, within


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (0, (1,), "--top: expected at least 1, got 0; use 1 or more"),
        (0, (1, 1024), "--top: expected 1 to 1024, got 0; use 1 or more"),
        (2000, (1, 1024), "--top: expected 1 to 1024, got 2000; use 1024 or less"),
        (float("nan"), (0.0, 1.0), "--top: expected 0.0 to 1.0, got nan; use 0.0 or more"),
    ],
)
def test_the_advice_is_the_nearest_bound(value, bounds, message):
    with pytest.raises(InputError) as error:
        within("--top", value, *bounds)
    assert str(error.value) == message


def test_bounds_are_included():
    within("--top", 1, 1, 1024)
    within("--top", 1024, 1, 1024, what=", the pixels")
    at_least({"num": (1, 1), "rate": (0.0, 0)})


def test_the_first_field_below_its_least_is_named():
    with pytest.raises(InputError, match="^second: expected at least 3, got 2; use 3 or more$"):
        at_least({"first": (1, 1), "second": (2, 3), "third": (0, 1)})


def test_texts():
    assert listed("abc", most=3) == "a, b, c" and listed((1, 2, 3), most=2) == "1, 2 and 1 more" and listed(()) == ""
    assert one_line("a\n  b\tc ") == "a b c" and one_line(KeyError()) == "KeyError"
