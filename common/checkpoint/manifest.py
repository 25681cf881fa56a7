"""The manifest of a checkpoint: name, shape, dtype and checksum of every leaf, and the run it belongs to."""

import hashlib
import json
import os
import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from common.errors import input_error, listed
from common.method import PyTree

# 1 had one folder for each field of the state; 2 has one for all.
FORMAT = 2
# The fields that are read without a template, so the manifest also keeps the shape of their trees.
TEMPLATE_FREE = ("params", "stats", "ema_params")


class DamagedError(Exception):
    """A stored step that disagrees with its manifest."""


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Returns `{"params/Conv_0/kernel": leaf, ...}` in the tree's order; raises `InputError` if two names coincide."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    # Storage joins the parts of a name by dots.
    if len({name.replace("/", ".") for name in named}) != len(leaves):
        raise input_error(
            "state", expected="different names for all leaves", got="the same one twice", fix="rename one"
        )
    return named


def skeleton(tree: PyTree, name: str) -> Any:
    """Returns the tree with leaves replaced by their names, as JSON: a list starts with "list" or "tuple"."""
    if tree is None:
        return None
    if isinstance(tree, Mapping) and all(isinstance(key, str) for key in tree):
        return {key: skeleton(value, f"{name}/{key}") for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return [type(tree).__name__, *(skeleton(value, f"{name}/{i}") for i, value in enumerate(tree))]
    if jax.tree_util.all_leaves([tree]):
        return name
    raise input_error(
        f"state: {name}",
        expected="dicts with text keys, lists and tuples of arrays",
        got=type(tree).__name__,
        fix="convert it in the method's init",
    )


def filled(shape: Any, leaves: Mapping[str, Any]) -> PyTree:
    """Returns the tree that `skeleton` described, with the leaves in their places."""
    if shape is None:
        return None
    if isinstance(shape, str):
        return leaves[shape]
    if isinstance(shape, Mapping):
        return {key: filled(value, leaves) for key, value in shape.items()}
    values = [filled(value, leaves) for value in shape[1:]]
    return values if shape[0] == "list" else tuple(values)


def spec(leaf: Any) -> dict[str, Any]:
    """Returns dtype and shape of an array, as JSON values."""
    return {"dtype": str(np.dtype(leaf.dtype)), "shape": list(leaf.shape)}


def make(leaves: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the manifest of a checkpoint with these leaves; `values` (JSON) are the step and what the run is."""
    values = {
        "format": FORMAT,
        "leaves": {name: spec(leaf) | {"sha256": _checksum(leaf)} for name, leaf in leaves.items()},
        **values,
    }
    return values | {"sha256": _digest(values)}


def parse(content: bytes, *, step: int) -> dict[str, Any]:
    """Returns the manifest in a file; raises `DamagedError`, and `InputError` for a later format."""
    try:
        values = json.loads(content)
        stored = values.pop("sha256")
        if stored != _digest(values):
            raise ValueError("its own checksum differs")
        if values["step"] != step:
            raise ValueError(f"it belongs to step {values['step']}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"manifest: {error}") from error
    if values["format"] not in (1, FORMAT):
        raise input_error(
            f"checkpoint of step {step}",
            expected=f"format {FORMAT} or an earlier one",
            got=values["format"],
            fix="use the version of this program that wrote it",
        )
    return values


def check_leaf(name: str, leaf: np.ndarray | None, stored: Mapping[str, Any]) -> None:
    """Raises `DamagedError` unless the array is the one that the manifest describes."""
    if leaf is None:
        raise DamagedError(f"{name}: missing")
    if spec(leaf) != {key: stored[key] for key in ("dtype", "shape")}:
        raise DamagedError(f"{name}: is {_show(spec(leaf))}, was saved as {_show(stored)}")
    if _checksum(leaf) != stored["sha256"]:
        raise DamagedError(f"{name}: checksum differs")


def current_names(stored: Iterable[str], wanted: Container[str]) -> list[str]:
    """Returns the names of stored leaves, those of the optimizer as they are wanted today.

    Once its state was that of an `optax.chain`, whose places counted what was switched on: the moments were in place 0
    and the count of the schedule in the last one, both below place 1 behind a clip of the gradient.
    """
    names = []
    for name in stored:
        match = None if name in wanted else re.match(r"opt_state/(?:1/(?=\d/))?(\d)/", name)
        names.append(f"opt_state/{min(int(match[1]), 1)}/{name[match.end() :]}" if match else name)
    return names


def check_template(manifest: Mapping[str, Any], template: PyTree, place: str) -> None:
    """Raises `InputError` with the leaves that differ in name, shape or dtype between checkpoint and template."""
    wanted = {name: spec(leaf) for name, leaf in named_leaves(template).items()}
    stored = dict(zip(current_names(manifest["leaves"], wanted), manifest["leaves"].values(), strict=True))
    lines = []
    for name in sorted(stored.keys() | wanted.keys()):
        if name not in wanted:
            lines.append(f"{name}: only in the checkpoint")
        elif name not in stored:
            lines.append(f"{name}: only in this run")
        elif any(stored[name][key] != wanted[name][key] for key in ("dtype", "shape")):
            lines.append(f"{name}: {_show(stored[name])} -> {_show(wanted[name])}")
    if lines:
        raise input_error(
            f"checkpoint {place}",
            expected="the arrays of this run",
            got=f"{len(lines)} that differ (checkpoint -> run): {listed(lines)}",
            fix="undo the change of model or optimizer, or start in a new workdir",
        )


def reason(error: BaseException) -> str:
    """Returns one line: the system's message, or the first line of the error, shortened in the middle if long."""
    line = str(error).partition("\n")[0] or type(error).__name__
    if code := re.search(r"os_error_code='(\d+)'", line):  # in the midst of TensorStore's own words
        return os.strerror(int(code[1]))
    return line if len(line) <= 200 else f"{line[:80]} ... {line[-110:]}"


def _checksum(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _show(stored: Mapping[str, Any]) -> str:
    return f"{stored['dtype']}[{', '.join(map(str, stored['shape']))}]"
