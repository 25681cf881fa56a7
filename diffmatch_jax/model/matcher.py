"""From two images to flow, in the order of the data: prepared images, features, conditioning, stage 1, stage 2, pixels.

Images are brought to fixed sizes first, and pairs and hypotheses are padded to powers of two, so that few programs are
compiled once; only resizing is compiled for each size of image.
"""

import functools
import inspect
import os
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import as_images, as_numbers, to_unit
from common.errors import input_error
from common.prng import as_keys
from diffmatch_jax.model import conditioning, frames, masks, native, programs
from diffmatch_jax.model.diffusion import folded
from diffmatch_jax.model.diffusion import std as std_of
from diffmatch_jax.model.features import Prepared, Pyramid, texture
from diffmatch_jax.model.flow import mapping_of, sample, to_pixels
from diffmatch_jax.model.pair_match import Match
from diffmatch_jax.model.resize import resize, resize_normalised
from diffmatch_jax.model.sampling import Stage, confidence_of, deviation_of, draw, pooled, summarise

MOST_HYPOTHESES = 1024


@dataclass(frozen=True)
class MatcherConfig:
    """The settings of a matcher, beside its weights; hashable.

    Without a first stage the affine fit takes its place, or where there is none the winner-take-all flow under a 5x5
    median; without a second one the flow is that of the first. With neither, the fit is refined as for a second one.
    `confidence` is the standard deviation at which confidence is 1/2, pixels of the fine image.
    """

    conditioning: conditioning.ConditioningConfig
    first: Stage | None = None
    second: Stage | None = None
    confidence: float = 3.0

    def sampled_first(self, hypotheses: int) -> tuple[Stage, int]:
        """Returns stage 1 as it is sampled, and how often: once where stage 2 samples and stage 1 predicts std."""
        assert self.first is not None
        predicts = self.first.at_once and self.first.variable.predict_variance
        if predicts and self.second is not None and self.second.draws:
            return self.first.once, 1
        return self.first, hypotheses

    def nfe(self, hypotheses: int) -> int:
        """Network evaluations for a pair."""
        stages = [self.sampled_first(hypotheses)] if self.first else []
        stages += [(self.second, hypotheses)] if self.second else []
        return sum(stage.nfe * (1 if stage.kind == "regression" else n) for stage, n in stages)


class Weights(NamedTuple):
    """The arrays of a matcher: a pyramid and the parameters of both stages.

    The pyramid is a `jax.tree_util.Partial` with its weights, or any function as in `model.features`; one and the
    same function shares its compiled programs.
    """

    pyramid: Pyramid
    first: Any = None
    second: Any = None


class Model(NamedTuple):
    """A matcher: its plan and its weights."""

    config: MatcherConfig
    weights: Weights


class Grid(NamedTuple):
    """Flow on the matcher's own grid; `[B, h, w, ...]`, normalised flow.

    flow and its covariance `[B, h, w, 2, 2]`, pooled over the cells around; confidence `[B, h, w]`; hypotheses of the
    last stage that samples any `[B, n, h, w, 2]`; wta_flow: the winner-take-all flow, on the grid of stage 1.
    """

    flow: jax.Array
    covariance: jax.Array
    confidence: jax.Array
    hypotheses: jax.Array
    wta_flow: jax.Array


BATCH = 8  # pairs that are matched at once, at most


class Request(NamedTuple):
    """Checked arguments of `match`: images and masks `[B, H, W, C]` of B pairs, keys `[B]`; single: not a batch."""

    source: np.ndarray
    target: np.ndarray
    source_mask: np.ndarray
    target_mask: np.ndarray
    keys: jax.Array
    hypotheses: int
    search: bool
    full_size: bool
    single: bool


def match(source: Any, target: Any, *, model: Model, **options: Any) -> Match:
    """Returns the match of `model` for every pixel of `target`; arguments as in `diffmatch_jax.match`."""
    return run(model, checked(source, target, model=model, **options))


