"""Versions of the configuration: what older runs stored, in the keys and units of today.

Whoever renames or removes a key, or changes the meaning of its values, adds an entry under a version that no table has
yet: for keys that all methods share here, and raises `VERSION` to it; for keys of one method in the tables `RENAMED`
and `CHANGED` of `configs/METHOD/migrations.py`. Its table `REMOVED` has, for a key that is gone, the value that
programs of today always use, or a function of the stored dotted values that gives it: runs that stored this value go on
as they were, runs that stored another one cannot be trained further.
A new key needs nothing here: its default must be what runs did before there was the key.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from common.errors import input_error, shown

VERSION = 1
KEY = "config_version"  # beside the configuration's own keys; it is no part of the experiment

# Version that introduced the new names -> {old dotted key: new dotted key}.
RENAMED: Mapping[int, Mapping[str, str]] = {}


def version_of(method: object) -> int:
    """Returns the version of the keys of today's configurations of `method`."""
    renamed, changed = _tables(method)
    return max((VERSION, *renamed, *changed))


def upgraded(values: Mapping[str, Any], place: object) -> dict[str, Any]:
    """Returns stored nested values, without their version, under the names and in the units of today.

    Values without a version are of version 1. Raises `InputError`, naming `place`, for a version that this one does
    not know.
    """
    method = values.get("method")
    version, newest = values.get(KEY, 1), version_of(method)
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= newest:
        raise input_error(
            str(place),
            expected=f"{KEY} 1 to {newest}",
            got=shown(version),
            fix="use the version of this program that wrote it",
        )
    own = {name: each for name, each in values.items() if name != KEY}
    renamed, changed = _tables(method)
    later = [since for since in sorted({*RENAMED, *renamed, *changed}) if since > version]
    if not later:
        return own
    result: dict[str, Any] = {}
    for key, value in flat(own):
        for since in later:
            key = {**RENAMED.get(since, {}), **renamed.get(since, {})}.get(key, key)
            if key in (functions := changed.get(since, {})):
                value = functions[key](value)
        *sections, name = key.split(".")
        section = result
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return result


def _tables(method: object) -> tuple[Mapping[int, Mapping[str, str]], Mapping[int, Mapping[str, Callable]]]:
    """Returns the `RENAMED` and `CHANGED` of a method; empty ones where it has none, or there is no such method."""
    module = _module(method)
    return ({}, {}) if module is None else (module.RENAMED, module.CHANGED)


def _module(method: object) -> ModuleType | None:
    """Returns the module `configs.METHOD.migrations`, None where there is none."""
    if not isinstance(method, str) or not method.isidentifier():
        return None
    name = f"configs.{method}.migrations"
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # of the package in which it would be
        found = None
    return None if found is None else importlib.import_module(name)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of nested values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def is_implied(key: str, stored: Mapping[str, Any]) -> bool:
    """Returns whether a removed key of stored dotted values has the value that is always used today."""
    table = getattr(_module(stored.get("method")), "REMOVED", {})
    if key not in table:
        return False
    today = table[key]
    try:
        return stored[key] == (today(stored) if callable(today) else today)
    except KeyError:  # a key that decides it is not stored
        return False
