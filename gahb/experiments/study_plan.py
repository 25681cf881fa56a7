"""The plan of a generalisation study: its pairs of models, their configs and images, the settings of all measures."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from common import config as configs
from common import config_values
from common.cli.app import App
from common.data.duplicates import near_duplicates
from common.data.source import load
from common.errors import input_error
from common.io.results import as_unit
from configs.gahb.base import base
from gahb.experiments.study_measures import CheckpointSettings, MachineSettings, Settings
from gahb.method import sampler_settings


class Part(NamedTuple):
    """One pair of models: its name, the images in each training set, and the steps each model is trained for."""

    name: str
    size: int
    steps: int
    control: bool = False


class Plan(NamedTuple):
    """A whole study: its parts in order, and the settings of their measures and of the sampler."""

    parts: tuple[Part, ...]
    measures: Any
    checkpoints: Any
    machines: Any
    sampler: Any


def build(config: ConfigDict) -> Plan:
    """Returns the plan that `config.study` describes; raises `InputError` for what cannot work."""
    study, checks = config.study, config.evaluate
    sizes, steps = tuple(study.sizes), tuple(study.steps)
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise input_error(
            "config.study.sizes", expected="different numbers above 0", got=sizes, fix="for example (1, 10, 100)"
        )
    if len(steps) not in (1, len(sizes)) or min(steps) < 1:
        expected = f"one number of steps, or {len(sizes)} as there are sizes"
        raise input_error("config.study.steps", expected=expected, got=steps, fix="give one for each size")
    for name, value, least in (
        ("control_steps", study.control_steps, 0),
        ("num_images", study.num_images, 1),
        ("bootstrap", study.bootstrap, 1),
        ("patch", study.patch, 1),
        ("trajectories", study.trajectories, 0),
        ("trajectory_every", study.trajectory_every, 1),
        ("checkpoint_samples", study.checkpoint_samples, 0),
        ("machine_images", study.machine_images, 0),
        ("equivariant_images", study.equivariant_images, 1),
        ("probes", study.probes, 2),
    ):
        if value < least:
            raise input_error(
                f"config.study.{name}", expected=f"at least {least}", got=value, fix=f"use {least} or more"
            )
    _check_levels(study)
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
        CheckpointSettings(
            samples=study.checkpoint_samples,
            input_db=tuple(study.checkpoint_db),
            num_images=study.num_images,
            ratio=study.memorised_ratio,
            level=study.memorised_level,
            settled_db=study.settled_db,
            batch_size=checks.batch_size,
        ),
        MachineSettings(
            num_images=study.machine_images,
            input_db=tuple(study.machine_db),
            windows=tuple(study.windows),
            equivariant_images=study.equivariant_images,
            probes=study.probes,
        ),
        sampler_settings(config),
    )


def _check_levels(study) -> None:
    for name, value in (("memorised_ratio", study.memorised_ratio), ("memorised_level", study.memorised_level)):
        if not 0 < value < 1:
            raise input_error(
                f"config.study.{name}", expected="a number between 0 and 1", got=value, fix="use 0.3 or so"
            )
    if study.settled_db < 0:
        raise input_error("config.study.settled_db", expected="0 dB or more", got=study.settled_db, fix="use 0.25")
    for name, values in (("checkpoint_db", study.checkpoint_db), ("machine_db", study.machine_db)):
        if not values:
            raise input_error(f"config.study.{name}", expected="at least one PSNR in dB", got="none", fix="use (20.0,)")
    if not study.windows or any(window < 1 or window % 2 == 0 for window in study.windows):
        got = tuple(study.windows)
        raise input_error("config.study.windows", expected="odd numbers of pixels", got=got, fix="use (3, 7, 11)")


def config_of(
    config: ConfigDict, part: Part, half: int, *, more: Mapping[str, Any] = MappingProxyType({})
) -> ConfigDict:
    """Returns the config of one model, an ordinary experiment: its half and subset, its steps and a separate seed.

    more: further changes, dotted key -> value.
    """
    warmup = config_values.steps(
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
        **more,
    }
    return configs.from_dict(configs.to_dict(config), base(), changes)


def folder_of(workdir: Path, part: Part, half: int) -> Path:
    """Returns the directory of one model's run."""
    return workdir / part.name / str(half)


def images(app: App, config: ConfigDict, plan: Plan) -> tuple[list[np.ndarray], np.ndarray, int]:
    """Returns the two largest training sets, the held-out images (all `[N, H, W, C]` in [0, 1]), and how many of the
    test split were left out since they are near-duplicates of training images (equal bytes, or block means correlated
    above the threshold of `common.data.duplicates`); smaller sets are the beginning of the largest.

    Raises `InputError` if the two halves share an image, or nothing is left to be held out.
    """
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
    # Equal constant images have no correlation, so bytes are compared too.
    new = np.array([image.tobytes() not in known[0] | known[1] for image in test])
    for each in stored:
        new &= ~near_duplicates(test, each)
    if not new.any():
        raise input_error(
            "config.data.source",
            expected="test images that are not near-duplicates of training images",
            got="none",
            fix="add some",
        )
    kept = test[new]
    count = min(plan.measures.num_images, len(kept))
    return [as_unit(each) for each in stored], as_unit(kept[np.arange(count) * len(kept) // count]), int((~new).sum())
