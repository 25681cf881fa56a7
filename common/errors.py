"""Errors that a user can correct, reported in one line."""

import difflib
import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any


class InputError(ValueError):
    """Wrong use or bad input; the command line prints it after `error:` and exits with code 2."""


class RunError(RuntimeError):
    """A run that cannot go on (non-finite loss, full disk); printed after `error:`, exit code 1."""


def input_error(field: str, *, expected: object, got: object, fix: str) -> InputError:
    """Returns an `InputError` that reads `field: expected ..., got ...; fix`."""
    return InputError(f"{field}: expected {expected}, got {got}; {fix}")


def shown(value: object, most: int = 80) -> str:
    """Returns `repr(value)`, without its middle where it is longer than `most` characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "an integer of thousands of digits"
    return text if len(text) <= most else f"{text[: most - 20]} ... {text[-15:]}"


def one_line(text: object) -> str:
    """Returns a text or the message of an error with all white space as single spaces; the error's type if empty."""
    return " ".join(str(text).split()) or type(text).__name__


def listed(items: Iterable[object], most: int = 6) -> str:
    """Returns the first `most` items, separated by commas, and how many there are beyond."""
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def within(field: str, value: float, least: float, most: float | None = None, *, what: str = "") -> None:
    """Raises an `InputError` unless `least` <= `value` <= `most` (None: no limit); `what` explains the numbers."""
    if not value >= least or (most is not None and value > most):
        expected = f"at least {least}" if most is None else f"{least} to {most}"
        fix = f"use {most} or less" if most is not None and value > most else f"use {least} or more"
        raise input_error(field, expected=expected + what, got=value, fix=fix)


def at_least(values: Mapping[str, tuple[float, float]]) -> None:
    """Raises an `InputError` for the first of `values`, field to (value, least), that is below its least."""
    for field, (value, least) in values.items():
        within(field, value, least)


def whole_number(field: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """Returns `value` as an integer from `least` to `most`; raises an `InputError` for others and for other types."""
    bounds = f"at least {least}" if most is None else f"{least} to {most}"
    try:
        number = operator.index(value)
    except TypeError:
        fix = f"use {max(least, round(value))}" if isinstance(value, float) and math.isfinite(value) else "use an int"
        raise input_error(field, expected=f"a whole number, {bounds}", got=shown(value), fix=fix) from None
    within(field, number, least, most)
    return number


def nearest(name: str, options: Iterable[str]) -> str | None:
    """Returns the option that is spelled most like `name`, or None if none comes close."""
    matches = difflib.get_close_matches(name, sorted(options), n=1, cutoff=0.6)
    return matches[0] if matches else None


def choice(field: str, value: object, options: Iterable[str]) -> str:
    """Returns `value` if it is one of `options`; otherwise raises an `InputError` that lists them and the nearest."""
    options = tuple(options)
    if value in options:
        return str(value)
    close = nearest(str(value), options)
    listed = ", ".join(f'"{option}"' for option in options)
    fix = f'did you mean "{close}"?' if close else "choose one of these"
    raise input_error(field, expected=f"one of {listed}", got=f'"{value}"', fix=fix)
