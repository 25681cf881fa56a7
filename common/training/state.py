"""The training state: its shapes without computing any, its first values, and its averaging."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from common.method import Method, PyTree, Variables
from common.training.settings import Settings


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


def augmented(method: Method, source) -> dict[str, Any]:
    """Returns shapes and types of the first example of `source` after augmentation."""
    return jax.eval_shape(method.augment, _key(), dict(source[0]))


def abstract_batch(example: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """Returns shapes and types of a training batch of `batch_size` such examples."""
    batch = {name: jax.ShapeDtypeStruct((batch_size, *x.shape), x.dtype) for name, x in example.items()}
    batch["position"] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    batch["progress"] = jax.ShapeDtypeStruct((), jnp.float32)
    return batch


def abstract_state(method: Method, settings: Settings, source) -> TrainState:
    """Returns shapes and types of the training state; the network is traced, so that its shapes are checked."""

    def first(key, batch):
        return create(method.init(key, batch), settings.optimizer, ema=settings.ema_decay > 0)

    return jax.eval_shape(first, _key(), abstract_batch(augmented(method, source), settings.batch_size))


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))
