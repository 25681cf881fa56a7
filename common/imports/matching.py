"""Puts tensors of a file into the places of a network, by name, shape and layout."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from common.errors import input_error, listed, nearest
from common.imports.archive import shown

_SHOWN = 4


class Slot(NamedTuple):
    """Where a leaf of a network comes from: the `source` tensor, its `shape` there, and the change of its layout."""

    source: str
    shape: tuple[int, ...]
    transform: Callable[[np.ndarray], np.ndarray]


def assign(tensors: Mapping[str, np.ndarray], slots: Mapping[str, Slot], *, field: str) -> dict[str, np.ndarray]:
    """Returns `{target: slot.transform(tensors[slot.source])}` for every target of `slots`.

    Raises one `InputError` for `field` (what the tensors were read from) that lists the tensors which are missing,
    unexpected or of another shape, each with the nearest name of the other side.
    """
    wanted = {slot.source: slot.shape for slot in slots.values()}
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in tensors if name not in wanted]
    shapes = [
        f"{name} expected {list(wanted[name])}, got {list(tensors[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != tuple(wanted[name])
    ]
    if missing or unexpected or shapes:
        parts = [
            _listed("missing", missing, nearest_in=unexpected or tensors),
            _listed("unexpected", unexpected, nearest_in=missing or wanted),
            _listed("of another shape", shapes),
        ]
        raise input_error(
            field,
            expected=f"the {len(wanted)} tensors of the network",
            got="; ".join(part for part in parts if part),
            fix="name the file and the kind of network that belong together",
        )
    return {target: slot.transform(tensors[slot.source]) for target, slot in slots.items()}


def _listed(what: str, items: list[str], nearest_in: Iterable[str] = ()) -> str:
    if not items:
        return ""

    def described(item):
        close = nearest(item, nearest_in)
        return f"{shown(item)} (nearest: {shown(close)})" if close else shown(item)

    lines = [described(item) if place < _SHOWN else "" for place, item in enumerate(items)]
    return f"{len(items)} {what}: {listed(lines, most=_SHOWN)}"