def checked(
    source: Any,
    target: Any,
    *,
    model: Model,
    key: jax.Array | None = None,
    hypotheses: int = 4,
    search: bool = True,
    full_size: bool = True,
    source_mask: Any = None,
    target_mask: Any = None,
) -> Request:
    """Returns the checked inputs of `match`; raises `InputError` for unusable ones, before anything is compiled."""
    sources, single = as_batch(source, "source")
    targets, single_target = as_batch(target, "target")
    if single != single_target or len(sources) != len(targets):
        got = f"{list(np.shape(source))} and {list(np.shape(target))}"
        raise input_error(
            "source, target", expected="as many images in both", got=got, fix="give two images or two batches"
        )
    if isinstance(hypotheses, bool) or not isinstance(hypotheses, int | np.integer):
        raise input_error("hypotheses", expected="a whole number", got=repr(hypotheses), fix="use 4")
    if hypotheses < 1:
        raise input_error("hypotheses", expected="at least 1", got=hypotheses, fix="use 4")
    if hypotheses > MOST_HYPOTHESES:
        raise input_error("hypotheses", expected=f"at most {MOST_HYPOTHESES}", got=hypotheses, fix="use 4")
    for name, value in (("search", search), ("full_size", full_size)):
        if not isinstance(value, bool | np.bool_):
            raise input_error(name, expected="True or False", got=repr(value), fix="use True")
    given = [name for name, mask in (("source_mask", source_mask), ("target_mask", target_mask)) if mask is not None]
    if given and model.config.conditioning.released:
        fix = "leave it out, or cut the images"
        raise input_error(given[0], expected="None for a model of the original code", got="a mask", fix=fix)
    of_source, of_target = (
        masks.of(each, mask, name)
        for each, mask, name in ((sources, source_mask, "source_mask"), (targets, target_mask, "target_mask"))
    )
    keys = jnp.broadcast_to(as_keys(0 if key is None else key, len(sources)), (len(sources),))
    return Request(sources, targets, of_source, of_target, keys, int(hypotheses), bool(search), bool(full_size), single)


def run(model: Model, request: Request) -> Match:
    """Returns the match of checked pairs, at most `BATCH` at once, each number padded to a power of two."""
    parts, number = [], len(request.source)
    for start in range(0, number, BATCH):
        count = min(BATCH, number - start)
        index = start + np.minimum(np.arange(padded(count)), count - 1)
        part = request._replace(**{name: getattr(request, name)[index] for name in request._fields[:5]})
        parts.append(Match(*(each[:count] for each in _matched(model, part))))
    whole = parts[0] if len(parts) == 1 else Match(*map(np.concatenate, zip(*parts, strict=True)))
    return whole.pair(0) if request.single else whole


def padded(count: int) -> int:
    """Returns the power of two from `count` on, so that few programs serve all counts."""
    return 1 << (count - 1).bit_length()


def _matched(model: Model, request: Request) -> Match:
    sources, targets, of_source, of_target, keys, hypotheses, search, full_size, _ = request
    settings = model.config.conditioning
    images = [
        _prepared(jnp.asarray(each), jnp.asarray(mask), settings)
        for each, mask in ((sources, of_source), (targets, of_target))
    ]
    weights = model.weights._replace(pyramid=as_argument(model.weights.pyramid))
    frame = None
    if search and settings.fit:
        images, frame = _framed(weights.pyramid, images, settings, (sources.shape[1:3], targets.shape[1:3]))
    grid = whole_grid()(model.config, weights, *images, keys, padded(hypotheses), jnp.asarray(hypotheses))
    if frame is not None:
        grid = _unframed(grid, frame)
    sizes: dict[str, Any] = {"size": targets.shape[1:3], "source": sources.shape[1:3], "alignment": settings.alignment}
    flow, *rest = jax.device_get(_finish(grid, **sizes))
    if full_size and settings.fit:
        pairs = zip(sources, targets, flow, of_source, of_target, strict=True)
        flow = np.stack([native.refined(*each) for each in pairs])
    source_size = np.broadcast_to(np.asarray(sources.shape[1:3]), (len(flow), 2))
    fields = (flow, *rest, np.asarray(grid.hypotheses)[:, :hypotheses], source_size)
    return Match._make(fields)


def whole_grid():
    """Returns `on_grid` as `match` compiles it."""
    return programs.quick(inspect.unwrap(on_grid), "config", "hypotheses")


def _framed(pyramid, images, settings, sizes):
    """Returns the images of pairs, each source in the frame that suits its target, and the frames `[B, 3, 3]`."""
    source, target = images
    framed = []
    for i in range(len(source.fine)):
        pair = (jax.tree.map(lambda x, i=i: x[i : i + 1], each) for each in (source, target))
        framed.append(frames.find(pyramid, *pair, settings=settings, sizes=sizes))
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), *(each.source for each in framed))
    return (joined, target), jnp.asarray(np.stack([each.frame for each in framed]), jnp.float32)


