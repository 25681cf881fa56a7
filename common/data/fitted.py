"""Images made fit for training: read one at a time, kept in memory up to a limit, cut into squares of any place."""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from common.data.source import BadRecordError, Element, OnDevice, Source, digest, in_threads, stack
from common.errors import input_error

_LOG = logging.getLogger(__name__)


class SkipBudget:
    """The number of different bad records that a run accepts; one more is an `InputError` that names them."""

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
    the budget; which one depends on the data alone. `label` describes `fit` and enters the fingerprint. Results
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

    def subset(self, chosen: Sequence[int] | np.ndarray) -> "Fitted":
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

    def elements(self, indices: Sequence[int] | np.ndarray) -> Iterator[Element]:
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

    def records(self, indices: Sequence[int] | np.ndarray) -> Iterator[Element | BadRecordError]:
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


class Crops(Source):
    """One `size` x `size` crop of each image; in training its place is random, uniform over the image.

    Two random numbers, taken modulo the number of rows and columns where a crop can begin, decide its corner, so a bad
    image may be replaced by another one of any size; without them it is the middle of the image.
    """

    num_random = 2

    def __init__(self, images: Fitted, *, size: int):
        self._images = images
        self._size = size
        self.num_classes = images.num_classes
        self.fingerprint = digest("crops", images.fingerprint, size)

    def __repr__(self) -> str:
        return f"{self._images!r}.crops({self._size})"

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return self._images.name(index)

    def read(self, index: Sequence[int] | np.ndarray, random: np.ndarray | None = None) -> dict[str, np.ndarray]:
        return stack(self._cut(index, random))

    def _cut(self, index: Sequence[int] | np.ndarray, random: np.ndarray | None) -> Iterator[Element]:
        size = self._size
        for number, element in enumerate(self._images.elements(index)):
            image = element["image"]
            places = np.asarray(image.shape[:2]) - size + 1
            row, column = (places - 1) // 2 if random is None else random[number] % places
            # A copy, since a view would keep the whole image in memory.
            yield {**element, "image": image[row : row + size, column : column + size].copy()}

    def fixed(self) -> "FixedCrops":
        return FixedCrops(self, self._images.shapes(), self._size)

    @property
    def nbytes(self) -> int | None:
        """Bytes of the images; None if their pixels cannot be numbered in int32."""
        total = int(self._images.shapes()[:, :2].prod(axis=1).sum())
        total *= self[0]["image"].nbytes // self._size**2
        return total if total < 2**31 else None

    def on_device(self) -> OnDevice:
        """Packs the images one after the other, rows on rows without padding, and gathers the rows of a crop.

        Of the layouts tried (padded stack, tall atlas, single pixels, a loop) this one was the fastest or near it at
        every batch and crop size, and it wastes nothing on images of two orientations.
        """
        import jax
        import jax.numpy as jnp

        if self.nbytes is None:
            raise input_error(
                "config.data.placement", expected="'stream' for so many pixels", got="'device'", fix="use 'stream'"
            )
        elements = [
            element
            for block in in_threads(lambda block: list(self._images.elements(block)), len(self))
            for element in block
        ]
        images = [element["image"] for element in elements]
        arrays = {
            "pixels": np.concatenate([image.reshape(-1) for image in images]),
            "start": np.cumsum([0] + [image.size for image in images[:-1]], dtype=np.int32),
            "shape": np.asarray([image.shape[:2] for image in images], np.int32),
            "others": {name: np.stack([each[name] for each in elements]) for name in elements[0] if name != "image"},
        }
        size, channels = self._size, images[0].shape[-1]

        def gather(arrays: Any, index: Any, random: Any) -> dict[str, Any]:
            shape = jnp.asarray(arrays["shape"])[index]
            row, column = jnp.moveaxis(random % (shape - size + 1), 1, 0)
            # Starts of the crops' pixel rows in the packed buffer, [B, size].
            rows = row[:, None] + jnp.arange(size, dtype=jnp.int32)
            places = rows * shape[:, 1:] + column[:, None]
            starts = jnp.asarray(arrays["start"])[index][:, None] + places * channels
            slices = jax.vmap(lambda start: jax.lax.dynamic_slice(arrays["pixels"], (start,), (size * channels,)))
            crops = slices(starts.reshape(-1)).reshape(-1, size, size, channels)
            return {**{name: jnp.asarray(array)[index] for name, array in arrays["others"].items()}, "image": crops}

        return OnDevice(arrays, gather)


class FixedCrops(Source):
    """All crops of the images on a grid of half a crop, in the order of the images, whose shapes are `[N, 3]`."""

    def __init__(self, crops: Crops, shapes: np.ndarray, size: int):
        self._crops = crops
        self._step = max(1, size // 2)
        lengths = shapes[:, :2]
        counts = np.where(lengths < size, 0, (lengths - size) // self._step + 1)
        self._first = (lengths - size - self._step * (counts - 1)) // 2  # what the grid leaves over lies on both sides
        self._across = counts[:, 1]
        self._ends = np.cumsum(counts.prod(axis=1))
        self.num_classes = crops.num_classes
        self.fingerprint = digest("fixed", crops.fingerprint)

    def __repr__(self) -> str:
        return f"{self._crops!r}.fixed()"

    def __len__(self) -> int:
        return int(self._ends[-1])

    def name(self, index: int) -> str:
        return f"crop {index} in {self._crops.name(self.origin(index))}"

    def origin(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))

    def read(self, index: Sequence[int] | np.ndarray, random: np.ndarray | None = None) -> dict[str, np.ndarray]:
        del random
        index = np.asarray(index, np.int64)
        image = np.searchsorted(self._ends, index, side="right")
        place = index - np.where(image > 0, self._ends[image - 1], 0)
        grid = np.stack(np.divmod(place, self._across[image]), axis=-1)
        return self._crops.read(image, self._first[image] + self._step * grid)
