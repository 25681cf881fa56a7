"""The method as training, sampling and the command line know it: the one place that reads its configs."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from common import config as configs
from common import sampling
from common.checkpoint import restore_params
from common.data import augment
from common.data.pipeline import build as build_sources
from common.data.source import Source, in_threads
from common.errors import at_least, choice, input_error
from common.io.pictures import as_unit, grid
from common.method import Evaluation, Method, Sampler, Samples, Variables
from common.networks.initial import initialise
from configs.phase_bridge.base import base
from phase_bridge import bridge as bridges
from phase_bridge import drawing, objective, recipes, toy
from phase_bridge.baselines import cld, edm, flow
from phase_bridge.bridge import Bridge
from phase_bridge.drawing import How
from phase_bridge.evaluation import evaluate
from phase_bridge.network import build as build_network
from phase_bridge.objective import Objective, field

NAME = "phase_bridge"
PROCESSES = ("bridge", "flow", "edm", "cld")
TOY = "toy:"

_CORRECTOR = {"": None, "on": True, "off": False}


class Model(NamedTuple):
    """What a trained run consists of beside its weights: network, objective, and how it is sampled by default."""

    network: nn.Module
    objective: Objective
    how: How


def build(config) -> Method:
    """Returns the generative model that `config` describes; raises `InputError` for what cannot work."""
    model = build_model(config)
    data, sampler, checks = config.data, config.sampler, config.evaluate
    of_points = toy.toy(data.source.removeprefix(TOY), "config.data.source") if is_toy(config) else None
    shape = (2,) if of_points else (data.size, data.size, data.channels)
    classes = check_classes(config)
    sources = functools.cache(lambda: build_all_sources(config))
    at_least(
        {
            "config.sampler.num": (sampler.num, 1),
            "config.sampler.batch_size": (sampler.batch_size, 1),
            "config.evaluate.num": (checks.num, 1),
            "config.evaluate.batch_size": (checks.batch_size, 1),
            "config.evaluate.repeats": (checks.repeats, 1),
        }
    )

    def init(key, batch):
        x1 = batch["data"][:1]
        t = jnp.full((1,), 0.5, x1.dtype)
        noise = jnp.zeros((*x1.shape[:-1], model.objective.parts * x1.shape[-1]), x1.dtype)
        shown = model.objective.inputs(model.objective.perturb(x1, noise, t), t)
        labels = jnp.zeros((1,), jnp.int32) if classes else None
        return initialise(model.network, key, shown, model.objective.label(t), labels)

    def loss(variables, key, batch):
        return objective.loss(model.network, model.objective, variables, key, batch, dropout=config.model.dropout > 0)

    def draw_rows(variables, keys, index, how: How = model.how):
        del index
        labels = draw_labels(keys, classes, sampler.label)
        samples, _ = drawing.draw(as_field(model, variables, how, labels), keys, (len(keys), *shape), how)
        return {"samples": samples} | ({"labels": labels} if classes else {})

    told_label = {"label": sampler.label} if classes else {}
    to_unit = None if of_points else lambda x: (x + 1) / 2
    many = Sampler(
        draw=draw_rows,
        settings={"shape": list(shape), "compute_dtype": config.compute_dtype, **told(model.how), **told_label},
        num=sampler.num,
        batch_size=sampler.batch_size,
        to_unit=to_unit,
    )

    def draw_many(variables, key, *, how: How, num: int, batch_size: int):
        rows = functools.partial(draw_rows, how=how)
        return sampling.draw(many._replace(draw=rows), variables, key, num=num, batch_size=min(num, batch_size))

    def draw_samples(*args, **settings):
        return draw_many(*args, **settings)["samples"]

    def sample(variables: Variables, key: jax.Array) -> Samples:
        settings = {"how": model.how, "num": sampler.num, "batch_size": sampler.batch_size}
        arrays = draw_many(variables, key, **settings)
        few = min(sampler.num, 512 if of_points else 16)
        if model.how.process == "bridge":
            keys = sampling.sample_keys(key, jnp.arange(few))
            field = as_field(model, variables, model.how, draw_labels(keys, classes, sampler.label))
            _, info = _drawn(field, keys, (few, *shape), how=model.how)
            arrays |= {name: np.asarray(info[name]) for name in ("states", "estimates")}
            arrays["times"] = np.asarray(info["times"])
        images = None if of_points else np.clip((arrays["samples"][:64] + 1) / 2, 0, 1)
        return Samples(arrays, images, {**told(model.how), **told_label, "num_samples": sampler.num})

    def measure(variables: Variables, key: jax.Array) -> Evaluation:
        return evaluate(
            {nfe: functools.partial(draw_samples, variables, how=model.how._replace(nfe=nfe)) for nfe in checks.nfe},
            key,
            data=held_out(config, sources),
            num=checks.num,
            batch_size=checks.batch_size,
            repeats=checks.repeats,
            points=of_points,
        )

    def preview(variables: Variables, key: jax.Array) -> dict[str, np.ndarray]:
        few = 2048 if of_points else 16
        samples = draw_samples(variables, key, how=model.how, num=few, batch_size=few)
        return {"samples": density(samples, of_points.extent) if of_points else grid(np.clip((samples + 1) / 2, 0, 1))}

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
    )


def build_model(config) -> Model:
    """Returns network, objective and default sampling of a config; raises `InputError` for what cannot work."""
    data, goal = config.data, config.objective
    choice("config.objective.process", goal.process, PROCESSES)
    features = 2 if is_toy(config) else data.channels
    if is_toy(config) and config.model.network != "mlp":
        got = f'"{config.model.network}"'
        raise input_error(
            "config.model.network", expected='"mlp" for points', got=got, fix="set config.model.network=mlp"
        )
    return Model(build_network(config, features=features), build_objective(config), build_how(config))


def build_bridge(config) -> Bridge:
    """Returns the bridge of a config."""
    b = config.bridge
    return Bridge(p=b.p, correlation=b.correlation, varx=b.varx, varv=b.varv)


def build_objective(config, *, kind: str = "") -> Objective:
    """Returns the objective of a config; raises `InputError`. `kind` replaces that of a bridge."""
    goal = config.objective
    levels = {"mean": goal.level_mean, "std": goal.level_std, "least": goal.level_least, "most": goal.level_most}
    if goal.sigma_data <= 0:
        got = goal.sigma_data
        raise input_error(
            "config.objective.sigma_data", expected="a positive number", got=got, fix="images in [-1, 1]: 0.5"
        )
    if goal.coupling and goal.process != "flow":
        raise input_error(
            "config.objective.coupling", expected='0 but for "flow"', got=goal.coupling, fix="set it to 0"
        )
    if goal.process == "flow":
        return flow.objective(coupling=goal.coupling)
    if goal.process == "edm":
        times = choice("config.objective.times", goal.times or "log_normal", recipes.TIMES[1:])
        return edm.objective(sigma_data=goal.sigma_data, times=times, **levels)
    if goal.process == "cld":
        return cld.objective(sigma_data=goal.sigma_data)
    return recipes.objective(
        build_bridge(config),
        build_recipe(config),
        kind=kind or goal.kind,
        convention=goal.normaliser,
        sigma_data=goal.sigma_data,
        first=goal.first,
        last=goal.last,
        **levels,
    )


def build_recipe(config) -> recipes.Recipe:
    """Returns the recipe of a config, with the parts that it changes."""
    goal = config.objective
    recipe = recipes.RECIPES[choice("config.objective.recipe", goal.recipe, recipes.RECIPES)]
    parts = {
        "inputs": goal.inputs,
        "output": goal.output,
        "label": goal.label,
        "weight": goal.weight,
        "times": goal.times,
    }
    return recipes.check(recipe._replace(**{name: part for name, part in parts.items() if part}), "config.objective")


def build_how(config) -> How:
    """Returns how a config draws samples; raises `InputError` for what does not fit what is trained."""
    goal, sampler = config.objective, config.sampler
    kind = sampler.kind or goal.kind
    if goal.process == "bridge":
        choice("config.sampler.kind", kind, bridges.KINDS)
        if kind != goal.kind and build_recipe(config).output != "data":
            expected = f'"{goal.kind}", as the network was trained'
            fix = 'leave it "", or train with config.objective.output=data, which serves both'
            raise input_error("config.sampler.kind", expected=expected, got=f'"{kind}"', fix=fix)
    how = How(
        process=goal.process,
        bridge=build_bridge(config),
        kind=kind,
        normaliser=goal.normaliser,
        rule=sampler.rule,
        order=sampler.order,
        corrector=_CORRECTOR[choice("config.sampler.corrector", sampler.corrector, _CORRECTOR)],
        nfe=sampler.nfe,
        grid=sampler.grid,
        power=sampler.power,
        last_time=sampler.last_time,
        largest=sampler.largest,
        smallest=sampler.smallest,
        level_power=sampler.level_power,
    )
    drawing.check(how)
    return how


def build_all_sources(config) -> dict[str, Source]:
    """Returns {"train": Source, "test": Source}: points `{"point": [2]}` or images `{"image": [H, W, C]}`.

    Raises `InputError` for data of more classes than the network is told.
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
    name = data.source.removeprefix(TOY)
    length = {"length": data.points} if data.points else {}
    # The splits come from one rule, each with its own seed.
    return {
        "train": toy.Points(name, seed=2 * data.split_seed, **length),
        "test": toy.Points(name, seed=2 * data.split_seed + 1),
    }