@jax.jit
def _unframed(grid: Grid, frame: jax.Array) -> Grid:
    """Returns what was found for resampled sources as flow into the sources as they were."""
    flow, slopes = frames.restore(grid.flow, frame)
    return grid._replace(
        flow=flow,
        covariance=slopes @ grid.covariance @ jnp.swapaxes(slopes, -1, -2),
        hypotheses=jax.vmap(lambda each: frames.restore(each, frame)[0], 1, 1)(grid.hypotheses),
        wta_flow=frames.restore(grid.wta_flow, frame)[0],
    )


def as_argument(pyramid: Pyramid) -> jax.tree_util.Partial:
    """Returns a pyramid as what jitted functions take for an argument."""
    return pyramid if isinstance(pyramid, jax.tree_util.Partial) else jax.tree_util.Partial(pyramid)


def as_batch(images: Any, name: str) -> tuple[np.ndarray, bool]:
    """Returns images as a batch `[B, H, W, 1 or 3]`, bytes or float32, and whether they were a single one."""
    mode = getattr(images, "mode", None)  # of an image of Pillow
    if isinstance(mode, str) and mode not in ("L", "RGB"):
        whole = mode.startswith("I") or mode == "F"  # 16 bits and more, which Pillow would cut off
        fix = f"give np.asarray({name}, np.float32) / 65535" if whole else f'give {name}.convert("RGB")'
        raise input_error(name, expected="a gray or RGB image", got=f"an image of mode {mode}", fix=fix)
    if isinstance(images, str | os.PathLike):
        fix = f"read the file: np.asarray(PIL.Image.open({name}).convert('RGB'))"
        raise input_error(name, expected="an image as an array", got=f"the path {images}", fix=fix)
    x = np.asarray(images) if mode else images
    x = np.asarray(x if getattr(x, "dtype", None) == np.uint8 else as_numbers(x, name))
    expected, got = "[H, W], [H, W, 1 or 3] or a batch of those", list(x.shape)
    if x.shape[-3:-2] == (3,) and x.shape[-1] not in (1, 3) and x.ndim in (3, 4):
        # Three gray images, or the channels of one.
        order = (1, 2, 0) if x.ndim == 3 else (0, 2, 3, 1)
        fix = f"put channels last ({name}.transpose{order})"
        fix += ", or give three gray images an axis of channels (x[..., None])" if x.ndim == 3 else ""
        raise input_error(name, expected=expected, got=f"{got}, channels first", fix=fix)
    if x.ndim in (3, 4) and x.shape[-1] in (2, 4):
        # Images with an alpha channel or gray images of this width: the shape does not decide.
        fix = "drop the alpha channel (x[..., :-1]), or give gray images an axis of channels (x[..., None])"
        raise input_error(name, expected=expected, got=got, fix=fix)
    # The last axis of three is channels where it may be.
    if x.ndim == 2 or (x.ndim == 3 and x.shape[-1] not in (1, 3)):
        x = x[..., None]
    single = x.ndim == 3
    x = x[None] if single else x
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or not len(x):
        raise input_error(name, expected=expected, got=got, fix="use gray or RGB images")
    if min(x.shape[1:3]) < 2:
        got = f"{x.shape[1]} x {x.shape[2]}"
        raise input_error(name, expected="at least 2 pixels in each direction", got=got, fix="give a whole image")
    return x if x.dtype == np.uint8 else np.asarray(as_images(x, name, beyond=0.01), np.float32), single


@functools.partial(jax.jit, static_argnames="settings")
def _prepared(images: jax.Array, mask: jax.Array, settings: conditioning.ConditioningConfig) -> Prepared:
    """Returns images, filled with their mean outside `mask [B, H, W, 1]`, with their mask and their texture."""
    if settings.released:
        return conditioning.prepared(images, settings)
    x = to_unit(images)
    mean = (x * mask).sum((1, 2), keepdims=True) / mask.sum((1, 2), keepdims=True)
    x = jnp.where(mask > 0, x, mean)
    fine = conditioning.prepared(x, replace(settings, contrast=0.0)).fine
    inside = resize(mask, fine.shape[1:3], antialias=True)
    return conditioning.prepared(x, settings)._replace(mask=inside, texture=inside * texture(fine))


