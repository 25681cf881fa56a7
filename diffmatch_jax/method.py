"""The method as training, sampling and the command line know it: the one place that reads its configs."""

import functools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common import config as configs
from common.checkpoint import checkpoints, restore_params, store
from common.data.pipeline import build as build_sources
from common.data.source import Source
from common.errors import InputError, at_least_one, bad, choice
from common.method import Evaluation, Method, Samples, Variables
from common.networks.initial import initialise
from common.pictures import grid
from configs.diffmatch_jax.base import base
from diffmatch_jax import backbone, features, held_out, pretraining, training
from diffmatch_jax import conditions as looking
from diffmatch_jax.cutouts import WithObjects, read_coco
from diffmatch_jax.datasets import listed
from diffmatch_jax.datasets.record import PairSource
from diffmatch_jax.diffusion import Process, Variable
from diffmatch_jax.features import Pyramid
from diffmatch_jax.matcher import Match, Model, Plan, Weights
from diffmatch_jax.matching import warp
from diffmatch_jax.network import build as build_network
from diffmatch_jax.objective import PENALTIES
from diffmatch_jax.pairs import Pair, Warps
from diffmatch_jax.sampling import Stage
from diffmatch_jax.training import Goal, Making, Second

NAME = "diffmatch_jax"
TASKS = ("stage1", "stage2", "backbone")
VGG = "vgg16:"
# The sections of a config that say what a trained stage 1 is.
MATTERS = ("features", "conditions", "model", "process", "variable", "objective", "sampler")


class Frozen(NamedTuple):
    """What training does not change and checkpoints keep beside the trained: the pyramid's and stage 1's weights."""

    pyramid: Any
    stage1: Any = None


