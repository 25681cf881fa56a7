"""Measures of the trained models of a study, from their checkpoints to result files; what is measured is kept.

DIR/results/study-PART-KEY (a pair), times-PART-HALF-KEY (a model over its training time, made of DIR/results/
checkpoints/PART-HALF-step-N-KEY) and machines-PART-HALF-KEY (a model beside score machines).
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
from common.cli import multi_run
from common.cli.app import App
from common.cli.verbs.trained import config_settings
from common.data.source import digest
from common.io import results
from common.io.progress import Progress
from common.prng import Purpose, key_for
from common.sampling import weights_digest
from common.training import parallel
from gahb.denoisers import Denoiser, denoiser
from gahb.method import build_network
from gahb.study_measures import Pair, measure, num_measures
from gahb.study_model_measures import measure_checkpoint, measure_machines, num_machine_measures, over_time
from gahb.study_plan import Part, Plan, config_of, folder_of


class Measured(NamedTuple):
    """What decides the results of a study beside the models: its config and images, and where the results are."""

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
        """Returns the file whose presence says that a pair, as it was trained, has been measured."""
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
    loaded = [None if each is None else _load(measured, part, i) for i, each in enumerate(weights, start=1)]
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
