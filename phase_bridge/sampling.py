"""A generative model, which is a path and the estimate E[x1 | state] along it, and samples of it.

A state from the prior is carried along the model's path to the data.
"""

import functools
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from common.arrays import SIGNED, AnyArray, as_numbers
from common.errors import InputError, choice, input_error
from common.prng import as_keys
from common.solvers import linear
from common.solvers.linear import Steps
from phase_bridge.processes import Denoiser, Process, join, split
from phase_bridge.schedules import schedule as make_schedule
from phase_bridge.solvers import SOLVERS, TABLEAUS, Stages, Table, chosen, make_steps, run_stages, steps_for

OUTPUTS = ("estimate", "state")


class Sampler(NamedTuple):
    """Arguments of `phase_bridge.sample` where nothing is chosen; `schedule` has its options as pairs."""

    solver: str | None = None
    schedule: tuple[tuple[str, Any], ...] = ()
    nfe: int = 20
    degree: int | None = None
    corrector: bool | None = None


@dataclass(frozen=True, eq=False)
class Model:
    """A model for samplers, made by `phase_bridge.load` or `denoiser_model`; a pytree whose leaves are the weights.

    process: the path that states follow. denoiser: whether `read(weights, labels, u, sigma)` is a denoiser, which
    serves every path, or `read(weights, labels, state, t)` the estimate of a network that sees states of this path
    alone. labels: classes `[]` or `[B]` of the samples, or None. kind: the sampler's default, "ode" or "sde". shape,
    sampler: of a loaded model, the shape of one sample and the sampler of its config.
    """

    process: Process
    read: Callable
    weights: Any = None
    labels: jax.Array | None = None
    denoiser: bool = True
    kind: str = "ode"
    num_classes: int = 0
    shape: tuple[int, ...] = ()
    sampler: Sampler = Sampler()

    def estimate(self, m: jax.Array, t) -> jax.Array:
        """Returns E[x1 | m] `[B, ..., C]` at states `m [B, ..., k C]` of the path at time t."""
        if not self.denoiser:
            return self.read(self.weights, self.labels, m, jnp.asarray(t, m.dtype))
        return self.denoise(*self.process.observe(m, jnp.asarray(t, m.dtype)))

    def denoise(self, u: jax.Array, sigma) -> jax.Array:
        """Returns E[x1 | u = x1 + sigma e] `[B, ..., C]` for `u [B, ..., C]` and sigma `[]` or `[B]`."""
        sigma = jnp.asarray(sigma, u.dtype)
        if self.denoiser:
            return self.read(self.weights, self.labels, u, sigma)
        t = self.process.time_at(sigma)
        return self.read(self.weights, self.labels, self.process.embed(u, t), t)

    def along(self, process: Process) -> "Model":
        """Returns the same network along another path; raises `InputError` for one that knows its own states only."""
        if process == self.process:
            return self
        if not self.denoiser:
            raise input_error(
                "process",
                expected=f"{self.process}, whose states the network was trained on",
                got=process,
                fix="train with config.objective.name=denoiser, which serves every path",
            )
        kind = self.kind if process.name == "bridge" else "ode"
        return replace(self, process=process, kind=kind, sampler=Sampler())

    def of_class(self, labels) -> "Model":
        """Returns the model of given classes: one, or one a sample `[B]`; -1 is no class. Raises `InputError`."""
        labels = jnp.asarray(labels, jnp.int32)
        if not self.num_classes or bool((labels < -1).any()) or bool((labels >= self.num_classes).any()):
            expected = f"-1 to {self.num_classes - 1}" if self.num_classes else "none: the model knows no classes"
            raise input_error("labels", expected=expected, got=labels, fix="see model.num_classes")
        return replace(self, labels=labels)


jax.tree_util.register_dataclass(
    Model,
    data_fields=["weights", "labels"],
    meta_fields=["process", "read", "denoiser", "kind", "num_classes", "shape", "sampler"],
)


