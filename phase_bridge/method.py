"""The method as training, sampling and the command line know it: the one place that reads its configs."""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from common import config as configs
from common import sampling as drawing
from common.arrays import AnyArray
from common.checkpoint import restore_params
from common.checkpoint.shelf import Shelf
from common.data import batches
from common.data.pipeline import build as build_sources
from common.data.source import Source, in_threads
from common.errors import InputError, at_least, choice, input_error, within
from common.io.results import as_unit, grid
from common.method import Evaluation, Method, Sampler, Samples, Variables
from common.networks.layers import initialise
from configs.phase_bridge.base import base
from phase_bridge import bridge as bridges
from phase_bridge import objectives, sampling, toy
from phase_bridge.bridge import Bridge
from phase_bridge.evaluation import FEATURES, evaluate, image_features
from phase_bridge.network import build as build_network
from phase_bridge.objectives import Objective
from phase_bridge.processes import CLD, EDM, Flow, Process
from phase_bridge.sampling import Model, named_by_key
from phase_bridge.sampling import Sampler as SamplerConfig
from phase_bridge.solvers import SOLVERS, chosen, make_steps

NAME = "phase_bridge"
SHELF = Shelf(Path(__file__).with_name("weights"), base)
PROCESSES = ("bridge", "flow", "edm", "cld")
TOY = "toy:"

_CORRECTOR = {"": None, "on": True, "off": False}


class Setup(NamedTuple):
    """A trained run without its weights: network, objective, path and default sampler."""

    network: nn.Module
    objective: Objective
    process: Process
    kind: str
    sampler: SamplerConfig
    shape: tuple[int, ...]
    num_classes: int


