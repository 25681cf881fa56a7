"""The method as training, sampling and the command line know it: from a config to pure functions."""

import functools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common import config as configs
from common.checkpoint import restore_params, saved_steps
from common.data.pipeline import build as build_sources
from common.data.source import Source
from common.errors import InputError, at_least, choice, input_error
from common.io.results import grid
from common.method import Evaluation, Method, Samples, Variables
from common.networks.layers import initialise
from configs.diffmatch_jax.base import base
from diffmatch_jax.data.objects import WithObjects, read_coco
from diffmatch_jax.data.pairs import augmentation
from diffmatch_jax.data.warps import Pair
from diffmatch_jax.evaluation import evaluate
from diffmatch_jax.evaluation.datasets import listed
from diffmatch_jax.evaluation.datasets.record import PairSource
from diffmatch_jax.model import backbone, features, weights
from diffmatch_jax.model.features import Pyramid
from diffmatch_jax.model.flow import warp
from diffmatch_jax.model.matcher import Model, Weights
from diffmatch_jax.model.pair_match import Match
from diffmatch_jax.model.sampling import Stage
from diffmatch_jax.settings import (
    VGG,
    build_conditioning,
    build_loss_config,
    build_matcher_config,
    build_pair_config,
    build_stage,
    build_stage2_training,
    is_released,
    kind_of,
)
from diffmatch_jax.training import pretraining, stages

NAME = "diffmatch_jax"
TASKS = ("stage1", "stage2", "backbone")
# The sections of a config that say what a trained stage 1 is.
MATTERS = ("features", "conditioning", "model", "process", "objective", "sampler")


class Frozen(NamedTuple):
    """Frozen weights that checkpoints keep beside the trained ones: those of the pyramid and of stage 1."""

    pyramid: Any
    stage1: Any = None


def build(config) -> Method:
    """Returns what `config` trains: a stage of the matcher, or the features' backbone; raises `InputError`."""
    choice("config.task", config.task, TASKS)
    if config.task == "backbone":
        return pretraining.build(config)
    before = first_config(config)
    matcher_config, pair_config, loss_config = (
        build_matcher_config(config, before),
        build_pair_config(config),
        build_loss_config(config),
    )
    plain = build_pair_config(config, plain=True)
    second = build_stage2_training(config, matcher_config) if config.task == "stage2" else None
    trained = matcher_config.first if second is None else matcher_config.second
    sampler, checks, size = config.sampler, config.evaluate, config.pairs.size
    sources = functools.cache(lambda: build_all_sources(config))
    frozen = functools.cache(lambda: build_frozen(config))
    if is_released(config) and config.train.accumulate > 1:
        # The mean of means over parts of the batch, which have different numbers of valid pixels, is another loss.
        fix = "use train.accumulate=1, or leave out features.compat"
        raise input_error(
            "config.train.accumulate", expected="1 with features.compat", got=config.train.accumulate, fix=fix
        )
    at_least(
        {
            "config.sampler.hypotheses": (sampler.hypotheses, 1),
            "config.sampler.num": (sampler.num, 1),
            "config.evaluate.num": (checks.num, 1),
            "config.evaluate.batch_size": (checks.batch_size, 1),
        }
    )

    assert trained is not None

    def init(key, batch):
        del batch
        cells, evidence = matcher_config.conditioning.cells, matcher_config.conditioning.evidence
        if second is not None:
            cells, evidence = (
                second.size or matcher_config.conditioning.fine_cells,
                matcher_config.conditioning.fine_evidence,
            )
        params, kept = initial_params(trained, key, cells=cells, evidence=evidence), frozen()
        if second is not None and config.stage2.from_stage1:
            params = continued(params, kept.stage1)
        return Variables(params, {name: each for name, each in kept._asdict().items() if each is not None})

    def loss(variables, key, batch):
        keys = stages.batch_keys(key, batch)
        pyramid = as_pyramid(before or config, variables.stats["pyramid"])
        if second is None:
            seen = stages.stage1_batch(matcher_config.conditioning, pyramid, batch)
        else:
            first = variables.stats["stage1"] if matcher_config.first else None
            seen = stages.stage2_batch(
                matcher_config.conditioning, matcher_config.first, second, pyramid, first, batch, keys
            )
        value, metrics = stages.loss(loss_config, trained.network, variables.params, *seen, keys)
        return value, stages.aux(variables, metrics)

    def model(variables):
        return model_of(config, variables, before)

    def matched(variables, key, num):
        of_pairs, of_noise = jax.random.split(key)
        made = evaluate.pairs(plain, sources()["test"], of_pairs, num=num)
        settings = {"hypotheses": sampler.hypotheses, "batch_size": min(num, checks.batch_size)}
        return made, evaluate.matched(model(variables), made, of_noise, **settings)

    def measure(variables: Variables, key: jax.Array) -> Evaluation:
        of_pairs, of_noise = jax.random.split(key)
        made = evaluate.pairs(plain, sources()["test"], of_pairs, num=checks.num)
        settings = {"hypotheses": sampler.hypotheses, "batch_size": checks.batch_size}
        return evaluate.evaluate(model(variables), made, of_noise, **settings)

    def sample(variables: Variables, key: jax.Array) -> Samples:
        made, found = matched(variables, key, sampler.num)
        arrays = {name: getattr(made, name) for name in ("source", "target", "flow", "mask")}
        arrays |= {"predicted": found.flow} | {name: getattr(found, name) for name in ("confidence", "std", "wta_flow")}
        settings = {"hypotheses": sampler.hypotheses, "estimate": sampler.estimate, "num_samples": sampler.num}
        info = {"nfe": matcher_config.nfe(sampler.hypotheses), **settings}
        return Samples(arrays, shown(made, found), info, settings={"data": {"test": sources()["test"].fingerprint}})

    def preview(variables: Variables, key: jax.Array) -> dict[str, np.ndarray]:
        return {"source, target, warped, confidence": grid(shown(*matched(variables, key, 4)), columns=4)}

    picture = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    flow, mask = jax.ShapeDtypeStruct((size, size, 2), jnp.float32), jax.ShapeDtypeStruct((size, size), jnp.bool_)
    return Method(
        name=NAME,
        init=init,
        loss=loss,
        augment=augmentation(pair_config),
        sources=sources,
        sample=sample,
        evaluate=measure,
        preview=preview,
        example=lambda: {"source": picture, "target": picture, "flow": flow, "mask": mask},
    )


