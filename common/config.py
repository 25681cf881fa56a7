"""Experiment configurations: loading, checking, durations, hashing, and the copy that lives in the workdir."""

import ast
import copy
import hashlib
import json
import math
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from common.errors import InputError, choice, input_error, nearest
from common.io.files import write_atomically

FILE_NAME = "config.json"

# What may differ between a stored run and the command that resumes it, because no number of the run depends on it
# (a larger budget for bad steps or records lets a run go on that has stopped at them).
RESUME_MAY_CHANGE = (
    "train.log_every",
    "train.preview_every",
    "train.tracking",
    "train.steps_per_call",
    "train.skip_nonfinite",
    "checkpoint.*",
    "parallel",
    "data.placement",
    "data.workers",
    "data.device_limit_mb",
    "data.source",  # the fingerprint of the data is compared instead
    "data.directory",
    "data.skip_bad",
    "data.max_pixels",
    "data.max_array_mb",
    "evaluate.*",
    "sampler.*",
)

# Keys of all experiments that name one of a few things.
CHOICES = {
    "parallel": ("jit", "pmap"),
    "compute_dtype": ("float32", "bfloat16"),
    "data.fit": ("crop", "resize", "pad", "none"),
    "data.placement": ("auto", "device", "stream"),
    "train.tracking": ("", "wandb"),
    "optimizer.name": ("adam", "adamw"),
    "optimizer.schedule": ("constant", "halving", "cosine", "warmup_cosine"),
}

_UNITS = ("step", "example", "epoch", "percent")
_DURATION = re.compile(r"\s*([0-9_.eE+]+)\s+([a-z]+)\s*")
# How ConfigDict words an assignment of the wrong type.
_CAST = (
    r"Could not override field '(\w+)' \(reference\)\. (.*) is of original type <class '([\w.]+)'>.*<class '([\w.]+)'>"
)
_DURATION_FORMS = 'a number of steps, or a string such as "5 epochs" or "100000 examples"'


def load(path: str | os.PathLike, overrides: Mapping[str, Any] | None = None, base: ConfigDict | None = None):
    """Returns the locked configuration that `get_config()` of the file at `path` builds, with `overrides` applied.

    `overrides` maps dotted keys (`"train.steps"`) to values, or to texts as typed on a command line. `base` holds every
    key the method knows; keys and types of the file are checked against it. Raises `InputError`.
    """
    config = _run_file(Path(path))
    return _finish(config, overrides) if base is None else from_dict(config.to_dict(), base, overrides)


def from_dict(values: Mapping[str, Any], base: ConfigDict | None = None, overrides: Mapping[str, Any] | None = None):
    """Returns the locked configuration that `to_dict` turned into `values`; keys absent there keep `base`'s default."""
    if base is None:
        return _finish(ConfigDict(_tuples(values)), overrides)
    config = copy.deepcopy(base).unlock()
    for key, value in _flat(values):
        _set(config, key, value)
    return _finish(config, overrides)


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Returns the configuration as nested plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))


def digest(config: ConfigDict | Mapping[str, Any]) -> str:
    """Returns the sha256 of the configuration's canonical JSON, 64 hexadecimal digits."""
    values = to_dict(config) if isinstance(config, ConfigDict) else config
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write(config: ConfigDict | Mapping[str, Any], workdir: str | os.PathLike) -> Path:
    """Writes `workdir/config.json` in one atomic step and returns its path."""
    values = to_dict(config) if isinstance(config, ConfigDict) else config
    content = json.dumps(values, indent=2) + "\n"
    return write_atomically(Path(workdir) / FILE_NAME, content.encode())


def read(workdir: str | os.PathLike, base: ConfigDict | None = None, overrides: Mapping[str, Any] | None = None):
    """Returns the locked configuration stored in `workdir`, with `overrides` applied; raises `InputError`."""
    return from_dict(read_dict(workdir), base, overrides)


