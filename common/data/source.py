"""Examples with random access: the base of all sources, arrays in memory, and the order in which examples are seen.

Epochs, halves, subsets and held-out examples are decided by a seed; the random numbers are the same with every release
of NumPy.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from common.errors import InputError, input_error

Element = Mapping[str, np.ndarray]

MAX_PIXELS = 100_000_000  # of an image: the default of config.data.max_pixels

# Names of folders and arrays with a split, in any case; the test images are of the first group that is there.
TRAIN_NAMES = (("train", "training"),)
TEST_NAMES = (("test", "testing"), ("val", "valid", "validation"))

_BLOCK = 64  # elements at most that one thread reads before it takes the next ones
_THREADS = min(8, os.cpu_count() or 1)  # each holds one original image in memory


class OnDevice(NamedTuple):
    """A source as arrays for a device, and the pure function that makes examples of them inside a compiled step.

    `gather(arrays, index [B], random [B, num_random]) -> {name: [B, ...]}` gives what `Source.read` gives on the host.
    """

    arrays: Any
    gather: Callable[[Any, Any, Any], Mapping[str, Any]]


class BadRecordError(InputError):
    """An unusable record, `record`, and the `reason`."""

    def __init__(self, record: str, reason: str):
        super().__init__(f"{record}: {reason}")
        self.record = record
        self.reason = reason


class Source:
    """A fixed number of examples with random access; children define `fingerprint`, `__len__`, and `[]` or `read`.

    `source[i]` is a mapping of arrays (images `[H, W, C]`, uint8 or float32 in [0, 1]; the class `label`, int32 `[]`
    from 0 on) and depends on i alone. All elements have the same shapes and dtypes; only images that still have to be
    fitted or cropped differ in size. A record that cannot be read raises `BadRecordError`.

    `fingerprint` is a hash of the content, equal in every process. `num_classes` is None without labels. `num_random`
    is how many random numbers a training example takes besides its index, such as the place of its crop.
    `earlier_fingerprints` are what older versions called the same content, as far as that is known.
    """

    fingerprint: str
    earlier_fingerprints: Sequence[str] = ()
    num_classes: int | None = None
    num_random: int = 0

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Element:
        if not 0 <= index < len(self):
            raise IndexError(f"{self!r}: index {index} is outside [0, {len(self)})")
        return {name: array[0] for name, array in self.read([index]).items()}

    def name(self, index: int) -> str:
        """Returns what a message calls element `index`."""
        return f"{self!r}[{index}]"

    def origin(self, index: int) -> int:
        """Returns the number of the image that element `index` is a crop of; an uncropped image is its own origin."""
        return index

    def elements(self, indices: Sequence[int] | np.ndarray) -> Iterator[Element | BadRecordError]:
        """Yields the elements at `indices`, each read when it is asked for; for a bad record its error."""
        for index in indices:
            try:
                yield self[int(index)]
            except BadRecordError as error:
                yield error

    def read(self, index: Sequence[int] | np.ndarray, random: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Returns the examples at `index [B]` stacked, `{name: [B, ...]}`.

        `random` int32 `[B, num_random]`, each below 2**31 - 1, decides what is random; None: a fixed choice.
        """
        del random
        return stack(self.elements(index))

    @property
    def nbytes(self) -> int | None:
        """Bytes of all that `on_device` would hold, known without reading it; None if it must be streamed."""
        return len(self) * sum(array.nbytes for array in self[0].values())

    def on_device(self) -> OnDevice:
        """Returns the whole source as arrays for a device."""
        return OnDevice(load(self), gather_rows)

    def fixed(self) -> "Source":
        """Returns the examples to measure with: the source itself, or crops at fixed places instead of random ones."""
        return self


def stack(elements: Iterator[Element | BadRecordError]) -> dict[str, np.ndarray]:
    """Returns elements of equal shapes as arrays with a leading axis; raises the error of a bad record."""
    columns: dict[str, list[np.ndarray]] = {}
    for element in elements:
        if isinstance(element, BadRecordError):
            raise element
        for name, array in element.items():
            columns.setdefault(name, []).append(array)
    return {name: np.stack(arrays) for name, arrays in columns.items()}


def in_threads(function: Callable[[range], Any], count: int) -> list[Any]:
    """Returns `function(block)` for consecutive blocks of the numbers below `count`, computed by several threads."""
    size = max(1, min(_BLOCK, count // _THREADS))
    blocks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, blocks))


def load(source: Source) -> dict[str, np.ndarray]:
    """Returns the whole source stacked, read by several threads."""
    arrays = {name: np.empty((len(source), *array.shape), array.dtype) for name, array in source[0].items()}

    def fill(block: range) -> None:
        for name, values in source.read(block).items():
            arrays[name][block.start : block.stop] = values

    in_threads(fill, len(source))
    return arrays


def gather_rows(arrays: Mapping[str, Any], index: Any, random: Any = None) -> dict[str, Any]:
    """Returns the rows of stacked arrays at `index [B]`, inside a compiled function."""
    import jax.numpy as jnp

    del random
    return {name: jnp.asarray(array).at[index].get(mode="promise_in_bounds") for name, array in arrays.items()}


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


