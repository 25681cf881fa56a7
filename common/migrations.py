"""Versions of the configuration: what older runs stored, in the keys of today.

Whoever renames or removes a key raises `VERSION` by one and, for a rename, adds it to `RENAMED` under the new version.
A new key needs nothing here: its default must be what runs did before there was the key.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import input_error, shown

VERSION = 1
KEY = "config_version"  # beside the configuration's own keys; it is no part of the experiment

# Version that introduced the new names -> {old dotted key: new dotted key}.
RENAMED: Mapping[int, Mapping[str, str]] = {}


def upgraded(values: Mapping[str, Any], place: object) -> dict[str, Any]:
    """Returns stored nested values, without their version, under the names of today.

    Values without a version are of version 1. Raises `InputError`, naming `place`, for a version that this one does
    not know.
    """
    version = values.get(KEY, 1)
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= VERSION:
        raise input_error(
            str(place),
            expected=f"{KEY} 1 to {VERSION}",
            got=shown(version),
            fix="use the version of this program that wrote it",
        )
    names = [names for since, names in sorted(RENAMED.items()) if since > version]
    own = {name: each for name, each in values.items() if name != KEY}
    if not names:
        return own
    result: dict[str, Any] = {}
    for key, value in flat(own):
        for each in names:
            key = each.get(key, key)
        *sections, name = key.split(".")
        section = result
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return result


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of nested values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
