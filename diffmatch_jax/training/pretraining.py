"""Task "backbone": trains the embedded pyramid by matching warped photographs, without labels.

Pairs are made on the device in every step (`pairs`, `photometric`); the loss is `contrastive` at strides 4, 8 and 16.

Dense contrastive learning of features from pairs of known flow.

Each cell of the target's map has one true place in the source's, between four cells. The loss is the cross entropy of a
softmax over all cells of the source, of cosines divided by a temperature, with the bilinear weights of that place as
the truth (InfoNCE, van den Oord et al., 2018, equation 4, with soft positives).

How good features are: the flow that the best match of every cell gives, without any network on top.

Measured on warps of held-out photographs, whose truth is exact, with clean pictures and under two corruptions.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.data.pipeline import build as build_sources
from common.data.source import Source
from common.errors import at_least, input_error
from common.io.results import strip
from common.method import Aux, Evaluation, Method, Samples, Variables
from diffmatch_jax.data import augment, warps
from diffmatch_jax.data.augment import Photometric, change
from diffmatch_jax.data.warps import Pair, Warps, make_pair
from diffmatch_jax.evaluation.metrics import aggregate, measure
from diffmatch_jax.model import backbone
from diffmatch_jax.model.cost_volume import descriptor, search, unit, volume, winner_take_all
from diffmatch_jax.model.features import Pyramid, local_contrast, prepared, stage1_maps
from diffmatch_jax.model.flow import mapping_of, sample, warp, within
from diffmatch_jax.model.resize import resize_flow

NAME = "diffmatch_jax"
WINDOW = (0.35, 0.8)  # fraction of the image's shorter side that training pairs show
SUPERSAMPLE = 2  # positions along each side that a pixel of them averages
TEMPERATURE = 0.07  # of cosines, at first; learned for each stride
LEVELS = (2, 3, 4)  # of the pyramid, strides 4, 8 and 16: those that stage 1 reads


class Inputs(NamedTuple):
    """Sides of the two images whose features are taken; fraction of a side over which local contrast is normalised."""

    fine: int
    coarse: int
    contrast: float = 0.0


def build(config) -> Method:
    """Returns the training of the pyramid that `config` describes; raises `InputError` for what cannot work."""
    section, checks, data = config.pretraining, config.evaluate, config.data
    _check(config)
    warps, evaluated = build_warps(config, window=WINDOW), build_warps(config)
    changes = build_photometric(config)
    sources = functools.cache(lambda: build_sources(data))
    inputs = Inputs(config.features.fine, config.features.fine // 2, config.features.contrast)

    def augment(key, example):
        flips, warp_key, of_source, of_target = jax.random.split(key, 4)
        image, extent = turned(flips, example["image"], example["size"], flip=data.flip)
        pair = make_pair(warp_key, _rgb(image), extent, size=section.size, settings=warps, supersample=SUPERSAMPLE)
        return {
            "source": change(of_source, pair.source, changes),
            "target": change(of_target, pair.target, changes),
            "flow": pair.flow,
        }

    def init(key, batch):
        del batch
        temperatures = jnp.full(len(LEVELS), jnp.log(TEMPERATURE))
        return Variables({"pyramid": backbone.init(key, section.widths), "log_temperature": temperatures}, {})

    def loss(variables, key, batch):
        del key
        params = variables.params
        both = jnp.concatenate([batch["source"], batch["target"]])
        if inputs.contrast:
            both = local_contrast(both, sigma=inputs.contrast * section.size)
        found = backbone.levels(params["pyramid"], both, compute_dtype=config.compute_dtype)
        halves = [jnp.split(found[level], 2) for level in LEVELS]
        temperatures = jnp.exp(params["log_temperature"])
        values, metrics = contrastive_loss(
            [source for source, _ in halves], [target for _, target in halves], batch["flow"], temperatures
        )
        strides = {f"temperature_{2**level}": each for level, each in zip(LEVELS, temperatures, strict=True)}
        return values.mean(), Aux(variables.stats, metrics | strides)

    def held_out(key, num):
        return held_out_pairs(key, sources()["test"], num=num, size=inputs.fine, settings=evaluated)

    def compared(variables, key) -> dict[str, Pyramid]:
        return {
            "trained": backbone.frozen(variables.params["pyramid"], compute_dtype=config.features.compute_dtype),
            "random": backbone.random(key, widths=section.widths, compute_dtype=config.features.compute_dtype),
            "patches": jax.tree_util.Partial(backbone.patches),
        }

    def measured(variables: Variables, key: jax.Array) -> Evaluation:
        of_pairs, of_noise, of_weights = jax.random.split(key, 3)
        return evaluate(compared(variables, of_weights), of_noise, held_out(of_pairs, checks.num), inputs)

    def sample(variables: Variables, key: jax.Array) -> Samples:
        pair = held_out(key, config.sampler.num)
        flow, score, _, _ = found_flow(compared(variables, key)["trained"], pair, inputs)
        arrays = {"source": pair.source, "target": pair.target, "truth": pair.flow, "flow": flow, "score": score}
        images = np.concatenate([np.asarray(each) for each in (pair.source, pair.target)])
        arrays = {name: np.asarray(each) for name, each in arrays.items()}
        return Samples(arrays, images, {"nfe": 0}, settings={"data": {"test": sources()["test"].fingerprint}})

    def preview(variables: Variables, key: jax.Array) -> dict[str, np.ndarray]:
        pair = held_out(key, 4)
        flow, _, _, _ = found_flow(compared(variables, key)["trained"], pair, inputs)
        # From the flow of cells to that of pixels.
        dense = resize_flow(flow / (inputs.fine / flow.shape[1]), pair.flow.shape[1:3])
        rows = [pair.source, pair.target, warp(pair.source, dense)]
        return {"source-target-found": strip([np.asarray(row) for row in rows])}

    shape = (section.size, section.size, 3)
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
    """Returns the warps of a config; `window` replaces the fraction of an image that a pair shows."""
    of = config.pairs
    return Warps(
        shares=tuple(of.shares),
        corner=of.corner,
        rotation=of.rotation,
        stretch=tuple(of.stretch),
        shift=of.shift,
        frame_rotation=of.frame_rotation,
        frame_zoom=of.frame_zoom,
        **dict[str, Any]({"window": window} if window else {}),
    )


def build_photometric(config) -> Photometric:
    """Returns the photometric changes of a config's training pairs."""
    return Photometric(share=config.pairs.photometric)