class ArraySource(Source):
    """Arrays in memory with a common leading axis; an array `label` holds classes, the largest number being the last.

    A non-finite number is an `InputError` that names array and index; with `defer_bad=True` only reading that element
    raises it. `label` is what messages call the source.
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
            if np.issubdtype(array.dtype, np.floating):
                finite = [np.isfinite(each).all() for each in array]  # one by one, for the sake of memory
                self._bad |= {int(i): f"{name} has NaN or infinite numbers" for i in np.flatnonzero(~np.array(finite))}
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

    def shapes(self) -> np.ndarray:
        """Returns the shapes of the images, int64 `[N, 3]`, zeros for records that cannot be used."""
        shapes = np.tile(np.asarray(self._arrays["image"].shape[1:], np.int64), (len(self), 1))
        shapes[list(self._bad)] = 0
        return shapes

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays.values())

    def on_device(self) -> OnDevice:
        if self._bad:
            self[min(self._bad)]
        return OnDevice(self._arrays, gather_rows)


MAX_LENGTH = 2**31 - 1  # examples are numbered in int32


def length_text(source: Source, noun: str) -> str:
    """Returns "60 images", or "unlimited images" for a source that makes each example when it is asked for."""
    return f"unlimited {noun}" if len(source) == MAX_LENGTH else f"{len(source)} {noun}"


_SHORT = 4096  # epochs of fewer examples are shuffled several at once, which takes one call instead of many
_LONG = 2**21  # longer ones in windows of this many consecutive examples, which bounds time and memory

# Different purposes of one seed must not share an order.
_HALVES, _HELD_OUT = 101, 102


def generator(seed: int, purpose: int, number: int = 0) -> np.random.RandomState:
    """Returns the generator of random numbers `number` for one of the purposes of a seed (modulo 2**64).

    `RandomState` and the bits of Philox are frozen (NEP 19): with another NumPy a resumed run goes on as it was.
    """
    return np.random.RandomState(_bits(seed, purpose, 0, number))


def _bits(seed: int, first: int, second: int, third: int) -> np.random.Philox:
    key, counter = ([seed % 2**64, first], [0, 0, second, third])
    return np.random.Philox(key=np.asarray(key, np.uint64), counter=np.asarray(counter, np.uint64))


def permutation(n: int, *, seed: int, purpose: int) -> np.ndarray:
    """Returns a random order of n numbers, int64 `[n]`."""
    return generator(seed, purpose).permutation(n)


def shuffled(start: int, stop: int, *, n: int, seed: int) -> np.ndarray:
    """Returns the indices `[stop - start]`, int32, of examples `start` to `stop` of the endless shuffled sequence.

    Every epoch holds each of the n examples once, in a new order; of more than 2**21, each window of so many
    consecutive ones is shuffled separately. Nothing before `start` is computed, so a resumed run begins at once.
    """
    parts = []
    epochs = max(1, _SHORT // n)
    while start < stop:
        epoch, place = divmod(start, n)
        first = place - place % _LONG
        order = _block(epoch // epochs, first // _LONG, epochs, min(_LONG, n - first), seed)
        parts.append(order[epoch % epochs * n + place - first :][: stop - start] + np.int32(first))
        start += len(parts[-1])
    return np.concatenate(parts)


@functools.lru_cache(maxsize=8)
def _block(block: int, window: int, epochs: int, count: int, seed: int) -> np.ndarray:
    """Returns one order of `count` numbers for each of several epochs, one after the other."""
    bits = _bits(seed, window, 1, block).random_raw((epochs, count))
    # Random keys are sorted with the numbers in their low bits: no ties, and many short orders in one call.
    low = np.uint64(_LONG - 1)
    keys = np.sort((bits & ~low) | np.arange(count, dtype=np.uint64), axis=1)
    return (keys & low).astype(np.int32).reshape(-1)


def choose(n: int, *, half: int = 0, subset: int = 0, seed: int = 0) -> np.ndarray:
    """Returns the indices of a half and of a subset of n examples.

    `half` 1 and 2 are disjoint and hold n // 2 examples each (the odd one is in neither); 0 takes all. `subset` keeps
    that many, and smaller subsets lie within larger ones (0 = all). Without either the order is that of the data.
    Raises `InputError` if there are too few examples.
    """
    if half not in (0, 1, 2):
        raise input_error("config.data.half", expected="0 (all), 1 or 2", got=half, fix="use one of them")
    if half == 0 and subset == 0:
        return np.arange(n)
    indices = permutation(n, seed=seed, purpose=_HALVES)
    if half:
        indices = indices[: n // 2] if half == 1 else indices[n // 2 : 2 * (n // 2)]
        if len(indices) == 0:
            raise input_error(
                "config.data.half", expected="at least 2 images to halve", got=n, fix="use half=0 or more images"
            )
    if not 0 <= subset <= len(indices):
        raise input_error(
            "config.data.subset",
            expected=f"0 (all) to {len(indices)}, the number of images there",
            got=subset,
            fix="use fewer, or a larger data set",
        )
    return indices[:subset] if subset else indices


def hold_out(n: int, *, fraction: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns sorted (train, test) indices; the test set is a seeded `fraction` of the examples, at least one."""
    if n < 2:
        raise input_error(
            "config.data.source", expected="at least 2 images, one of them for testing", got=n, fix="add images"
        )
    order = permutation(n, seed=seed, purpose=_HELD_OUT)
    count = max(1, round(fraction * n))
    return np.sort(order[count:]), np.sort(order[:count])