def denoiser_model(process: Process, denoise: Denoiser, *, kind: str = "ode") -> Model:
    """Returns a model of any denoiser D(u, sigma) = E[x1 | u = x1 + sigma e], by anyone, along a path.

    denoise: `(u [B, ..., C], sigma []) -> [B, ..., C]`; as a `jax.tree_util.Partial` its arrays travel as arguments.

    >>> import jax, phase_bridge
    >>> model = phase_bridge.denoiser_model(phase_bridge.Flow(), lambda u, sigma: u / (1 + sigma**2))
    >>> samples, info = phase_bridge.sample(model, jax.random.key(0), (1000, 2), nfe=10)
    >>> samples.shape, info["nfe"]
    ((1000, 2), 10)
    """
    if not callable(denoise):
        raise input_error("denoise", expected="a function (u, sigma)", got=type(denoise).__name__, fix="give one")
    return Model(process, _call, denoise if isinstance(denoise, Partial) else Partial(denoise), kind=kind)


def _call(denoise, labels, u, sigma):
    del labels
    return denoise(u, sigma)


def estimate_model(process: Process, estimate: Callable, *, kind: str = "ode") -> Model:
    """Returns a model of an estimate `(state [B, ..., k C], t []) -> [B, ..., C]` that knows one path alone."""
    inner = estimate if isinstance(estimate, Partial) else Partial(estimate)
    return Model(process, _call, inner, denoiser=False, kind=kind)