def check_classes(config) -> int:
    """Returns how many classes the network is told; raises `InputError` for what does not fit together."""
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
    if classes and config.objective.coupling:
        # Noise that is paired with the data of all classes is no longer the same for each class.
        got, fix = config.objective.coupling, "set it to 0"
        raise input_error("config.objective.coupling", expected="0 for a model of classes", got=got, fix=fix)
    return classes


def is_toy(config) -> bool:
    """Whether the data are points of the plane."""
    return config.data.source.startswith(TOY)


def load(workdir: str | os.PathLike, *, ema: bool = True, step: int | None = None) -> tuple[Model, Variables]:
    """Returns model and variables of the run in `workdir`, without data or optimizer; raises `InputError`."""
    method = configs.read_dict(workdir).get("method")
    if method != NAME:
        raise input_error(
            f"workdir {workdir}", expected=f"a run of {NAME}", got=f"one of {method}", fix="name another workdir"
        )
    return build_model(configs.read(workdir, base())), restore_params(workdir, ema=ema, step=step)


def as_field(model: Model, variables: Variables, how: How | None = None, labels: jax.Array | None = None):
    """Returns the trained function that samplers of `how` take; with the data as output it serves both kinds.

    labels: classes `[B]` of what is to be drawn, for a model that is told them.
    """
    goal = model.objective
    if how is not None and how.process == "bridge" and how.kind != model.how.kind:
        goal = goal.of_kind(how.kind)
    return field(model.network, goal, variables, labels)