def read_dict(workdir: str | os.PathLike) -> dict[str, Any]:
    """Returns the plain values of `workdir/config.json`; raises `InputError` when there is none or it is damaged."""
    path = Path(workdir) / FILE_NAME
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise input_error(
            f"workdir {workdir}",
            expected=f"the {FILE_NAME} of a run",
            got="none",
            fix="name the workdir of a run, or train one first",
        ) from None
    except (OSError, ValueError) as error:
        raise input_error(
            str(path), expected="readable JSON", got=error, fix="restore the file or start a new workdir"
        ) from None
    if not isinstance(values, dict):
        raise input_error(str(path), expected="a JSON object", got=type(values).__name__, fix="restore the file")
    return values


def diff(a: ConfigDict | Mapping, b: ConfigDict | Mapping, ignore: tuple[str, ...] = ()) -> list[str]:
    """Returns one `key: value in a -> value in b` for each key that differs, but for keys that match `ignore`.

    `ignore` holds dotted keys, or `section.*` for all keys of a section.
    """
    left, right = (dict(_flat(to_dict(each) if isinstance(each, ConfigDict) else each)) for each in (a, b))
    lines = []
    for key in sorted(left.keys() | right.keys()):
        if key in ignore or any(each.endswith(".*") and key.startswith(each[:-1]) for each in ignore):
            continue
        old, new = (json.dumps(each[key]) if key in each else "(absent)" for each in (left, right))
        if old != new:
            lines.append(f"{key}: {old} -> {new}")
    return lines


def steps(
    value: int | str, *, batch_size: int, num_examples: int | None, field: str, run_length: int | None = None
) -> int:
    """Returns the number of steps of a duration: an int, or "N steps", "N examples", "N epochs" or "N percent".

    Rounded up. `num_examples` is the size of the training set, `batch_size` the global one, `run_length` the number of
    steps that percents are of (None: they have no meaning here). Raises `InputError` naming `field`.
    """
    amount, unit = _duration(value, field)
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
    return math.ceil(total)


def _duration(value: object, field: str) -> tuple[Fraction, str]:
    """Returns (amount, unit) of a duration, exactly."""
    fix = "units are steps, examples, epochs and percent"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise input_error(field, expected=_DURATION_FORMS, got=repr(value), fix=fix)
    text = f"{value} steps" if not isinstance(value, str) or re.fullmatch(r"[\s0-9_.eE+-]+", value) else value
    match = _DURATION.fullmatch(text)
    unit = match and match[2].removesuffix("s")
    try:
        amount = Fraction(match[1].replace("_", "")) if match else None
    except (ValueError, ZeroDivisionError):
        amount = None
    if amount is None or unit not in _UNITS or (unit == "step" and amount.denominator != 1):
        close = nearest(match[2], ["steps", "examples", "epochs", "percent"]) if match and unit not in _UNITS else None
        raise input_error(
            field, expected=_DURATION_FORMS, got=repr(value), fix=f'did you mean "{close}"?' if close else fix
        )
    return amount, unit


def _run_file(path: Path) -> ConfigDict:
    if not path.is_file():
        others = [each.stem for each in path.parent.glob("*.py") if each.stem not in ("__init__", "base")]
        close = nearest(path.stem, others)
        fix = f"did you mean {path.with_name(close)}.py?" if close else "check --config"
        raise input_error(f"config file {path}", expected="a Python file", got="no such file", fix=fix)
    namespace = {"__file__": str(path), "__name__": "experiment", "__builtins__": __builtins__}
    try:
        exec(compile(path.read_text(), str(path), "exec"), namespace)
        build = namespace.get("get_config")
        if not callable(build):
            raise input_error(
                str(path), expected="a function get_config()", got="none", fix="see configs/base.py for the shape"
            )
        config = build()
    except SyntaxError as error:
        raise InputError(f"{error.filename}:{error.lineno}: {error.msg}; mend the config file") from error
    except InputError:
        raise
    except Exception as error:  # whatever a user's file raises is a mistake in that file, so it is told with its line
        raise InputError(f"{_place(error, path)}: {_reason(error)}") from error
    if not isinstance(config, ConfigDict):
        raise input_error(
            str(path), expected="get_config() to return a ConfigDict", got=type(config).__name__, fix="return it"
        )
    return config


