"""Error against NFE for every sampler of the phase-space bridge, on the exact drift of a mixture of Gaussians.

No network, no training: what is measured is the samplers alone. Data are four isotropic Gaussians (standard deviation
0.08) in the plane. ODE: root mean square distance of the data estimate of the last evaluation from where the exact
trajectory of the same start ends, once with the published time of the last evaluation and once with the best of a
list. SDE: spread of positions about the modes at t = 0.95, relative to the true one there, and that of the data
estimates at the last evaluation of the usual grid, relative to the data's.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import harness
from benchmarks.harness import Goal, Report
from common.solvers import grids
from phase_bridge import bridge as bridges
from phase_bridge import sampling
from phase_bridge.analytic import mixture_field
from phase_bridge.bridge import Bridge

MEANS = np.array([[0.5, 0.5], [-0.5, 0.3], [0.2, -0.6], [-0.4, -0.5]])
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])
STD, BRIDGE, SEED = 0.08, Bridge(), 0
STOP = 0.95  # where the spread of the SDE's states is looked at
LAST = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.999)


class Settings(NamedTuple):
    """Numbers of evaluations and of particles."""

    nfe: tuple[int, ...] = (5, 10, 20, 50, 100)
    nfe_sde: tuple[int, ...] = (10, 20, 50, 200)
    particles: int = 1000
    particles_sde: int = 40_000
    orders: tuple[int, ...] = (0, 1, 2, 3)
    orders_sde: tuple[int, ...] = (0, 1)
    reference: int = 1000
    rounds: int = 7


FULL = Settings()
QUICK = Settings((5,), (5,), 20, 200, (0, 1), (0,), 50, 1)


def run(settings: Settings) -> Report:
    """Measures every rule and order; the goals are the SDE's spread at 20 steps and the cost of the loop."""
    published, best = ode_tables(settings)
    sde, spread = sde_table(settings)
    samples, ratio = overhead(settings)
    twenty = 20 if 20 in settings.nfe_sde else settings.nfe_sde[0]
    goals = [
        Goal(f"spread of the recommended SDE sampler at {twenty} steps, |relative error| of {what}", abs(error), 0.02)
        for what, error in zip((f"positions at t = {STOP}", "the samples"), spread[twenty], strict=True)
    ]
    return Report(
        config={**settings._asdict(), "means": MEANS, "weights": WEIGHTS, "std": STD, "bridge": vars(BRIDGE)},
        seed=SEED,
        samples=samples,
        tables={
            "ODE, x1000: distance from the exact end, last evaluation as published": published,
            "ODE, x1000: the same with the best last time, which is in brackets": best,
            f"SDE: error of the spread in percent, of positions at t = {STOP}; of the last estimates": sde,
            "program": [ratio],
        },
        goals=goals,
    )


def ode_rules(orders) -> dict[str, dict[str, Any]]:
    """Returns the options of every ODE sampler by its name in the table."""
    rules = {"euler": {"rule": "euler"}}
    for rule in ("exponential", "data"):
        for corrector in (False, True):
            for order in orders:
                name = f"{rule} r={order}" + " + corrector" * corrector
                rules[name] = {"rule": rule, "order": order, "corrector": corrector}
    return rules