def build(config) -> Method:
    """Returns the generative model that `config` describes; raises `InputError` for what cannot work."""
    setup = build_setup(config)
    goal = setup.objective
    data, sampler, checks = config.data, config.sampler, config.evaluate
    of_points = toy.toy(data.source.removeprefix(TOY), "config.data.source") if is_toy(config) else None
    shape, classes = setup.shape, setup.num_classes
    sources = functools.cache(lambda: build_all_sources(config))
    choice("config.evaluate.features", checks.features.partition(":")[0], FEATURES)
    at_least(
        {
            "config.sampler.num": (sampler.num, 1),
            "config.sampler.batch_size": (sampler.batch_size, 1),
            "config.evaluate.num": (checks.num, 1),
            "config.evaluate.batch_size": (checks.batch_size, 1),
            "config.evaluate.repeats": (checks.repeats, 1),
            "config.evaluate.nfe": (min(checks.nfe, default=1), 1),
        }
    )

    def init(key, batch):
        x1 = batch["data"][:1]
        t = jnp.full((1,), 0.5, x1.dtype)
        noise = jnp.zeros((*x1.shape[:-1], goal.parts * x1.shape[-1]), x1.dtype)
        shown = goal.inputs(goal.perturb(x1, noise, t), t)
        labels = jnp.zeros((1,), jnp.int32) if classes else None
        return initialise(setup.network, key, shown, goal.time_input(t), labels)

    def loss(variables, key, batch):
        drops = {"dropout": config.model.dropout > 0, "label_dropout": config.objective.label_dropout}
        return objectives.loss(setup.network, goal, variables, key, batch, **drops)

    def draw_rows(variables, keys, index, own: SamplerConfig = setup.sampler, store: bool = False) -> dict[str, Any]:
        del index
        labels = draw_labels(keys, classes, sampler.label)
        model = as_model(setup._replace(sampler=own), variables, labels)
        samples, info = sampling.sample(model, keys, (len(keys), *shape), store_states=store, store_estimates=store)
        kept = {name: info[name] for name in ("states", "estimates") if store}
        return {"samples": samples} | ({"labels": labels} if classes else {}) | kept

    described = sampling.describe(setup.process, setup.kind, setup.sampler, published=not goal.denoiser)
    own_label = {"label": sampler.label} if classes else {}
    to_unit = None if of_points else lambda x: (x + 1) / 2
    many = Sampler(
        draw=draw_rows,
        settings={"shape": list(shape), "compute_dtype": config.compute_dtype, **described, **own_label},
        num=sampler.num,
        batch_size=sampler.batch_size,
        to_unit=to_unit,
    )

    def draw_many(variables, key, *, own: SamplerConfig, num: int, batch_size: int):
        rows = functools.partial(draw_rows, own=own)
        return drawing.draw(many._replace(draw=rows), variables, key, num=num, batch_size=min(num, batch_size))

    def draw_samples(*args, **settings):
        return draw_many(*args, **settings)["samples"]

    def sample(variables: Variables, key: jax.Array) -> Samples:
        settings = {"own": setup.sampler, "num": sampler.num, "batch_size": sampler.batch_size}
        arrays = draw_many(variables, key, **settings)
        if setup.process.parts == 2 and SOLVERS[described["solver"]].stages == 1:
            few = min(sampler.num, 512 if of_points else 16)
            keys = drawing.sample_keys(key, jnp.arange(few))
            stored = jax.jit(functools.partial(draw_rows, store=True))(variables, keys, None)
            arrays |= {name: np.asarray(stored[name]) for name in ("states", "estimates")}
            arrays["times"] = times_of(setup)[:-1]
        images = None if of_points else np.clip((arrays["samples"][:64] + 1) / 2, 0, 1)
        return Samples(arrays, images, {**described, **own_label, "num_samples": sampler.num})

    def measure(variables: Variables, key: jax.Array) -> Evaluation:
        return evaluate(
            {
                nfe: functools.partial(draw_samples, variables, own=setup.sampler._replace(nfe=nfe))
                for nfe in checks.nfe
            },
            key,
            data=held_out(config, sources),
            other=held_out(config, sources, other=True),
            num=checks.num,
            batch_size=checks.batch_size,
            repeats=checks.repeats,
            points=of_points,
            features=None if of_points else image_features(checks.features, channels=data.channels),
        )

    def check_evaluate() -> None:
        if not checks.nfe:
            fix = "for example (3, 5, 10, 20)"
            raise input_error("config.evaluate.nfe", expected="at least one number", got=checks.nfe, fix=fix)
        for nfe in checks.nfe:
            try:
                _check_sampler(setup._replace(sampler=setup.sampler._replace(nfe=nfe)))
            except InputError as error:
                _, _, rest = str(error).partition(": ")
                raise InputError(f"config.evaluate.nfe: {rest}") from None
        if not of_points:
            image_features(checks.features, channels=data.channels)
            held_out(config, sources)
            held_out(config, sources, other=True)

    def preview(variables: Variables, key: jax.Array) -> dict[str, np.ndarray]:
        few = 2048 if of_points else 16
        samples = draw_samples(variables, key, own=setup.sampler, num=few, batch_size=few)
        return {
            "samples": toy.density(samples, of_points.extent) if of_points else grid(np.clip((samples + 1) / 2, 0, 1))
        }

    return Method(
        name=NAME,
        init=init,
        loss=loss,
        augment=_to_data(flip=data.flip, points=of_points is not None, labels=data.labels),
        sources=sources,
        sample=sample,
        evaluate=measure,
        preview=preview,
        example=lambda: (
            {"data": jax.ShapeDtypeStruct(shape, jnp.float32)}
            | ({"label": jax.ShapeDtypeStruct((), jnp.int32)} if classes else {})
        ),
        sampler=many,
        check_evaluate=check_evaluate,
    )


