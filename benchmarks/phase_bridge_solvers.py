"""Error against NFE for every sampler of the phase-space bridge, on the exact drift of a mixture of Gaussians.

No network, no training: the samplers alone are measured. Data are four isotropic Gaussians (standard deviation
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
from phase_bridge.bridge import Bridge
from phase_bridge.sampling import estimate, sample
from phase_bridge.sampling import run as run_steps
from phase_bridge.schedules import schedule, usual_last
from phase_bridge.solvers import make_steps
from phase_bridge.toy import mixture

MEANS = np.array([[0.5, 0.5], [-0.5, 0.3], [0.2, -0.6], [-0.4, -0.5]])
WEIGHTS = np.array([0.4, 0.3, 0.2, 0.1])
STD, BRIDGE, SEED = 0.08, Bridge(), 0
STOP = 0.95  # where the spread of the SDE's states is measured
LAST = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.999)


class Settings(NamedTuple):
    """Numbers of evaluations and of particles."""

    nfe: tuple[int, ...] = (5, 10, 20, 50, 100)
    nfe_sde: tuple[int, ...] = (10, 20, 50, 200)
    particles: int = 1000
    particles_sde: int = 40_000
    degrees: tuple[int, ...] = (0, 1, 2, 3)
    degrees_sde: tuple[int, ...] = (0, 1)
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


def ode_rules(degrees) -> dict[str, dict[str, Any]]:
    """Returns the options of every ODE sampler by its name in the table."""
    rules = {"euler": {"solver": "euler"}}
    for solver in ("gddim", "data_multistep"):
        for corrector in (False, True):
            for degree in degrees:
                name = f"{solver} r={degree}" + " + corrector" * corrector
                rules[name] = {"solver": solver, "degree": degree, "corrector": corrector}
    return rules


def ode_tables(settings: Settings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the rows of both ODE tables."""
    model, key = mixture(BRIDGE, MEANS, WEIGHTS, STD), jax.random.key(SEED)
    rules, field = ode_rules(settings.degrees), jax.tree_util.Partial(estimate, model)
    most = max(make_steps(BRIDGE, np.linspace(0, 0.9, 12), **each).weights.shape[1] for each in rules.values())

    def draw(times, **options):
        steps = make_steps(BRIDGE, times, **options)
        # One program for all degrees: older outputs count nothing.
        older = ((0, 0), (0, most - steps.weights.shape[1]), (0, 0))
        steps = steps._replace(weights=np.pad(steps.weights, older))
        return np.asarray(run_steps(field, steps, key, (settings.particles, 2), BRIDGE)[0], float)

    degree = max(settings.degrees)
    times = np.append(1 - grids.power(1, 1e-4, settings.reference - 1, order=3), 1 - 5e-5)
    exact = draw(times, solver="data_multistep", degree=degree, corrector=True)
    published, best = [], []
    for name, options in rules.items():
        row, other = {"sampler": name}, {"sampler": name}
        for nfe in settings.nfe:
            usual = usual_last(nfe, sampler="ode")
            errors = {}
            for last in sorted({*LAST, usual}):
                times = schedule(BRIDGE, nfe, last=last)
                errors[last] = float(np.sqrt(np.mean(np.sum((draw(times, **options) - exact) ** 2, 1)) / 2))
            least = min(errors, key=errors.get)
            row[f"{nfe} NFE (T={usual:.3g})"] = _digits(1e3 * errors[usual])
            other[f"{nfe} NFE"] = f"{_digits(1e3 * errors[least])} ({least:g})"
        published.append(row)
        best.append(other)
    return published, best


def sde_rules(degrees) -> dict[str, dict[str, Any]]:
    """Returns the options of every SDE sampler; the last one, without options, is the recommended one."""
    rules = {"Euler-Maruyama": {"solver": "euler_maruyama"}, "splitting": {"solver": "splitting"}}
    for corrector in (False, True):
        for degree in degrees:
            if (degree, corrector) != (1, True):
                name = f"data_multistep r={degree}" + " (frozen)" * (degree == 0) + " + corrector" * corrector
                rules[name] = {"solver": "data_multistep", "degree": degree, "corrector": corrector}
    rules["data_multistep r=1 + corrector (recommended)"] = {}
    return rules


def sde_table(settings: Settings) -> tuple[list[dict[str, Any]], dict[int, tuple[float, float]]]:
    """Returns the rows of the SDE table, and the recommended sampler's two relative errors by NFE."""
    model, key, n = mixture(BRIDGE, MEANS, WEIGHTS, STD, kind="sde"), jax.random.key(SEED), settings.particles_sde
    rng = np.random.default_rng(SEED)
    noise = rng.normal(size=(4 * n, 4))
    true = spread_at(BRIDGE.perturb(draw_data(rng, 4 * n), noise, STOP)[:, :2], STOP)
    rows, errors = [], {}
    for name, options in sde_rules(settings.degrees_sde).items():
        row: dict[str, Any] = {"sampler": name}
        for nfe in settings.nfe_sde:
            times = 1 - grids.power(1, 1 - STOP, nfe, order=2)
            x, _ = sample(model, key, (n, 2), schedule=times, output="state", **options)
            early = spread_at(np.asarray(x, float), STOP) / true - 1
            x, _ = sample(model, key, (n, 2), nfe=nfe, **options)
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
    model, key = mixture(BRIDGE, MEANS, WEIGHTS, STD), jax.random.key(SEED)
    shape = (settings.particles_sde, 2)
    call = jax.jit(lambda model, m, t: model.estimate(m, t))
    m, times = BRIDGE.prior(key, shape), np.linspace(0, 0.9, 20, dtype=np.float32)
    names = ("sampler with 20 evaluations", "20 calls of the model")
    samples = harness.alternate(
        {
            names[0]: harness.timed(lambda: sample(model, key, shape, nfe=20)[0]),
            names[1]: harness.timed(lambda: [call(model, m, t) for t in times]),
        },
        rounds=settings.rounds,
    )
    return samples, harness.compare("sampler / its evaluations alone", samples[names[0]], samples[names[1]])


def _digits(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
