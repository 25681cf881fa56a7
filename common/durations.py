"""Durations: a number of steps, or a text such as "5 epochs", "100000 examples" or "2 percent"."""

import math
import re
from decimal import Decimal
from fractions import Fraction

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
    amount, unit = parse(value, field)
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


def parse(value: object, field: str) -> tuple[Fraction, str]:
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
