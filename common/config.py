"""Experiment configurations: loading, checking, durations, hashing, and the copy that lives in the workdir."""

import copy
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from common import config_file, migrations
from common.config_values import parse, typed
from common.errors import InputError, choice, input_error, listed, nearest, shown
from common.io.files import read_json, write_json
from common.migrations import flat

FILE_NAME = "config.json"

# Keys of config.json beside the experiment's own: its version, what was changed at which step, and where the first
# parameters came from.
RECORD = (migrations.KEY, "history", "init_from")

# Keys that may differ between a stored run and the command that resumes it: no number of the run depends on them
# (a larger budget for bad steps or records lets a run go on that has stopped at them).
RESUME_MAY_CHANGE = (
    "train.log_every",
    "train.preview_every",
    "train.evaluate_every",
    "train.evaluate_batches",
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

# Keys that may change when a run continues from its newest checkpoint and the command sets them by
# `--config.KEY=VALUE`; each change is recorded.
CONTINUE_MAY_CHANGE = ("train.steps", "optimizer.*")

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


def load(path: str | os.PathLike, overrides: Mapping[str, Any] | None = None, base: ConfigDict | None = None):
    """Returns the locked configuration that `get_config()` of the file at `path` builds, with `overrides` applied.

    `overrides` maps dotted keys (`"train.steps"`) to values, or to texts as typed on a command line. `base` holds every
    key the method knows; keys and types of the file are checked against it. Raises `InputError`.
    """
    config = config_file.run(Path(path))
    try:
        if base is None:
            return _finish(config, overrides)
        _check_method(config, base, path)
        return from_dict(config.to_dict(), base, overrides)
    except RecursionError:
        got = "sections nested too deeply"
        raise input_error(str(path), expected="a configuration", got=got, fix="use fewer levels") from None


def from_dict(values: Mapping[str, Any], base: ConfigDict | None = None, overrides: Mapping[str, Any] | None = None):
    """Returns the locked configuration that `to_dict` turned into `values`; keys absent there keep `base`'s default."""
    if base is None:
        return _finish(ConfigDict(_tuples(values)), overrides)
    config = copy.deepcopy(base).unlock()
    for key, value in flat(values):
        _check_kind(config, key, value)
        _set(config, key, value)
    return _finish(config, overrides)


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Returns the configuration as nested plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))


