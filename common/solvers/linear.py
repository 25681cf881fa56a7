"""Samplers whose every step is linear in the state, in past outputs of a field, and in noise.

With the state as k parts of equal length side by side on its last axis (k = 1: a position; k = 2: position, velocity),
evaluation n of N is

    m <- before_n m + before_noise_n z          (where the rule has something to do before the evaluation)
    F = field(m, t_n)
    q_n = history_n . [F, m],  estimate_n = estimate_n . [F, m]
    m <- transition_n m + sum_j weights_nj q_(n-j) + noise_n z'

so a rule is a table of numbers, made on the host in float64, and one loop runs them all: Euler, Euler-Maruyama,
multistep exponential integrators, DDIM, DPM-Solver++, splittings. The tables are arguments of the compiled program:
another schedule of the same length, like other weights of the field, compiles nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from common.errors import input_error

Field = Callable[[jax.Array, jax.Array], jax.Array]  # (m [B, ..., kC], t []) -> [B, ..., C]
Noise = Callable[[jax.Array, jax.Array, int, Any], jax.Array]  # (keys [B], n, which, like) -> standard normal numbers


class Steps(NamedTuple):
    """The table of a rule for N evaluations with a state of k parts, of which q outputs are remembered."""

    times: np.ndarray  # [N], of the evaluations
    history: np.ndarray  # [N, 1 + k], what is remembered: a multiple of F and of the parts of the state
    estimate: np.ndarray  # [N, 1 + k], what is reported
    transition: np.ndarray  # [N, k, k]
    weights: np.ndarray  # [N, q, k], of what is remembered, the newest first
    noise: np.ndarray | None = None  # [N, k, c], of c independent normal numbers
    before: np.ndarray | None = None  # [N, k, k]
    before_noise: np.ndarray | None = None  # [N, k, c]


class Solution(NamedTuple):
    """The last state and estimate of an integration, and the trajectories asked for (else None)."""

    state: jax.Array  # [B, ..., kC]
    estimate: jax.Array  # [B, ..., C], at the last evaluation
    estimates: jax.Array | None  # [N, B, ..., C]
    states: jax.Array | None  # [N + 1, B, ..., kC], at the start and after every step


def normal_noise(keys: jax.Array, n: jax.Array, which: int, like: jax.Array) -> jax.Array:
    """Draws the noise of step n, before (`which` = 0) or after (1) the evaluation, of each sample from its own key."""

    def draw(key):
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, n), which), like.shape[1:], like.dtype)

    return jax.vmap(draw)(keys)


def recorded_noise(noise: jax.Array) -> jax.tree_util.Partial:
    """Replays `noise [N, 2, B, ..., cC]`, before and after each evaluation; `[N, B, ..., cC]` if only after."""
    return jax.tree_util.Partial(_replay, jnp.asarray(noise))


def _replay(noise, keys, n, which, like):
    row = lax.dynamic_index_in_dim(noise, n, keepdims=False)
    if noise.ndim == like.ndim + 2:
        row = row[which]
    return row.astype(like.dtype)


def keep_last(steps: Steps) -> Steps:
    """Returns the same steps, the last of which ends with its evaluation and leaves the state where that was made."""
    changed = {
        "transition": np.eye(steps.transition.shape[-1]),
        "weights": 0.0,
        "noise": 0.0,
    }
    tables = {name: np.array(getattr(steps, name)) for name in changed if getattr(steps, name) is not None}
    for name, table in tables.items():
        table[-1] = changed[name]
    return steps._replace(**tables)


def run(
    field: Field,
    steps: Steps,
    keys: Any,
    state: jax.Array,
    *,
    noise: Noise = normal_noise,
    intervene: Callable[..., jax.Array] | None = None,
    rows: Any = None,
    estimate: jax.Array | None = None,
    store_estimates: bool = False,
    store_states: bool = False,
) -> Solution:
    """Runs a table of steps from `state [B, ..., kC]`; one evaluation of the field a step. To be called under `jit`.

    keys: one a sample `[B]`, for the noise; may be None where the table has none. intervene: `(keys, n, row, m,
    estimate) -> m` changes the state just before each evaluation, given that step's row of the pytree `rows [N, ...]`
    and the estimate of the step before (`estimate` before the first).
    """
    k = steps.transition.shape[-1]
    dtype = state.dtype
    count = len(steps.times)
    tables = jax.tree.map(lambda table: jnp.asarray(table, dtype), steps)
    length = state.shape[-1] // k

    def combine(table, inputs):
        """Sums multiples of arrays one by one: on accelerators a matrix product would round to fewer digits."""
        return [sum(number * value for number, value in zip(row, inputs, strict=True)) for row in table]

    def parts(m):
        return [m[..., i * length : (i + 1) * length] for i in range(k)]

    def add_noise(m, table, n, which):
        if table is None:
            return m
        columns = table.shape[-1]
        z = noise(keys, n, which, jax.ShapeDtypeStruct((*m.shape[:-1], columns * length), dtype))
        draws = [z[..., i * length : (i + 1) * length] for i in range(columns)]
        return m + jnp.concatenate(combine(table, draws), -1)

    def body(carry, inputs):
        m, past, last = carry
        n, table, row = inputs
        if table.before is not None:
            m = add_noise(jnp.concatenate(combine(table.before, parts(m)), -1), table.before_noise, n, 0)
        if intervene is not None:
            m = intervene(keys, n, row, m, last)
        output = field(m, table.times).astype(dtype)
        seen = [output, *parts(m)]
        remembered, reported = combine(jnp.stack([table.history, table.estimate]), seen)
        past = [remembered, *past[:-1]]
        moved = combine(jnp.concatenate([table.transition, table.weights.T], -1), [*parts(m), *past])
        m = add_noise(jnp.concatenate(moved, -1), table.noise, n, 1)
        stored = (reported if store_estimates else None, m if store_states else None)
        return (m, past, reported), stored

    nothing = jnp.zeros((*state.shape[:-1], length), dtype)
    carry = (state, [nothing] * steps.weights.shape[1], nothing if estimate is None else estimate.astype(dtype))
    inputs = (jnp.arange(count), tables, jax.tree.map(lambda row: jnp.asarray(row, dtype), rows))
    (last, _, reported), (estimates, states) = lax.scan(body, carry, inputs)
    if store_states:
        states = jnp.concatenate([state[None], states])  # pyright: ignore[reportArgumentType]
    return Solution(last, reported, estimates, states)  # pyright: ignore[reportArgumentType]


def check(steps: Steps) -> Steps:
    """Returns the steps if all their numbers are finite and of one length; raises `InputError` naming the table."""
    for name, table in steps._asdict().items():
        if table is None:
            continue
        if len(table) != len(steps.times):
            raise input_error(
                f"steps.{name}", expected=f"{len(steps.times)} rows", got=len(table), fix="one row a time"
            )
        if not np.isfinite(table).all():
            row = int(np.flatnonzero(~np.isfinite(table.reshape(len(table), -1)).all(1))[0])
            raise input_error(
                f"steps.{name}", expected="finite numbers", got=f"row {row} is not", fix="check the time grid"
            )
    return steps
