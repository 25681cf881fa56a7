"""Where every random number comes from: a key derived from seed, purpose and step, never from a stateful generator."""

import enum

import jax


class Purpose(enum.IntEnum):
    """What a key is used for; two purposes never have the same random numbers."""

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
