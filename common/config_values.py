"""Values of configuration keys: what a text on the command line means, its type, and durations.

A duration is a number of steps, or a text such as "5 epochs", "100000 examples" or "2 percent".
"""

import ast
import math
import re
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any

from common.errors import input_error, nearest, shown

LARGEST = 2**31 - 1  # steps and the places of a batch are counted in int32

_UNITS = ("step", "example", "epoch", "percent")
_DURATION = re.compile(r"\s*([0-9_.eE+]+)\s+([a-z]+)\s*")
_FORMS = 'a number of steps, or a string such as "5 epochs" or "100000 examples"'
_MOST_DIGITS = 30  # of an amount, before and after its point: an exponent must not become that many digits


def steps(
    value: int | str, *, batch_size: int, num_examples: int | None, field: str, run_length: int | None = None
) -> int:
    """Returns the number of steps of a duration: an int, or "N steps", "N examples", "N epochs" or "N percent".

    Rounded up. `num_examples` is the size of the training set, `batch_size` the global one, `run_length` the number of
    steps that percents are of (None: they have no meaning here). Raises `InputError` naming `field`.
    """
    amount, unit = parse_duration(value, field)
    if unit == "step":
        total = amount
    elif unit == "example":
        total = amount / batch_size
    elif unit == "percent":
        if run_length is None:
            raise input_error(
                field, expected="steps, examples or epochs", got=f'"{value}"', fix="percents are of this length"
            )
        total = amount * run_length / 100
    elif num_examples is None:
        raise input_error(
            field, expected="a number of steps or examples", got=f'"{value}"', fix="the data set has no epochs here"
        )
    else:
        total = amount * num_examples / batch_size
    if total > LARGEST:
        raise input_error(field, expected=f"at most {LARGEST} steps", got=shown(value), fix="use fewer")
    return math.ceil(total)


def is_percent(value: int | str) -> bool:
    """Returns whether a duration is a fraction of the run's length."""
    return isinstance(value, str) and value.strip().removesuffix("s").endswith("percent")


def parse_duration(value: object, field: str) -> tuple[Fraction, str]:
    """Returns (amount, unit) of a duration, exactly; raises `InputError` naming `field`."""
    fix = "units are steps, examples, epochs and percent"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise input_error(field, expected=_FORMS, got=shown(value), fix=fix)
    if isinstance(value, int) and abs(value) > 10**_MOST_DIGITS:
        raise input_error(field, expected=f"at most {LARGEST} steps", got=shown(value), fix="use fewer")
    text = f"{value} steps" if not isinstance(value, str) or re.fullmatch(r"[\s0-9_.eE+-]+", value) else value
    match = _DURATION.fullmatch(text)
    unit = match and match[2].removesuffix("s")
    amount = _exact(match[1]) if match else None
    if amount is None or unit not in _UNITS or (unit == "step" and amount.denominator != 1):
        close = nearest(match[2], ["steps", "examples", "epochs", "percent"]) if match and unit not in _UNITS else None
        fix = f'did you mean "{close}"?' if close else fix
        raise input_error(field, expected=_FORMS, got=shown(value), fix=fix)
    return amount, unit


def _exact(text: str) -> Fraction | None:
    """Returns the number that `text` writes, None if it is none or has too many digits."""
    try:
        number = Decimal(text.replace("_", ""))
    except ArithmeticError:
        return None
    if not number.is_finite() or len(text) > 2 * _MOST_DIGITS or abs(number.adjusted()) > _MOST_DIGITS:
        return None
    return Fraction(number)


_LONGEST = 10_000  # characters of a text that is read as Python values


def parse(text: str, kind: type, default: Any = None) -> Any:
    """Returns what a text from the command line means for a field of type `kind`; the text itself if it has none.

    Where `default` is a tuple of names, names need no quotes: `calpha-2,ray`.
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
    if kind is int and (_is_long(value) or isinstance(value, int) and abs(value) >= 2**63):
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


def _is_long(value: object) -> bool:
    """Returns whether a value is the text of an integer of more digits than Python reads."""
    return isinstance(value, str) and len(value) > 4000 and value.strip().lstrip("+-").replace("_", "").isdigit()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