def build(config) -> Method:
    """Returns what `config` trains: a stage of the matcher, or the features' backbone; raises `InputError`."""
    choice("config.task", config.task, TASKS)
    if config.task == "backbone":
        return pretraining.build(config)
    before = first_config(config)
    plan, making, goal = build_plan(config, before), build_making(config), build_goal(config)
    plain = build_making(config, plain=True)
    second = build_second(config, plan) if config.task == "stage2" else None
    trained = plan.first if second is None else plan.second
    sampler, checks, size = config.sampler, config.evaluate, config.pairs.size
    sources = functools.cache(lambda: build_all_sources(config))
    frozen = functools.cache(lambda: build_frozen(config))
    if config.objective.pooled and config.train.accumulate > 1:
        # The mean of means over parts of the batch, which have different numbers of valid pixels, is another loss.
        fix = "use train.accumulate=1, or objective.pooled=false"
        raise bad("config.train.accumulate", expected="1 with objective.pooled", got=config.train.accumulate, fix=fix)
    at_least_one(
        {
            "config.sampler.hypotheses": sampler.hypotheses,
            "config.sampler.rounds": sampler.rounds,
            "config.sampler.num": sampler.num,
            "config.evaluate.num": checks.num,
            "config.evaluate.batch_size": checks.batch_size,
        }
    )

    def init(key, batch):
        del batch
        cells, evidence = plan.look.cells, plan.look.evidence
        if second is not None:
            cells, evidence = second.size or plan.look.fine_cells, plan.look.fine_evidence
        params = initial_params(trained, key, cells=cells, evidence=evidence)
        return Variables(params, {name: each for name, each in frozen()._asdict().items() if each is not None})

    def loss(variables, key, batch):
        keys = training.batch_keys(key, batch)
        pyramid = as_pyramid(before or config, variables.stats["pyramid"])
        if second is None:
            seen = training.stage1_batch(plan.look, pyramid, batch)
        else:
            first = variables.stats["stage1"] if plan.first else None
            seen = training.stage2_batch(plan.look, plan.first, second, pyramid, first, batch, keys)
        value, metrics = training.loss(goal, trained.network, variables.params, *seen, keys)
        return value, training.aux(variables, metrics)

    def model(variables):
        return model_of(config, variables, before)

    def matched(variables, key, num):
        of_pairs, of_noise = jax.random.split(key)
        made = held_out.pairs(plain, sources()["test"], of_pairs, num=num)
        settings = {"hypotheses": sampler.hypotheses, "batch_size": min(num, checks.batch_size)}
        return made, held_out.matched(model(variables), made, of_noise, **settings)

    def measure(variables: Variables, key: jax.Array) -> Evaluation:
        of_pairs, of_noise = jax.random.split(key)
        made = held_out.pairs(plain, sources()["test"], of_pairs, num=checks.num)
        settings = {"hypotheses": sampler.hypotheses, "batch_size": checks.batch_size}
        return held_out.evaluate(model(variables), made, of_noise, **settings)

    def sample(variables: Variables, key: jax.Array) -> Samples:
        made, found = matched(variables, key, sampler.num)
        arrays = {name: getattr(made, name) for name in ("source", "target", "flow", "mask")}
        arrays |= {"predicted": found.flow} | {
            name: getattr(found, name) for name in ("confidence", "spread", "winner")
        }
        told = {"hypotheses": sampler.hypotheses, "estimate": sampler.estimate, "num_samples": sampler.num}
        return Samples(arrays, shown(made, found), {"nfe": plan.nfe(sampler.hypotheses), **told})

    def preview(variables: Variables, key: jax.Array) -> dict[str, np.ndarray]:
        return {"source, target, warped, confidence": grid(shown(*matched(variables, key, 4)), columns=4)}

    picture = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    flow, mask = jax.ShapeDtypeStruct((size, size, 2), jnp.float32), jax.ShapeDtypeStruct((size, size), jnp.bool_)
    return Method(
        name=NAME,
        init=init,
        loss=loss,
        augment=training.augmentation(making),
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


def build_plan(config, before=None) -> Plan:
    """Returns how the matcher of a config works; stage 2 follows the stage 1 of `before`, a config too, or none."""
    look, sampler, pyramid = build_look(config), config.sampler, config.features.pyramid
    if not pyramid.startswith(VGG):
        choice("config.features.pyramid", pyramid, ("embedded", "random", VGG + "FILE"))
    if not sampler.confidence > 0:
        got = sampler.confidence
        raise bad("config.sampler.confidence", expected="a positive number of pixels", got=got, fix="use 3")
    if config.task == "stage1":
        return Plan(look, first=build_stage(config, cells=look.cells), confidence=sampler.confidence)
    first = None
    if before is not None:
        first, look = build_stage(before, cells=look.cells), shared_look(config, before)
    second = build_stage(config, cells=look.fine_cells)
    return Plan(look, first, second, confidence=sampler.confidence, rounds=sampler.rounds)


def shared_look(config, before) -> looking.Settings:
    """Returns the conditions of the stage 1 of `before`, which stage 2 shares.

    Raises `InputError` for what the config of stage 2 says otherwise; which features they are need not be repeated.
    """
    look, theirs = build_look(config), build_look(before)
    if (theirs.fine, theirs.coarse, theirs.compat) != (look.fine, look.coarse, look.compat):
        expected = f"those of stage 1: fine {theirs.fine}, coarse {theirs.coarse}"
        got = f"fine {look.fine}, coarse {look.coarse}"
        raise bad("config.features", expected=expected, got=got, fix="use the same")
    ours, wanted = config.features.pyramid, before.features.pyramid
    if kind_of(ours) not in ("embedded", kind_of(wanted)):
        expected, fix = f'stage 1\'s, "{wanted}"', "leave it out, stage 1's is used"
        raise bad("config.features.pyramid", expected=expected, got=f'"{ours}"', fix=fix)
    for name in config.conditions:
        ours, wanted = config.conditions[name], before.conditions[name]
        if ours != wanted:
            fix = "leave it as stage 1 has it, or train another stage 1"
            raise bad(f"config.conditions.{name}", expected=f"{wanted}, as in stage 1", got=ours, fix=fix)
    return theirs


def first_config(config):
    """Returns the config of the stage 1 that a stage 2 refines, None without; raises `InputError` if it is none.

    A run under way has it in its own, see `complete`.
    """
    if config.task != "stage2" or not config.stage2.stage1:
        return None
    if config.stage2.stage1_config:
        return configs.from_dict(json.loads(config.stage2.stage1_config), base())
    return read_first(config.stage2.stage1)


def read_first(directory: str):
    """Returns the config of the stage 1 in a directory; raises `InputError` if there is none."""
    before = configs.read(directory, base())
    if before.method != NAME or before.task != "stage1":
        got = f"one of {before.method} {before.task}"
        raise bad("config.stage2.stage1", expected="the directory of a stage 1", got=got, fix="name another")
    return before


def complete(config, workdir: Path):
    """Returns the config of a run in `workdir`, of a stage 2 with that of its stage 1 inside.

    A run that has checkpoints keeps the one it began with, whatever became of stage 1 since; its weights are in the
    checkpoints. Raises `InputError` for a new run whose stage 1 cannot be read.
    """
    if config.task != "stage2" or not config.stage2.stage1:
        return config
    if store.steps(workdir / checkpoints.FOLDER) and (workdir / configs.FILE_NAME).exists():
        told = configs.read(workdir, base()).stage2.stage1_config
    else:
        told = json.dumps(matters(read_first(config.stage2.stage1)), sort_keys=True)
        restore_params(config.stage2.stage1)
    return configs.from_dict(configs.to_dict(config), base(), {"stage2.stage1_config": told})


def matters(config) -> dict[str, Any]:
    """Returns what a stage 2 needs of the config of its stage 1, plain JSON values."""
    values = configs.to_dict(config)
    return {name: values[name] for name in MATTERS}


def build_look(config) -> looking.Settings:
    """Returns what the conditions of a config are."""
    sides, told = config.features, config.conditions
    return looking.Settings(
        fine=sides.fine,
        coarse=sides.coarse,
        radius=told.radius,
        wide=told.wide,
        score=told.score,
        soft=told.soft,
        median=told.median,
        fit=told.fit,
        refine=told.refine,
        gain=told.gain,
        compat=compat_of(config),
    )


def compat_of(config) -> str | None:
    """Returns "released" or None."""
    return choice("config.features.compat", config.features.compat, ("", "released")) or None


def build_process(config, *, keep: str = "") -> Process:
    """Returns the noise levels of a config, or those of them that are kept."""
    schedules = {"cosine": Process.cosine, "linear": Process.linear}
    chosen = schedules[choice("config.process.schedule", config.process.schedule, schedules)]
    return chosen(config.process.steps, keep=keep or None)


def build_variable(config) -> Variable:
    """Returns what a config diffuses."""
    told = config.variable
    return Variable(
        scale=told.scale,
        residual=told.residual,
        shrunk=told.shrunk,
        skip=told.skip,
        learned_scale=told.learned_scale,
    )


def build_stage(config, *, cells: int) -> Stage:
    """Returns the stage that a config trains, as it is sampled."""
    return Stage(
        network=build_network(config, cells=cells),
        variable=build_variable(config),
        process=build_process(config, keep=config.process.keep),
        kind=config.objective.kind,
        eta=config.sampler.eta,
        estimate=config.sampler.estimate,
        clip=1.0 if compat_of(config) else None,
    )


def build_goal(config) -> Goal:
    """Returns what a config minimises."""
    goal = config.objective
    return Goal(
        process=build_process(config),
        variable=build_variable(config),
        kind=goal.kind,
        penalty=choice("config.objective.penalty", goal.penalty, PENALTIES),
        scale=goal.scale,
        epsilon=goal.epsilon,
        first_share=goal.first_share,
        draws=goal.draws,
        pooled=goal.pooled,
        likelihood=goal.likelihood,
        dropout=config.model.dropout > 0,
        compat=compat_of(config),
    )


def build_making(config, *, plain: bool = False) -> Making:
    """Returns how a config makes pairs; `plain` ones are warped only, and in the same way for every config."""
    made = config.pairs
    warps = Warps(
        shares=tuple(made.shares),
        corner=made.corner,
        rotation=made.rotation,
        stretch=tuple(made.stretch),
        shift=made.shift,
        control=made.control,
        window=tuple(made.window),
    )
    settings = {"size": made.size, "warps": warps, "supersample": made.supersample}
    if plain:
        return Making(flip=False, **settings)
    photometric = pretraining.build_photometric(config) if made.photometric else None
    return Making(
        flip=config.data.flip, photometric=photometric, elastic=made.elastic, objects=made.objects, **settings
    )


def build_all_sources(config) -> dict[str, Source]:
    """Returns the photographs of a config; for training, the pairs of a list if it names one, and objects to paste."""
    told = config.pairs
    if told.coco and not told.objects:
        expected = "a share above 0, for the objects of pairs.coco"
        raise bad("config.pairs.objects", expected=expected, got=told.objects, fix="use 0.5, or leave pairs.coco empty")
    found = build_sources(config.data)
    if told.listed:
        photographs, _, rows = told.listed.partition(":")
        if not rows:
            fix = "name the folder of photographs and the list"
            raise bad("config.pairs.listed", expected="PHOTOGRAPHS:CSV", got=told.listed, fix=fix)
        pairs = listed.listed(photographs, rows, size=told.size, compat=compat_of(config))
        found = {**found, "train": PairSource(pairs)}
    if not told.coco:
        return found
    annotations, _, folder = config.pairs.coco.partition(":")
    if not folder:
        got = config.pairs.coco
        raise bad("config.pairs.coco", expected="ANNOTATIONS:FOLDER", got=got, fix="name COCO's JSON file and images")
    return {**found, "train": WithObjects(found["train"], read_coco(annotations, folder, seed=config.data.split_seed))}


def build_second(config, plan: Plan) -> Second:
    """Returns how a config trains stage 2."""
    goal = config.stage2
    if not 0 <= goal.degraded <= 1:
        got = goal.degraded
        raise bad("config.stage2.degraded", expected="a share from 0 to 1", got=got, fix="use 0.5")
    if not 0 <= goal.size <= plan.look.fine_cells:
        expected = f"0 to {plan.look.fine_cells} cells"
        raise bad("config.stage2.size", expected=expected, got=goal.size, fix="use 0 for the whole grid")
    if goal.size and plan.look.compat is not None:
        # Outermost centres coincide: a part of the grid lies elsewhere in the truth than the same part of that.
        fix = "use 0 for the whole grid"
        raise bad("config.stage2.size", expected=f"0 with compat={plan.look.compat!r}", got=goal.size, fix=fix)
    if goal.size and config.pairs.size % plan.look.fine_cells:
        expected = f"a multiple of {plan.look.fine_cells}, to train on crops"
        raise bad("config.pairs.size", expected=expected, got=config.pairs.size, fix="use features.fine")
    if goal.size:
        build_network(config, cells=goal.size)
    return Second(degraded=goal.degraded, noise=goal.noise, size=goal.size)


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
    look, key = build_look(before), jax.random.key(0)
    stage = build_stage(before, cells=look.cells)
    widths = features.WIDTHS if kind_of(before.features.pyramid) == VGG else backbone.WIDTHS
    shapes = Frozen(
        jax.eval_shape(lambda: backbone.init(key, widths)),
        jax.eval_shape(lambda: initial_params(stage, key, cells=look.cells, evidence=look.evidence)),
    )
    return jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), shapes)


