"""Orders computed element by element: integer hashes and keyed permutations, the same in NumPy and in jax.numpy.

Nothing is stored and nothing is sorted, so any step's examples are found at once, on the host or inside a jitted step.
All arithmetic is uint32 with wrap-around; `xp` is `numpy` or `jax.numpy`.
"""

from typing import Any

import numpy as np

MAX_LENGTH = 2**31 - 1  # places are int32 outside and need one spare bit inside

# An adjacent pair stays adjacent through one round with probability 1/2, so 24 rounds leave 6e-8 of such pairs.
ROUNDS = 24

_UNROLL = 4  # rounds in one iteration of the compiled loop: few launches on a GPU, quick to compile
_GOLDEN = 0x9E3779B9


def words(seed: int) -> tuple[np.uint32, np.uint32]:
    """Returns the low and the high 32 bits of a seed (taken modulo 2**64)."""
    return np.uint32(seed & 0xFFFFFFFF), np.uint32((seed >> 32) & 0xFFFFFFFF)


def mix(x: Any, *, xp: Any = np) -> Any:
    """Scrambles uint32 `x` by a bijection in which every bit of the input reaches every bit of the output.

    Two rounds of xor-shift and multiplication, with the multipliers of the "lowbias32" search (C. Wellons, 2018).
    """
    x = _stirred(xp.asarray(x, dtype=xp.uint32), xp)
    return x ^ (x >> 16)


def _stirred(x: Any, xp: Any) -> Any:
    """The part of `mix` that decides its highest bit."""
    x = (x ^ (x >> 16)) * xp.uint32(0x7FEB352D)
    return (x ^ (x >> 15)) * xp.uint32(0x846CA68B)


def hashed(*values: Any, xp: Any = np) -> Any:
    """Hashes any number of uint32 values, broadcast against each other, to one uint32 of their common shape."""
    # NumPy warns of wrap-around for scalars but not for arrays: hence the leading axis, dropped at the end.
    state = xp.zeros((1,), xp.uint32)
    for value in values:
        state = mix((state + xp.uint32(_GOLDEN)) ^ xp.asarray(value, dtype=xp.uint32), xp=xp)
    return state if any(np.ndim(value) for value in values) else state[0]


def epoch_key(seed: int, epoch: Any, *, xp: Any = np) -> tuple[Any, Any]:
    """Returns the two uint32 words that key the order of one epoch (elementwise over an array of epochs)."""
    low, high = words(seed)
    first, second = hashed(low, high, 1), hashed(low, high, 2)
    return hashed(epoch, xp=xp) ^ xp.uint32(first), hashed(epoch, second, xp=xp)


def permuted(position: Any, *, n: int, key: tuple[Any, Any], xp: Any = np) -> Any:
    """Returns where a keyed permutation of [0, n) sends `position`, elementwise, as uint32.

    The swap-or-not shuffle (Hoang, Morris, Rogaway, CRYPTO 2012, figure 1): round r pairs x with K_r - x (mod n) and
    swaps the pair if a hash of its larger member says so. It is a bijection for every n and takes the same number
    of rounds for every element, so a compiled step needs no loop that ends on data.
    `position` must lie in [0, n), n in [1, 2**31); `key` are two uint32 words or arrays that broadcast with it.
    """
    if not 1 <= n <= MAX_LENGTH:
        raise ValueError(f"n: expected 1 to {MAX_LENGTH}, got {n}")
    position = xp.asarray(position, dtype=xp.uint32)
    shape = np.broadcast_shapes(np.shape(position), np.shape(key[0]), np.shape(key[1]))
    size, half = xp.uint32(n), xp.uint32(2**31)
    offsets = (np.arange(ROUNDS, dtype=np.uint64) * _GOLDEN).astype(np.uint32)
    offsets = xp.asarray(offsets).reshape((ROUNDS,) + (1,) * max(len(shape), 1))
    pivots, coins = (mix(xp.asarray(word, dtype=xp.uint32) + offsets, xp=xp) for word in key)
    rounds = (pivots % size, coins)

    def swap_or_not(x, one):
        pivot, coin = one
        partner = xp.where(x > pivot, pivot + size, pivot) - x
        return xp.where(_stirred(xp.maximum(x, partner) ^ coin, xp) >= half, partner, x)

    x = xp.broadcast_to(position, shape or (1,))
    if xp is np:
        for one in zip(*rounds, strict=True):
            x = swap_or_not(x, one)
    else:
        from jax import lax

        x, _ = lax.scan(lambda x, one: (swap_or_not(x, one), None), x, rounds, unroll=_UNROLL)
    return x.reshape(shape)