def ode_tables(settings: Settings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the rows of both ODE tables."""
    field, key = mixture_field(BRIDGE, MEANS, WEIGHTS, STD, kind="ode"), jax.random.key(SEED)
    rules, most = ode_rules(settings.orders), max(settings.orders) + 2

    def draw(times, **options):
        steps = sampling.make_steps(BRIDGE, times, kind="ode", **options)
        # One program for all orders: older outputs count nothing.
        older = ((0, 0), (0, most - steps.weights.shape[1]), (0, 0))
        steps = steps._replace(weights=np.pad(steps.weights, older))
        return np.asarray(sampling.sample(field, key, (settings.particles, 2), steps=steps)[0], float)

    order = max(settings.orders)
    times = np.append(1 - grids.power(1, 1e-4, settings.reference - 1, order=3), 1 - 5e-5)
    exact = draw(times, rule="data", order=order, corrector=True)
    published, best = [], []
    for name, options in rules.items():
        row, other = {"sampler": name}, {"sampler": name}
        for nfe in settings.nfe:
            usual = sampling.usual_last(nfe, kind="ode")
            errors = {}
            for last in sorted({*LAST, usual}):
                times = sampling.time_grid("reversed_power", nfe, last=last)
                errors[last] = float(np.sqrt(np.mean(np.sum((draw(times, **options) - exact) ** 2, 1)) / 2))
            least = min(errors, key=errors.get)
            row[f"{nfe} NFE (T={usual:.3g})"] = _digits(1e3 * errors[usual])
            other[f"{nfe} NFE"] = f"{_digits(1e3 * errors[least])} ({least:g})"
        published.append(row)
        best.append(other)
    return published, best


def sde_rules(orders) -> dict[str, dict[str, Any]]:
    """Returns the options of every SDE sampler; the last one, without options, is the recommended one."""
    rules = {"Euler-Maruyama": {"rule": "euler"}, "splitting": {"rule": "splitting"}}
    for corrector in (False, True):
        for order in orders:
            if (order, corrector) != (1, True):
                name = f"data r={order}" + " (frozen)" * (order == 0) + " + corrector" * corrector
                rules[name] = {"rule": "data", "order": order, "corrector": corrector}
    rules["data r=1 + corrector (recommended)"] = {}
    return rules


def sde_table(settings: Settings) -> tuple[list[dict[str, Any]], dict[int, tuple[float, float]]]:
    """Returns the rows of the SDE table, and the recommended sampler's two relative errors by NFE."""
    field, key, n = mixture_field(BRIDGE, MEANS, WEIGHTS, STD, kind="sde"), jax.random.key(SEED), settings.particles_sde
    rng = np.random.default_rng(SEED)
    noise = rng.normal(size=(4 * n, 4))
    true = spread_at(bridges.sample_bridge(BRIDGE, noise, draw_data(rng, 4 * n), STOP)[0][:, :2], STOP)
    rows, errors = [], {}
    for name, options in sde_rules(settings.orders_sde).items():
        row: dict[str, Any] = {"sampler": name}
        for nfe in settings.nfe_sde:
            times = 1 - grids.power(1, 1 - STOP, nfe, order=2)
            call = {"kind": "sde", **options}
            x, _ = sampling.sample(field, key, (n, 2), times=times, output="state", **call)
            early = spread_at(np.asarray(x, float), STOP) / true - 1
            x, _ = sampling.sample(field, key, (n, 2), nfe=nfe, **call)
            last = spread_at(np.asarray(x, float), 1.0) / STD - 1
            errors[nfe] = early, last
            row[f"{nfe} NFE"] = f"{100 * early:+.1f}; {100 * last:+.1f}"
        rows.append(row)
    return rows, errors


def draw_data(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draws `[n, 2]` from the mixture."""
    return MEANS[rng.choice(len(WEIGHTS), n, p=WEIGHTS)] + STD * rng.normal(size=(n, 2))


def spread_at(x: np.ndarray, t: float) -> float:
    """Returns the standard deviation of positions about the nearest of the modes at t."""
    away = x[:, None] - bridges.mean_coefficients(BRIDGE, t)[0] * MEANS
    nearest = np.linalg.norm(away, axis=-1).argmin(1)
    return float(away[np.arange(len(x)), nearest].std())


def overhead(settings: Settings) -> tuple[dict[str, list[harness.Seconds]], dict[str, Any]]:
    """Times a sampler of 20 evaluations beside 20 calls of the jitted field."""
    field, key = mixture_field(BRIDGE, MEANS, WEIGHTS, STD, kind="ode"), jax.random.key(SEED)
    shape = (settings.particles_sde, 2)
    call = jax.jit(lambda field, m, t: field(m, t))
    m, times = bridges.prior(BRIDGE, key, shape), np.linspace(0, 0.9, 20, dtype=np.float32)
    names = ("sampler with 20 evaluations", "20 calls of the field")
    samples = harness.alternate(
        {
            names[0]: harness.timed(lambda: sampling.sample(field, key, shape, nfe=20)[0]),
            names[1]: harness.timed(lambda: [call(field, m, t) for t in times]),
        },
        rounds=settings.rounds,
    )
    return samples, harness.compare("sampler / its evaluations alone", samples[names[0]], samples[names[1]])


def _digits(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