def experiment(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration as plain JSON values, without the keys of a stored one that are a record."""
    values = to_dict(config) if isinstance(config, ConfigDict) else config
    return {name: each for name, each in values.items() if name not in RECORD}


def digest(config: ConfigDict | Mapping[str, Any]) -> str:
    """Returns the sha256 of the configuration's canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(experiment(config), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def stamped(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Returns the plain JSON values with the version of their keys, as they are stored."""
    values = experiment(config)
    return {migrations.KEY: migrations.version_of(values.get("method")), **values}


def write(
    config: ConfigDict | Mapping[str, Any], workdir: str | os.PathLike, record: Mapping[str, Any] | None = None
) -> Path:
    """Writes `workdir/config.json` with its version and `record` in one atomic step and returns its path."""
    return write_json(Path(workdir) / FILE_NAME, {**stamped(config), **(record or {})})


def read(
    workdir: str | os.PathLike,
    base: ConfigDict | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    training: bool = False,
) -> ConfigDict:
    """Returns the locked configuration stored in `workdir`, with `overrides` applied.

    Keys that `base` has and the stored one lacks take `base`'s default; keys that `base` has no more are ignored, but
    for `training`, which they may have decided. One note on stderr names both. Raises `InputError`.
    """
    values = read_dict(workdir)
    if base is not None:
        _check_method(values, base, workdir)
        for key, value in flat(values):
            _check_kind(base, key, value)
    if "method" not in values:
        raise _incomplete(Path(workdir) / FILE_NAME, 'one without the key "method"')
    return from_dict(values if base is None else _known(values, base, workdir, training), base, overrides)


def from_stored(values: Mapping[str, Any], base: ConfigDict, place: str | os.PathLike) -> ConfigDict:
    """Returns the locked configuration of values that this or an older version stored at `place`; raises `InputError`.

    Values without a method are those of a part of `base`'s.
    """
    return from_dict(experiment(migrations.upgraded({"method": base.method, **values}, place)), base)


def filled(values: Mapping[str, Any], base: ConfigDict) -> dict[str, Any]:
    """Returns stored values under today's names, with `base`'s default where they lack a key."""
    stored = dict(flat(migrations.upgraded(values, FILE_NAME)))
    return {**dict(flat(to_dict(base))), **stored}


def read_dict(workdir: str | os.PathLike) -> dict[str, Any]:
    """Returns the plain values of `workdir/config.json` under today's names, without its record.

    Raises `InputError` when there is none or it is damaged.
    """
    path = Path(workdir) / FILE_NAME
    values = _read_json(workdir, path)
    if "method" not in values and migrations.KEY in values:  # a version is that of a method's keys
        raise _incomplete(path, 'one without the key "method"')
    return experiment(migrations.upgraded(values, path))


def method_of(workdir: str | os.PathLike) -> Any:
    """Returns the name of the method whose run is in `workdir`, of any version; raises `InputError`."""
    return _read_json(workdir, Path(workdir) / FILE_NAME).get("method")


def read_record(workdir: str | os.PathLike) -> dict[str, Any]:
    """Returns the `history` and `init_from` of `workdir/config.json`, as far as it has them; raises `InputError`."""
    path = Path(workdir) / FILE_NAME
    stored = _read_json(workdir, path)
    record = {name: stored[name] for name in RECORD if name in stored and name != migrations.KEY}
    history, start = record.get("history", []), record.get("init_from", {"path": "", "partial": False, "weights": ""})
    whole = {
        "history": isinstance(history, list) and all(_has(each, step=int, changes=list) for each in history),
        "init_from": _has(start, path=str, partial=bool, weights=str),
    }
    for name in whole:
        if not whole[name]:
            raise input_error(
                str(path),
                expected=f"the record of a run under {name}",
                got=shown(record[name]),
                fix="restore the file, or choose a new --workdir",
            )
    return record


def _has(entry: Any, **kinds: type) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in kinds.items())


def _read_json(workdir: str | os.PathLike, path: Path) -> dict[str, Any]:
    try:
        values = read_json(path, expected="readable JSON", fix="restore the file or start a new workdir")
    except FileNotFoundError:
        raise input_error(
            f"workdir {workdir}",
            expected=f"the {FILE_NAME} of a run",
            got="none",
            fix="name the workdir of a run, or train one first",
        ) from None
    if not values:
        raise _incomplete(path, "an empty one")
    return values


def _check_method(values: Mapping[str, Any] | ConfigDict, base: ConfigDict, place: object) -> None:
    """Raises `InputError` for the experiment of another method, whose keys mean nothing here."""
    method = values.get("method") or base.method
    if method != base.method:
        raise InputError(
            f"{place}: expected an experiment of {base.method}, got one of {method}; use python -m {method}"
        )


def _incomplete(path: Path, got: str) -> InputError:
    return input_error(str(path), expected="the configuration of a run", got=got, fix="restore the file")


def _known(values: Mapping[str, Any], base: ConfigDict, workdir: str | os.PathLike, training: bool) -> dict[str, Any]:
    """Returns the stored values of keys that `base` has, as dotted keys, and prints the difference."""
    path = Path(workdir) / FILE_NAME
    stored, known = dict(flat(values)), dict(flat(to_dict(base)))
    sections = {key[:end] for key in known for end, letter in enumerate(key) if letter == "."}
    removed = {
        key: value
        for key, value in stored.items()
        if key not in known and key not in sections and not any(key.startswith(f"{each}.") for each in known)
    }
    if removed and training:
        raise input_error(
            str(path),
            expected="keys of this version",
            got="removed keys: " + _listed_keys(removed),
            fix=f"train with the version that wrote it, or start a new run from it: --init-from {workdir}",
        )
    notes = []
    if new := {key: value for key, value in known.items() if key not in stored and value != {}}:
        notes.append("keys that are newer than it take their default: " + _listed_keys(new))
    if removed:
        notes.append("keys that this version has no more are ignored: " + _listed_keys(removed))
    if notes:
        _note(f"{path}: {'; '.join(notes)}")
    return {key: value for key, value in stored.items() if key not in removed}


