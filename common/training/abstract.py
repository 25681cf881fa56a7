"""Shapes and types of batches and training states, without computing any."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from common.method import Method
from common.training import state as states
from common.training.settings import Settings
from common.training.state import TrainState


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

    def create(key, batch):
        return states.create(method.init(key, batch), settings.optimizer, ema=settings.ema_decay > 0)

    return jax.eval_shape(create, _key(), abstract_batch(augmented(method, source), settings.batch_size))


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))