def build_setup(config) -> Setup:
    """Returns network, objective, path and default sampling of a config; raises `InputError` for what cannot work."""
    data, goal = config.data, config.objective
    choice("config.objective.process", goal.process, PROCESSES)
    points = is_toy(config)
    if points and config.model.network != "mlp":
        got, fix = f'"{config.model.network}"', "set config.model.network=mlp"
        raise input_error("config.model.network", expected='"mlp" for points', got=got, fix=fix)
    shape = (data.size, data.size, data.channels)
    if points:
        shape = (toy.toy(data.source.removeprefix(TOY), "config.data.source").size,)
    process = build_process(config, config.sampler.process or goal.process, "config.sampler.process")
    kind = config.sampler.kind or (goal.kind if process.name == "bridge" else "ode")
    setup = Setup(
        network=build_network(config, features=shape[-1]),
        objective=build_objective(config),
        process=process,
        kind=choice("config.sampler.kind", kind, bridges.KINDS),
        sampler=build_sampler(config),
        shape=shape,
        num_classes=check_classes(config),
    )
    as_model(setup, None)
    try:
        _check_sampler(setup)
    except InputError as error:
        raise named_by_key(error, config.sampler) from None
    return setup


def _check_sampler(setup: Setup) -> None:
    own = setup.sampler
    options = {"degree": own.degree, "corrector": own.corrector}
    make_steps(setup.process, times_of(setup), solver=solver_of(setup), kind=setup.kind, **options)


def build_process(config, name: str, field: str = "config.objective.process") -> Process:
    """Returns the path of that name with the numbers of a config."""
    b = config.bridge
    choice(field, name, PROCESSES)
    if name == "bridge":
        return Bridge(p=b.p, correlation=b.correlation, varx=b.varx, varv=b.varv)
    return {"flow": Flow, "edm": EDM, "cld": CLD}[name]()


def build_objective(config) -> Objective:
    """Returns the objective of a config; raises `InputError`."""
    goal = config.objective
    choice("config.objective.name", goal.name, objectives.NAMES)
    if goal.sigma_data <= 0:
        got = goal.sigma_data
        raise input_error(
            "config.objective.sigma_data", expected="a positive number", got=got, fix="images in [-1, 1]: 0.5"
        )
    for key in ("output", "weight"):
        if getattr(goal, key) and goal.name != "force":
            got = f'"{getattr(goal, key)}"'
            raise input_error(f"config.objective.{key}", expected='"" but for "force"', got=got, fix='set it to ""')
    if goal.noise and goal.name != "denoiser":
        fix = 'set it to ""'
        raise input_error("config.objective.noise", expected='"" but for "denoiser"', got=f'"{goal.noise}"', fix=fix)
    if goal.coupling and goal.name != "velocity":
        expected = '0 but for "velocity"'
        raise input_error("config.objective.coupling", expected=expected, got=goal.coupling, fix="set it to 0")
    if goal.name == "velocity":
        return objectives.velocity(coupling=goal.coupling)
    if not 0 < goal.first < goal.last < 1:
        got, fix = f"first={goal.first:g}, last={goal.last:g}", "published are 1e-5 and 0.999"
        raise input_error("config.objective", expected="0 < first < last < 1", got=got, fix=fix)
    times = {"first": goal.first, "last": goal.last}
    process: Any = build_process(config, goal.process)
    if goal.name == "force":
        if process.name != "bridge":
            got, fix = f'"{goal.process}"', "set config.objective.name=denoiser"
            raise input_error("config.objective.process", expected='"bridge" for "force"', got=got, fix=fix)
        choice("config.objective.kind", goal.kind, bridges.KINDS)
        output = choice("config.objective.output", goal.output or "force", objectives.OUTPUTS)
        weight = choice("config.objective.weight", goal.weight or "reciprocal", objectives.WEIGHTS)
        return objectives.force(process, kind=goal.kind, output=output, weight=weight, **times)
    law = goal.noise or ("log_normal" if process.name == "edm" else "uniform")
    return objectives.denoiser(
        sigma_data=goal.sigma_data,
        law=choice("config.objective.noise", law, objectives.LAWS),
        process=process,
        mean=goal.level_mean,
        std=goal.level_std,
        least=goal.level_least,
        most=goal.level_most,
        **times,
    )