def _listed_keys(values: Mapping[str, Any]) -> str:
    return listed((f"{key}={shown(value)}" for key, value in values.items()), most=8)


_NOTED: set[str] = set()  # a command reads a configuration several times; each note is printed once


def _note(text: str) -> None:
    if text not in _NOTED:
        _NOTED.add(text)
        print(f"note: {text}", file=sys.stderr)


def diff(a: ConfigDict | Mapping, b: ConfigDict | Mapping, ignore: tuple[str, ...] = ()) -> list[str]:
    """Returns one `key: value in a -> value in b` for each key that differs, but for keys that match `ignore`.

    `ignore` holds dotted keys, or `section.*` for all keys of a section.
    """
    left, right = (dict(flat(experiment(each))) for each in (a, b))
    lines = []
    for key in sorted(left.keys() | right.keys()):
        if matches(key, ignore):
            continue
        old, new = (json.dumps(each[key]) if key in each else "(absent)" for each in (left, right))
        if old != new:
            lines.append(f"{key}: {old} -> {new}")
    return lines


def matches(key: str, patterns: tuple[str, ...]) -> bool:
    """Returns whether a dotted key is one of `patterns`, or in a section that one of them names by `section.*`."""
    return key in patterns or any(each.endswith(".*") and key.startswith(each[:-1]) for each in patterns)


def _finish(config: ConfigDict, overrides: Mapping[str, Any] | None) -> ConfigDict:
    for key, value in (overrides or {}).items():
        _set(config, key, value)
    for key in _leaves(config):
        section, name = _section(config, key)
        section[name] = typed(f"config.{key}", section[name], section.get_type(name), section[name])
        if key in CHOICES:
            choice(f"config.{key}", section[name], CHOICES[key])
    if "seed" in config and not 0 <= config.seed < 2**32:
        # JAX takes a seed modulo 2**32: two different ones would give the same run.
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


def _check_kind(config: ConfigDict, key: str, value: Any) -> None:
    """Raises `InputError` for a value in the place of a section, and for a section in the place of a value."""
    place, name = config, ""
    for each in key.split("."):
        if not isinstance(place, ConfigDict):
            raise input_error(
                f"config{name}", expected="one value", got=f"a section with the key {each}", fix="give one value"
            )
        if each not in place:
            return
        place, name = place[each], f"{name}.{each}"
    if isinstance(place, ConfigDict):
        raise input_error(
            f"config{name}", expected="a section of several keys", got=shown(value), fix=f"set config{name}.KEY"
        )


def _set(config: ConfigDict, key: str, value: Any) -> None:
    section, name = _section(config, key)
    kind = section.get_type(name)
    if issubclass(kind, ConfigDict):
        first = next(iter(_leaves(section[name])), "...")
        raise input_error(
            f"config.{key}", expected="one key", got="a whole section", fix=f"set config.{key}.{first} or another key"
        )
    parsed = parse(value, kind, section[name]) if isinstance(value, str) else value
    section[name] = typed(f"config.{key}", parsed, kind, section[name])


def _leaves(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        yield from _leaves(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else (prefix + name,)


def _tuples(value: Any) -> Any:
    """Returns the JSON values with tuples in place of lists, which is what config files hold."""
    if isinstance(value, Mapping):
        return {name: _tuples(each) for name, each in value.items()}
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value
