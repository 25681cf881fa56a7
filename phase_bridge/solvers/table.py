"""The table of solvers: which paths each one solves, and the numbers of its steps for given times.

A solver with one evaluation a step is a `common.solvers.linear.Steps` over data estimates; one with two is `Stages`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.errors import choice, input_error, shown
from common.solvers import grids
from common.solvers.linear import Steps, check
from common.solvers.runge_kutta import TABLEAUS
from phase_bridge.bridge import KINDS, Bridge
from phase_bridge.processes.base import Process, beside
from phase_bridge.solvers import phase, positions


class Solver(NamedTuple):
    """What a solver can do: kinds, numbers of parts, its degree (None: it has none), and whether it may be corrected.

    `of_bridge`: it solves bridges alone. `corrector`: its default, None where it has none. `order`: of convergence,
    in words where it depends on the degree.
    """

    order: str
    kinds: tuple[str, ...] = ("ode",)
    parts: tuple[int, ...] = (1, 2)
    degree: int | None = None
    corrector: bool | None = None
    of_bridge: bool = False
    stages: int = 1


MOST_NFE = 100_000  # evaluations of a sample

SOLVERS = {
    "euler": Solver("1"),
    "euler_maruyama": Solver("1", kinds=("sde",), of_bridge=True),
    "splitting": Solver("1", kinds=("sde",), of_bridge=True),
    "gddim": Solver("degree + 1, + 1 with the corrector", degree=2, corrector=False, of_bridge=True),
    "data_multistep": Solver("degree + 1, + 1 with the corrector; sde: 1", kinds=KINDS, degree=1, corrector=False),
    "ddim": Solver("1"),
    "heun": Solver("2", stages=2),
    "midpoint": Solver("2", stages=2),
    "dpmpp": Solver("degree + 1", parts=(1,), degree=1),
    "unipc": Solver("degree + 2", degree=1, corrector=True),
    "deis": Solver("degree + 1", parts=(1,), degree=2),
    "ipndm": Solver("degree + 1 on equal steps of sigma, else 1", parts=(1,), degree=3),
    "ab": Solver("degree + 1", parts=(1,), degree=1),
}
# By path and kind, where none is chosen: as published for the bridge's ODE, else what is best at few evaluations.
DEFAULT = {("bridge", "ode"): "gddim", ("bridge", "sde"): "data_multistep", ("flow", "ode"): "ab",
           ("edm", "ode"): "ipndm", ("cld", "ode"): "data_multistep"}  # fmt: skip


class Stages(NamedTuple):
    """A rule of two evaluations a step: rows of times, lengths and the flow's A and b; one last evaluation ends it."""

    times: np.ndarray  # [N, 2]
    dt: np.ndarray  # [N]
    a: np.ndarray  # [N, 2, k, k]
    b: np.ndarray  # [N, 2, k]
    end: np.ndarray  # [], of the last evaluation


def chosen(process: Process, solver: str | None, kind: str) -> str:
    """Returns the solver's name, or the default of path and kind; raises `InputError` for what does not fit."""
    choice("kind", kind, KINDS)
    if kind == "sde" and not isinstance(process, Bridge):
        raise input_error("kind", expected=f'"ode" for the path "{process.name}"', got='"sde"', fix="use a Bridge")
    fitting = [
        name for name, each in SOLVERS.items()
        if kind in each.kinds and process.parts in each.parts and (not each.of_bridge or isinstance(process, Bridge))
    ]  # fmt: skip
    if solver is None:
        return DEFAULT[process.name, kind]
    choice("solver", solver, SOLVERS)
    if solver not in fitting:
        expected = f'one for the path "{process.name}" and kind "{kind}": {", ".join(fitting)}'
        raise input_error("solver", expected=expected, got=f'"{solver}"', fix=f"use {fitting[0]}")
    return solver


def steps_for(solver: str, nfe: int) -> tuple[int, int]:
    """Returns how many times a solver's schedule needs for at most `nfe` evaluations, and how many of these it uses.

    A solver of two stages makes a pair of evaluations between two times, and one at the last (Karras et al., 2022).
    """
    number = isinstance(nfe, int | float | np.number) and not isinstance(nfe, bool)
    if not number or not 1 <= nfe <= MOST_NFE or nfe != int(nfe):
        expected = f"a whole number, at least 1 and at most {MOST_NFE}"
        raise input_error("nfe", expected=expected, got=shown(nfe), fix="use 10 or so")
    if SOLVERS[solver].stages == 1:
        return int(nfe), int(nfe)
    return (int(nfe) + 1) // 2, (int(nfe) + 1) // 2 * 2 - 1