def shown(made: Pair, found: Match) -> np.ndarray:
    """Returns source, target, warped source and confidence of each pair, in this order, `[4 B, S, S, 3]`."""
    warped = np.clip(warp(jnp.asarray(made.source), jnp.asarray(found.flow)), 0, 1)
    confidence = np.broadcast_to(found.confidence[..., None], warped.shape)
    together = np.stack([made.source, made.target, warped, confidence], 1)
    return together.reshape(-1, *together.shape[2:])


def first_config(config):
    """Returns the config of the stage 1 that a stage 2 refines, None without; raises `InputError` if it is none.

    A run under way has it in its own, see `complete`.
    """
    if config.task != "stage2" or not config.stage2.stage1:
        return None
    if config.stage2.stage1_config:
        return configs.from_stored(json.loads(config.stage2.stage1_config), base(), "config.stage2.stage1_config")
    return read_first(config.stage2.stage1)


def read_first(directory: str):
    """Returns the config of the stage 1 in a directory; raises `InputError` if there is none."""
    before = configs.read(directory, base())
    if before.method != NAME or before.task != "stage1":
        got = f"one of {before.method} {before.task}"
        raise input_error("config.stage2.stage1", expected="the directory of a stage 1", got=got, fix="name another")
    return before


def complete(config, workdir: Path):
    """Returns the config of a run in `workdir`, of a stage 2 with that of its stage 1 inside.

    A run that has checkpoints keeps the one it began with, even if stage 1 was changed since; its weights are in the
    checkpoints. Raises `InputError` for a new run whose stage 1 cannot be read.
    """
    if config.task != "stage2" or not config.stage2.stage1:
        return config
    if saved_steps(workdir) and (workdir / configs.FILE_NAME).exists():
        stored = configs.read(workdir, base()).stage2.stage1_config
    else:
        stored = json.dumps(matters(read_first(config.stage2.stage1)), sort_keys=True)
        restore_params(config.stage2.stage1)
    return configs.from_dict(configs.to_dict(config), base(), {"stage2.stage1_config": stored})


def matters(config) -> dict[str, Any]:
    """Returns what a stage 2 needs of the config of its stage 1, plain JSON values."""
    values = configs.to_dict(config)
    return {name: values[name] for name in MATTERS}


