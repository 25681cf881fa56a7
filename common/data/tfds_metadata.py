"""Checks of the JSON files of a prepared data set before TFDS reads them, since TFDS trusts what they say.

TFDS imports the module of every feature class that `features.json` names, and older forms of a feature may name files.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError, input_error

FIELD = "config.data.source"
FILES = ("dataset_info.json", "features.json")

_FEATURES = "tensorflow_datasets.core.features."  # where all feature classes of TFDS are
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")  # protocol buffer in both spellings, older JSON
_NESTED_KEYS = ("json", "content")  # may hold JSON as a string
_FILE_KEYS = ("names_file", "labels")  # arguments of older features that name a file to read


def check_metadata(directory: Path) -> None:
    """Raises `InputError` for metadata in `directory` that are no JSON, or name code or files outside of TFDS's own.

    Call it after importing TFDS: classes of modules that are not imported by then are refused.
    """
    for name in FILES:
        _parsed(directory / name)
    for node in _dictionaries(_parsed(directory / "features.json")):
        for key in _CLASS_KEYS:
            if isinstance(node.get(key), str):
                _check_class(node[key], directory)
        for key in _FILE_KEYS:
            if isinstance(node.get(key), str):
                raise _distrusted(directory, "no names of files in features.json", f"{key} {node[key]!r}")
    for path in directory.iterdir():  # TFDS reads further files, such as names of classes
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise _distrusted(directory, "files", f"{path.name!r}, which is none")


def check_files(directory: Path, paths: list[str]) -> None:
    """Raises `InputError` unless all data files lie in `directory` itself and exist."""
    for path in map(Path, paths):
        if path.parent != directory:
            raise _distrusted(directory, "data files in the same folder as dataset_info.json", str(path))
        if not path.is_file():
            raise refused(f"the file {path}", "none", f"prepare {directory} again")


def _parsed(path: Path) -> Any:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise broken(path.parent, f"{path.name} that cannot be read ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise broken(path.parent, f"{path.name} without an object")
    return value


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    """Yields every object inside a JSON value, also those in strings that TFDS parses as JSON."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending.extend(value.values())
            pending.extend(_json_or_none(value[key]) for key in _NESTED_KEYS if isinstance(value.get(key), str))
        elif isinstance(value, list):
            pending.extend(value)


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None  # TFDS cannot parse it either


def _check_class(name: str, directory: Path) -> None:
    module, _, _ = name.rpartition(".")
    if not (module.startswith(_FEATURES) and module in sys.modules):
        expected = "only feature classes of TFDS itself in features.json"
        raise _distrusted(directory, expected, repr(name))


def refused(expected: str, got: object, fix: str = "use another data set") -> InputError:
    """Returns the error for a data set of another kind than is read here."""
    return input_error(FIELD, expected=expected, got=got, fix=fix)


def broken(directory: Path, got: object) -> InputError:
    """Returns the error for a prepared data set that TFDS cannot read."""
    return refused("a data set prepared by TFDS", got, f"prepare {directory} again")


def _distrusted(directory: Path, expected: str, got: str) -> InputError:
    fix = f"do not use {directory} unless you trust its source, and prepare it again with TFDS's own features"
    return refused(expected, got, fix)