def make_steps(
    process: Process,
    times: Sequence[float] | np.ndarray,
    *,
    solver: str | None = None,
    kind: str = "ode",
    degree: int | None = None,
    corrector: bool | None = None,
) -> Steps | Stages:
    """Returns the table of a solver for evaluations at `times[:-1]` and steps that end at `times[1:]`.

    process: the path. times: from the prior towards the data; `phase_bridge.schedule` makes them. solver: a name of
    `SOLVERS` (None: the path's default). kind: "ode" (probability flow) or "sde" (a Bridge's own process). degree: of
    the polynomial that is extrapolated. corrector: corrects each step with the next evaluation; by default for "unipc",
    and for kind "sde" with "data_multistep" and no degree. Raises `InputError` for what does not fit together.

    >>> make_steps(Bridge(), [0.0, 0.5, 0.9]).weights.shape[0]
    2
    """
    name = chosen(process, solver, kind)
    rule = SOLVERS[name]
    for field, value, own in (("degree", degree, rule.degree), ("corrector", corrector, rule.corrector)):
        if value is not None and own is None and value is not False:
            fix = "leave it out"
            raise input_error(field, expected=f'none with solver "{name}"', got=value, fix=fix)
    if degree is not None and (isinstance(degree, bool) or degree != int(degree) or not 0 <= degree <= 3):
        raise input_error("degree", expected="0, 1, 2 or 3", got=degree, fix="the published samplers use 2")
    if corrector is None:
        corrector = degree is None if (name, kind) == ("data_multistep", "sde") else bool(rule.corrector)
    degree = rule.degree if degree is None else int(degree)
    grid = check_times(process, times)
    if rule.stages == 2:
        return _stages(process, grid, TABLEAUS[name].c[1])
    t, end = grid[:-1], grid[1:]
    if name == "euler":
        return _euler(process, t, end)
    if name in ("euler_maruyama", "splitting"):
        return getattr(phase, name)(process, t, end)
    if name == "gddim":
        return phase.gddim(process, t, end, degree=degree, corrector=corrector)
    if kind == "sde":
        return phase.data_multistep_sde(process, t, end, degree=degree, corrector=corrector)
    if name in ("data_multistep", "unipc") or (name == "ddim" and process.parts == 2):
        options = {"degree": degree or 0, "corrector": bool(corrector)}
        if process.parts == 2:
            return phase.data_multistep(process, t, end, **options)
        return positions.data_multistep(process, grid, **options)
    return getattr(positions, name)(process, grid, **({} if degree is None else {"degree": degree}))


def check_times(process: Process, times: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns times as a grid in float64; raises `InputError` unless they lie between the path's ends, in its order.

    One-part states may end at the data.
    """
    grid = grids.given(times)
    if process.name == "edm":
        inside = grid[0] > 0 and grid[-1] >= 0
    else:
        low, high = sorted((process.first, process.last))
        last_inside = grid[:-1] if process.parts == 1 else grid
        inside = low <= grid.min() and grid.max() <= high and (last_inside != process.last).all()
    if not inside or np.sign(grid[-1] - grid[0]) * np.sign(process.last - process.first) < 0:
        expected = f"times from {process.first:g} towards {process.last:g}, where the data are"
        raise input_error(
            "times", expected=expected, got=f"{grid[0]:g} to {grid[-1]:g}", fix="see phase_bridge.schedule"
        )
    return grid


def _euler(process, t, end):
    rows, source = process.flow(t)
    k, dt = process.parts, (end - t)
    a = np.stack([np.stack(np.broadcast_arrays(*row), -1) for row in rows], -2)
    transition = np.eye(k) + dt[:, None, None] * a
    found = (dt[:, None] * np.stack(np.broadcast_arrays(*source), -1))[:, None]
    own = np.broadcast_to(np.eye(1 + k)[0], (len(t), 1 + k))
    return check(Steps(t, own, own, transition, found))


def _stages(process, grid, node):
    t, dt = grid[:-2], np.diff(grid)[:-1]
    at = t[:, None] + dt[:, None] * np.array([0.0, node])
    rows, source = process.flow(at)
    a = np.stack([np.stack(np.broadcast_arrays(*row), -1) for row in rows], -2)
    return Stages(at, dt, a, np.stack(np.broadcast_arrays(*source), -1), grid[-2])


def run_stages(field, stages: Stages, m: jax.Array, *, node: float):
    """Solves the flow by Heun's rule (`node` 1) or the midpoint rule (1/2); returns the last state and its estimate."""
    k, length = stages.b.shape[-1], m.shape[-1] // stages.b.shape[-1]
    second = 1 / (2 * node)  # the weight of the second slope, for order 2

    def slope(m, t, a, b):
        estimate = field(m, t)
        parts = [m[..., i * length : (i + 1) * length] for i in range(k)]
        rows = [sum(a[i, j] * parts[j] for j in range(k)) + b[i] * estimate for i in range(k)]
        return jnp.concatenate(rows, -1)

    def body(m, row):
        first = slope(m, row.times[0], row.a[0], row.b[0])
        other = slope(m + node * row.dt * first, row.times[1], row.a[1], row.b[1])
        return m + row.dt * ((1 - second) * first + second * other), None

    rows = Stages(*(jnp.asarray(each, m.dtype) for each in stages[:-1]), None)
    if len(stages.dt):
        m, _ = jax.lax.scan(body, m, rows)
    return m, field(m, beside(stages.end, m))