def build_all_sources(config) -> dict[str, Source]:
    """Returns the photographs of a config; for training, the pairs of a list if it names one, and objects to paste."""
    section = config.pairs
    if section.coco and not section.objects:
        expected = "a share above 0, for the objects of pairs.coco"
        raise input_error(
            "config.pairs.objects", expected=expected, got=section.objects, fix="use 0.5, or leave pairs.coco empty"
        )
    found = build_sources(config.data)
    if section.listed:
        photographs, _, rows = section.listed.partition(":")
        if not rows:
            fix = "name the folder of photographs and the list"
            raise input_error("config.pairs.listed", expected="PHOTOGRAPHS:CSV", got=section.listed, fix=fix)
        pairs = listed.listed(photographs, rows, size=section.size, half_pixel=is_released(config))
        found = {**found, "train": PairSource(pairs)}
    if not section.coco:
        return found
    annotations, _, folder = config.pairs.coco.partition(":")
    if not folder:
        got = config.pairs.coco
        raise input_error(
            "config.pairs.coco", expected="ANNOTATIONS:FOLDER", got=got, fix="name COCO's JSON file and images"
        )
    return {**found, "train": WithObjects(found["train"], read_coco(annotations, folder, seed=config.data.split_seed))}


def build_frozen(config) -> Frozen:
    """Returns the weights that a config starts from and leaves as they are.

    For a run under way (see `complete`) whose stage 1 is gone, or another by now, arrays of their shapes without a
    number in them: its checkpoints have the weights, and nothing can be trained or saved with these.
    """
    before = first_config(config)
    if before is None:
        return Frozen(pyramid_params(config.features.pyramid))
    try:
        if matters(read_first(config.stage2.stage1)) == matters(before):
            found = restore_params(config.stage2.stage1)
            return Frozen(found.stats["pyramid"], found.params)
    except InputError:
        if not config.stage2.stage1_config:
            raise
    settings, key = build_conditioning(before), jax.random.key(0)
    stage = build_stage(before, cells=settings.cells)
    widths = features.VGG_WIDTHS if kind_of(before.features.pyramid) == VGG else backbone.WIDTHS
    shapes = Frozen(
        jax.eval_shape(lambda: backbone.init(key, widths)),
        jax.eval_shape(lambda: initial_params(stage, key, cells=settings.cells, evidence=settings.evidence)),
    )
    return jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), shapes)


def initial_params(stage: Stage, key: jax.Array, *, cells: int, evidence: int) -> Any:
    """Returns the parameters from which a stage that sees squares of `cells` cells is trained."""
    shown = jnp.zeros((1, cells, cells, 4 + evidence))
    return initialise(stage.network, key, shown, jnp.zeros(1)).params


def continued(params: Any, first: Any) -> Any:
    """Returns the parameters of stage 1 in the place of stage 2's; raises `InputError` unless they are alike."""
    ours, theirs = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (params, first)
    )
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            expected = f"a stage 1 of the same network and evidence: {name} {ours.get(name, 'absent')}"
            got, fix = theirs.get(name, "absent"), "use false, or give both stages one model and one conditioning.wide"
            raise input_error("config.stage2.from_stage1", expected=expected, got=got, fix=fix)
    return jax.tree.map(jnp.asarray, first)


def pyramid_params(name: str) -> Any:
    """Returns the parameters of the pyramid that a config names."""
    if name.startswith(VGG):
        return weights.load_vgg(name.removeprefix(VGG))
    if name == "random":
        return backbone.init(jax.random.key(0))
    (params,) = weights.embedded().args
    return params


def as_pyramid(config, params: Any) -> Pyramid:
    """Returns the pyramid of a config, of a stage 2 that of its stage 1's, with parameters of its kind."""
    make = features.vgg if kind_of(config.features.pyramid) == VGG else backbone.frozen
    return make(params, compute_dtype=config.features.compute_dtype)


def model_of(config, variables: Variables, before=None) -> Model:
    """Returns the matcher that variables of a config's run make; `before` is as in `build_plan`."""
    matcher_config, stats = build_matcher_config(config, before), variables.stats
    pyramid = as_pyramid(before or config, stats["pyramid"])
    if config.task == "stage1":
        return Model(matcher_config, Weights(pyramid, variables.params))
    return Model(matcher_config, Weights(pyramid, stats["stage1"] if matcher_config.first else None, variables.params))


def load(workdir: str | os.PathLike, *, ema: bool = True, step: int | None = None) -> Model:
    """Returns the matcher trained in `workdir`, without data or optimizer; raises `InputError`."""
    config = configs.read(workdir, base())
    if config.method != NAME or config.task == "backbone":
        got = f"one of {config.method} {config.task}"
        raise input_error(
            f"workdir {workdir}", expected="a run of stage1 or stage2", got=got, fix="name another workdir"
        )
    variables = jax.tree.map(jnp.asarray, restore_params(workdir, ema=ema, step=step))
    return model_of(config, variables, first_config(config))