def build_sampler(config) -> SamplerConfig:
    """Returns the sampler settings of a config; `build_setup` checks them against its path."""
    sampler = config.sampler
    options = {"kind": sampler.schedule, "last": sampler.last, "power": sampler.power, "rho": sampler.rho}
    options |= {"sigma_max": sampler.sigma_max, "sigma_min": sampler.sigma_min}
    return SamplerConfig(
        solver=sampler.solver or None,
        schedule=tuple((name, value) for name, value in options.items() if value),
        nfe=sampler.nfe,
        degree=None if sampler.degree < 0 else sampler.degree,
        corrector=_CORRECTOR[choice("config.sampler.corrector", sampler.corrector, _CORRECTOR)],
    )


def build_all_sources(config) -> dict[str, Source]:
    """Returns {"train": Source, "test": Source}: points `{"point": [2]}` or images `{"image": [H, W, C]}`.

    Raises `InputError` for data of more classes than the network knows.
    """
    data = config.data
    if not is_toy(config):
        found = build_sources(data)
        classes = max(source.num_classes or 0 for source in found.values())
        if classes > config.model.num_classes:
            fix = f"set config.model.num_classes={classes}"
            expected = f"at least {classes}, the classes of {data.source}"
            raise input_error("config.model.num_classes", expected=expected, got=config.model.num_classes, fix=fix)
        return found
    within("config.data.points", data.points, 0, toy.MAX_LENGTH)
    name = data.source.removeprefix(TOY)
    length = {"length": data.points} if data.points else {}
    # The splits come from one rule, each with its own seed.
    return {
        "train": toy.Points(name, seed=2 * data.split_seed, **length),
        "test": toy.Points(name, seed=2 * data.split_seed + 1),
    }


def check_classes(config) -> int:
    """Returns how many classes the network knows; raises `InputError` for what does not fit together."""
    classes, labels, chosen = config.model.num_classes, config.data.labels, config.sampler.label
    if is_toy(config) and labels:
        fix = "set config.data.labels=False"
        raise input_error("config.data.labels", expected="False for points, which have no classes", got=True, fix=fix)
    if classes and not labels:
        expected = f"True for a model of config.model.num_classes={classes}"
        fix = "set config.data.labels=True, or config.model.num_classes=0"
        raise input_error("config.data.labels", expected=expected, got=False, fix=fix)
    if labels and not classes:
        expected = "the number of the data's classes, as config.data.labels=True"
        fix = "set it, or config.data.labels=False"
        raise input_error("config.model.num_classes", expected=expected, got=classes, fix=fix)
    if not -1 <= chosen < classes:
        expected = f"-1, or a class below {classes}" if classes else "-1 for a model without classes"
        raise input_error("config.sampler.label", expected=expected, got=chosen, fix="use -1 for all classes")
    if not 0 <= config.objective.label_dropout < 1 or (config.objective.label_dropout and not classes):
        expected = "a probability below 1" if classes else "0 for a model without classes"
        got, fix = config.objective.label_dropout, "set it to 0"
        raise input_error("config.objective.label_dropout", expected=expected, got=got, fix=fix)
    if classes and config.objective.coupling:
        # Noise that is paired with the data of all classes is no longer the same for each class.
        got, fix = config.objective.coupling, "set it to 0"
        raise input_error("config.objective.coupling", expected="0 for a model of classes", got=got, fix=fix)
    return classes


def is_toy(config) -> bool:
    """Returns whether the data are points."""
    return config.data.source.startswith(TOY)


def load_setup(workdir: str | os.PathLike, *, ema: bool = True, step: int | None = None) -> tuple[Setup, Variables]:
    """Returns set-up and variables of a run, or of weights as `load` takes them; raises `InputError`.

    Neither data nor an optimizer is needed.
    """
    if packed := SHELF.opened(workdir, step=step):
        return build_setup(packed.config), packed.variables
    method = configs.method_of(workdir)
    if method != NAME:
        raise input_error(
            f"workdir {workdir}", expected=f"a run of {NAME}", got=f"one of {method}", fix="name another workdir"
        )
    return build_setup(configs.read(workdir, base())), restore_params(workdir, ema=ema, step=step)