def sample(
    model: Model,
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    solver: str | Table | None = None,
    schedule: Sequence[float] | Sequence[tuple[str, Any]] | np.ndarray | Mapping[str, Any] | str | None = None,
    nfe: int | None = None,
    kind: str | None = None,
    degree: int | None = None,
    corrector: bool | None = None,
    condition: Any = None,
    start: Float[AnyArray, "batch *spatial parts_channels"] | None = None,
    noise: linear.Noise | None = None,
    first_index: int = 0,
    output: str | None = None,
    store_estimates: bool = False,
    store_states: bool = False,
    dtype: Any = jnp.float32,
) -> tuple[Float[Array, "batch *spatial channels"], dict[str, Any]]:
    """Returns samples of `shape [B, ..., C]`, made with at most `nfe` evaluations of the model, and a dictionary.

    model: of `phase_bridge.load`, `denoiser_model`, `mixture`, ...; it knows the path.
    key: of `jax.random.key` or `PRNGKey`, or a seed. Sample i depends on fold_in(key, first_index + i), so a run may be
      split into batches, or on key[i] if there is one a sample.
    solver, kind, degree, corrector: see `phase_bridge.make_steps`; kind "ode" or "sde" (default: the model's). The
      default solver of a bridge's "ode" is "unipc"; for a network of the paper's force, and with `condition`, it is the
      paper's "gddim". A `Table`, of `learn_table` or `load_table`, is a solver for one path, with its times and
      options.
    schedule: a name or a dictionary of options of `phase_bridge.schedule`, or the times themselves `[N + 1]`.
    nfe: number of evaluations (default: what `schedule` has times for, else the model's own where nothing of the
      sampler is chosen, else 20). A number that times contradict is refused.
    condition: of `phase_bridge.stroke` or `inpainting`; bridges only.
    start `[B, ..., k C]` replaces the state from the prior, `noise` the noise of the steps.
    output: "estimate", the data estimate of the last evaluation (which ends the run there; the default for two-part
      states), or "state", the position at the last time (the default for one-part states, whose last time is the data).

    The dictionary has `nfe` (evaluations made), `times [N]` (of the evaluations), `state [B, ..., k C]` (the last), and
    if asked for `estimates [B, N, ..., C]` and `states [B, N + 1, ..., k C]` (the start and after every step).
    Raises `InputError`, before anything is compiled, for what does not fit together.

    >>> import jax, phase_bridge
    >>> model = phase_bridge.mixture(phase_bridge.Bridge(), [[-0.5, 0.0], [0.5, 0.0]], [0.3, 0.7], 0.1)
    >>> points, info = phase_bridge.sample(model, jax.random.key(0), (1000, 2), nfe=10)
    >>> info["nfe"], bool(abs((points[:, 0] > 0).mean() - 0.7) < 0.05)
    (10, True)
    """
    process = _process(model)
    shape = check_shape(shape)
    key = as_keys(key, shape[0])
    if solver is None and schedule is None and kind is None and degree is None and corrector is None:
        solver, schedule, own, degree, corrector = model.sampler
        nfe = own if nfe is None else nfe
    if isinstance(solver, Table):
        fixed = {"schedule": schedule, "kind": kind, "degree": degree, "corrector": corrector}
        steps = _steps_of(solver, process, fixed | {"nfe": None if nfe == len(solver.steps.times) else nfe})
        solver = ""
    else:
        kind = model.kind if kind is None else kind
        solver = chosen(process, solver, kind, published=condition is not None or not model.denoiser)
        times = times_of(process, solver, schedule, nfe, kind=kind)
        steps = make_steps(process, times, solver=solver, kind=kind, degree=degree, corrector=corrector)
    output = choice("output", output or ("estimate" if process.parts == 2 else "state"), OUTPUTS)
    if isinstance(steps, Stages):
        for name, value in (("condition", condition), ("noise", noise)):
            if value is not None:
                raise input_error(name, expected=f'none with solver "{solver}"', got="one", fix="use another solver")
        if store_estimates or store_states:
            got = "store_estimates or store_states"
            raise input_error("solver", expected=f"none of two stages with {got}", got=f'"{solver}"', fix="use another")
    if start is not None:
        begin: Any = as_numbers(start, "start", scale=SIGNED)
        whole = (*shape[:-1], process.parts * shape[-1])
        if begin.shape != whole:
            expected = f"[x, v] of shape {whole}" if process.parts == 2 else f"states of shape {whole}"
            raise input_error("start", expected=expected, got=begin.shape, fix="all parts on the last axis")
        start = begin
    if condition is not None:
        condition.check(process, shape)
    labels = model.labels
    if model.num_classes and labels is None:
        labels = random_labels(sample_keys(key, first_index, shape[0]), model.num_classes)
    if labels is not None and labels.shape not in ((), shape[:1]):
        raise input_error("labels", expected=f"one, or {shape[0]}", got=labels.shape, fix="give one a sample")
    # Only what the computation depends on, so that other defaults compile nothing.
    plain = replace(model, labels=labels, sampler=Sampler(), shape=(), kind="ode")
    options: dict[str, Any] = {"start": start, "condition": condition, "noise": noise, "first_index": first_index}
    options |= {"output": output, "store_estimates": store_estimates, "store_states": store_states}
    samples, info = run(Partial(estimate, plain), steps, key, shape, process, solver=solver, dtype=dtype, **options)
    return samples, info | ({} if labels is None else {"labels": jnp.broadcast_to(labels, shape[:1])})


def _steps_of(table: Table, process: Process, options: Mapping[str, Any]) -> Steps:
    """Returns the steps of a table; raises `InputError` for another path, and options that the table decides."""
    if table.process != process:
        fix = "use model.along(table.process)"
        raise input_error("solver", expected=f"a table for {process}", got=f"one for {table.process}", fix=fix)
    for name, value in options.items():
        if value is not None:
            expected = f"none with a table of {len(table.steps.times)} evaluations"
            raise input_error(name, expected=expected, got=value, fix="leave it out")
    return table.steps


def random_labels(keys: jax.Array, num_classes: int) -> jax.Array:
    """Returns a class for each of `keys [B]`, int32, all equally likely."""
    # A separate fold, so that the noise does not depend on the class.
    return jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, 2**31), (), 0, num_classes))(keys)