@functools.partial(jax.jit, static_argnames=("config", "hypotheses"))
def on_grid(
    config: MatcherConfig,
    weights: Weights,
    source: Prepared,
    target: Prepared,
    keys: jax.Array,
    hypotheses: int,
    count: jax.Array | None = None,
) -> Grid:
    """Returns what both stages find for prepared images and one key a pair `[B]`.

    Of the `hypotheses` that are sampled the first `count` (None: all) decide flow and covariance.
    """
    settings = config.conditioning
    of_source, of_target = (conditioning.maps(weights.pyramid, images, settings) for images in (source, target))
    both_masks: Any = None if of_source.mask is None else (of_source.fine_mask, of_target.fine_mask)
    inputs = conditioning.stage1(of_source.first, of_target.first, settings, mask=of_target.mask)
    covariance = jnp.zeros((*inputs.wta_flow.shape, 2))
    if config.first is None:
        flow = conditioning.without_stage(inputs, settings)
        sampled = flow[:, None]
    else:
        first, number = config.sampled_first(hypotheses)
        samples = draw(first, weights.first, inputs.conditions, hypotheses=number, keys=keys)
        estimate = summarise(first, samples, count=count if number == hypotheses else None)
        flow, covariance, sampled = estimate.flow, pooled(estimate.covariance), samples.hypotheses
    unit = None if inputs.conditions.unit is None else inputs.conditions.unit * (settings.fine / settings.cells)
    if config.first is None and config.second is None and settings.refine:
        refined = conditioning.stage2_start(of_source.second, of_target.second, flow, settings, masks=both_masks)
        flow, unit = refined.flow, refined.unit * (settings.fine / settings.fine_cells)
        sampled, covariance = flow[:, None], jnp.zeros((*flow.shape, 2))
    if config.second is not None:
        size = of_target.second.shape[1:3]
        before = _resized(covariance, size, alignment=settings.alignment)
        conditions = conditioning.stage2(
            of_source.second, of_target.second, flow, settings, deviation=deviation_of(covariance), masks=both_masks
        )
        samples = draw(config.second, weights.second, conditions, hypotheses=hypotheses, keys=folded(keys, 1))
        estimate = summarise(config.second, samples, count=count)
        flow, covariance = estimate.flow, pooled(estimate.covariance)
        if config.second.draws or config.first is None:
            sampled = samples.hypotheses
        # The second stage sees the first one's flow alone: what that was unsure of is still unsure. One that learned
        # how wrong its own flow is counts that already.
        if not config.second.variable.predict_variance:
            covariance = covariance + before
    if any(stage.predicts_std(hypotheses) for stage in (config.first, config.second) if stage):
        confidence = confidence_of(std_of(covariance) * settings.fine, config.confidence)
    elif unit is not None:
        confidence = confidence_of(resize(unit, flow.shape[1:3])[..., 0], config.confidence)
    else:
        confidence = jnp.clip(resize(inputs.score[..., None], flow.shape[1:3])[..., 0], 0, 1)
    if settings.fit:
        clear = conditioning.distinct(of_source.first, of_target.first, flow, settings)
        confidence = confidence * resize(clear, flow.shape[1:3])[..., 0]
    if target.texture is not None:
        # A flat region agrees with any other: what has no texture, on either side, is no evidence.
        of_source, of_target = (resize(each.texture, flow.shape[1:3], antialias=True) for each in (source, target))
        seen = sample(of_source, mapping_of(to_pixels(flow)), outside="border")
        confidence = confidence * (seen * of_target)[..., 0]
    return Grid(flow, covariance, confidence, sampled, inputs.wta_flow)


def _resized(covariance: jax.Array, size: tuple[int, ...], *, alignment: str) -> jax.Array:
    """Returns covariances `[B, h, w, 2, 2]` on another grid."""
    flat = resize(covariance.reshape(*covariance.shape[:3], 4), size, alignment=alignment)
    return flat.reshape(*flat.shape[:3], 2, 2)


@functools.partial(jax.jit, static_argnames=("size", "source", "alignment"))
def _finish(grid: Grid, *, size: tuple[int, ...], source: tuple[int, ...], alignment: str) -> tuple[jax.Array, ...]:
    """Returns flow, confidence, std, covariance and winner-take-all flow on the target's pixels."""
    # Corner-aligned flow into an image of the same size is scaled by its side, as the released code does.
    to = None if alignment == "corner" and source == size else source

    def pixels(flow):
        return to_pixels(resize_normalised(flow, size, alignment=alignment), source=to)

    wide = jnp.asarray([source[1], source[0]], jnp.float32)
    covariance = _resized(grid.covariance, size, alignment=alignment) * wide[:, None] * wide
    confidence = resize(grid.confidence[..., None], size, alignment=alignment)[..., 0]
    return pixels(grid.flow), confidence, std_of(covariance), covariance, pixels(grid.wta_flow)