def load(workdir: str | os.PathLike, *, ema: bool = True, step: int | None = None) -> Model:
    """Returns the trained model of a run, with its path, the shape of its samples and the sampler of its config.

    workdir: the directory that `train` or `import-weights` wrote, the file of `export`, or the name of a model that
      comes with the package (an unknown one lists them). ema: the running average of the weights. step: of the
    checkpoint (default: the last). Raises `InputError` for what is no run of this method.

    >>> model = phase_bridge.load("runs/spiral")  # doctest: +SKIP
    """
    setup, variables = load_setup(workdir, ema=ema, step=step)
    return as_model(setup, jax.tree.map(jnp.asarray, variables))


def as_model(setup: Setup, variables: Any, labels: AnyArray | None = None) -> Model:
    """Returns the trained network as what samplers take; labels: classes `[B]`, for a model of classes."""
    options = {"kind": setup.kind, "num_classes": setup.num_classes, "shape": setup.shape, "sampler": setup.sampler}
    return objectives.model(setup.network, setup.objective, setup.process, variables, labels=labels, **options)


def draw_labels(keys: jax.Array, num_classes: int, label: int = -1) -> jax.Array | None:
    """Returns a class for each of `keys [B]`, int32: `label`, or for -1 all equally likely; None without classes."""
    if not num_classes:
        return None
    return jnp.full(keys.shape, label, jnp.int32) if label >= 0 else sampling.random_labels(keys, num_classes)


def times_of(setup: Setup) -> np.ndarray:
    """Returns the times of a set-up's sampler."""
    own = setup.sampler
    return sampling.times_of(setup.process, solver_of(setup), own.schedule, own.nfe, kind=setup.kind)


def solver_of(setup: Setup) -> str:
    """Returns the name of a set-up's solver."""
    return chosen(setup.process, setup.sampler.solver, setup.kind, published=not setup.objective.denoiser)


def held_out(config, sources, *, other: bool = False) -> Callable[[int, int], np.ndarray]:
    """Returns `data(i, count)`: held-out examples, other ones for each i; images as `held_out_images` has them.

    other: images of the training split instead, which have none in common with these.
    """
    if is_toy(config):
        name, seed = config.data.source.removeprefix(TOY), 2 * config.data.split_seed + 1
        return lambda i, count: toy.draw(name, seed=seed, count=count, first=i * count)
    images = held_out_images(config, sources, split="train" if other else "test")
    return lambda i, count: images(i, count)["data"]


def held_out_images(config, sources, *, split: str = "test") -> Callable[[int, int], dict[str, np.ndarray]]:
    """Returns `images(i, count)`: `data [count, H, W, C]` in [-1, 1], spread over the split, and their `label`.

    Fewer where there are not so many. With `config.sampler.label` only images of that class; raises `InputError` if
    there are none.
    """
    source, label = sources()[split], config.sampler.label
    chosen = np.arange(len(source))
    if label >= 0:
        chosen = chosen[np.concatenate(in_threads(lambda block: source.read(block)["label"], len(source))) == label]
        if not len(chosen):
            fix = "use another class, or -1 for all"
            raise input_error("config.sampler.label", expected="a class with held-out images", got=label, fix=fix)

    def images(i: int, count: int) -> dict[str, np.ndarray]:
        order = chosen[np.random.default_rng(i).permutation(len(chosen))[:count]]
        found = source.read(order.tolist())
        return {"data": 2 * as_unit(found["image"]) - 1} | ({"label": found["label"]} if "label" in found else {})

    return images


def _to_data(
    *, flip: bool, points: bool, labels: bool
) -> Callable[[jax.Array, Mapping[str, jax.Array]], dict[str, jax.Array]]:
    if points:
        return lambda key, example: {"data": example["point"]}
    to_unit = batches.augment_images(flip=flip)

    def to_data(key, example):
        own = {"label": example["label"]} if labels else {}
        return {"data": 2 * to_unit(key, example)["image"] - 1, **own}

    return to_data
