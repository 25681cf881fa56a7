"""Task "backbone": trains the embedded pyramid by matching warped photographs, without labels.

Pairs are made on the device in every step (`pairs`, `photometric`); the loss is `contrastive` at strides 4, 8 and 16.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from common.data.pipeline import build as build_sources
from common.errors import at_least, input_error
from common.io.pictures import strip
from common.method import Aux, Evaluation, Method, Samples, Variables
from diffmatch_jax import backbone, contrastive, pairs, photometric
from diffmatch_jax.feature_quality import evaluate, found_flow, held_out_pairs
from diffmatch_jax.features import Pyramid
from diffmatch_jax.matching import warp
from diffmatch_jax.pairs import Warps
from diffmatch_jax.photometric import Photometric
from diffmatch_jax.resize import resize_flow

NAME = "diffmatch_jax"
LEVELS = (2, 3, 4)  # of the pyramid, strides 4, 8 and 16: those that stage 1 reads


def build(config) -> Method:
    """Returns the training of the pyramid that `config` describes; raises `InputError` for what cannot work."""
    goal, checks, data = config.pretraining, config.evaluate, config.data
    _check(config)
    warps, evaluated = build_warps(config, window=goal.window), build_warps(config)
    changes = build_photometric(config)
    sources = functools.cache(lambda: build_sources(data))
    size, coarse = config.features.fine, config.features.coarse

    def augment(key, example):
        flips, warp_key, of_source, of_target = jax.random.split(key, 4)
        image, extent = turned(flips, example["image"], example["size"], flip=data.flip)
        pair = pairs.make_pair(
            warp_key, _rgb(image), extent, size=goal.size, settings=warps, supersample=goal.supersample
        )
        return {
            "source": photometric.change(of_source, pair.source, changes),
            "target": photometric.change(of_target, pair.target, changes),
            "flow": pair.flow,
        }

    def init(key, batch):
        del batch
        temperatures = jnp.full(len(LEVELS), jnp.log(goal.temperature))
        return Variables({"pyramid": backbone.init(key, goal.widths), "log_temperature": temperatures}, {})

    def loss(variables, key, batch):
        del key
        params = variables.params
        both = jnp.concatenate([batch["source"], batch["target"]])
        found = backbone.levels(params["pyramid"], both, compute_dtype=config.compute_dtype)
        halves = [jnp.split(found[level], 2) for level in LEVELS]
        temperatures = jnp.exp(params["log_temperature"])
        values, metrics = contrastive.loss(
            [source for source, _ in halves], [target for _, target in halves], batch["flow"], temperatures
        )
        strides = {f"temperature_{2**level}": each for level, each in zip(LEVELS, temperatures, strict=True)}
        return values.mean(), Aux(variables.stats, metrics | strides)

    def held_out(key, num):
        return held_out_pairs(key, sources()["test"], num=num, size=size, settings=evaluated)

    def compared(variables, key) -> dict[str, Pyramid]:
        return {
            "trained": backbone.frozen(variables.params["pyramid"], compute_dtype=config.features.compute_dtype),
            "random": backbone.random(key, widths=goal.widths, compute_dtype=config.features.compute_dtype),
            "patches": jax.tree_util.Partial(backbone.patches),
        }

    def measured(variables: Variables, key: jax.Array) -> Evaluation:
        of_pairs, of_noise, of_weights = jax.random.split(key, 3)
        return evaluate(
            compared(variables, of_weights), of_noise, held_out(of_pairs, checks.num), fine=size, coarse=coarse
        )

    def sample(variables: Variables, key: jax.Array) -> Samples:
        pair = held_out(key, config.sampler.num)
        flow, score, _, _ = found_flow(compared(variables, key)["trained"], pair, fine=size, coarse=coarse)
        arrays = {"source": pair.source, "target": pair.target, "truth": pair.flow, "flow": flow, "score": score}
        images = np.concatenate([np.asarray(each) for each in (pair.source, pair.target)])
        arrays = {name: np.asarray(each) for name, each in arrays.items()}
        return Samples(arrays, images, {"nfe": 0}, settings={"data": {"test": sources()["test"].fingerprint}})

    def preview(variables: Variables, key: jax.Array) -> dict[str, np.ndarray]:
        pair = held_out(key, 4)
        flow, _, _, _ = found_flow(compared(variables, key)["trained"], pair, fine=size, coarse=coarse)
        # From the flow of cells to that of pixels.
        dense = resize_flow(flow / (size / flow.shape[1]), pair.flow.shape[1:3])
        rows = [pair.source, pair.target, warp(pair.source, dense)]
        return {"source-target-found": strip([np.asarray(row) for row in rows])}

    shape = (goal.size, goal.size, 3)
    return Method(
        name=NAME,
        init=init,
        loss=loss,
        augment=augment,
        sources=sources,
        sample=sample,
        evaluate=measured,
        preview=preview,
        example=lambda: {
            "source": jax.ShapeDtypeStruct(shape, jnp.float32),
            "target": jax.ShapeDtypeStruct(shape, jnp.float32),
            "flow": jax.ShapeDtypeStruct((*shape[:2], 2), jnp.float32),
        },
    )


def build_warps(config, *, window: tuple[float, float] | None = None) -> Warps:
    """Returns the warps of a config; `window` replaces the share of an image that a pair shows."""
    of = config.pairs
    return Warps(
        shares=tuple(of.shares),
        corner=of.corner,
        rotation=of.rotation,
        stretch=tuple(of.stretch),
        shift=of.shift,
        control=of.control,
        window=tuple(window or of.window),
    )


def build_photometric(config) -> Photometric:
    """Returns the photometric changes of a config's training pairs."""
    of = config.photometric
    return Photometric(
        share=config.pairs.photometric,
        brightness=of.brightness,
        contrast=of.contrast,
        fade=of.fade,
        gamma=of.gamma,
        saturation=of.saturation,
        hue=of.hue,
        blur=of.blur,
        noise=of.noise,
        noisy=of.noisy,
    )


