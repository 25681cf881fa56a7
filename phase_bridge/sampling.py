"""Samples of a trained bridge: the state is drawn from the prior at t = 0 and carried along to the data at t = 1.

A *field* is any function F(m [B, ..., 2C], t []) -> [B, ..., C], the force on the network's scale, F = f / z(t); as a
`jax.tree_util.Partial` its weights (and class labels) travel as arguments, so that another checkpoint compiles nothing.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from common.arrays import SIGNED, as_numbers
from common.errors import choice, input_error
from common.prng import as_keys
from common.solvers import grids, linear
from common.solvers.linear import Steps
from phase_bridge import bridge as bridges
from phase_bridge import coefficients, conditional, statistic
from phase_bridge.bridge import Bridge
from phase_bridge.conditional import Guide

Field = Callable[[jax.Array, jax.Array], jax.Array]

RULES = {"ode": ("exponential", "data", "euler"), "sde": ("data", "splitting", "euler")}
GRIDS = ("reversed_power", "remaining", "power", "uniform", "quadratic")
USUAL_GRID = {"ode": "reversed_power", "sde": "remaining"}
OUTPUTS = ("estimate", "state")
FIRST, END = 1e-5, 0.999
# Number of evaluations and time of the last one: as published for CIFAR-10 and for evaluation during training, and our
# own for the SDE.
USUAL_LAST = {
    "ode": ((5, 0.4), (10, 0.7), (20, 0.9), (100, 0.999)),
    "sde": ((5, 0.9), (10, 0.95), (20, 0.97), (50, 0.99), (200, 0.999)),
}
# Noise levels (`phase_bridge.statistic`) at which the SDE is usually evaluated: number of evaluations and level of the
# last one, level near which the second lies, order of the roots that are equally spaced. They keep the spread of the
# last estimates (see benchmarks/phase_bridge_solvers.py); an estimate from a higher level is too near the mean.
USUAL_SMALLEST = ((5, 0.1), (10, 0.017), (20, 0.0125), (50, 0.005), (200, 0.002))
USUAL_LARGEST, USUAL_LEVEL_POWER = 3.0, 5.0


def usual_last(nfe: int, *, kind: str) -> float:
    """Returns the time of the last evaluation for that many, in between by interpolation in log(nfe)."""
    counts, times = zip(*USUAL_LAST[kind], strict=True)
    return float(np.interp(np.log(max(nfe, 1)), np.log(counts), times))


def usual_times(
    bridge: Bridge,
    nfe: int,
    *,
    kind: str,
    grid: str | None = None,
    last: float | None = None,
    first: float = FIRST,
    end: float = END,
    power: float = 2.0,
) -> np.ndarray:
    """Returns `nfe` + 1 times of a sampler, by `time_grid` with what is usual for the kind where nothing is given.

    For kind "sde" without `grid` and `last`, they are `statistic.times_at_levels` with the usual noise levels.
    """
    choice("kind", kind, bridges.KINDS)
    if kind == "sde" and grid is None and last is None and nfe >= 1:
        counts, levels = np.log(np.transpose(USUAL_SMALLEST))
        smallest = float(np.exp(np.interp(np.log(nfe), counts, levels)))
        return statistic.times_at_levels(
            bridge, nfe, largest=USUAL_LARGEST, smallest=smallest, power=USUAL_LEVEL_POWER, first=first, end=end
        )
    last = usual_last(nfe, kind=kind) if last is None else last
    return time_grid(grid or USUAL_GRID[kind], nfe, first=first, last=last, end=end, power=power)


def time_grid(
    grid: str, nfe: int, *, first: float = FIRST, last: float, end: float = END, power: float = 2.0
) -> np.ndarray:
    """Returns the `nfe + 1` times at which the steps of a sampler begin and the last one ends, in float64.

    "uniform", "quadratic" and "power": `nfe` steps from `first` to `last`. "reversed_power", the published one for
    images: an evaluation at each of `nfe` points, of which `last` is one, and then a step to `end`, which matters only
    to those who want the state there. "remaining": the same with the `power`-th roots of 1 - t equally spaced, dense
    near the data. The quadratic grid begins with one long step: do not use it for this model.
    Raises `InputError` for numbers that are not in order.
    """
    choice("grid", grid, GRIDS)
    if nfe < 1 or nfe != int(nfe):
        raise input_error("nfe", expected="a whole number, at least 1", got=nfe, fix="published are 5, 10 and 20")
    if not 0 <= first < last < 1:
        raise input_error(
            "last", expected=f"a time after first = {first} and before 1", got=last, fix="0.9 goes with 20 NFE"
        )
    if grid in ("reversed_power", "remaining"):
        if not last <= end < 1:
            raise input_error(
                "end", expected=f"a time from last = {last} to 1", got=end, fix="the published end is 0.999"
            )
        if nfe == 1:
            points = np.array([first])
        elif grid == "reversed_power":
            points = grids.power(first, last, nfe - 1, order=power)
        else:
            points = 1 - grids.power(1 - first, 1 - last, nfe - 1, order=power)
        return np.append(points, end)
    if grid == "power":
        return grids.power(first, last, nfe, order=power)
    return {"uniform": grids.uniform, "quadratic": grids.quadratic}[grid](first, last, nfe)


def make_steps(
    bridge: Bridge,
    times: Sequence[float] | np.ndarray,
    *,
    kind: str,
    rule: str | None = None,
    order: int | None = None,
    corrector: bool | None = None,
    normaliser: str = "released",
    compat: str | None = None,
) -> Steps:
    """Returns the table of a sampler for evaluations at `times[:-1]` and steps that end at `times[1:]`.

    rule: None is the first named. kind "ode": "exponential" (published; F is extrapolated; order 2 unless given),
    "data" (the data estimate is extrapolated; 1) or "euler". kind "sde": "data" (exact transition given the data
    estimate, which order 0 freezes; 1), "splitting" or "euler" (Euler-Maruyama). corrector: corrects each step with
    the next evaluation (`common.solvers.multistep`); unless given, for kind "sde" with rule "data" and no order given.
    Raises `InputError` for what does not fit together.
    """
    choice("kind", kind, bridges.KINDS)
    choice("normaliser", normaliser, bridges.CONVENTIONS)
    rule = RULES[kind][0] if rule is None else choice("rule", rule, sorted({*RULES["ode"], *RULES["sde"]}))
    if compat not in (None, "released"):
        raise input_error("compat", expected='None or "released"', got=compat, fix="leave it out")
    if compat and rule not in ("exponential", "splitting"):
        fix = "only the exponential and the splitting rules run in the original"
        raise input_error("compat", expected="None with this rule", got=f'"{compat}" with rule "{rule}"', fix=fix)
    grid = grids.given(times)
    if grid[0] < 0 or grid[-1] >= 1 or (np.diff(grid) < 0).any():
        raise input_error("times", expected="times in [0, 1), ascending", got=(grid[0], grid[-1]), fix="data are at 1")
    span = {"t": grid[:-1], "end": grid[1:], "kind": kind, "convention": normaliser}
    if rule in ("euler", "splitting"):
        for name, value in (("order", order), ("corrector", corrector)):
            if value:
                raise input_error(name, expected=f'None with rule "{rule}"', got=value, fix="it does not extrapolate")
        if rule == "euler":
            return coefficients.euler(bridge, **span)
        return coefficients.splitting(bridge, **span, released=compat is not None)
    if corrector is None:
        corrector = kind == "sde" and order is None
    if order is None:
        order = {"exponential": 2, "data": 1}[rule]
    return getattr(coefficients, rule)(bridge, **span, order=order, corrector=bool(corrector))


def sample(
    field: Field,
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    bridge: Bridge = Bridge(),  # noqa: B008 (frozen)
    kind: str = "ode",
    rule: str | None = None,
    order: int | None = None,
    corrector: bool | None = None,
    normaliser: str = "released",
    nfe: int = 20,
    grid: str | None = None,
    power: float = 2.0,
    first_time: float = FIRST,
    last_time: float | None = None,
    end_time: float = END,
    times: Sequence[float] | np.ndarray | None = None,
    steps: Steps | None = None,
    output: str = "estimate",
    guide: Guide | None = None,
    start: jax.Array | None = None,
    noise: linear.Noise | None = None,
    first: int = 0,
    store_estimates: bool = False,
    store_states: bool = False,
    compat: str | None = None,
    dtype: Any = jnp.float32,
) -> tuple[jax.Array, dict[str, Any]]:
    """Draws samples of `shape [B, ..., C]` with `nfe` evaluations of `field`.

    kind: "ode" or "sde", as the network was trained, and `normaliser` likewise. rule, order, corrector: `make_steps`.
    The grid is `time_grid(grid, nfe, first_time, last_time, end_time, power)`, by default the published one with the
    published `last_time` for that `nfe` (for "sde": noise levels, see `usual_times`); or `times [N + 1]`; or a table of
    `steps`. output: "estimate", the data estimate of the last
    evaluation (which ends the run there), or "state", the position at the last time. guide: see
    `phase_bridge.conditional`. start `[B, ..., 2C]` replaces the draw from the prior, `noise` the draws of the steps.

    key: of `jax.random.key` or `PRNGKey`, or a seed. Sample i draws from fold_in(key, first + i), so a run may be split
    into batches, or from key[i] if there is one a sample. compat = "released" reproduces the original code where that
    does something else and still gives numbers.

    Returns the samples and a dictionary: `nfe`, `times [N]` (of the evaluations), `state [B, ..., 2C]` (the last), and
    if asked for `estimates [B, N, ..., C]` and `states [B, N + 1, ..., 2C]` (the start and after every step).
    Raises `InputError`, before anything is compiled, for what does not fit together.
    """
    choice("output", output, OUTPUTS)
    shape = tuple(int(length) for length in shape)
    if len(shape) < 2:
        raise input_error(
            "shape", expected="[B, ..., C]", got=shape, fix="give the number of samples and the shape of one"
        )
    key = as_keys(key, shape[0])
    if not callable(field):
        raise input_error(
            "field", expected="a function F(m, t)", got=type(field).__name__, fix="see phase_bridge.sampling"
        )
    if steps is None:
        if times is None:
            given = {"grid": grid, "last": last_time, "first": first_time, "end": end_time, "power": power}
            times = usual_times(bridge, nfe, kind=kind, **given)
        options = {"rule": rule, "order": order, "corrector": corrector, "normaliser": normaliser, "compat": compat}
        steps = make_steps(bridge, times, kind=kind, **options)
    if start is not None:
        start = as_numbers(start, "start", scale=SIGNED)
    if start is not None and jnp.shape(start) != (*shape[:-1], 2 * shape[-1]):
        expected = f"[x, v] of shape {(*shape[:-1], 2 * shape[-1])}"
        raise input_error("start", expected=expected, got=jnp.shape(start), fix="both on the last axis")
    if guide is not None and not conditional.fits(guide.image.shape, shape):
        raise input_error(
            "guide.image", expected=f"one or more of shape {shape}", got=guide.image.shape, fix="match the samples"
        )
    if output == "estimate":
        steps = linear.keep_last(steps)
    rows = None if guide is None else conditional.rows(bridge, guide, steps.times)
    outcome = _run(
        field if isinstance(field, Partial) else Partial(field),
        key,
        np.uint32(first),
        steps,
        np.asarray(bridges.cholesky(bridge, 0.0), np.float64),
        start,
        None if guide is None else guide._replace(released=None),
        rows,
        Partial(linear.normal_noise) if noise is None else noise,
        shape=shape,
        dtype=jnp.dtype(dtype),
        store_estimates=bool(store_estimates),
        store_states=bool(store_states),
    )
    extra = guide is not None and guide.known is not None
    info = {"nfe": len(steps.times) + extra, "times": steps.times, "state": outcome.state}
    if store_estimates:
        info["estimates"] = outcome.estimates
    if store_states:
        info["states"] = outcome.states
    return outcome.estimate if output == "estimate" else bridges.split(outcome.state)[0], info


@functools.partial(jax.jit, static_argnames=("shape", "dtype", "store_estimates", "store_states"))
def _run(field, key, first, steps, spread, start, guide, rows, noise, *, shape, dtype, store_estimates, store_states):
    keys = key
    if key.ndim == 0:
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(shape[0], dtype=jnp.uint32))
    apart = jax.vmap(jax.random.split)(keys)
    if start is None:
        whole = (*shape[1:-1], 2 * shape[-1])
        e_x, e_v = bridges.split(jax.vmap(lambda one: jax.random.normal(one, whole, dtype))(apart[:, 0]))
        l_xx, l_xv, l_vv = spread.astype(dtype)
        m = bridges.join(l_xx * e_x, l_xv * e_x + l_vv * e_v)
    else:
        m = start.astype(dtype)
    intervene, estimate = None, None
    if guide is not None:
        m = conditional.begin(guide, m)
        intervene = Partial(conditional.impose, guide.image, guide.known, noise)
        if guide.known is not None:
            # What the unknown pixels look like before anything was evaluated takes one more evaluation.
            output, (x, v) = field(m, jnp.asarray(steps.times[0], dtype)), bridges.split(m)
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
    return outcome._replace(estimates=each[0], states=each[1])
