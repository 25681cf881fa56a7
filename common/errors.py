"""Errors that a user can correct, reported in one line."""

import difflib
from collections.abc import Iterable, Mapping


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


def at_least_one(counts: Mapping[str, int]) -> None:
    """Raises an `InputError` that names the first of `counts`, by field, that is below 1."""
    for field, count in counts.items():
        if count < 1:
            raise input_error(field, expected="at least 1", got=count, fix="use 1 or more")


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