def draw_labels(keys: jax.Array, num_classes: int, label: int = -1) -> jax.Array | None:
    """Returns a class for each of `keys [B]`, int32: `label`, or for -1 all equally likely; None without classes."""
    if not num_classes:
        return None
    if label >= 0:
        return jnp.full(keys.shape, label, jnp.int32)
    # A fold of its own, so that the class does not decide the noise.
    return jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, 2**31), (), 0, num_classes))(keys)


def told(how: How) -> dict[str, Any]:
    """Returns plain values that say how samples are drawn."""
    values = {**how._asdict(), "bridge": vars(how.bridge), "nfe": drawing.nfe_of(how)}
    if how.process != "bridge":
        values = {name: values[name] for name in ("process", "rule", "nfe", "largest", "smallest", "level_power")}
        values["rule"] = how.rule or drawing.RECOMMENDED[how.process]
    return values


def held_out(config, sources) -> Callable[[int, int], np.ndarray]:
    """Returns `data(i, count)`: held-out examples, other ones for each i; images as `held_out_images` has them."""
    if is_toy(config):
        name, seed = config.data.source.removeprefix(TOY), 2 * config.data.split_seed + 1
        return lambda i, count: toy.draw(name, seed=seed, count=count, first=i * count)
    images = held_out_images(config, sources)
    return lambda i, count: images(i, count)["data"]


def held_out_images(config, sources) -> Callable[[int, int], dict[str, np.ndarray]]:
    """Returns `images(i, count)`: `data [count, H, W, C]` in [-1, 1], spread over the held-out set, and their `label`.

    Fewer where there are not so many. With `config.sampler.label` only images of that class; raises `InputError` if
    there are none.
    """
    source, label = sources()["test"], config.sampler.label
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


def density(points: np.ndarray, extent: float, *, side: int = 128) -> np.ndarray:
    """Returns a picture `[side, side, 1]` of how many points fall where, dark on white, the square of +-1.15 extent."""
    half = 1.15 * extent
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=side, range=[[-half, half]] * 2)
    return (1 - np.minimum(1, counts / max(np.quantile(counts, 0.995), 1)))[::-1, :, None]


def _to_data(
    *, flip: bool, points: bool, labels: bool
) -> Callable[[jax.Array, Mapping[str, jax.Array]], dict[str, jax.Array]]:
    if points:
        return lambda key, example: {"data": example["point"]}
    to_unit = augment.images(flip=flip)

    def to_data(key, example):
        own = {"label": example["label"]} if labels else {}
        return {"data": 2 * to_unit(key, example)["image"] - 1, **own}

    return to_data


@functools.partial(jax.jit, static_argnames=("shape", "how"))
def _drawn(field, keys, shape, *, how):
    return drawing.draw(field, keys, shape, how, store=True)