def _check(config) -> None:
    goal = config.pretraining
    if config.data.fit != "pad":
        got = f'"{config.data.fit}"'
        raise input_error("config.data.fit", expected='"pad", whole photographs', got=got, fix='use "pad"')
    if len(goal.widths) != 4 or min(goal.widths) < 1:
        got = list(goal.widths)
        raise input_error(
            "config.pretraining.widths", expected="four positive numbers", got=got, fix="use (16, 32, 64, 128)"
        )
    for field, size in (
        ("pretraining.size", goal.size),
        ("features.fine", config.features.fine),
        ("features.coarse", config.features.coarse),
    ):
        if size % 16 or size < 16:
            fix = f"use {max(16, round(size / 16) * 16)}"
            raise input_error(f"config.{field}", expected="a multiple of 16", got=size, fix=fix)
    if not goal.temperature > 0:
        got = goal.temperature
        raise input_error("config.pretraining.temperature", expected="a positive number", got=got, fix="use 0.07")
    at_least(
        {
            "config.pretraining.supersample": (goal.supersample, 1),
            "config.evaluate.num": (config.evaluate.num, 1),
            "config.sampler.num": (config.sampler.num, 1),
        }
    )


def _rgb(image: jax.Array) -> jax.Array:
    return jnp.broadcast_to(image, (*image.shape[:-1], 3))


def turned(key, image, extent, *, flip: bool):
    """Mirrors a padded image left-right with probability 1/2; its columns stay the first ones."""
    if not flip:
        return image, extent
    columns = jnp.arange(image.shape[1])
    mirrored = image[:, jnp.where(columns < extent[1], extent[1] - 1 - columns, columns)]
    return jnp.where(jax.random.bernoulli(key), mirrored, image), extent
