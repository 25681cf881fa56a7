"""Learned tables of few evaluations beside the best solvers: on an exact denoiser, and on trained ones.

Along EDM's path and the bridge's probability flow, for each number of evaluations, every solver with every schedule of
a list is tried on one set of noise and the best is kept; a table is learned from there (`phase_bridge.learn_table`),
from noise of its own; both are measured on other noise, as the mean distance of a sample from where 200 evaluations end
from the same noise. The exact denoiser is that of nine Gaussians. The trained ones are those of configs/phase_bridge/
demo.py with seeds 0 and 1: tables are learned with the first and measured with both.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import phase_bridge
from benchmarks.harness import Report
from phase_bridge.bridge import Bridge
from phase_bridge.learned import learn_table
from phase_bridge.processes import EDM
from phase_bridge.sampling import sample
from phase_bridge.toy import toy

SEED, REFERENCE = 0, 200


class Settings(NamedTuple):
    """Evaluations, samples that are measured, batches of learning, and runs of two trained denoisers (none: train)."""

    nfe: tuple[int, ...] = (3, 5, 8)
    count: int = 2000
    num_batches: int = 600
    steps: int = 1500
    runs: tuple[str, ...] = ()


FULL = Settings()
QUICK = Settings((3,), 50, 2, 4)


def candidates(path: str, std: float) -> list[dict[str, Any]]:
    """Returns solvers and schedules along a path for data of deviation `std`; all begin with the same noise."""
    levels = [
        {"kind": "levels", "sigma_max": most * std, "sigma_min": least * std, "rho": rho}
        for most in ((15.0,) if path == "edm" else (15.0, 3.0)) for least in (0.005, 0.02, 0.08, 0.25)
        for rho in ((7.0, 3.0) if path == "edm" else (7.0,))
    ]  # fmt: skip
    if path == "edm":
        solvers = [{"solver": "unipc", "degree": 2}, {"solver": "deis"}, {"solver": "ipndm"}]
    else:
        levels += [{"kind": "power_from_0", "last": last} for last in (0.4, 0.6, 0.8, 0.9)]
        solvers = [{"solver": "gddim"}, {"solver": "unipc", "degree": 1}, {"solver": "unipc", "degree": 2}]
    return [{**solver, "schedule": schedule} for solver in solvers for schedule in levels]


def run(settings: Settings) -> Report:
    """Measures solvers and tables on the exact denoiser, and on trained ones with their transfer."""
    of = toy("mixture")
    tables = {"nine Gaussians, exact denoiser": compared(settings, lambda path: [along(of.denoise, path)], of.std)}
    with tempfile.TemporaryDirectory() as scratch:
        runs = settings.runs or tuple(trained(Path(scratch), seed, settings.steps) for seed in (0, 1))
        models = [phase_bridge.load(each) for each in runs]
        paths = {"edm": EDM(), "bridge": Bridge()}
        spiral = compared(settings, lambda path: [each.along(paths[path]) for each in models], toy("spiral").std)
    tables["spirals, trained denoisers"] = spiral
    return Report(config=settings._asdict(), seed=SEED, samples={}, tables=tables, goals=[])


def along(denoise, path: str):
    """Returns the model of a denoiser along "edm" or "bridge"."""
    return phase_bridge.denoiser_model({"edm": EDM(), "bridge": Bridge()}[path], denoise)


def trained(folder: Path, seed: int, steps: int) -> str:
    """Trains a denoiser of spirals and returns its directory."""
    workdir = str(folder / str(seed))
    changes = [f"--config.train.steps={steps}", f"--config.seed={seed}", f"--config.optimizer.warmup={steps // 15}"]
    command = ["train", "--config", "configs/phase_bridge/demo.py", "--workdir", workdir, *changes]
    subprocess.run([sys.executable, "-m", "phase_bridge", *command], check=True, stdout=subprocess.DEVNULL)
    return workdir


def compared(settings: Settings, models_along, std: float) -> list[dict[str, Any]]:
    """Returns a row for each path and number of evaluations: the best solver, its error, and the table's (x1000)."""
    rows = []
    for path in ("edm", "bridge"):
        models, tried = models_along(path), candidates(path, std)
        starts, ends = [], []
        for which in (0, 1):
            start = models[0].process.prior(jax.random.fold_in(jax.random.key(SEED), which), (settings.count, 2))
            starts.append(start * (15 * std / EDM().sigma_max if path == "edm" else 1.0))
            fine = {"kind": "levels", "sigma_max": 15 * std, "sigma_min": 0.002 * std}
            ends.append([_end(model, starts[-1], nfe=REFERENCE, solver="unipc", schedule=fine) for model in models])
        for nfe in settings.nfe:
            errors = [_error(models[0], starts[0], ends[0][0], nfe=nfe, **each) for each in tried]
            best = tried[int(np.argmin(errors))]
            learned = learn_table(
                models[0], nfe, jax.random.key(SEED + 1), (2,), num_batches=settings.num_batches, **best
            )
            row = {"path": path, "NFE": nfe, "best solver": f"{best['solver']}, {best['schedule']['kind']}"}
            for solver in dict.fromkeys(each["solver"] for each in tried):
                own = [error for error, each in zip(errors, tried, strict=True) if each["solver"] == solver]
                chosen = [each for each in tried if each["solver"] == solver][int(np.argmin(own))]
                row[solver] = _digits(_error(models[0], starts[1], ends[1][0], nfe=nfe, **chosen))
            for i, model in enumerate(models):
                if i:
                    row["best, other model"] = _digits(_error(model, starts[1], ends[1][i], nfe=nfe, **best))
                name = "learned, other model" if i else "learned"
                row[name] = _digits(_error(model, starts[1], ends[1][i], solver=learned.table))
            rows.append(row)
            print(row, flush=True)
    return rows


def _end(model, start, **options) -> jax.Array:
    return sample(model, SEED, (len(start), 2), start=start, **options)[0]


def _error(model, start, end, **options) -> float:
    return float(jnp.linalg.norm(_end(model, start, **options) - end, axis=-1).mean())


def _digits(value: float) -> str:
    return f"{1e3 * value:.1f}"
