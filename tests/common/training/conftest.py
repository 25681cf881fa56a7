"""A method small enough to follow by hand: least squares with keyed noise and a running mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.method import Aux, Variables
from common.training.settings import make_optimizer, make_schedule
from common.training.step import make_step

FEATURES = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
TARGETS = FEATURES @ np.array([1.0, -2.0, 0.5], np.float32)


def example_keys(key, position):
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(position)


def toy_init(key, batch):
    del batch
    return Variables({"w": 0.1 * jax.random.normal(key, (3,))}, {"mean": jnp.zeros(())})


def toy_loss(variables, key, batch, axis_name=None):
    noise = 0.1 * jax.vmap(jax.random.normal)(example_keys(key, batch["position"]))
    error = batch["x"] @ variables.params["w"] - batch["y"] + noise
    mean = jnp.mean(batch["y"])
    if axis_name is not None:
        mean = jax.lax.pmean(mean, axis_name)
    stats = {"mean": 0.9 * variables.stats["mean"] + 0.1 * mean}
    return jnp.mean(error**2), Aux(stats, {"progress": batch["progress"]})


def assemble(resident, fetched, position, key):
    del key
    index = (fetched["offset"] + position) % 40
    return {"x": resident["x"][index], "y": resident["y"][index], "index": index}


@pytest.fixture
def make_toy_step():
    """Returns `make(**changes) -> (step, resident, optimizer)` with a batch of eight."""

    def make(*, rate=0.05, targets=TARGETS, total_steps=20, batch_size=8, **changes):
        schedule = make_schedule("constant", learning_rate=rate, steps=total_steps)
        optimizer = make_optimizer("adam", schedule)
        step = make_step(
            **{
                "loss": toy_loss,
                "assemble": assemble,
                "positions": lambda: jnp.arange(batch_size, dtype=jnp.int32),
                "optimizer": optimizer,
                "schedule": schedule,
                "root": jax.random.key(3),
                "total_steps": total_steps,
                **changes,
            }
        )
        return step, {"x": FEATURES, "y": targets}, optimizer

    return make


@pytest.fixture
def toy_variables():
    return toy_init(jax.random.key(1), {})
