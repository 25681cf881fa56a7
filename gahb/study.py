"""`python -m gahb study`: pairs of denoisers on disjoint training sets of growing size, from memory to generalisation.

Each model is an ordinary run in DIR/N-00010/1 (or /2), resumed as `train` resumes; each pair is measured once both are
there, into DIR/results/study-N-00010-KEY.json and .npz. A pair whose result has the same weights, images and settings
is not measured again, so the command may be stopped anywhere, and given again.

The models are trained one after the other, on all devices. On CPUs two models in one vectorised program took three
times as long each; where several accelerators are there, `--only 10/2` trains one model, so each device may be given
its own (one process each, made visible to it alone), and the command without it then measures what all have trained.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from common import config as configs
from common import durations
from common.cli import multi_run, workdirs
from common.cli.app import App, Request, print_lines
from common.cli.verbs.trained import config_settings
from common.data.source import digest
from common.errors import at_least, input_error
from common.io import results
from common.plots.tables import text_table
from configs.gahb.base import base


class Part(NamedTuple):
    """One pair of models: its name, the images in each training set, and the steps each model is trained for."""

    name: str
    size: int
    steps: int
    control: bool = False


class Plan(NamedTuple):
    """What a study does: its parts in order, and the settings of their measures."""

    parts: tuple[Part, ...]
    measures: Any
    sampler: Any


def build(config: ConfigDict) -> Plan:
    """Returns the plan that `config.study` describes; raises `InputError` for what cannot work."""
    from gahb.method import sampler_settings
    from gahb.study_measures import Settings

    study, checks = config.study, config.evaluate
    sizes, steps = tuple(study.sizes), tuple(study.steps)
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise input_error(
            "config.study.sizes", expected="different numbers above 0", got=sizes, fix="for example (1, 10, 100)"
        )
    if len(steps) not in (1, len(sizes)) or min(steps) < 1:
        expected = f"one number of steps, or {len(sizes)} as there are sizes"
        raise input_error("config.study.steps", expected=expected, got=steps, fix="give one for each size")
    at_least({
        "config.study.control_steps": (study.control_steps, 0),
        "config.study.num_images": (study.num_images, 1),
        "config.study.bootstrap": (study.bootstrap, 1),
        "config.study.patch": (study.patch, 1),
        "config.study.trajectories": (study.trajectories, 0),
        "config.study.trajectory_every": (study.trajectory_every, 1),
    })  # fmt: skip
    if study.patch > config.data.size:
        expected = f"at most config.data.size={config.data.size}"
        raise input_error("config.study.patch", expected=expected, got=study.patch, fix="use smaller patches")
    if config.data.fit == "crop":
        fix = 'use "resize" or "none"'
        raise input_error("config.data.fit", expected="whole images, which can be counted", got='"crop"', fix=fix)
    if config.data.flip:
        fix = "set config.data.flip=false"
        raise input_error(
            "config.data.flip", expected="false, or mirrored images are training images too", got=True, fix=fix
        )
    for name, value in (("half", config.data.half), ("subset", config.data.subset)):
        if value:
            raise input_error(f"config.data.{name}", expected="0, as the study chooses", got=value, fix="set it to 0")
    each = steps * len(sizes) if len(steps) == 1 else steps
    pairs = [Part(f"N-{size:05d}", size, count) for size, count in zip(sizes, each, strict=True)]
    if study.control_steps:
        pairs.append(Part("control", max(sizes), study.control_steps, control=True))
    return Plan(
        tuple(pairs),
        Settings(
            curve_db=tuple(checks.curve_db),
            num_images=study.num_images,
            bootstrap=study.bootstrap,
            patch=study.patch,
            copy_similarity=study.copy_similarity,
            trajectories=study.trajectories,
            trajectory_every=study.trajectory_every,
            batch_size=checks.batch_size,
        ),
        sampler_settings(config),
    )


def config_of(config: ConfigDict, part: Part, half: int) -> ConfigDict:
    """Returns the config of one model, an ordinary experiment: its half and subset, its steps and a seed of its own."""
    warmup = durations.steps(
        config.optimizer.warmup,
        batch_size=config.train.batch_size,
        num_examples=part.size,
        field="config.optimizer.warmup",
        run_length=part.steps,
    )
    changes = {
        "seed": 2 * config.seed + half - 1,
        "data.half": half,
        "data.subset": part.size,
        "train.steps": part.steps,
        # A run of a few steps, such as the control, still reaches its learning rate.
        "optimizer.warmup": min(warmup, part.steps // 10),
    }
    return configs.from_dict(configs.to_dict(config), base(), changes)


def run(app: App, request: Request) -> None:
    """Trains and measures whatever of the study is missing in `--workdir`."""
    config, workdir = workdirs.to_train(app, request)
    plan = build(config)
    multi_run.check_same(app, config, workdir, what="study")
    chosen, halves = _chosen(plan, request.flags.only)
    # Imported only now, which takes seconds: a mistyped command is refused at once.
    from common.training import parallel

    for part in chosen:
        for half in halves:
            multi_run.check(app, config_of(config, part, half), workdir / part.name / str(half))
    training, held_out, dropped = images(app, config, plan)
    kept = f"{len(held_out)} held out ({dropped} that are training images left out)"
    print_lines(f"data: training sets of up to {len(training[0])} images, {kept}")
    measured = Measured(config, workdir, training, held_out)
    if request.flags.dry_run:
        print_lines(*text_table([_planned(part, measured) for part in plan.parts]), "nothing was compiled or written")
        return
    parallel.enable_compilation_cache()
    workdir.mkdir(parents=True, exist_ok=True)
    configs.write(config, workdir)
    for part in chosen:
        for half in halves:
            folder, title = folder_of(workdir, part, half), f"{part.name}/{half}"
            if not multi_run.train(app, config_of(config, part, half), folder, title=title, size=part.size):
                print_lines(f"interrupted in {part.name}/{half}; the same command goes on from there")
                return
        if len(halves) == 2 and not measured.path(part).exists():
            print_lines(f"wrote {_measure(app, plan, part, measured)}")
    rows = [_row(results.read(path)[0]) for part in plan.parts if (path := measured.path(part)).exists()]
    print_lines(*text_table(rows), f"next: python -m {app.name} figures --workdir {workdir}")


def folder_of(workdir: Path, part: Part, half: int) -> Path:
    """Returns the directory of one model's run."""
    return workdir / part.name / str(half)


