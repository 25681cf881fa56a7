"""Random numbers and orders that a seed and a number decide, the same with every release of NumPy."""

import functools

import numpy as np

MAX_LENGTH = 2**31 - 1  # examples are numbered in int32

_SHORT = 4096  # epochs of fewer examples are shuffled several at once, which takes one call instead of many
_LONG = 2**21  # longer ones in windows of this many consecutive examples, which bounds time and memory


def generator(seed: int, purpose: int, number: int = 0) -> np.random.RandomState:
    """Returns the generator of draw `number` for one of the purposes of a seed (modulo 2**64).

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