def _check(config) -> None:
    section = config.pretraining
    if config.data.fit != "pad":
        got = f'"{config.data.fit}"'
        raise input_error("config.data.fit", expected='"pad", whole photographs', got=got, fix='use "pad"')
    if len(section.widths) != 4 or min(section.widths) < 1:
        got = list(section.widths)
        raise input_error(
            "config.pretraining.widths", expected="four positive numbers", got=got, fix="use (16, 32, 64, 128)"
        )
    for field, size in (
        ("pretraining.size", section.size),
        ("features.fine", config.features.fine),
    ):
        if size % 16 or size < 16:
            fix = f"use {max(16, round(size / 16) * 16)}"
            raise input_error(f"config.{field}", expected="a multiple of 16", got=size, fix=fix)
    at_least(
        {
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


class Matched(NamedTuple):
    """The loss of each pair `[B]`, mean over the cells that count, and the fraction matched within one cell."""

    loss: jax.Array
    found: jax.Array


def matched(
    source: jax.Array, target: jax.Array, positions: jax.Array, mask: jax.Array, *, temperature: jax.Array | float
) -> Matched:
    """Returns the loss of maps `source [B, Hs, Ws, C]` and `target [B, Ht, Wt, C]`, of any scale.

    positions `[B, Ht, Wt, 2]`: of each target cell, in cells of the source; mask `[B, Ht, Wt]` says which count.
    """
    source, target = unit(source), unit(target)
    cosines = volume(source, target)
    flat = cosines.reshape(*cosines.shape[:3], -1)
    # Sum of the truth's weights times cosines: one inner product with the interpolated source.
    true = (target * sample(source, positions, outside="border")).sum(-1)
    entropy = jax.nn.logsumexp(flat / temperature, axis=-1) - true / temperature
    best, _ = winner_take_all(jax.lax.stop_gradient(cosines))
    near = (jnp.abs(best - positions) <= 1).all(-1)
    return Matched(_mean(entropy, mask), _mean(near, mask))


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the mean over cells where `mask`, `[B]`; 0 without any."""
    return jnp.where(mask, values, 0).sum((1, 2)) / jnp.maximum(mask.sum((1, 2)), 1)


def truth_of_cells(flow: jax.Array, size: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns where the cells of a map of `size` lie in the source's map, `[B, h, w, 2]`, and which end within it.

    `flow [B, H, W, 2]` in pixels is taken at the cells' centres, which for even strides is between pixels.
    """
    positions = mapping_of(resize_flow(flow, size))
    # From edge to edge of the image, half a cell beyond the outermost centres.
    return positions, within(positions + 0.5, (size[0] + 1, size[1] + 1))


def contrastive_loss(
    sources, targets, flow: jax.Array, temperatures: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the mean loss `[B]` over maps (a sequence for the sources, one for the targets), and means of it by map.

    flow `[B, H, W, 2]` in pixels of the images that the maps are of; `temperatures [number of maps]`. The metrics
    `found_S` and `loss_S` are of the map of stride S.
    """
    total: Any = []
    metrics = {}
    for source, target, temperature in zip(sources, targets, temperatures, strict=True):
        positions, mask = truth_of_cells(flow, target.shape[1:3])
        one = matched(source, target, positions, mask, temperature=temperature)
        stride = math.ceil(flow.shape[1] / target.shape[1])
        metrics |= {f"loss_{stride}": one.loss.mean(), f"found_{stride}": one.found.mean()}
        total.append(one.loss)
    loss: Any = sum(total) / len(total)
    return loss, metrics


# Clean pictures, and two corruptions at their worst severity in ImageNet-C.
NOISE, CONTRAST = 0.38, 0.05
CONDITIONS = ("clean", "noise", "contrast")

_WAVE = 8  # pairs at once


def held_out_pairs(key: jax.Array, source: Source, *, num: int, size: int, settings: Warps) -> Pair:
    """Returns `num` pairs of `size` x `size` pixels of images evenly spread over a source of padded ones, unchanged."""
    chosen = [i * len(source) // num for i in range(num)] if num < len(source) else np.arange(num) % len(source)
    make = _make(size, settings)
    found = []
    for start in range(0, num, _WAVE):
        numbers = np.minimum(np.arange(start, start + _WAVE), num - 1)  # the last wave repeats, for one program
        shown = source.read([int(chosen[i]) for i in numbers])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(numbers))
        pair = make(keys, jnp.asarray(shown["image"]), jnp.asarray(shown["size"]))
        found.append(jax.device_get(pair))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:num], *found)


@functools.cache
def _make(size: int, settings: Warps) -> Callable[..., Pair]:
    def one(key, image, extent):
        return warps.make_pair(key, image, extent, size=size, settings=settings)

    return jax.jit(jax.vmap(one))


def found_flow(pyramid: Pyramid, pair: Pair, inputs: Inputs):
    """Returns the winner-take-all flow `[B, h, w, 2]` of pairs, its score `[B, h, w]`, the truth and where it is known.

    One flow for each of the fine / 8 cells a side, in pixels of the fine image; so is the truth, at the cells' centres.
    """
    parts = []
    for start in range(0, len(pair.source), _WAVE):
        part = jax.tree.map(lambda x, start=start: x[start : start + _WAVE], pair)
        parts.append(jax.device_get(_winners(pyramid, part.source, part.target, part.flow, inputs)))
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))


@functools.partial(jax.jit, static_argnames="inputs")
def _winners(pyramid, source, target, truth, inputs):
    cells = (inputs.fine // 8, inputs.fine // 8)
    both = prepared(jnp.concatenate([source, target]), **inputs._asdict())
    descriptors = descriptor(stage1_maps(pyramid, both), cells)
    first, second = jnp.split(descriptors, 2)
    found = search(first, second, radius=0)
    _, known = truth_of_cells(truth, cells)
    return found.flow * 8, found.scores[..., 0], resize_flow(truth, cells) * 8, known


def evaluate(pyramids: Mapping[str, Pyramid], key: jax.Array, pair: Pair, inputs: Inputs) -> Evaluation:
    """Measures winner-take-all flow of pairs by several pyramids: AEPE and PCK in pixels at the centres of cells.

    "noise" adds Gaussian noise of deviation 0.38 to both pictures, "contrast" keeps 0.05 of their contrast; both are
    rounded to bytes. Arrays: the errors of every cell, no number where it is not known.
    """
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for condition in CONDITIONS:
        changed = corrupted(key, pair, condition)
        for name, pyramid in pyramids.items():
            flow, _, truth, known = found_flow(pyramid, changed, inputs)
            total = aggregate([measure(*each) for each in zip(flow, truth, known, strict=True)])
            shares = {f"pck_{each}": total[f"pck_{each}_per_image"] for each in (1, 3, 5)}
            rows.append({"features": name, "pictures": condition, "aepe": total["aepe"], **shares})
            error = np.linalg.norm(flow - truth, axis=-1).astype(np.float32)
            arrays[f"error.{name}.{condition}"] = np.where(known, error, np.nan)
    return Evaluation({"table": rows, "pairs": len(pair.source)}, arrays)


def corrupted(key: jax.Array, pair: Pair, condition: str) -> Pair:
    """Returns pairs whose two pictures are as `evaluate` says."""
    if condition == "clean":
        return pair
    both = jnp.stack([pair.source, pair.target])
    if condition == "noise":
        both = jnp.clip(both, 0, 1) + NOISE * jax.random.normal(key, both.shape)
    else:
        both = augment.contrasted(both, CONTRAST)
    source, target = np.asarray(augment.as_bytes(both))
    return pair._replace(source=source, target=target)