class Measured(NamedTuple):
    """What decides the results of a study beside the models: its config and images, and where the results are."""

    config: ConfigDict
    workdir: Path
    training: list[np.ndarray]
    held_out: np.ndarray

    def settings(self, part: Part, weights: Sequence[str | None]) -> dict[str, Any]:
        """Returns all that decides the result of a pair; `weights` are the hashes of its two models."""
        return {
            "weights": list(weights),
            "seed": self.config.seed,
            "data": {
                "training": digest(*(each[: part.size] for each in self.training)),
                "held_out": digest(self.held_out),
            },
            "config": config_settings(self.config),
        }

    def path(self, part: Part) -> Path:
        """Returns the file whose presence says that a pair, as it was trained, has been measured."""
        weights = [multi_run.trained_weights(folder_of(self.workdir, part, half)) for half in (1, 2)]
        return results.path_of(self.workdir / "results", f"study-{part.name}", self.settings(part, weights))


def images(app: App, config: ConfigDict, plan: Plan) -> tuple[list[np.ndarray], np.ndarray, int]:
    """Returns the two largest training sets, the held-out images (all `[N, H, W, C]` in [0, 1]), and how many of the
    test split were left out of these since they are training images; smaller sets are the beginning of the largest.

    Raises `InputError` if the two halves share an image, or nothing is left to be held out.
    """
    from common.data.source import load
    from common.io.pictures import as_unit

    largest = max(plan.parts, key=lambda part: part.size)
    stored = []
    for half in (1, 2):
        sources = app.build(config_of(config, largest, half)).sources()
        stored.append(load(sources["train"].fixed())["image"])
    test = load(sources["test"])["image"]
    known = [{image.tobytes() for image in each} for each in stored]
    if shared := len(known[0] & known[1]):
        raise input_error(
            "config.data.source",
            expected="disjoint halves",
            got=f"{shared} images that are in both",
            fix="set config.data.drop_duplicates=true, or remove the copies",
        )
    new = np.array([image.tobytes() not in known[0] | known[1] for image in test])
    if not new.any():
        raise input_error(
            "config.data.source", expected="test images that are no training images", got="none", fix="add some"
        )
    kept = test[new]
    count = min(plan.measures.num_images, len(kept))
    return [as_unit(each) for each in stored], as_unit(kept[np.arange(count) * len(kept) // count]), int((~new).sum())


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


def _measure(app: App, plan: Plan, part: Part, measured: Measured) -> Path:
    """Measures one pair and writes its result; returns the path of its numbers."""
    import time

    import jax

    from common.checkpoint import restore_variables
    from common.io.progress import Progress
    from common.sampling import weights_digest
    from common.training import parallel
    from common.training.keys import Purpose, key_for
    from gahb.denoisers import denoiser
    from gahb.method import build_network
    from gahb.study_measures import Pair, measure, num_measures

    start, config = time.perf_counter(), measured.config
    root = jax.random.key(config.seed)
    sample_key = key_for(root, Purpose.SAMPLE)
    denoisers, samples, weights = [], [], []
    with Progress(2 + num_measures(plan.measures), unit="measures", what=part.name) as bar:
        for half in (1, 2):
            own = config_of(config, part, half)
            variables, step = restore_variables(folder_of(measured.workdir, part, half))
            weights.append(weights_digest(variables))
            variables = jax.tree.map(jax.numpy.asarray, variables)
            denoisers.append(denoiser(variables, build_network(own)))
            # The same key for both: the same initial image and the same noise at each iteration.
            samples.append(app.build(own).sample(variables, sample_key))
            bar.add()
        pair = Pair(denoisers, [each[: part.size] for each in measured.training], samples)
        key = key_for(root, Purpose.EVALUATE)
        how = {"key": key, "sample_key": sample_key, "add": bar.add}
        numbers, arrays = measure(pair, measured.held_out, plan.measures, plan.sampler, **how)
    origin = results.provenance(
        config_hash=configs.digest(config),
        seed=config.seed,
        step=step,
        device=parallel.device_name(),
        wall_s=time.perf_counter() - start,
        nfe=max(each.info["nfe"] for each in samples),
    )
    described = {"size": part.size, "control": part.control, "batch_size": config.train.batch_size}
    return results.write(
        measured.workdir / "results",
        f"study-{part.name}",
        numbers={**origin, **described, **numbers},
        arrays=arrays,
        settings=measured.settings(part, weights),
    )[-1]


def _planned(part: Part, measured: Measured) -> dict[str, Any]:
    done = sum(multi_run.is_trained(folder_of(measured.workdir, part, half)) for half in (1, 2))
    there = "yes" if measured.path(part).exists() else "no"
    return {"part": part.name, "images": part.size, "steps": part.steps, "trained": done, "measured": there}


def _row(numbers: dict[str, Any]) -> dict[str, Any]:
    """Returns a line of the table printed at the end; similarities are correlations of pixels."""
    alike, gaps = numbers["similarity"]["pixels"], numbers["gap"]["sigma"]

    def mean(label):
        return None if alike[label] is None else alike[label]["mean"]

    return {
        "set": "control" if numbers["control"] else str(numbers["size"]),
        "steps": numbers["step"],
        "gap (dB) 1": gaps[0]["mean"],
        "2": gaps[1]["mean"],
        "A~B": mean("pair"),
        "other noise": mean("other_noise"),
        "nearest": mean("nearest"),
        "held-out nearest": mean("held_out"),
        "converged": f"{numbers['converged']['both']}/{numbers['converged']['of']}",
    }
