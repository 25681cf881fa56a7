"""Where every random number comes from: keys derived from seed, purpose and step, and keys that users give.

Users give typed keys, raw ones or seeds to public functions; there is no stateful generator anywhere.
"""

import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from common.errors import input_error


class Purpose(enum.IntEnum):
    """The purpose of a key; two purposes never have the same random numbers."""

    INIT = 0
    AUGMENT = 1
    LOSS = 2
    PREVIEW = 3
    SAMPLE = 4
    EVALUATE = 5
    HELD_OUT = 6


def key_for(root: jax.Array, purpose: Purpose, step: int | jax.Array = 0) -> jax.Array:
    """Returns `fold_in(fold_in(root, purpose), step)`; `step` may be traced."""
    return jax.random.fold_in(jax.random.fold_in(root, int(purpose)), step)


_MOST = 2**32  # JAX would cut a larger seed to its last 32 bits


def as_key(key: object, *, field: str = "key") -> jax.Array:
    """Returns one typed PRNG key; raises `InputError` for anything else than a key, a raw key or a seed.

    key: what `jax.random.key` returns, what `jax.random.PRNGKey` returns (of the default implementation), or a whole
    number from 0 to 2^32 - 1, which stands for `jax.random.key(number)`.
    """
    return as_keys(key, None, field=field)


def as_keys(key: object, number: int | None, *, field: str = "key") -> jax.Array:
    """Returns one typed PRNG key `[]`, or `number` of them `[number]` where so many are given; see `as_key`."""
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        if 0 <= key < _MOST:
            return jax.random.key(int(key))
        raise _wrong(field, number, f"{key}")
    if not isinstance(key, jax.Array | np.ndarray):
        raise _wrong(field, number, f"{key!r}" if isinstance(key, bool | float | str | None) else type(key).__name__)
    found: Any = key
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        traced = isinstance(key, Tracer)
        if key.ndim == 0 and np.issubdtype(key.dtype, np.integer):
            return jax.random.key(key) if traced else as_keys(int(key), number, field=field)
        raw = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape
        if key.dtype != np.uint32 or key.shape[-1:] != raw:
            raise _wrong(field, number, f"{key.dtype} {list(key.shape)}")
        found = jax.random.wrap_key_data(jnp.asarray(key))
    if found.shape not in ((), *([] if number is None else [(number,)])):
        raise _wrong(field, number, f"keys of shape {list(found.shape)}")
    return found


def _wrong(field, number, got):
    several = "" if number is None else f", or {number} such keys, one a sample"
    return input_error(
        field,
        expected=f"a key (typed or raw) or a seed from 0 to 2^32 - 1{several}",
        got=got,
        fix="use jax.random.key(0)",
    )
