"""The training state, and one optimisation step as a pure function, the same text on any number of devices."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from common.method import Aux, Method, PyTree, Variables
from common.prng import Purpose, key_for
from common.training.settings import Settings


class TrainState(NamedTuple):
    """Everything that changes while training; one copy on any number of devices.

    `step` is int32 `[]`, the number of steps taken; `ema_params` is `()` when averaging is off.
    """

    step: Any  # an array, of NumPy before the first step
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


Step = Callable[[TrainState, PyTree, Mapping[str, Any]], tuple[TrainState, Mapping[str, jax.Array]]]


def make_step(
    *,
    loss: Callable[..., tuple[jax.Array, Aux]],
    assemble: Callable[..., Mapping[str, jax.Array]],
    positions: Callable[[], jax.Array],
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    root: jax.Array,
    total_steps: int,
    ema_decay: float = 0.0,
    ema_warmup: bool = True,
    accumulate: int = 1,
    unroll: bool = False,
    axis_name: str | None = None,
) -> Step:
    """Returns `step(state, resident, fetched) -> (state, metrics)`, not yet compiled.

    `fetched` is one step's part of what `Batches.fetch` returned, `positions()` the places in the global batch that
    this program computes. With `axis_name`, loss, gradients and metrics are averaged over that axis; without, the
    batch is the whole one under any sharding. A step whose loss or gradient is not finite changes nothing but
    `state.step` and reports `finite = 0`: the state that is saved is always a good one. `unroll` writes the
    micro-batches out one by one instead of looping over them.
    """

    def gradients(state: TrainState, batch):
        key = key_for(root, Purpose.LOSS, state.step)

        def objective(params, stats, part):
            return loss(Variables(params, stats), key, part)

        grad = jax.value_and_grad(objective, has_aux=True)
        if accumulate == 1:
            (value, aux), grads = grad(state.params, state.stats, batch)
            return value, aux, grads

        def one(carry, part):
            stats, total = carry
            (value, aux), grads = grad(state.params, stats, part)
            return (aux.stats, jax.tree.map(jnp.add, total, grads)), (value, aux.metrics)

        # Every micro-batch takes each `accumulate`-th example, so a batch sharded over devices stays where it is.
        shared, split = {}, {}
        for name, x in batch.items():
            if x.ndim == 0:
                shared[name] = x
            else:
                split[name] = jnp.swapaxes(x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 0, 1)
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        (stats, grads), (values, metrics) = jax.lax.scan(
            lambda carry, part: one(carry, {**part, **shared}), (state.stats, zeros), split, unroll=unroll
        )
        mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), (values, metrics))
        return mean[0], Aux(stats, mean[1]), jax.tree.map(lambda g: g / accumulate, grads)

    def step(state: TrainState, resident: PyTree, fetched: Mapping[str, Any]):
        position = positions()
        batch = dict(assemble(resident, fetched, position, key_for(root, Purpose.AUGMENT, state.step)))
        batch["position"] = position
        batch["progress"] = state.step.astype(jnp.float32) / total_steps
        value, aux, grads = gradients(state, batch)
        metrics, stats = {"loss": value, **aux.metrics}, aux.stats
        if axis_name is not None:
            metrics, grads, stats = jax.lax.pmean((metrics, grads, stats), axis_name)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = state.ema_params
        if ema_decay > 0:
            ema_params = update_ema(ema_params, params, state.step + 1, decay=ema_decay, warmup=ema_warmup)
        new = TrainState(state.step + 1, params, stats, ema_params, opt_state)
        new = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, state)._replace(step=state.step + 1)
        # The optimizer counts its own updates: after skipped steps it is that many steps behind this value.
        rate = jnp.asarray(schedule(state.step), jnp.float32)
        return new, {**metrics, "grad_norm": norm, "learning_rate": rate, "finite": finite.astype(jnp.float32)}

    return step


def make_held_out_step(
    *,
    loss: Callable[..., tuple[jax.Array, Aux]],
    assemble: Callable[..., Mapping[str, jax.Array]],
    positions: Callable[[], jax.Array],
    root: jax.Array,
    total_steps: int,
    axis_name: str | None = None,
) -> Step:
    """Returns `step(state, resident, fetched) -> (state, {"held_out_loss"})`, which leaves the state as it is.

    The arguments are those of `make_step`, for the batches of held-out data. Augmentation and noise are keyed by the
    batch alone, so that a batch has the same ones at every step of the run. The loss is that of the averaged
    parameters, where the run keeps an average.
    """

    def step(state: TrainState, resident: PyTree, fetched: Mapping[str, Any]):
        key = jax.random.fold_in(key_for(root, Purpose.HELD_OUT), fetched["step"])
        augment_key, loss_key = jax.random.split(key)
        position = positions()
        batch = dict(assemble(resident, fetched, position, augment_key))
        batch["position"] = position
        batch["progress"] = state.step.astype(jnp.float32) / total_steps
        value, _ = loss(Variables(state.ema_params or state.params, state.stats), loss_key, batch)
        return state, {"held_out_loss": value if axis_name is None else jax.lax.pmean(value, axis_name)}

    return step


def scan_steps(step: Step, *, unroll: bool = False) -> Step:
    """Returns a step over `fetched` with a leading axis `[k]` that takes `k` steps and stacks their metrics."""

    def steps(state: TrainState, resident: PyTree, fetched: Mapping[str, Any]):
        if jax.tree.leaves(fetched)[0].shape[0] == 1:
            state, metrics = step(state, resident, jax.tree.map(lambda x: x[0], fetched))
            return state, jax.tree.map(lambda x: x[None], metrics)
        return jax.lax.scan(lambda s, f: step(s, resident, f), state, fetched, unroll=unroll)

    return steps
