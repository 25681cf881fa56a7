"""The table of solvers: which paths each one solves, and the numbers of its steps for given times.

A solver with one evaluation a step is a `common.solvers.linear.Steps` over data estimates; one with two is `Stages`.
The rules of two-part states are in `phase_solvers`. Those of one-part states x = c x1 + l e (diffusion, flow matching)
are here; all work on the copy u = x / c of noise level sigma = l / c, where every such path is the same flow du/dsigma
= (u - E[x1 | u]) / sigma. Float64 on the host.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.errors import choice, input_error, shown
from common.solvers import grids
from common.solvers.linear import Steps, check
from common.solvers.multistep import gauss_legendre, weights
from common.solvers.runge_kutta import TABLEAUS
from phase_bridge import phase_solvers as phase
from phase_bridge.bridge import KINDS, Bridge
from phase_bridge.processes import Process, beside

_NODES = 64
_MOST = 1e4  # noise level that stands for an infinite one where estimates are interpolated

# Adams-Bashforth weights on equal steps, the newest first; iPNDM uses them for all steps.
_ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


class Solver(NamedTuple):
    """Properties of a solver: kinds, numbers of parts, its degree (None: it has none), and whether it may be corrected.

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
# By path and kind, where none is chosen: what is best at few evaluations. The paper's own for the bridge's ODE is taken
# for networks of its objective, and for conditions, which change the velocity that a corrector would correct.
DEFAULT = {("bridge", "ode"): "unipc", ("bridge", "sde"): "data_multistep", ("flow", "ode"): "ab",
           ("edm", "ode"): "ipndm", ("cld", "ode"): "data_multistep"}  # fmt: skip
PUBLISHED = {("bridge", "ode"): "gddim"}


class Stages(NamedTuple):
    """A rule of two evaluations a step: rows of times, lengths and the flow's A and b; one last evaluation ends it."""

    times: np.ndarray  # [N, 2]
    dt: np.ndarray  # [N]
    a: np.ndarray  # [N, 2, k, k]
    b: np.ndarray  # [N, 2, k]
    end: Any  # [], of the last evaluation


class Table(NamedTuple):
    """Steps for one path, such as `phase_bridge.learn_table` gives; `sample` takes it as a solver along that path."""

    process: Process
    steps: Steps


def chosen(process: Process, solver: str | None, kind: str, *, published: bool = False) -> str:
    """Returns the solver's name, or the default of path and kind; raises `InputError` for what does not fit.

    published: whether the default is the paper's where it has one.
    """
    choice("kind", kind, KINDS)
    if kind == "sde" and not isinstance(process, Bridge):
        raise input_error("kind", expected=f'"ode" for the path "{process.name}"', got='"sde"', fix="use a Bridge")
    fitting = [
        name for name, each in SOLVERS.items()
        if kind in each.kinds and process.parts in each.parts and (not each.of_bridge or isinstance(process, Bridge))
    ]  # fmt: skip
    if solver is None:
        return (DEFAULT | PUBLISHED if published else DEFAULT)[process.name, kind]
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
    own: Any = process  # a Bridge, where the solver is one of phase space
    degree = rule.degree if degree is None else int(degree)
    power: Any = degree  # a number for these solvers
    grid = check_times(process, times)
    if rule.stages == 2:
        return _stages(process, grid, TABLEAUS[name].c[1])
    t, end = grid[:-1], grid[1:]
    if name == "euler":
        return _euler(process, t, end)
    if name in ("euler_maruyama", "splitting"):
        return getattr(phase, name)(process, t, end)
    if name == "gddim":
        return phase.gddim(own, t, end, degree=power, corrector=corrector)
    if kind == "sde":
        return phase.data_multistep_sde(own, t, end, degree=power, corrector=corrector)
    if name in ("data_multistep", "unipc") or (name == "ddim" and process.parts == 2):
        options = {"degree": degree or 0, "corrector": bool(corrector)}
        if process.parts == 2:
            return phase.data_multistep(process, t, end, **options)
        return data_multistep(process, grid, **options)
    rules = {"ddim": ddim, "dpmpp": dpmpp, "deis": deis, "ipndm": ipndm, "ab": ab}
    return rules[name](process, grid, **({} if degree is None else {"degree": degree}))


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

    rows = jax.tree.map(lambda each: jnp.asarray(each, m.dtype), stages._replace(end=None))
    if len(stages.dt):
        m, _ = jax.lax.scan(body, m, rows)
    return m, field(m, beside(stages.end, m))


def ddim(process: Process, times: np.ndarray) -> Steps:
    """Euler in sigma: u' = (sigma'/sigma) u + (1 - sigma'/sigma) D (Song et al., ICLR 2021, eta = 0); order 1."""
    return _of_estimates(process, times, np.zeros((len(times) - 1, 1)))