def _place(error: Exception, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _reason(error: Exception) -> str:
    """Returns a sentence for an error in a config file; ConfigDict's own are long, so they are told anew."""
    text = str(error).replace("\\n", "\n").replace("\\'", "'")
    if match := re.match(_CAST, text, re.DOTALL):
        wanted = "a section (ConfigDict)" if match[4].endswith("ConfigDict") else match[4]
        return f"{match[1]}: expected {wanted}, got {match[2]!r} ({match[3]}); give a value of that type"
    close = re.search(r'Did you mean "(\w+)"', text)
    if close and (match := re.match(r"""["']*(?:Key ")?(\w+)["']""", text)):
        return f'unknown key "{match[1]}"; did you mean "{close[1]}"?'
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"


def _finish(config: ConfigDict, overrides: Mapping[str, Any] | None) -> ConfigDict:
    for key, value in (overrides or {}).items():
        _set(config, key, value)
    for key in _leaves(config):
        section, name = _section(config, key)
        section[name] = _typed(f"config.{key}", section[name], section.get_type(name), section[name])
        if key in CHOICES:
            choice(f"config.{key}", section[name], CHOICES[key])
    if "seed" in config and not 0 <= config.seed < 2**32:
        # JAX takes a seed modulo 2**32: two that look different would give the same run.
        raise input_error("config.seed", expected="0 to 2**32 - 1", got=config.seed, fix="use a smaller one")
    return config.lock()


def _section(config: ConfigDict, key: str) -> tuple[ConfigDict, str]:
    """Returns the section that holds the dotted `key`, and the key's name there; raises for a key that is none."""
    *sections, name = key.split(".")
    place = config
    for each in (*sections, name):
        if not isinstance(place, ConfigDict) or each not in place:
            raise _unknown(key, list(_leaves(config)))
        parent, place = place, place[each]
    return parent, name


def _unknown(key: str, known: list[str]) -> InputError:
    leaf = key.rpartition(".")[2]
    close = nearest(key, known) or next((each for each in known if each.rpartition(".")[2] == leaf), None)
    fix = f'did you mean "config.{close}"?' if close else "`describe` lists every key"
    return InputError(f"config.{key}: unknown key; {fix}")


def _set(config: ConfigDict, key: str, value: Any) -> None:
    section, name = _section(config, key)
    kind = section.get_type(name)
    if issubclass(kind, ConfigDict):
        first = next(iter(_leaves(section[name])), "...")
        raise input_error(
            f"config.{key}", expected="one key", got="a whole section", fix=f"set config.{key}.{first} or another key"
        )
    parsed = _parse(value, kind) if isinstance(value, str) else value
    section[name] = _typed(f"config.{key}", parsed, kind, section[name])


def _parse(text: str, kind: type) -> Any:
    """Returns what a text from the command line means for a field of type `kind`; the text itself if it has none."""
    if kind in (str, object):
        return text
    if kind is bool:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return (value,) if kind is tuple and _is_number(value) else value


def _typed(field: str, value: Any, kind: type, default: Any) -> Any:
    """Returns `value` as the field's type, an int as a float where a float is meant; raises `InputError` otherwise."""
    if kind is object:
        amount, unit = _duration(value, field)
        return int(amount) if unit == "step" else value.strip()
    if kind is float and _is_number(value) and math.isfinite(value):
        return float(value)
    if kind is tuple and isinstance(value, tuple | list):
        like = next((each for each in default if isinstance(each, float)), default[0] if default else None)
        checked = (_typed(f"{field}[{i}]", each, type(like), like) for i, each in enumerate(value))
        return tuple(value) if like is None else tuple(checked)
    if isinstance(value, kind) and kind is not float and not (kind is int and isinstance(value, bool)):
        return value
    expected, example = {
        bool: ("true or false", "write true or false"),
        int: ("a whole number (int)", "write it without quotes or point"),
        float: ("a finite number (float)", "write a number"),
        tuple: ('values in brackets (tuple), such as "(10., 25.)"', "separate them by commas"),
    }.get(kind, (kind.__name__, "give a value of that type"))
    raise input_error(field, expected=expected, got=f"{value!r} ({type(value).__name__})", fix=example)


def _leaves(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        yield from _leaves(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else (prefix + name,)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _tuples(value: Any) -> Any:
    """Returns the JSON values with tuples in place of lists, which is what config files hold."""
    if isinstance(value, Mapping):
        return {name: _tuples(each) for name, each in value.items()}
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
