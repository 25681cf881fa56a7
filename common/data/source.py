"""Random-access data: the `Source` protocol, and sources of arrays and images in memory."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from common.errors import InputError, input_error

Element = Mapping[str, np.ndarray]

_CHUNK = 128  # elements one thread reads at a time when a whole source is read


@runtime_checkable
class Source(Protocol):
    """A fixed number of examples with random access; `source[i]` depends on nothing but `i`.

    Elements are mappings of arrays (images `[H, W, C]`, uint8 or float32 in [0, 1]). All elements have the same shapes
    and dtypes; only sources of photographs that still have to be cropped or resized are ragged. Where classes were
    asked for, `label` is that of the element, int32 `[]` from 0 on. `fingerprint` is a hash of the content, equal in
    every process; `repr` is stable too. A record that cannot be read raises `BadRecordError`.

    A source may also have: `read(indices) -> list` (several elements at once), `nbytes` (of all elements, known without
    reading them; None if they must not be kept on a device), `resident() -> Resident`, `shapes() -> [N, 3]` (of the
    images, zeros where unknown), `name(i)` (for messages), `known_bad() -> {i: reason}`, `num_classes` (of the labels,
    None without them). The functions of this module fall back to `source[i]` where they are missing.
    """

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Element: ...


class Resident(NamedTuple):
    """A whole source as arrays for the device: `take(arrays, indices [B]) -> {name: [B, ...]}` equals `source[i]`."""

    arrays: Any
    take: Callable[[Any, Any], Mapping[str, Any]]
    nbytes: int


class BadRecordError(InputError):
    """A record that cannot be used; `record` names it, `reason` says what is wrong."""

    def __init__(self, record: str, reason: str):
        super().__init__(f"{record}: {reason}")
        self.record = record
        self.reason = reason


def digest(*parts: object) -> str:
    """Returns a short hash of the parts (strings, numbers, arrays, bytes), equal in every process."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype}{part.shape}".encode())
            total.update(np.ascontiguousarray(part).data if part.size else b"")
        else:
            total.update(part if isinstance(part, bytes) else str(part).encode())
        total.update(b"\0")
    return total.hexdigest()[:32]


def read(source: Source, indices: Sequence[int]) -> list[Element]:
    """Returns the elements at `indices`."""
    if hasattr(source, "read"):
        return source.read(indices)
    return [source[int(index)] for index in indices]