def initial_params(stage: Stage, key: jax.Array, *, cells: int, evidence: int) -> Any:
    """Returns the parameters from which a stage that sees squares of `cells` cells is trained."""
    shown = jnp.zeros((1, cells, cells, 4 + evidence))
    return initialise(stage.network, key, shown, jnp.zeros(1)).params


def pyramid_params(name: str) -> Any:
    """Returns the parameters of the pyramid that a config names."""
    if name.startswith(VGG):
        return features.load(name.removeprefix(VGG))
    if name == "random":
        return backbone.init(jax.random.key(0))
    (params,) = backbone.embedded().args
    return params


def kind_of(pyramid: str) -> str:
    """Returns the kind of the pyramid that a config names, whatever its file."""
    return VGG if pyramid.startswith(VGG) else pyramid


def as_pyramid(config, params: Any) -> Pyramid:
    """Returns the pyramid of a config, of a stage 2 that of its stage 1's, with parameters of its kind."""
    make = features.vgg if kind_of(config.features.pyramid) == VGG else backbone.frozen
    return make(params, compute_dtype=config.features.compute_dtype)


def model_of(config, variables: Variables, before=None) -> Model:
    """Returns the matcher that variables of a config's run make; `before` is as in `build_plan`."""
    plan, stats = build_plan(config, before), variables.stats
    pyramid = as_pyramid(before or config, stats["pyramid"])
    if config.task == "stage1":
        return Model(plan, Weights(pyramid, variables.params))
    return Model(plan, Weights(pyramid, stats["stage1"] if plan.first else None, variables.params))


def load(workdir: str | os.PathLike, *, ema: bool = True, step: int | None = None) -> Model:
    """Returns the matcher trained in `workdir`, without data or optimizer; raises `InputError`."""
    config = configs.read(workdir, base())
    if config.method != NAME or config.task == "backbone":
        got = f"one of {config.method} {config.task}"
        raise bad(f"workdir {workdir}", expected="a run of stage1 or stage2", got=got, fix="name another workdir")
    variables = jax.tree.map(jnp.asarray, restore_params(workdir, ema=ema, step=step))
    return model_of(config, variables, first_config(config))
