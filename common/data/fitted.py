"""Images made fit for training: read one at a time, kept in memory up to a limit, and a budget for bad records."""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from common.data.source import BadRecordError, Element, Source, digest, in_threads
from common.errors import input_error

_LOG = logging.getLogger(__name__)


class SkipBudget:
    """How many different bad records a run accepts; one more is an `InputError` that names them."""

    def __init__(self, limit: int, *, field: str = "config.data.skip_bad"):
        self._limit = limit
        self._field = field
        self._skipped: dict[str, str] = {}

    def count(self, *records: BadRecordError) -> None:
        """Counts the records that were not seen before; raises once there are more than the limit."""
        new = {record.record: record.reason for record in records if record.record not in self._skipped}
        self._skipped.update(new)
        if (count := len(self._skipped)) > self._limit:
            shown = [f"{name}: {reason}" for name, reason in self._skipped.items()]
            raise input_error(
                self._field,
                expected=f"at most {self._limit} bad records",
                got=f"{count} ({'; '.join(shown[:3] + ['...'] * (count > 3))})",
                fix=f"repair or remove them, or set {self._field}={count}",
            )
        for name, reason in new.items():
            _LOG.warning("skipped %s: %s (%d of at most %d)", name, reason, count, self._limit)


class Fitted(Source):
    """The images of `raw` (which has `shapes()`), each after the pure function `fit`: image -> image.

    A `ValueError` of `fit` makes a bad record. In place of a bad record stands the next good one (cyclically), within
    the budget; which one depends on the data alone. `label` says what `fit` does and enters the fingerprint. Results
    of up to `cache_bytes` in all stay in memory; of originals each thread holds one.
    """

    def __init__(
        self,
        raw: Any,
        fit: Callable[[np.ndarray], dict[str, np.ndarray]],
        *,
        label: str,
        budget: SkipBudget,
        cache_bytes: int = 0,
    ):
        self._raw = raw
        self._chosen = np.arange(len(raw))
        self._fit = fit
        self._label = label
        self._budget = budget
        self._cache: dict[int, Element] = {}
        self._free = [cache_bytes]  # in a list, as subsets share it
        self.num_classes = raw.num_classes
        self.fingerprint = digest("fitted", raw.fingerprint, label)

    def subset(self, chosen: Sequence[int]) -> "Fitted":
        """Returns the images at `chosen`, in that order, with the same budget and memory."""
        part = copy.copy(self)
        part._chosen = self._chosen[np.asarray(chosen, np.int64)]
        part.fingerprint = digest("subset", self.fingerprint, part._chosen)
        return part

    def __repr__(self) -> str:
        part = "" if len(self) == len(self._raw) else f"[{len(self)} images]"
        return f"{self._raw!r}{part}.{self._label}"

    def __len__(self) -> int:
        return len(self._chosen)

    def name(self, index: int) -> str:
        return self._raw.name(int(self._chosen[index]))

    def shapes(self) -> np.ndarray:
        """Returns the shapes of the original images, int64 `[N, 3]`, zeros where they cannot be read."""
        return self._raw.shapes()[self._chosen]

    def elements(self, indices: Sequence[int]) -> Iterator[Element]:
        """Yields the elements at `indices`, each read when it is asked for; the next good one for a bad record."""
        indices = np.asarray(indices, np.int64)
        for index, element in zip(indices.tolist(), self.records(indices), strict=True):
            yield self._next_good(index, element) if isinstance(element, BadRecordError) else element

    def scan(self, function: Callable[[Element], Any] = lambda element: None) -> tuple[np.ndarray, list[Any]]:
        """Reads every image once, by several threads; returns the places of the good ones and `function` of each.

        The bad ones are counted together, so that an error states how many there are.
        """

        def read(block: range) -> list[Any]:
            return [each if isinstance(each, BadRecordError) else [function(each)] for each in self.records(block)]

        results = [result for block in in_threads(read, len(self)) for result in block]
        self._budget.count(*(result for result in results if isinstance(result, BadRecordError)))
        good = [index for index, result in enumerate(results) if not isinstance(result, BadRecordError)]
        return np.asarray(good, np.int64), [results[index][0] for index in good]

    def records(self, indices: Sequence[int]) -> Iterator[Element | BadRecordError]:
        """Yields the elements at `indices` as `elements` does, but the error of a bad record instead of a good one."""
        places = self._chosen[np.asarray(indices, np.int64)].tolist()
        cached = [self._cache.get(place) for place in places]
        fresh = self._raw.elements([place for place, each in zip(places, cached, strict=True) if each is None])
        for index, each in zip(places, cached, strict=True):
            yield self._fit_one(index, next(fresh)) if each is None else each

    def _fit_one(self, index: int, element: Element | BadRecordError) -> Element | BadRecordError:
        if isinstance(element, BadRecordError):
            return element
        try:
            fitted = {**element, **self._fit(element["image"])}
        except ValueError as error:
            return BadRecordError(self._raw.name(index), str(error))
        image, original = fitted["image"], element["image"]
        if image.nbytes < original.nbytes and np.may_share_memory(image, original):
            fitted["image"] = image.copy()  # a view would keep the original in memory
        # Two threads may both keep an element, or pass the limit by one each: harmless, so there is no lock.
        if self._free[0] > 0:
            self._free[0] -= sum(array.nbytes for array in fitted.values())
            self._cache[index] = fitted
        return fitted

    def _next_good(self, index: int, error: BadRecordError) -> Element:
        for offset in range(1, len(self) + 1):
            self._budget.count(error)
            element = next(self.records([(index + offset) % len(self)]))
            if not isinstance(element, BadRecordError):
                return element
            error = element
        raise input_error(repr(self._raw), expected="at least one good record", got="none", fix="repair the data set")
