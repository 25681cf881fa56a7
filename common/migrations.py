"""Versions of the configuration: what older runs stored, in the keys, units and values of today.

Whoever renames or removes a key, or changes the meaning of its values, adds a function under a new version: for keys
that all methods share to `MIGRATIONS` here, for those of one method to `MIGRATIONS` of `configs/METHOD/migrations.py`.
It takes the stored dotted values `{"data.size": 32, ...}` and returns those of its version.
A new key needs nothing here: its default must be what runs did before there was the key.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from common.errors import input_error, shown

KEY = "config_version"  # beside the configuration's own keys; it is no part of the experiment

Migration = Callable[[dict[str, Any]], dict[str, Any]]

# Version -> what makes the dotted values of the version before those of this one; version 1 is the first.
MIGRATIONS: Mapping[int, Migration] = {}


class UnusableError(Exception):
    """Raised by a migration for stored values that have no meaning today; the message says which they are."""


def renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Returns dotted values under their new names `{old: new}`."""
    return {names.get(key, key): value for key, value in values.items()}


def version_of(method: object) -> int:
    """Returns the version of the keys of today's configurations of `method`."""
    return max((1, *MIGRATIONS, *_of_method(method)))


def upgraded(values: Mapping[str, Any], place: object) -> dict[str, Any]:
    """Returns stored nested values, without their version, under the names and in the units of today.

    Values without a version are of version 1. Raises `InputError`, naming `place`, for a version that this one does
    not know, and for values that have no meaning any more.
    """
    own = _of_method(values.get("method"))
    version, newest = values.get(KEY, 1), version_of(values.get("method"))
    fix = "use the version of this program that wrote it"
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= newest:
        raise input_error(str(place), expected=f"{KEY} 1 to {newest}", got=shown(version), fix=fix)
    stored = {name: each for name, each in values.items() if name != KEY}
    later = [since for since in range(version + 1, newest + 1) if since in MIGRATIONS or since in own]
    if not later:
        return stored
    dotted = dict(flat(stored))
    for since in later:
        for table in (MIGRATIONS, own):
            try:
                dotted = table[since](dotted) if since in table else dotted
            except UnusableError as error:
                expected = "an experiment of this version"
                raise input_error(str(place), expected=expected, got=error, fix=fix) from None
    result: dict[str, Any] = {}
    for key, value in dotted.items():
        *sections, name = key.split(".")
        section = result
        for each in sections:
            section = section.setdefault(each, {})
        section[name] = value
    return result


def _of_method(method: object) -> Mapping[int, Migration]:
    """Returns the migrations of a method; none where it has none, or there is no such method."""
    if not isinstance(method, str) or not method.isidentifier():
        return {}
    name = f"configs.{method}.migrations"
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # of the package in which it would be
        found = None
    return {} if found is None else importlib.import_module(name).MIGRATIONS


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of nested values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