def fetch(source: Source, indices: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns the elements at `indices` stacked, `{name: [len(indices), ...]}`."""
    elements = read(source, indices)
    return {name: np.stack([element[name] for element in elements]) for name in elements[0]}


def read_all(source: Source, indices: Sequence[int]) -> list[Element]:
    """Returns the elements at `indices`, read by several threads."""
    chunks = [[int(index) for index in indices[start : start + _CHUNK]] for start in range(0, len(indices), _CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [element for part in pool.map(lambda chunk: read(source, chunk), chunks) for element in part]


def fetch_all(source: Source) -> dict[str, np.ndarray]:
    """Returns the whole source stacked, read by several threads."""
    first = source[0]
    out = {name: np.empty((len(source), *array.shape), array.dtype) for name, array in first.items()}

    def fill(start: int) -> None:
        for offset, element in enumerate(read(source, range(start, min(start + _CHUNK, len(source))))):
            for name, array in out.items():
                array[start + offset] = element[name]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, len(source), _CHUNK)))
    return out


def nbytes(source: Source) -> int | None:
    """Returns the bytes that all elements take, or None if the source must be streamed."""
    if hasattr(source, "nbytes"):
        return source.nbytes
    return len(source) * sum(array.nbytes for array in source[0].values())


def resident(source: Source) -> Resident:
    """Returns the whole source as arrays that fit `jax.device_put`, and the pure function that gathers from them."""
    if hasattr(source, "resident"):
        return source.resident()
    arrays = fetch_all(source)
    return Resident(arrays, _take, sum(array.nbytes for array in arrays.values()))


def _take(arrays: Mapping[str, Any], indices: Any) -> dict[str, Any]:
    import jax.numpy as jnp

    return {name: jnp.asarray(array).at[indices].get(mode="promise_in_bounds") for name, array in arrays.items()}


def name_of(source: Source, index: int) -> str:
    """Returns what a message calls element `index`."""
    return source.name(index) if hasattr(source, "name") else f"record {index} of {source!r}"


def shapes_of(source: Source) -> np.ndarray:
    """Returns the shapes of the images, int64 `[N, 3]` (zeros where a record cannot be read)."""
    if hasattr(source, "shapes"):
        return source.shapes()
    return np.asarray([source[index]["image"].shape for index in range(len(source))], np.int64).reshape(-1, 3)


def known_bad(source: Source) -> Mapping[int, str]:
    """Returns the records that are known to be unusable, with the reason."""
    return source.known_bad() if hasattr(source, "known_bad") else {}


def labels_of(source: Source) -> np.ndarray:
    """Returns the labels of all elements, int32 `[N]`; images are read beside them and forgotten."""
    starts = range(0, len(source), _CHUNK)
    return np.concatenate([fetch(source, range(start, min(start + _CHUNK, len(source))))["label"] for start in starts])


def num_classes(source: Source) -> int | None:
    """Returns of how many classes the labels may be; None for a source without labels."""
    return getattr(source, "num_classes", None)


class ArraySource:
    """Arrays in memory with a common leading axis.

    A non-finite number is an `InputError` that names array and index; with `defer_bad=True` only reading that element
    raises it. `label` is what messages call the source. An array `label` holds classes, the largest
    number in it being the last.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], *, label: str = "arrays", defer_bad: bool = False):
        self._arrays = {name: np.asarray(array) for name, array in arrays.items()}
        self._label = label
        lengths = {name: len(array) for name, array in self._arrays.items()}
        if not lengths or min(lengths.values()) == 0 or len(set(lengths.values())) > 1:
            raise input_error(
                label, expected="arrays of one common length above 0", got=lengths, fix="check the arrays"
            )
        self._bad: dict[int, str] = {}
        for name, array in self._arrays.items():
            for index in _non_finite(array):
                self._bad.setdefault(int(index), f"{name} has NaN or infinite numbers")
        if self._bad and not defer_bad:
            index = min(self._bad)
            raise BadRecordError(self.name(index), f"{self._bad[index]} ({len(self._bad)} such records in all)")
        self.num_classes = int(self._arrays["label"].max()) + 1 if "label" in self._arrays else None
        self.fingerprint = digest(*(part for name in sorted(self._arrays) for part in (name, self._arrays[name])))

    def __repr__(self) -> str:
        return f"ArraySource({self._label}, {len(self)}, {self.fingerprint})"

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def __getitem__(self, index: int) -> Element:
        if index in self._bad:
            raise BadRecordError(self.name(index), self._bad[index])
        return {name: array[index] for name, array in self._arrays.items()}

    def name(self, index: int) -> str:
        return f"{self._label}[{index}]"

    def known_bad(self) -> Mapping[int, str]:
        return self._bad

    def shapes(self) -> np.ndarray:
        return np.broadcast_to(np.asarray(self._arrays["image"].shape[1:], np.int64), (len(self), 3))

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays.values())

    def resident(self) -> Resident:
        if self._bad:
            self[min(self._bad)]
        return Resident(self._arrays, _take, self.nbytes)


def _non_finite(array: np.ndarray) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.floating):
        return np.empty(0, np.int64)
    found = [
        start + np.flatnonzero(~np.isfinite(array[start : start + _CHUNK]).all(axis=tuple(range(1, array.ndim))))
        for start in range(0, len(array), _CHUNK)
    ]
    return np.concatenate(found)


class ImageList:
    """Images of any sizes in memory, with a name each; `known` gives the reasons for images that could not be read."""

    def __init__(
        self, images: Sequence[np.ndarray], *, names: Sequence[str], label: str, known: Mapping[int, str] | None = None
    ):
        self._images = list(images)
        self._names = list(names)
        self._label = label
        self._known = dict(known or {})
        self.fingerprint = digest(*self._names, *self._images)

    def __repr__(self) -> str:
        return f"ImageList({self._label}, {len(self)}, {self.fingerprint})"

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Element:
        if index in self._known:
            raise BadRecordError(self.name(index), self._known[index])
        return {"image": self._images[index]}

    def name(self, index: int) -> str:
        return self._names[index]

    def known_bad(self) -> Mapping[int, str]:
        return self._known

    def shapes(self) -> np.ndarray:
        return np.asarray([image.shape for image in self._images], np.int64).reshape(-1, 3)