def sample_keys(key: jax.Array, first_index, count: int) -> jax.Array:
    """Returns fold_in(key, first_index + i) for i below `count`, or the keys themselves where there is one a sample."""
    if key.ndim:
        return key
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first_index + jnp.arange(count, dtype=jnp.uint32))


def times_of(process: Process, solver: str, schedule, nfe: int | None, *, kind: str) -> np.ndarray:
    """Returns the times of a solver from a schedule's name, options or times; raises `InputError`.

    Times and a number of evaluations that contradict each other are refused.
    """
    if _is_times(schedule):
        times = np.asarray(schedule, np.float64)
        count = times.size - 1
        made = 2 * count - 1 if SOLVERS[solver].stages == 2 else count
        if nfe is not None and nfe != made:
            expected = f"{made}, as the schedule has {times.size} times"
            raise input_error("nfe", expected=expected, got=nfe, fix="leave out nfe or the times")
        return times
    nfe = Sampler().nfe if nfe is None else nfe
    count, _ = steps_for(solver, nfe)
    options: dict[str, Any] = {"kind": schedule} if isinstance(schedule, str) else dict(schedule or {})
    known = {"kind", "first", "last", "end", "power", "sigma_max", "sigma_min", "rho"}
    for name in options:
        choice("schedule", name, sorted(known))
    return make_schedule(process, count, sampler=kind, **options)


def describe(process: Process, kind: str, sampler: Sampler, *, published: bool) -> dict[str, Any]:
    """Returns plain values that say how samples are made along a path; published: as in `solvers.chosen`."""
    solver = chosen(process, sampler.solver, kind, published=published)
    own = {"process": process.name} | ({"bridge": vars(process)} if process.name == "bridge" else {})
    used = {"solver": solver, "schedule": dict(sampler.schedule), "nfe": steps_for(solver, sampler.nfe)[1]}
    return own | {"kind": kind, "degree": sampler.degree, "corrector": sampler.corrector} | used


