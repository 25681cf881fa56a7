"""Tables of steps learned for few evaluations: times and numbers of a solver, by gradient through its own run.

A table begins as one of a known solver; times, transitions and weights are then moved so that its samples come near
those of many evaluations from the same noise, as in S4S (Frankel et al., 2025). The model is not
touched, and a table has a few dozen numbers. `phase_bridge.sample(model, ..., solver=table)` runs it.
"""

import functools
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from common.errors import at_least, input_error
from common.prng import as_key
from common.solvers import linear
from common.solvers.linear import Steps
from phase_bridge.bridge import Bridge
from phase_bridge.processes import CLD, EDM, Flow, Process, join, split
from phase_bridge.sampling import Model, check_shape, estimate, times_of
from phase_bridge.schedules import schedule as make_schedule
from phase_bridge.solvers import SOLVERS, Table, chosen, make_steps

_PATHS = {each.name: each for each in (Bridge, CLD, EDM, Flow)}
_HUBER = 0.02  # distance from which on the loss grows linearly: paths that end in another mode must not decide all


class Learned(NamedTuple):
    """A table, and the mean loss of each batch `[num_batches]` on the way to it."""

    table: Table
    losses: np.ndarray


def learn_table(
    model: Model,
    nfe: int,
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    solver: str | None = None,
    schedule: Mapping[str, Any] | str | None = None,
    degree: int | None = None,
    corrector: bool | None = None,
    memory: int = 3,
    teacher_nfe: int = 50,
    num_samples: int = 4096,
    batch_size: int = 512,
    num_batches: int = 1000,
    learning_rate: float = 0.003,
) -> Learned:
    """Returns a table of `nfe` evaluations whose samples are nearest to those of `teacher_nfe` from the same noise.

    model: along its path; shape: of one sample. solver, schedule, degree, corrector: of the table it begins as, as in
    `phase_bridge.sample` (probability flow). memory: how many evaluations a step may use. The loss is the mean of
    sqrt(|x - x'|^2 / C + h^2) - h with h = 0.02 over batches of `num_samples` samples, by Adam. The first time, and so
    the noise that samples begin with, stays. Raises `InputError` for what does not fit together.

    >>> table = learn_table(model, 5, jax.random.key(0), (2,)).table  # doctest: +SKIP
    """
    at_least(
        {"memory": (memory, 1), "num_samples": (num_samples, 1), "batch_size": (batch_size, 1)}
        | {"num_batches": (num_batches, 1), "nfe": (nfe, 1), "teacher_nfe": (teacher_nfe, nfe)}
    )
    process, shape = model.process, check_shape((num_samples, *shape))
    name = chosen(process, solver, "ode", published=not model.denoiser)
    if SOLVERS[name].stages > 1:
        raise input_error("solver", expected="one evaluation a step", got=f'"{name}"', fix='use "unipc"')
    times = times_of(process, name, schedule, nfe, kind="ode")
    start: Any = make_steps(process, times, solver=name, degree=degree, corrector=corrector)
    missing = max(0, memory - start.weights.shape[1])
    start = start._replace(weights=np.pad(start.weights, ((0, 0), (0, missing), (0, 0))))
    # The same first time, so that both begin with the same noise.
    highest = min(float(process.noise_level(times[0])), 80.0)
    target = make_schedule(process, teacher_nfe, kind="levels", sigma_max=highest)
    target[0] = times[0]
    teacher: Any = make_steps(process, target, solver="unipc")
    begin = process.first if process.parts == 2 else times[0]
    if process.parts == 2:
        start, teacher = linear.keep_last(start), linear.keep_last(teacher)
    spread = np.asarray(process.factor(begin), np.float64)
    field = Partial(estimate, model)
    moves, losses = _learn(
        field, as_key(key), start, teacher, spread, jnp.float32(learning_rate), process, shape, int(batch_size),
        int(num_batches),
    )  # fmt: skip
    moves = jax.tree.map(lambda each: np.asarray(each, np.float64), moves)
    return Learned(Table(process, linear.check(_moved(process, start, moves, np))), np.asarray(losses))


