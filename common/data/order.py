"""Which examples, and in which order: epochs, halves, subsets and held-out examples, decided by a seed.

The random numbers are the same with every release of NumPy.
"""

import functools

import numpy as np

from common.errors import input_error

MAX_LENGTH = 2**31 - 1  # examples are numbered in int32

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

    Every epoch holds each of the n examples once, in an order of its own; of more than 2**21, each window of so many
    consecutive ones has an order of its own. Nothing before `start` is computed, so a resumed run begins at once.
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