def check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of samples; raises `InputError` unless it is [B, ..., C] with positive numbers."""
    shape = tuple(shape)
    whole = all(isinstance(each, int | np.integer) and not isinstance(each, bool) and each > 0 for each in shape)
    if len(shape) < 2 or not whole:
        fix = "give the number of samples and the shape of one"
        raise input_error("shape", expected="[B, ..., C], of whole numbers from 1 on", got=shape, fix=fix)
    return tuple(int(each) for each in shape)


def run(
    field: Callable,
    steps: Steps | Stages,
    key: jax.Array,
    shape: tuple[int, ...],
    process: Process,
    *,
    solver: str = "",
    start: jax.Array | None = None,
    condition: Any = None,
    rows: np.ndarray | None = None,
    noise: linear.Noise | None = None,
    first_index: int = 0,
    output: str = "estimate",
    store_estimates: bool = False,
    store_states: bool = False,
    dtype: Any = jnp.float32,
) -> tuple[jax.Array, dict[str, Any]]:
    """Runs a table of steps on any function (state, t) that it is made for; see `sample` for the others.

    rows: of `Condition.rows`, where others than its own are wanted.
    """
    staged = isinstance(steps, Stages)
    if not staged and output == "estimate":
        steps = linear.keep_last(steps)
    if condition is not None and rows is None:
        rows = condition.rows(process, steps.times)
    times = np.append(steps.times.ravel(), steps.end) if isinstance(steps, Stages) else steps.times
    # One-part states begin with the noise of the first time: the largest level that is chosen, on any path.
    begin = process.first if process.parts == 2 else float(times[0])
    outcome = _run(
        field if isinstance(field, Partial) else Partial(field),
        key,
        np.uint32(first_index),
        steps,
        np.asarray(process.factor(begin), np.float64),
        start,
        condition,
        rows,
        Partial(linear.normal_noise) if noise is None else noise,
        shape=shape,
        parts=process.parts,
        dtype=jnp.dtype(dtype),
        node=TABLEAUS[solver].c[1] if staged else 0.0,
        store_estimates=bool(store_estimates),
        store_states=bool(store_states),
    )
    extra = condition is not None and condition.known is not None
    info = {"nfe": len(times) + extra, "times": times, "state": outcome.state}
    if store_estimates:
        info["estimates"] = outcome.estimates
    if store_states:
        info["states"] = outcome.states
    if output == "estimate" or staged:
        return outcome.estimate, info
    return outcome.state[..., : shape[-1]], info


def _process(model) -> Process:
    if not isinstance(model, Model):
        fix = "make one by phase_bridge.denoiser_model(process, denoise), or phase_bridge.load"
        raise input_error("model", expected="a Model", got=type(model).__name__, fix=fix)
    return model.process


def _is_times(schedule) -> bool:
    if schedule is None or isinstance(schedule, str | Mapping):
        return False
    return not (isinstance(schedule, tuple) and all(isinstance(each, tuple) for each in schedule))  # else pairs


def estimate(model: Model, m: jax.Array, t: jax.Array) -> jax.Array:
    """Returns `model.estimate(m, t)`, as a function of the model: with `Partial` its weights are arguments."""
    return model.estimate(m, t)


@functools.partial(jax.jit, static_argnames=("shape", "parts", "dtype", "node", "store_estimates", "store_states"))
def _run(
    field, key, first, steps, spread, start, condition, rows, noise,
    *, shape, parts, dtype, node, store_estimates, store_states,
):  # fmt: skip
    apart = jax.vmap(jax.random.split)(sample_keys(key, first, shape[0]))
    if start is None:
        whole, spread = (*shape[1:-1], parts * shape[-1]), spread.astype(dtype)
        m = jax.vmap(lambda one: jax.random.normal(one, whole, dtype))(apart[:, 0])
        if parts == 2:
            e_x, e_v = split(m)
            m = join(spread[0] * e_x, spread[1] * e_x + spread[2] * e_v)
        else:
            m = spread[0] * m
    else:
        m = start.astype(dtype)
    if isinstance(steps, Stages):
        state, estimate = run_stages(field, steps, m, node=node)
        return linear.Solution(state, estimate, None, None)
    intervene, estimate = None, None
    if condition is not None:
        m = condition.begin(m)
        intervene = Partial(type(condition).impose, condition, noise)
        if condition.known is not None:
            # The first data estimate of the unknown pixels takes one more evaluation.
            output, (x, v) = field(m, jnp.asarray(steps.times[0], dtype)), split(m)
            on_f, on_x, on_v = jnp.asarray(steps.estimate[0], dtype)
            estimate = on_f * output.astype(dtype) + on_x * x + on_v * v
    outcome = linear.run(
        field,
        steps,
        apart[:, 1],
        m,
        noise=noise,
        intervene=intervene,
        rows=rows,
        estimate=estimate,
        store_estimates=store_estimates,
        store_states=store_states,
    )
    each = [None if stored is None else jnp.moveaxis(stored, 0, 1) for stored in outcome[2:]]
    outcome = outcome._replace(estimates=each[0], states=each[1])
    if condition is None:
        return outcome
    x, v = split(outcome.state)
    return outcome._replace(state=join(condition.finish(x), v), estimate=condition.finish(outcome.estimate))


def named_by_key(error: InputError, keys: Container[str]) -> InputError:
    """Returns an error about an argument of the sampler as one about its key `config.sampler.KEY`."""
    field, _, rest = str(error).partition(": ")
    if field not in keys:
        return error
    unset = "-1" if field == "degree" else "''" if field == "corrector" else "0"
    return InputError(f"config.sampler.{field}: {rest.replace('leave it out', f'set config.sampler.{field}={unset}')}")
