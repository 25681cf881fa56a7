"""Values of configuration keys: what a text on the command line means, and whether a value has its key's type."""

import ast
import sys
from typing import Any

from common.durations import parse as parse_duration
from common.errors import input_error, shown

_LONGEST = 10_000  # characters of a text that is read as Python values


def parse(text: str, kind: type, default: Any = None) -> Any:
    """Returns what a text from the command line means for a field of type `kind`; the text itself if it has none.

    Names of a tuple of names (`default` says that it is one) need no quotes: `calpha-2,ray`.
    """
    if kind is tuple and default and all(isinstance(each, str) for each in default):
        return _names(text)
    if kind in (str, object) or len(text) > _LONGEST:
        return text
    if kind is bool:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return (value,) if kind is tuple and _is_number(value) else value


def _names(text: str) -> tuple[str, ...]:
    """Returns the names in a text, separated by commas, in brackets or not, each in quotes or not."""
    names = [name.strip() for name in text.strip().strip("()[]").split(",")]
    if names[-1] == "":  # what a comma ends, or nothing at all
        del names[-1]
    return tuple(name[1:-1] if name[:1] in ("'", '"') and name[:1] == name[-1:] else name for name in names)


def typed(field: str, value: Any, kind: type, default: Any) -> Any:
    """Returns `value` as the field's type, an int as a float where a float is meant; raises `InputError` otherwise."""
    if kind is object:
        amount, unit = parse_duration(value, field)
        return int(amount) if unit == "step" else value.strip()
    if kind is float and _is_number(value) and abs(value) <= sys.float_info.max:
        return float(value)
    if kind is tuple and isinstance(value, tuple | list):
        like = next((each for each in default if isinstance(each, float)), default[0] if default else None)
        checked = (typed(f"{field}[{i}]", each, type(like), like) for i, each in enumerate(value))
        return tuple(value) if like is None else tuple(checked)
    if kind is int and isinstance(value, int) and abs(value) >= 2**63:
        raise input_error(field, expected="a whole number below 2**63", got=shown(value), fix="use a smaller one")
    if isinstance(value, kind) and kind is not float and not (kind is int and isinstance(value, bool)):
        return value
    expected, example = {
        bool: ("true or false", "write true or false"),
        int: ("a whole number (int)", "write it without quotes or point"),
        float: ("a finite number (float)", "write a number"),
        tuple: ('values in brackets (tuple), such as "(10., 25.)"', "separate them by commas"),
    }.get(kind, (kind.__name__, "give a value of that type"))
    raise input_error(field, expected=expected, got=f"{shown(value)} ({type(value).__name__})", fix=example)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
