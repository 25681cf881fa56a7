"""Samplers of what bridges are compared with, by name; each sample has its own key, and evaluations are counted.

Denoisers (field = data estimate at noise level sigma) are sampled from the largest level to 0, of which the last step
is the data estimate itself; velocities (flow matching) from t = 0 to 1.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from common.errors import choice, input_error
from common.solvers import grids, linear
from common.solvers.linear import Steps
from common.solvers.runge_kutta import TABLEAUS
from phase_bridge.baselines import cld

SOLVERS = {
    "edm": ("ddim", "heun", "dpmpp_2m", "dpmpp_3m", "ipndm"),
    "flow": ("euler", "heun", "midpoint", "ab2"),
    "cld": ("euler", "multistep", "multistep_3"),
}
_TWICE = ("heun", "midpoint")  # two evaluations a step

# Adams-Bashforth weights on equal steps, the newest first; iPNDM uses them whatever the steps are.
_ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def levels(count: int, *, largest: float, smallest: float, order: float = 7.0) -> np.ndarray:
    """Returns `count` noise levels and a final 0; roots of order `order` are equally spaced (Karras et al., 2022)."""
    if count == 1:
        return np.array([largest, 0.0])
    return np.append(grids.power(largest, smallest, count - 1, order=order), 0.0)


def steps_for(process: str, solver: str, nfe: int) -> tuple[int, int]:
    """Returns how many steps a solver makes with at most `nfe` evaluations, and how many of these it uses.

    Raises `InputError` if it cannot make one step.
    """
    if nfe < 1 or nfe != int(nfe):
        raise input_error("nfe", expected="a whole number, at least 1", got=nfe, fix="use 10 or so")
    if process == "edm" and solver == "heun":
        # A pair of evaluations for each step between levels, and one at the last level.
        return (nfe + 1) // 2, (nfe + 1) // 2 * 2 - 1
    if solver not in _TWICE:
        return nfe, nfe
    if nfe < 2:
        raise input_error("nfe", expected=f"at least 2 for {solver}", got=nfe, fix="use another solver")
    return nfe // 2, nfe // 2 * 2


def ddim(sigma: np.ndarray) -> Steps:
    """Euler in sigma: x' = (sigma'/sigma) x + (1 - sigma'/sigma) D (Song et al., 2021, with eta = 0)."""
    ratio = sigma[1:] / sigma[:-1]
    return _denoising(sigma, (1 - ratio)[:, None])


def dpmpp(sigma: np.ndarray, *, order: int) -> Steps:
    """DPM-Solver++ multistep 2M or 3M in data prediction (Lu et al., 2022), lower order in the first steps.

    The last step, to sigma = 0, is the data estimate. The second derivative of 3M is what third order needs; the
    authors' code has half of it.
    """
    count = len(sigma) - 1
    weights = np.zeros((count, order))
    with np.errstate(divide="ignore"):
        log = -np.log(sigma)
    for n in range(count):
        if sigma[n + 1] == 0:
            weights[n, 0] = 1
            continue
        h = log[n + 1] - log[n]
        gone = -np.expm1(-h)
        weights[n, 0] = gone
        if n >= 1 and order >= 2:
            r0 = (log[n] - log[n - 1]) / h
            first = np.zeros(order)
            first[:2] = 1 / r0, -1 / r0
            if n >= 2 and order >= 3:
                r1 = (log[n - 1] - log[n - 2]) / h
                before = np.array([0, 1 / r1, -1 / r1])
                second = 2 * (first - before) / (r0 + r1)
                first = first + r0 / (r0 + r1) * (first - before)
                weights[n] += (1 - gone / h) * first + (gone / h**2 - 1 / h + 0.5) * second
            else:
                weights[n] += gone / 2 * first
    return _denoising(sigma, weights)


def ipndm(sigma: np.ndarray, *, order: int = 4) -> Steps:
    """Adams-Bashforth on dx/dsigma = (x - D)/sigma with the weights of equal steps (Zhang & Chen, 2023)."""
    count, size = len(sigma) - 1, np.diff(sigma)
    weights = np.zeros((count, order))
    for n in range(count):
        known = _ADAMS[min(n + 1, order) - 1]
        weights[n, : len(known)] = size[n] * np.asarray(known)
    history = np.stack([-1 / sigma[:-1], 1 / sigma[:-1]], -1)
    return _table(sigma[:-1], history, np.ones(count), weights)


def euler(times: np.ndarray) -> Steps:
    """Euler's rule for a velocity."""
    size = np.diff(times)
    return _table(times[:-1], np.tile([1.0, 0.0], (len(size), 1)), np.ones(len(size)), size[:, None])


def adams_bashforth(times: np.ndarray) -> Steps:
    """The two-step rule for a velocity on any grid; the first step is Euler's."""
    size = np.diff(times)
    weights = np.zeros((len(size), 2))
    weights[0, 0] = size[0]
    weights[1:, 1] = -(size[1:] ** 2) / (2 * size[:-1])
    weights[1:, 0] = size[1:] - weights[1:, 1]
    return _table(times[:-1], np.tile([1.0, 0.0], (len(size), 1)), np.ones(len(size)), weights)


def _denoising(sigma, weights):
    keep = np.tile([1.0, 0.0], (len(sigma) - 1, 1))
    return _table(sigma[:-1], keep, sigma[1:] / sigma[:-1], weights)


def _table(times, history, transition, weights):
    keep = np.tile([1.0, 0.0], (len(times), 1))
    return linear.check(Steps(times, history, keep, transition[:, None, None], weights[..., None]))


def sample(
    field,
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    process: str,
    solver: str,
    nfe: int,
    largest: float = 80.0,
    smallest: float = 0.002,
    order: float = 7.0,
    first: int = 0,
) -> tuple[jax.Array, dict[str, Any]]:
    """Draws samples of `shape [B, ..., C]` with at most `nfe` evaluations of `field`; `info["nfe"]` says how many.

    process: "edm" (the field is a data estimate at sigma), "flow" (a velocity at t) or "cld" (a data estimate at t).
    solver: one of `SOLVERS[process]`. largest, smallest, order: of the noise levels of "edm"; the latter two for "cld"
    too, where the steps of log noise level are equal. Heun's rule for "edm" takes 2 n - 1 evaluations for n levels, as
    in Karras et al.; other rules of two stages take 2 a step.

    Sample i draws from fold_in(key, first + i), or from `key[i]` if there is one for each.
    Raises `InputError` for names and numbers that do not fit.
    """
    choice("process", process, SOLVERS)
    choice("solver", solver, SOLVERS[process])
    count, used = steps_for(process, solver, nfe)
    steps = make_steps(process, solver, count, largest=largest, smallest=smallest, order=order)
    samples = _run(
        field if isinstance(field, Partial) else Partial(field),
        key,
        np.uint32(first),
        steps,
        np.float32(largest if process == "edm" else 1.0),
        shape=tuple(int(each) for each in shape),
        process=process,
        rule=solver if solver in _TWICE else None,
    )
    return samples, {"nfe": used}


def make_steps(
    process: str, solver: str, count: int, *, largest: float, smallest: float, order: float = 7.0
) -> Steps | np.ndarray:
    """Returns the table of a solver with one evaluation a step, and the times or levels of one with two."""
    if process == "flow":
        times = grids.uniform(0.0, 1.0, count)
        return {"euler": euler, "ab2": adams_bashforth}.get(solver, lambda times: times)(times)
    if process == "cld":
        times = cld.times_between(largest, smallest, count)
        return cld.multistep(times, order={"euler": 0, "multistep": 1, "multistep_3": 2}[solver])
    sigma = levels(count, largest=largest, smallest=smallest, order=order)
    rules = {
        "ddim": ddim,
        "heun": lambda sigma: sigma[:-1],
        "dpmpp_2m": functools.partial(dpmpp, order=2),
        "dpmpp_3m": functools.partial(dpmpp, order=3),
        "ipndm": ipndm,
    }
    return rules[solver](sigma)


@functools.partial(jax.jit, static_argnames=("shape", "process", "rule"))
def _run(field, key, first, steps, scale, *, shape, process, rule):
    keys = key if key.ndim else sampling_keys(key, first, shape[0])
    if process == "cld":
        x = jax.vmap(lambda one: cld.prior(one, shape[1:]))(keys)
    else:
        x = scale * jax.vmap(lambda one: jax.random.normal(one, shape[1:]))(keys)
    if rule is None:
        outcome = linear.run(field, steps, None, x)
        return outcome.estimate if process == "cld" else outcome.state
    return _two_stages(field, x, steps, process, TABLEAUS[rule])


def sampling_keys(key: jax.Array, first: jax.Array, count: int) -> jax.Array:
    """Returns fold_in(key, first + i) for i below `count`."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(count, dtype=jnp.uint32))


def _two_stages(field, x, times, process, tableau):
    if process == "flow":
        return _integrate(field, x, times, tableau)
    if len(times) > 1:
        x = _integrate(lambda x, sigma: (x - field(x, sigma)) / sigma, x, times, tableau)
    return field(x, times[-1])


def _integrate(field, x, times, tableau):
    def body(x, ends):
        t, dt = ends[0], ends[1] - ends[0]
        slopes = []
        for share, node in zip(tableau.a, tableau.c, strict=True):
            inner = x + dt * sum((a * slope for a, slope in zip(share, slopes, strict=True)), jnp.zeros_like(x))
            slopes.append(field(inner, t + node * dt))
        return x + dt * sum(b * slope for b, slope in zip(tableau.b, slopes, strict=True)), None

    return jax.lax.scan(body, x, jnp.stack([times[:-1], times[1:]], -1).astype(x.dtype))[0]
