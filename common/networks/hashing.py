"""Random bits as a hash of numbers, all of uint32 with wrap-around: quicker to compile and to run than a generator."""

from typing import Any

import jax.numpy as jnp

_GOLDEN = 0x9E3779B9


def mix(x: Any) -> Any:
    """Scrambles uint32 `x` by a bijection in which every bit of the input reaches every bit of the output.

    Two rounds of xor-shift and multiplication, with the multipliers of the "lowbias32" search (C. Wellons, 2018).
    """
    x = jnp.asarray(x, jnp.uint32)
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def hashed(*values: Any) -> Any:
    """Hashes any number of uint32 values, broadcast against each other, to one uint32 of their common shape."""
    state = jnp.uint32(0)
    for value in values:
        state = mix((state + jnp.uint32(_GOLDEN)) ^ jnp.asarray(value, jnp.uint32))
    return state