def _moved(process: Process, start: Steps, moves: Mapping[str, Any], xp) -> Steps:
    """Returns the table with its numbers moved: times by their logit between the prior and the data, others in units
    of the largest that makes the same part of the state in the same step.
    """
    place = xp.clip((start.times - process.first) / (process.last - process.first), 1e-6, 1 - 1e-6)
    logit = xp.log(place / (1 - place)) + moves["times"]
    times = process.first / (1 + xp.exp(logit)) + process.last / (1 + xp.exp(-logit))
    times = xp.concatenate([xp.asarray(start.times[:1]), times[1:]])
    unit = xp.abs(start.transition).max(2, keepdims=True), xp.abs(start.weights).max(1, keepdims=True)
    transition = start.transition + unit[0] * moves["transition"]
    weights = start.weights + unit[1] * moves["weights"]
    if process.parts == 2:  # whose last row ends with its evaluation
        transition = xp.concatenate([transition[:-1], xp.asarray(start.transition[-1:])])
        weights = xp.concatenate([weights[:-1], xp.asarray(start.weights[-1:])])
    return start._replace(times=times, transition=transition, weights=weights)


@functools.partial(jax.jit, static_argnames=("process", "shape", "batch_size", "num_batches"))
def _learn(field, key, start, teacher, spread, learning_rate, process, shape, batch_size, num_batches):
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_batches))
    narrow = functools.partial(jax.tree.map, lambda each: jnp.asarray(each, jnp.float32))
    start, teacher, spread = narrow(start), narrow(teacher), narrow(spread)

    def begin(key):
        m = jax.random.normal(key, (*shape[:-1], process.parts * shape[-1]))
        if process.parts == 1:
            return spread[0] * m
        e_x, e_v = split(m)
        return join(spread[0] * e_x, spread[1] * e_x + spread[2] * e_v)

    def end(steps, m):
        solution = linear.run(field, steps, None, m)
        return solution.estimate if process.parts == 2 else solution.state

    def loss(moves, m, aim):
        squared = jnp.square(end(_moved(process, start, moves, jnp), m) - aim).mean(range(1, aim.ndim))
        return jnp.mean(jnp.sqrt(squared + _HUBER**2) - _HUBER)

    def body(carry, key):
        moves, state = carry
        chosen = jax.random.randint(key, (batch_size,), 0, shape[0])
        value, slope = jax.value_and_grad(loss)(moves, begun[chosen], aims[chosen])
        updates, state = optimizer.update(slope, state)
        return (optax.apply_updates(moves, updates), state), value

    begun = begin(jax.random.fold_in(key, 0))
    aims = end(teacher, begun)
    moves = {name: jnp.zeros_like(getattr(start, name)) for name in ("times", "transition", "weights")}
    keys = jax.random.split(jax.random.fold_in(key, 1), num_batches)
    (moved, _), losses = jax.lax.scan(body, (moves, optimizer.init(moves)), keys)
    # Never worse than what it began as, on the noise that it was learned from.
    better = loss(moved, begun, aims) < loss(moves, begun, aims)
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), moved, moves), losses


def save_table(path: str | os.PathLike, table: Table) -> None:
    """Writes a table as an .npz file: its path's name and numbers, and the arrays of its steps.

    >>> import tempfile
    >>> from phase_bridge import Bridge, make_steps
    >>> path = tempfile.mkdtemp() + "/table.npz"
    >>> save_table(path, Table(Bridge(), make_steps(Bridge(), [0.0, 0.5, 0.9])))
    """
    process = table.process
    own = {f"process.{each.name}": getattr(process, each.name) for each in fields(process)}
    arrays = {name: each for name, each in table.steps._asdict().items() if each is not None}
    with open(path, "wb") as file:
        np.savez(file, process=process.name, **own, **arrays)


def load_table(path: str | os.PathLike) -> Table:
    """Returns the table of a file that `save_table` wrote; raises `InputError` for another one.

    >>> import tempfile
    >>> from phase_bridge import Bridge, make_steps
    >>> path = tempfile.mkdtemp() + "/table.npz"
    >>> save_table(path, Table(Bridge(), make_steps(Bridge(), [0.0, 0.5, 0.9])))
    >>> load_table(path).process.name
    'bridge'
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
        kind = _PATHS[str(found.pop("process"))]
        own = {name: float(found.pop(name)) for name in list(found) if name.startswith("process.")}
        steps = linear.check(Steps(**found))
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "write one by phase_bridge.save_table"
        raise input_error(str(path), expected="a table of steps", got=str(error), fix=fix) from None
    return Table(kind(**{name.removeprefix("process."): value for name, value in own.items()}), steps)
