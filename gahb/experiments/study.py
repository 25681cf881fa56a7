"""`python -m gahb study`: pairs of denoisers on disjoint training sets of growing size, from memory to generalisation.

Each model is an ordinary run in DIR/N-00010/1 (or /2), resumed as `train` resumes; each pair is measured once both are
there, each model at all its kept checkpoints and beside score machines: DIR/results/study-PART-KEY (a pair),
times-PART-HALF-KEY (a model over its training time, made of DIR/results/checkpoints/PART-HALF-step-N-KEY) and
machines-PART-HALF-KEY. Measures of the same weights, images and settings are not repeated, so the command may be
stopped anywhere, and given again.

The models are trained one after the other, on all devices. On CPUs two models in one vectorised program took three
times as long each; where several accelerators are there, `--only 10/2` trains one model, so each device may be given
its own (one process each, made visible to it alone), and the command without it then measures what all have trained.
`--measure-only` trains nothing.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from common import config as configs
from common.checkpoint import restore_variables, saved_steps
from common.cli import multi_run, workdirs
from common.cli.app import App, Request, print_lines
from common.cli.verbs.trained import config_settings
from common.data.source import digest
from common.errors import input_error
from common.io import results
from common.io.progress import Progress
from common.plots.report import text_table
from common.prng import Purpose, key_for
from common.sampling import weights_digest
from common.training import parallel
from gahb.denoisers import Denoiser
from gahb.experiments.study_measures import (
    Pair,
    measure,
    measure_checkpoint,
    measure_machines,
    num_machine_measures,
    num_measures,
    over_time,
)
from gahb.experiments.study_plan import Part, Plan, build, config_of, folder_of, images
from gahb.method import build_network
from gahb.networks import denoiser


def run(app: App, request: Request) -> None:
    """Trains and measures the missing parts of the study in `--workdir`."""
    config, workdir = workdirs.to_train(app, request)
    plan = build(config)
    multi_run.check_same(app, config, workdir, what="study")
    chosen, halves = _chosen(plan, request.flags.only)
    if request.flags.measure_only and request.flags.only:
        raise input_error(
            "--measure-only", expected="no --only beside it", got=f"--only {request.flags.only}", fix="leave one out"
        )
    for part in chosen:
        for half in halves:
            multi_run.check(app, config_of(config, part, half), folder_of(workdir, part, half))
    training, held_out, dropped = images(app, config, plan)
    kept = f"{len(held_out)} held out ({dropped} near-duplicates of training images left out)"
    print_lines(f"data: training sets of up to {len(training[0])} images, {kept}")
    measured = Measured(config, workdir, training, held_out)
    if request.flags.dry_run:
        print_lines(*text_table([_planned(part, measured) for part in plan.parts]), "nothing was compiled or written")
        return
    parallel.enable_compilation_cache()
    workdir.mkdir(parents=True, exist_ok=True)
    configs.write(config, workdir)
    for part in chosen:
        for half in halves if not request.flags.measure_only else ():
            folder, title = folder_of(workdir, part, half), f"{part.name}/{half}"
            if not multi_run.train(app, config_of(config, part, half), folder, title=title, size=part.size):
                print_lines(f"interrupted in {part.name}/{half}; the same command goes on from there")
                return
        if not request.flags.only:
            _measure(app, plan, part, measured)
    pairs = [results.read(path)[0] for part in plan.parts if (path := measured.pair_path(part)).exists()]
    for numbers in pairs:
        if not numbers["agreement_stated"]:
            both, of = numbers["converged"]["both"], numbers["converged"]["of"]
            print_lines(
                f"note: {_label(numbers)}: {both} of {of} samples converged in both models; no agreement is stated"
            )
    print_lines(
        *text_table([_row(numbers) for numbers in pairs]), f"next: python -m {app.name} figures --workdir {workdir}"
    )


def _measure(app: App, plan: Plan, part: Part, measured) -> None:
    """Measures the models of a part that are trained and not measured yet."""
    place = f"{plan.parts.index(part) + 1} of {len(plan.parts)}"
    trained = [half for half in (1, 2) if multi_run.is_trained(folder_of(measured.workdir, part, half))]
    written = []
    if len(trained) == 2:
        written.append(measure_pair(app, plan, part, measured, title=f"{part.name}, pair ({place})"))
    for half in trained:
        title = f"{part.name}/{half}"
        written.append(measure_times(app, plan, part, half, measured, title=f"{title}, checkpoints ({place})"))
        written.append(measure_beside_machines(plan, part, half, measured, title=f"{title}, score machines ({place})"))
    print_lines(*(f"wrote {path}" for path in written if path is not None))


def _chosen(plan: Plan, only: str | None) -> tuple[tuple[Part, ...], tuple[int, ...]]:
    if only is None:
        return plan.parts, (1, 2)
    known = {
        f"{'control' if part.control else part.size}/{half}": (part, half) for part in plan.parts for half in (1, 2)
    }
    if only not in known:
        raise input_error("--only", expected=f"one of {', '.join(known)}", got=only, fix="name one model of the study")
    part, half = known[only]
    return (part,), (half,)


def _planned(part: Part, measured) -> dict[str, Any]:
    done = sum(multi_run.is_trained(folder_of(measured.workdir, part, half)) for half in (1, 2))
    there = "yes" if measured.pair_path(part).exists() else "no"
    return {"part": part.name, "images": part.size, "steps": part.steps, "trained": done, "measured": there}


def _row(numbers: dict[str, Any]) -> dict[str, Any]:
    """Returns a line of the table printed at the end; similarities are correlations of pixels."""
    alike, gaps = numbers["similarity"]["pixels"], numbers["gap"]["sigma"]

    def mean(label):
        return None if alike[label] is None else alike[label]["mean"]

    return {
        "set": _label(numbers),
        "steps": numbers["step"],
        "gap (dB) 1": gaps[0]["mean"],
        "2": gaps[1]["mean"],
        "A~B": mean("pair"),
        "other noise": mean("other_noise"),
        "nearest": mean("nearest"),
        "held-out nearest": mean("held_out"),
        "converged": f"{numbers['converged']['both']}/{numbers['converged']['of']}",
    }


def _label(numbers: dict[str, Any]) -> str:
    return "control" if numbers["control"] else str(numbers["size"])


class Measured(NamedTuple):
    """The inputs of a study beside its models: config, images, and the directory of results."""

    config: ConfigDict
    workdir: Path
    training: list[np.ndarray]
    held_out: np.ndarray

    def settings(self, part: Part, weights: Sequence[str | None]) -> dict[str, Any]:
        """Returns all that decides a result on a part; `weights` are the hashes of its trained models."""
        return {
            "weights": list(weights),
            "seed": self.config.seed,
            "data": {
                "training": digest(*(each[: part.size] for each in self.training)),
                "held_out": digest(self.held_out),
            },
            "config": config_settings(self.config),
        }

    def weights(self, part: Part) -> list[str | None]:
        """Returns the hashes of the weights with which the two models of a part ended, None for an untrained one."""
        return [multi_run.trained_weights(folder_of(self.workdir, part, half)) for half in (1, 2)]

    def pair_path(self, part: Part) -> Path:
        """Returns the file whose presence marks a pair, as it was trained, as measured."""
        settings = self.settings(part, self.weights(part))
        return results.path_of(self.workdir / "results", f"study-{part.name}", settings)


def measure_pair(app: App, plan: Plan, part: Part, measured: Measured, *, title: str) -> Path | None:
    """Measures one pair of trained models and writes its result; returns its path, None if it was there."""
    if measured.pair_path(part).exists():
        return None
    start, config = time.perf_counter(), measured.config
    root = jax.random.key(config.seed)
    sample_key = key_for(root, Purpose.SAMPLE)
    denoisers, samples, weights, nfe = [], [], [], 0
    with Progress(2 + num_measures(plan.measures), unit="measures", what=title) as bar:
        for half in (1, 2):
            own = config_of(config, part, half)
            variables, step = restore_variables(folder_of(measured.workdir, part, half))
            weights.append(weights_digest(variables))
            variables = jax.tree.map(jax.numpy.asarray, variables)
            denoisers.append(denoiser(variables, build_network(own)))
            # The same key for both: the same initial image and the same noise at each iteration.
            samples.append(app.build(own).sample(variables, sample_key))
            nfe = max(nfe, samples[-1].info["nfe"])
            bar.add()
        pair = Pair(denoisers, [each[: part.size] for each in measured.training], samples)
        key = key_for(root, Purpose.EVALUATE)
        how = {"key": key, "sample_key": sample_key, "add": bar.add}
        numbers, arrays = measure(pair, measured.held_out, plan.measures, plan.sampler, **how)
    return _write(
        measured, f"study-{part.name}", part, step, start, nfe, numbers, arrays, measured.settings(part, weights)
    )


def measure_times(app: App, plan: Plan, part: Part, half: int, measured: Measured, *, title: str) -> Path | None:
    """Measures every kept checkpoint of one trained model, each once; returns the path of the result over time.

    None if it was there, if the study measures no checkpoints, or for the control, which is short.
    """
    folder, name = folder_of(measured.workdir, part, half), f"times-{part.name}-{half}"
    if not plan.checkpoints.samples or part.control or not multi_run.is_trained(folder):
        return None
    steps = saved_steps(folder)
    settings = {**measured.settings(part, [multi_run.trained_weights(folder)]), "half": half, "steps": steps}
    if results.path_of(measured.workdir / "results", name, settings).exists():
        return None
    start = time.perf_counter()
    config = config_of(measured.config, part, half, more={"sampler.num": plan.checkpoints.samples})
    method, network = app.build(config), build_network(config)
    training = measured.training[half - 1][: part.size]
    root = jax.random.key(measured.config.seed)
    pieces, nfe = [], 0
    paths = [_checkpoint_path(measured, part, half, step, settings) for step in steps]
    there = sum(path.exists() for path in paths)
    with Progress(len(steps), done=there, unit="checkpoints", what=title) as bar:
        for step, path in zip(steps, paths, strict=True):
            if not path.exists():
                variables, _ = restore_variables(folder, step=step)
                variables = jax.tree.map(jax.numpy.asarray, variables)
                # The same keys at every step: samples from the same noise, PSNRs of the same noisy images.
                samples = method.sample(variables, key_for(root, Purpose.SAMPLE))
                numbers, arrays = measure_checkpoint(
                    denoiser(variables, network),
                    training,
                    measured.held_out,
                    samples,
                    plan.checkpoints,
                    key=key_for(root, Purpose.EVALUATE),
                )
                numbers |= {"step": step, "nfe": samples.info["nfe"]}
                results.write(
                    path.parent,
                    _checkpoint_name(part, half, step),
                    numbers=numbers,
                    arrays=arrays,
                    settings=_at(settings, step),
                )
                bar.add()
            numbers, arrays = results.read(path)
            nfe = max(nfe, numbers["nfe"])
            pieces.append((step, numbers, arrays))
    numbers, arrays = over_time(pieces, training, measured.held_out, plan.checkpoints)
    numbers["half"] = half
    return _write(measured, name, part, steps[-1], start, nfe, numbers, arrays, settings)


def measure_beside_machines(plan: Plan, part: Part, half: int, measured: Measured, *, title: str) -> Path | None:
    """Measures one trained model beside the score machines of its training set; returns the path of the result.

    None if it was there or the study compares no images. The other model of the pair is one of the machines once it is
    trained.
    """
    name, weights = f"machines-{part.name}-{half}", measured.weights(part)
    if not plan.machines.num_images or weights[half - 1] is None:
        return None
    settings = {**measured.settings(part, weights), "half": half}
    if results.path_of(measured.workdir / "results", name, settings).exists():
        return None
    start = time.perf_counter()
    loaded: list[Any] = [None if each is None else _load(measured, part, i) for i, each in enumerate(weights, start=1)]
    denoise, step = loaded[half - 1]
    twin = loaded[2 - half]
    with Progress(num_machine_measures(plan.machines), unit="measures", what=title) as bar:
        numbers, arrays = measure_machines(
            denoise,
            measured.training[half - 1][: part.size],
            measured.held_out,
            plan.machines,
            key=key_for(jax.random.key(measured.config.seed), Purpose.EVALUATE),
            twin=twin and twin[0],
            add=bar.add,
        )
    numbers["half"] = half
    return _write(measured, name, part, step, start, None, numbers, arrays, settings)


def _load(measured: Measured, part: Part, half: int) -> tuple[Denoiser, int]:
    variables, step = restore_variables(folder_of(measured.workdir, part, half))
    network = build_network(config_of(measured.config, part, half))
    return denoiser(jax.tree.map(jax.numpy.asarray, variables), network), step


def _checkpoint_name(part: Part, half: int, step: int) -> str:
    return f"{part.name}-{half}-step-{step}"


def _checkpoint_path(measured: Measured, part: Part, half: int, step: int, settings: dict[str, Any]) -> Path:
    folder = measured.workdir / "results" / "checkpoints"
    return results.path_of(folder, _checkpoint_name(part, half, step), _at(settings, step))


def _at(settings: dict[str, Any], step: int) -> dict[str, Any]:
    """Returns the settings of one checkpoint of a run: no other checkpoint concerns its measures."""
    return {**settings, "steps": [step]}


def _write(measured, name, part, step, start, nfe, numbers, arrays, settings) -> Path:
    origin = results.provenance(
        config_hash=configs.digest(measured.config),
        seed=measured.config.seed,
        step=step,
        device=parallel.device_name(),
        wall_s=time.perf_counter() - start,
        nfe=nfe,
    )
    described = {"size": part.size, "control": part.control, "batch_size": measured.config.train.batch_size}
    paths = results.write(
        measured.workdir / "results",
        name,
        numbers={**origin, **described, **numbers},
        arrays=arrays,
        settings=settings,
    )
    return paths[-1]
