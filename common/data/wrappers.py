"""Sources made of another source: some of its elements, a function of them, a cache, a budget for bad records."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from common.data.source import (
    BadRecordError,
    Element,
    Source,
    digest,
    known_bad,
    name_of,
    num_classes,
    read,
    shapes_of,
)
from common.errors import InputError, input_error

_CHUNK = 512  # records read at once when a whole source is read
_LOG = logging.getLogger(__name__)


class _Wrapper:
    """Passes everything on to the inner source; children replace what they change."""

    def __init__(self, source: Source, fingerprint: str | None = None):
        self._source = source
        self.fingerprint = fingerprint or source.fingerprint

    def __repr__(self) -> str:
        return repr(self._source)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Element:
        if not 0 <= index < len(self):
            raise IndexError(f"{self!r}: index {index} is outside [0, {len(self)})")
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[Element]:
        return read(self._source, indices)

    def name(self, index: int) -> str:
        return name_of(self._source, index)

    def known_bad(self) -> Mapping[int, str]:
        return known_bad(self._source)

    def shapes(self) -> np.ndarray:
        return shapes_of(self._source)

    @property
    def num_classes(self) -> int | None:
        return num_classes(self._source)


class Subset(_Wrapper):
    """The elements of another source at `indices`, in that order; `label` names the choice in messages."""

    def __init__(self, source: Source, indices: Sequence[int], *, label: str):
        self._indices = np.asarray(indices, np.int64)
        self._label = label
        if len(self._indices) == 0:
            raise input_error(label, expected="at least one example", got="none", fix="use a larger data set")
        super().__init__(source, digest("subset", source.fingerprint, self._indices))

    def __repr__(self) -> str:
        return f"{self._source!r}[{self._label}: {len(self)}]"

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, indices: Sequence[int]) -> list[Element]:
        return read(self._source, [int(self._indices[index]) for index in indices])

    def name(self, index: int) -> str:
        return name_of(self._source, int(self._indices[index]))

    def known_bad(self) -> Mapping[int, str]:
        known = known_bad(self._source)
        return {index: known[int(old)] for index, old in enumerate(self._indices) if int(old) in known}

    def shapes(self) -> np.ndarray:
        return shapes_of(self._source)[self._indices]


class Mapped(_Wrapper):
    """Another source with a pure function of the element applied; `label` says which, and enters the fingerprint.

    A `ValueError` of the function becomes a `BadRecordError` that names the element. `shape` is that of every resulting
    image, or None if the function keeps height and width as they are.
    """

    def __init__(
        self,
        source: Source,
        function: Callable[[Element], Element],
        *,
        label: str,
        shape: tuple[int, int, int] | None = None,
    ):
        self._function = function
        self._label = label
        self._shape = shape
        super().__init__(source, digest("mapped", source.fingerprint, label))

    def __repr__(self) -> str:
        return f"{self._source!r}.{self._label}"

    def read(self, indices: Sequence[int]) -> list[Element]:
        elements = []
        for index, element in zip(indices, read(self._source, indices), strict=True):
            try:
                elements.append(self._function(element))
            except ValueError as error:
                raise BadRecordError(self.name(int(index)), str(error)) from None
        return elements

    def shapes(self) -> np.ndarray:
        if self._shape is None:
            return shapes_of(self._source)
        return np.broadcast_to(np.asarray(self._shape, np.int64), (len(self), 3))


class Cached(_Wrapper):
    """Another source whose elements stay in memory once read, up to `limit_bytes` in all."""

    def __init__(self, source: Source, *, limit_bytes: int):
        self._limit = limit_bytes
        self._held: dict[int, Element] = {}
        self._bytes = 0
        super().__init__(source)

    def read(self, indices: Sequence[int]) -> list[Element]:
        found = {int(index): self._held.get(int(index)) for index in indices}
        missing = [index for index, element in found.items() if element is None]
        for index, element in zip(missing, read(self._source, missing) if missing else (), strict=True):
            found[index] = element
            # Two threads may both read a new element, or pass the limit by one each: harmless, so there is no lock.
            if self._bytes < self._limit:
                self._bytes += sum(array.nbytes for array in element.values())
                self._held[index] = element
        return [found[int(index)] for index in indices]


class Padded(_Wrapper):
    """Images of any sizes on squares of `side` pixels: zeros below and to the right of each, `size` [2] beside it.

    `size` int32 is the (height, width) that counts. An image larger than the square is a bad record.
    """

    def __init__(self, source: Source, side: int, *, channels: int):
        self._side = side
        self._channels = channels
        super().__init__(source, digest("padded", source.fingerprint, side))

    def __repr__(self) -> str:
        return f"{self._source!r}.padded({self._side})"

    def read(self, indices: Sequence[int]) -> list[Element]:
        return [self._pad(int(index), element) for index, element in zip(indices, super().read(indices), strict=True)]

    def _pad(self, index: int, element: Element) -> Element:
        image = element["image"]
        height, width, channels = image.shape
        if max(height, width) > self._side:
            reason = f"expected at most {self._side}x{self._side} pixels, got {height}x{width}"
            raise BadRecordError(self.name(index), reason)
        square = np.zeros((self._side, self._side, channels), image.dtype)
        square[:height, :width] = image
        return {**element, "image": square, "size": np.asarray((height, width), np.int32)}

    def shapes(self) -> np.ndarray:
        return np.broadcast_to(np.asarray((self._side, self._side, self._channels), np.int64), (len(self), 3))


class SkipBudget:
    """How many different bad records a run accepts; one more is an `InputError` that names them."""

    def __init__(self, limit: int, *, field: str = "config.data.skip_bad"):
        self._limit = limit
        self._field = field
        self._found: dict[str, str] = {}

    def note(self, *records: BadRecordError) -> None:
        """Counts the records that were not seen before; raises once there are more than the limit."""
        new = {record.record: record.reason for record in records if record.record not in self._found}
        self._found.update(new)
        if len(self._found) > self._limit:
            raise self._exceeded()
        for name, reason in new.items():
            _LOG.warning("skipped %s: %s (%d of at most %d)", name, reason, len(self._found), self._limit)

    def _exceeded(self) -> InputError:
        count = len(self._found)
        shown = [f"{name}: {reason}" for name, reason in list(self._found.items())[:3]] + ["..."] * (count > 3)
        return input_error(
            self._field,
            expected=f"at most {self._limit} bad records",
            got=f"{count} ({'; '.join(shown)})",
            fix=f"repair or remove them, or set {self._field}={count}",
        )


def good_records(source: Source, budget: SkipBudget) -> Iterator[tuple[list[int], list[Element]]]:
    """Reads a whole source and yields (indices, elements) of the good records, part by part; the bad ones are noted."""
    for start in range(0, len(source), _CHUNK):
        indices = list(range(start, min(start + _CHUNK, len(source))))
        try:
            yield indices, read(source, indices)
        except BadRecordError:
            good, elements, found = [], [], []
            for index in indices:
                try:
                    elements.append(source[index])
                    good.append(index)
                except BadRecordError as record:
                    found.append(record)
            budget.note(*found)
            yield good, elements


class SkipBad(_Wrapper):
    """Another source in which a bad record is replaced by the next good one (cyclically), within a budget.

    Which records are replaced, and by which, depends on the data alone, so a resumed run skips the same ones.
    """

    def __init__(self, source: Source, budget: SkipBudget):
        self._budget = budget
        super().__init__(source)
        known = known_bad(source)
        budget.note(*(BadRecordError(name_of(source, index), reason) for index, reason in known.items()))

    def read(self, indices: Sequence[int]) -> list[Element]:
        try:
            return read(self._source, indices)
        except BadRecordError:
            return [self._next_good(int(index)) for index in indices]

    def _next_good(self, index: int) -> Element:
        for offset in range(len(self)):
            try:
                return self._source[(index + offset) % len(self)]
            except BadRecordError as record:
                self._budget.note(record)
        raise input_error(
            repr(self._source), expected="at least one good record", got="none", fix="repair the data set"
        )

    def known_bad(self) -> Mapping[int, str]:
        return {}
