"""`python -m gahb restore`: held-out images from a few linear measurements of them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.cli.verbs import trained
from common.errors import InputError, at_least, choice, input_error
from common.io import results
from common.io.progress import Progress
from common.plots.report import text_table
from common.prng import Purpose, key_for
from gahb import inverse
from gahb.inverse import BASELINES, BaselineSettings, check_baseline
from gahb.method import build_network, sampler_settings, spread
from gahb.networks import denoiser
from gahb.sampler_settings import outcomes
from gahb.sampling import sample

SAMPLER = "sampler"
COLUMNS = ("problem", "minimum_norm", "restored", "error", "mean_of_samples", "ssim", "mismatch", "converged", "steps")
CHOSEN = {"dps": ("weight", "dps_weights"), "diffpir": ("renewal", "diffpir_renewals")}  # setting and its candidates


class Solver(NamedTuple):
    """A function that solves the problems, and its settings; of several the best on training images is taken."""

    solve: Callable[..., tuple[jax.Array, dict[str, Any]]]
    candidates: tuple[Any, ...]


def run(app: App, request: Request) -> None:
    """Writes `results/restore-step-N-seed-S-KEY.json` and `.npz`, and prints a table."""
    config = workdirs.of_trained(app, request).config
    whole = _of_images(config)
    shape = (whole.data.size, whole.data.size, whole.data.channels)
    restore = config.evaluate.restore
    measured = {"hole": restore.hole, "scale": restore.scale, "fraction": restore.fraction}
    _check(restore, shape, measured)
    _solvers(config)
    sources = app.build(whole).sources()
    images = spread(sources["test"], restore.num)
    training = spread(sources["train"].fixed(), restore.tune_images) if restore.tune_images else images[:0]
    if images.shape[1:] != shape:
        got = list(images.shape[1:])
        raise input_error("held-out images", expected=list(shape), got=got, fix="set config.evaluate.restore.size to 0")
    model = trained.load(app, request, "SAMPLE")
    if model is None:
        return
    key = key_for(jax.random.key(config.seed), Purpose.EVALUATE)
    problems = inverse.problems(restore.problems, key, shape, **measured)
    solvers = _solvers(config)
    (found, tuning), seconds = trained.timed("", _restore, config, model, images, training, problems, solvers)
    rows = {
        solver: [
            inverse.summary(name, arrays, None if solver == SAMPLER else found[SAMPLER][name])
            for name, arrays in restored.items()
        ]
        for solver, restored in found.items()
    }
    numbers = {
        **model.provenance(seconds, max(int(arrays["steps"].max()) for arrays in found[SAMPLER].values()) + 1),
        "num_images": len(images),
        "table": rows[SAMPLER],
        "baselines": {name: rows[name] for name in restore.baselines},
        "tuning": tuning,
    }
    arrays = {f"{name}.{field}": value for name, parts in found[SAMPLER].items() for field, value in parts.items()}
    for solver in restore.baselines:
        for name, parts in found[solver].items():
            # The measurement and its minimum-norm image are those of the sampler.
            own = {field: parts[field] for field in inverse.OF_SAMPLES}
            arrays |= {f"{name}.{solver}.{field}": value for field, value in own.items()}
    paths = results.write(
        model.workdir / "results",
        f"restore-{model.name}",
        numbers=numbers,
        arrays={"original": images, **arrays},
        settings={**model.settings, "data": trained.fingerprints(sources)},
    )
    print_lines(
        *text_table(
            [
                {"solver": solver, **{column: row[column] for column in COLUMNS}}
                for solver, each in rows.items()
                for row in each
            ]
        ),
        *(
            f"{solver}, {name}: {outcomes(ends)}"
            for solver, restored in found.items()
            for name, ends in restored.items()
        ),
        f"wrote {', '.join(str(path) for path in paths)}",
        f"next: python -m {app.name} figures restore --workdir {model.workdir}",
    )


def _of_images(config):
    """Returns the config under which held-out images have the size they are restored at; raises `InputError`."""
    size = config.evaluate.restore.size
    if size and config.data.fit != "crop":
        fix = "set it to 0"
        raise input_error("config.evaluate.restore.size", expected='0 unless data.fit is "crop"', got=size, fix=fix)
    whole = config.copy_and_resolve_references()
    if size:
        with whole.unlocked():
            whole.data.fit, whole.data.size, whole.data.square = "resize", size, size
            whole.evaluate.panel_size = 0
    return whole


def _check(restore, shape, measured) -> None:
    """Raises `InputError` for impossible settings, before anything expensive."""
    least = {"num": 1, "samples": 1, "tune_images": 0}
    at_least({f"config.evaluate.restore.{field}": (restore[field], each) for field, each in least.items()})
    for name in restore.baselines:
        choice("config.evaluate.restore.baselines", name, BASELINES)
    try:
        inverse.check(restore.problems, shape, **measured)
    except InputError as error:
        raise InputError(f"config.evaluate.restore.{error}") from None


def _solvers(config) -> dict[str, Solver]:
    """Returns the solvers, the sampler first; raises `InputError` for impossible settings."""
    restore, settings = config.evaluate.restore, sampler_settings(config)
    keys = {"steps": "baseline_steps", "weight": "dps_weight", "renewal": "diffpir_renewal"}
    baseline = BaselineSettings(
        sigma_0=settings.sigma_0,
        sigma_L=settings.sigma_L,
        mean=settings.mean,
        **{name: restore[key] for name, key in keys.items()},
    )
    _check_settings(baseline, keys)
    solvers = {SAMPLER: Solver(sample, (settings,))}
    for name in restore.baselines:
        setting, key = CHOSEN[name]
        candidates = [baseline]
        if restore.tune_images:
            candidates = [baseline._replace(**{setting: value}) for value in restore[key]]
            at_least({f"number of config.evaluate.restore.{key}": (len(candidates), 1)})
            for each in candidates:
                _check_settings(each, {**keys, setting: key})
        solvers[name] = Solver(BASELINES[name], tuple(candidates))
    return solvers


def _check_settings(settings: BaselineSettings, keys: dict[str, str]) -> None:
    try:
        check_baseline(settings)
    except InputError as error:
        field, _, message = str(error).partition(":")
        raise InputError(f"config.evaluate.restore.{keys.get(field, field)}:{message}") from None


def _restore(config, model, images: np.ndarray, training: np.ndarray, problems, solvers: dict[str, Solver]):
    """Returns the arrays of each solver and problem, and the PSNR of each candidate that was tried on training images.

    The noise is the same for all solvers and candidates.
    """
    restore = config.evaluate.restore
    denoise = denoiser(model.variables, build_network(config))
    restored: dict[str, dict[str, dict[str, np.ndarray]]] = {solver: {} for solver in solvers}
    tuning: dict[str, dict[str, Any]] = {}
    tried = sum(len(each.candidates) for each in solvers.values() if len(each.candidates) > 1)
    runs = len(problems) * restore.samples * (len(solvers) * len(images) + tried * len(training))
    with Progress(runs, what="restore") as bar:
        for solver, (solve, candidates) in solvers.items():
            for name, operator in problems.items():
                restore_with = functools.partial(
                    inverse.restore,
                    denoise,
                    jax.random.fold_in(model.key, inverse.PROBLEMS.index(name)),
                    operator=operator,
                    solve=solve,
                    samples=restore.samples,
                    impose=restore.impose,
                    batch_size=config.sampler.batch_size,
                    add=bar.add,
                )
                settings, *others = candidates
                if others:
                    psnrs = [restore_with(training, settings=each)["psnr"].mean() for each in candidates]
                    settings = candidates[int(np.argmax(np.nan_to_num(psnrs, nan=-np.inf)))]
                    setting, _ = CHOSEN[solver]
                    tuning.setdefault(solver, {})[name] = {
                        "setting": setting,
                        "chosen": getattr(settings, setting),
                        "tried": [getattr(each, setting) for each in candidates],
                        "psnr": [float(each) for each in psnrs],
                        "num_images": len(training),
                    }
                restored[solver][name] = restore_with(images, settings=settings)
    return restored, tuning