def dpmpp(process: Process, times: np.ndarray, *, degree: int) -> Steps:
    """DPM-Solver++ multistep in data prediction (Lu et al., 2022): 2M for degree 1, 3M for degree 2.

    Of order `degree` + 1. 2M with the authors' approximation of the second weight; 3M integrates the parabola through
    three values exactly (the authors' code has half of the second derivative's part).
    """
    if degree != 1:
        return data_multistep(process, times, degree=degree)
    sigma = _levels(process, times)
    log, found = -np.log(np.maximum(sigma, 1e-300)), np.zeros((len(times) - 1, 2))
    for n in range(1, len(found)):
        if sigma[n + 1] > 0:
            step = log[n + 1] - log[n]
            half = -np.expm1(-step) / 2 * step / (log[n] - log[n - 1])
            found[n] = half, -half
    return _of_estimates(process, times, found)


def data_multistep(process: Process, times: np.ndarray, *, degree: int, corrector: bool = False) -> Steps:
    """Extrapolates the data estimate by a polynomial of `degree` in ln sigma; exact for such estimates.

    The predictor of exponential integrators. With the corrector it is UniPC (Zhao et al., NeurIPS 2023) with its
    coefficients from the exact integrals. Of order `degree` + 1, and one more with the corrector.
    """
    sigma = _levels(process, times)
    log = -np.log(np.where(sigma > 0, sigma, 1.0))
    log[-1] = log[-1] if sigma[-1] > 0 else log[-2]  # the last step to sigma = 0 is the last estimate
    nodes, shares = gauss_legendre(log[:-1], log[1:], _NODES)
    kernel = (np.exp(nodes - log[1:, None]) * shares)[..., None]
    transition = (sigma[1:] / sigma[:-1])[:, None, None]
    options = {"corrector": corrector, "transition": transition, "full_start": True}
    return _of_estimates(process, times, weights(log[:-1], nodes, kernel, order=degree, **options)[..., 0])


def deis(process: Process, times: np.ndarray, *, degree: int) -> Steps:
    """Extrapolates the noise (u - D) / sigma by a polynomial of `degree` in sigma (Zhang & Chen, ICLR 2023, rho-AB).

    Of order `degree` + 1.
    """
    c, spread, sigma = _finite(process, times, "deis")
    nodes, shares = gauss_legendre(sigma[:-1], sigma[1:], _NODES)
    found = weights(
        sigma[:-1], nodes, shares[..., None], order=degree, transition=np.ones((len(c) - 1, 1, 1)), full_start=True
    )
    return _of_noise(times, c, spread, found[..., 0])


def ipndm(process: Process, times: np.ndarray, *, degree: int = 3) -> Steps:
    """Extrapolates the noise with the weights of equal steps in sigma, for any steps (Zhang & Chen, 2023).

    The first steps are of lower degree: that is the method. Hence of order 1 where steps are unequal.
    """
    c, spread, sigma = _finite(process, times, "ipndm")
    found, size = np.zeros((len(c) - 1, min(degree, 3) + 1)), np.diff(sigma)
    for n in range(len(found)):
        known = _ADAMS[min(n, degree, 3)]
        found[n, : len(known)] = size[n] * np.asarray(known)
    return _of_noise(times, c, spread, found)


def ab(process: Process, times: np.ndarray, *, degree: int) -> Steps:
    """Adams-Bashforth: extrapolates dx/dt by a polynomial of `degree` in the path's own time; order `degree` + 1."""
    ((a,),), (b,) = process.flow(times[:-1])
    nodes, shares = gauss_legendre(times[:-1], times[1:], _NODES)
    one = np.ones((len(times) - 1, 1, 1))
    found = weights(times[:-1], nodes, shares[..., None], order=degree, transition=one, full_start=True)
    return _table(times, np.stack([b, a], -1), one, found)


def _levels(process, times):
    sigma = np.minimum(process.noise_level(times[:-1]), _MOST)
    return np.append(sigma, 0.0 if times[-1] == process.last else process.noise_level(times[-1]))


def _finite(process, times, solver):
    (c,), (spread,) = process.mean(times), process.factor(times)
    if c[0] == 0:
        fix = 'use schedule "levels"'
        raise input_error("times", expected=f'finite noise levels for solver "{solver}"', got=times[0], fix=fix)
    return c, spread, spread / c


def _of_estimates(process, times, found):
    """Returns the table of x' = (l'/l) x + c' sum_j w_j D_(n-j), exact for constant estimates by the newest weight."""
    (c,), (spread,) = process.mean(times), process.factor(times)
    ratio = spread[1:] / spread[:-1]
    scaled = np.array(found) * c[1:, None]
    scaled[:, 0] += c[1:] - ratio * c[:-1] - scaled.sum(1)
    one = np.broadcast_to([1.0, 0.0], (len(ratio), 2))
    return _table(times, one, ratio[:, None, None], scaled[..., None])


def _of_noise(times, c, spread, found):
    """Returns the table of u' = u + sum_j w_j (x - c D)_(n-j) / l_(n-j)."""
    history = np.stack([-c[:-1] / spread[:-1], 1 / spread[:-1]], -1)
    return _table(times, history, (c[1:] / c[:-1])[:, None, None], (found * c[1:, None])[..., None])


def _table(times, history, transition, found):
    one = np.broadcast_to([1.0, 0.0], (len(times) - 1, 2))
    return check(Steps(times[:-1], history, one, transition, found))
