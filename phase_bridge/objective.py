"""What networks are trained to, for bridges and for what they are compared with: one loss for all.

An `Objective` says how a noisy state is made of data, what the network is shown of it, and what its output means.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.data.batches import example_keys
from common.method import Aux, Variables


class Objective(NamedTuple):
    """A training objective as pure functions of states `[B, ..., parts C]`, data `[B, ..., C]` and times `[B]`.

    `times(key) -> t []`; `perturb(x1, noise, t) -> state` with standard normal noise of the state's shape;
    `inputs(state, t) -> [B, ..., C']` is what the network sees, beside `label(t)`, as a time; `target(x1, noise, t)`
    is what its output should be and `weight(t)` that of the squared error; `read(output, state, t)` turns its output
    into what the samplers of this objective expect. `couple(x1, noise) -> x1`, if there is one, pairs the data and the
    noise of a batch anew; `of_kind(kind)` is the same for samplers of another kind.
    """

    name: str
    parts: int
    times: Callable[[jax.Array], jax.Array]
    perturb: Callable[..., jax.Array]
    inputs: Callable[[jax.Array, jax.Array], jax.Array]
    label: Callable[[jax.Array], jax.Array]
    target: Callable[..., jax.Array]
    weight: Callable[[jax.Array], jax.Array]
    read: Callable[..., jax.Array]
    couple: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    of_kind: Callable[[str], "Objective"] | None = None


def beside(t: jax.Array, like: jax.Array) -> jax.Array:
    """Returns t `[]` or `[B]` with axes added so that it multiplies `like [B, ...]`."""
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim)) if t.ndim else t


def loss(
    network: nn.Module,
    objective: Objective,
    variables: Variables,
    key: jax.Array,
    batch: Mapping[str, Any],
    *,
    dropout: bool = False,
) -> tuple[jax.Array, Aux]:
    """Returns mean(weight (network - target)^2) over the batch's examples and their numbers.

    `batch` has `data [B, ..., C]`, `position [B]` (keys the draws of time, noise and dropout) and, for models of
    classes, `label [B]`.
    """
    x1 = batch["data"]
    shape = (*x1.shape[1:-1], objective.parts * x1.shape[-1])

    def draw(key):
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        return objective.times(time_key), jax.random.normal(noise_key, shape, x1.dtype), dropout_key

    t, noise, keys = jax.vmap(draw)(example_keys(key, batch["position"]))
    if objective.couple is not None:
        x1 = objective.couple(x1, noise)
    state = objective.perturb(x1, noise, t)
    output = network.apply(
        {"params": variables.params, "stats": variables.stats},
        objective.inputs(state, t),
        objective.label(t),
        batch.get("label"),
        keys if dropout else None,
    )
    squared = jnp.square(output - objective.target(x1, noise, t))
    weighted = beside(objective.weight(t), squared) * squared
    return weighted.mean(), Aux(variables.stats, {"unweighted": squared.mean()})


def field(network: nn.Module, objective: Objective, variables: Variables, labels: jax.Array | None = None):
    """Returns the trained function `(state [B, ..., parts C], t [] or [B]) -> [B, ..., C]` that samplers take.

    A pytree whose leaves are the weights (and `labels [B]`), so a jitted sampler serves every checkpoint.
    """
    return jax.tree_util.Partial(_Field(network, objective), variables, labels)


class _Field:
    """A callable that is equal to another of the same network and objective, as `jit` wants of what it compiles."""

    def __init__(self, network: nn.Module, objective: Objective):
        self._parts = (network, objective)

    def __call__(self, variables, labels, state, t):
        network, objective = self._parts
        t = jnp.asarray(t, state.dtype)
        tree = {"params": variables.params, "stats": variables.stats}
        output = network.apply(tree, objective.inputs(state, t), objective.label(t), labels)
        return objective.read(output, state, t)

    def __eq__(self, other):
        return isinstance(other, _Field) and self._parts == other._parts

    def __hash__(self):
        return hash(self._parts)
