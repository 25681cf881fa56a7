"""The training state and its averaging."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from common.method import PyTree, Variables


class TrainState(NamedTuple):
    """Everything that changes while training; one copy, whatever the number of devices.

    `step` is int32 `[]`, the number of steps taken; `ema_params` is `()` when averaging is off.
    """

    step: jax.Array
    params: PyTree
    stats: PyTree
    ema_params: PyTree
    opt_state: Any


def create(variables: Variables, optimizer: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """Returns the state before the first step; the average starts at the initial parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables.params,
        stats=variables.stats,
        # A copy: the state is donated, and one buffer must not be donated twice.
        ema_params=jax.tree.map(jnp.copy, variables.params) if ema else (),
        opt_state=optimizer.init(variables.params),
    )


def update_ema(ema_params: PyTree, params: PyTree, update: jax.Array, *, decay: float, warmup: bool) -> PyTree:
    """Returns `d ema + (1 - d) params`, `d = min(decay, (1 + n) / (10 + n))` in update n = 1, 2, ...

    Without warm-up `d = decay`.
    """
    d = jnp.minimum(decay, (1.0 + update) / (10.0 + update)) if warmup else decay
    return jax.tree.map(lambda e, p: (d * e + (1.0 - d) * p).astype(e.dtype), ema_params, params)
