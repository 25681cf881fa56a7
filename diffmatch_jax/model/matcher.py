"""`match`: two images of any size in, dense flow and confidence out.

Images are brought to fixed sizes first, so all images share one compiled program a number of pairs and hypotheses;
only resizing is compiled for each size of image.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import as_images, as_numbers
from common.data.augment import to_unit
from common.errors import input_error
from common.prng import as_keys
from diffmatch_jax.model import conditioning as looking
from diffmatch_jax.model import frames, masks
from diffmatch_jax.model.diffusion import folded
from diffmatch_jax.model.diffusion import spread as spread_of
from diffmatch_jax.model.features import Prepared, Pyramid, texture
from diffmatch_jax.model.flow import mapping_of, sample, to_pixels
from diffmatch_jax.model.resize import resize, resize_normalised
from diffmatch_jax.model.sampling import Stage, confidence_of, deviation_of, draw, pooled, summarise


@dataclass(frozen=True)
class Plan:
    """How a matcher goes from two images to flow, beside its weights; hashable.

    Without a first stage the affine fit takes its place, or where there is none the winner-take-all flow under a 5x5
    median; without a second one the flow is that of the first. With neither, the fit is refined as for a second one.
    `confidence` is the spread at which confidence is 1/2, pixels of the fine image; `rounds` says how often the second
    stage refines.
    """

    look: looking.Settings
    first: Stage | None = None
    second: Stage | None = None
    confidence: float = 3.0
    rounds: int = 1

    def first_drawn(self, hypotheses: int) -> tuple[Stage, int]:
        """Returns stage 1 as it is drawn and how often: once where its hypotheses are of no use, for stage 2 draws."""
        told = self.first.at_once and self.first.variable.learned_scale
        if told and self.second is not None and self.second.draws:
            return self.first.once, 1
        return self.first, hypotheses

    def nfe(self, hypotheses: int) -> int:
        """Network evaluations for a pair."""
        first = [(1, *self.first_drawn(hypotheses))] if self.first else []
        second = [(self.rounds, self.second, hypotheses)] if self.second else []
        return sum(
            rounds * stage.nfe * (1 if stage.kind == "regression" else n) for rounds, stage, n in [*first, *second]
        )


class Weights(NamedTuple):
    """The arrays of a matcher: a pyramid and the parameters of both stages.

    The pyramid is a `jax.tree_util.Partial` with its weights, or any function as in `diffmatch_jax.model.features`; one and
    the same function shares its compiled programs.
    """

    pyramid: Pyramid
    first: Any = None
    second: Any = None


class Model(NamedTuple):
    """A matcher: its plan and its weights."""

    plan: Plan
    weights: Weights


class Grid(NamedTuple):
    """What is found on the matcher's own grid; `[B, h, w, ...]`, normalised flow.

    flow and its covariance `[B, h, w, 2, 2]`, pooled over the cells around; confidence `[B, h, w]`; hypotheses of the
    last stage that draws any `[B, n, h, w, 2]`; winner: the winner-take-all flow, on the grid of stage 1.
    """

    flow: jax.Array
    covariance: jax.Array
    confidence: jax.Array
    hypotheses: jax.Array
    winner: jax.Array


class Match(NamedTuple):
    """Dense correspondence of a pair, or of a batch of them with a first axis more; NumPy arrays.

    flow `[H, W, 2]`: for every pixel of the target, x and y to its place in the source, in the source's pixels: if both
    have one size, source position = target pixel + flow, else likewise by the pixels' own coordinates.
    confidence `[H, W]` in [0, 1]: e / (1 + (s / c)^2), s the spread in pixels of a 256x256 image (or the model's own
    size), c the model's (4 of the weights in the package), and e the texture of both images: 0 where either is flat or
    masked. For a model without spread s is the distance of the matches from their fit, or the best correlation counts.
    spread `[H, W]`: standard deviation of the flow, sqrt(trace) of covariance `[H, W, 2, 2]`, over a cell and those
    around it, in pixels of the source: predicted by the variance head if there is one, otherwise that of the
    hypotheses, otherwise 0.
    winner `[H, W, 2]`: flow to the cells of the largest correlation.
    hypotheses `[n, h, w, 2]`: normalised flows, equally likely, of the last stage that samples any (of the weights in
    the package the second), on its grid.
    """

    flow: np.ndarray
    confidence: np.ndarray
    spread: np.ndarray
    covariance: np.ndarray
    winner: np.ndarray
    hypotheses: np.ndarray


def match(
    source: Any,
    target: Any,
    *,
    model: Model,
    key: jax.Array | None = None,
    hypotheses: int = 4,
    search: bool = True,
    source_mask: Any = None,
    target_mask: Any = None,
) -> Match:
    """Returns what `model` finds for every pixel of `target` in `source`; arguments as in `diffmatch_jax.match`."""
    sources, single = as_batch(source, "source")
    targets, single_target = as_batch(target, "target")
    if single != single_target or len(sources) != len(targets):
        got = f"{list(np.shape(source))} and {list(np.shape(target))}"
        raise input_error(
            "source, target", expected="as many images in both", got=got, fix="give two images or two batches"
        )
    if isinstance(hypotheses, bool) or not isinstance(hypotheses, int | np.integer):
        raise input_error("hypotheses", expected="a whole number", got=hypotheses, fix="use 4")
    if hypotheses < 1:
        raise input_error("hypotheses", expected="at least 1", got=hypotheses, fix="use 4")
    given = [name for name, mask in (("source_mask", source_mask), ("target_mask", target_mask)) if mask is not None]
    if given and model.plan.look.released:
        fix = "leave it out, or cut the images"
        raise input_error(given[0], expected="None for a model of the original code", got="a mask", fix=fix)
    keys = jnp.broadcast_to(as_keys(0 if key is None else key, len(sources)), (len(sources),))
    images = [
        _prepared(jnp.asarray(each), jnp.asarray(masks.of(each, mask, name)), model.plan.look)
        for each, mask, name in ((sources, source_mask, "source_mask"), (targets, target_mask, "target_mask"))
    ]
    weights = model.weights._replace(pyramid=as_argument(model.weights.pyramid))
    affine = None
    if search and model.plan.look.fit:
        images, affine = _framed(weights.pyramid, images, model.plan.look, (sources.shape[1:3], targets.shape[1:3]))
    found = on_grid(model.plan, weights, *images, keys, int(hypotheses))
    if affine is not None:
        found = _unframed(found, affine)
    sizes = {"size": targets.shape[1:3], "source": sources.shape[1:3], "alignment": model.plan.look.alignment}
    result = Match(*jax.device_get(_finish(found, **sizes)), np.asarray(found.hypotheses))
    return Match(*(each[0] for each in result)) if single else result


def _framed(pyramid, images, look, sizes):
    """Returns the images of pairs, each source in the frame that suits its target, and the affine maps `[B, 2, 3]`."""
    source, target = images
    framed = []
    for i in range(len(source.fine)):
        pair = (jax.tree.map(lambda x, i=i: x[i : i + 1], each) for each in (source, target))
        framed.append(frames.find(pyramid, *pair, look, sizes=sizes))
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), *(each.source for each in framed))
    return (joined, target), jnp.asarray(np.stack([each.affine for each in framed]), jnp.float32)


@jax.jit
def _unframed(found: Grid, affine: jax.Array) -> Grid:
    """Returns what was found for resampled sources as flow into the sources as they were."""
    linear = affine[:, None, None, :, :2]
    return found._replace(
        flow=frames.restore(found.flow, affine),
        covariance=linear @ found.covariance @ jnp.swapaxes(linear, -1, -2),
        hypotheses=jax.vmap(frames.restore, (1, None), 1)(found.hypotheses, affine),
        winner=frames.restore(found.winner, affine),
    )


def as_argument(pyramid: Pyramid) -> jax.tree_util.Partial:
    """Returns a pyramid as what jitted functions take for an argument."""
    return pyramid if isinstance(pyramid, jax.tree_util.Partial) else jax.tree_util.Partial(pyramid)


def as_batch(images: Any, name: str) -> tuple[np.ndarray, bool]:
    """Returns images as a batch `[B, H, W, 1 or 3]`, bytes or float32, and whether they were a single one."""
    x = np.asarray(images if getattr(images, "dtype", None) == np.uint8 else as_numbers(images, name))
    expected, got = "[H, W], [H, W, 1 or 3] or a batch of those", list(x.shape)
    if x.ndim in (3, 4) and x.shape[-1] in (2, 4):
        # With an alpha channel or gray images of this width: nothing tells which.
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
def _prepared(images: jax.Array, mask: jax.Array, settings: looking.Settings) -> Prepared:
    """Returns images, filled with their mean outside `mask [B, H, W, 1]`, with their mask and their texture."""
    if settings.released:
        return looking.prepared(images, settings)
    x = to_unit(images)
    mean = (x * mask).sum((1, 2), keepdims=True) / mask.sum((1, 2), keepdims=True)
    x = jnp.where(mask > 0, x, mean)
    fine = looking.prepared(x, replace(settings, contrast=0.0)).fine
    inside = resize(mask, fine.shape[1:3], antialias=True)
    return looking.prepared(x, settings)._replace(mask=inside, texture=inside * texture(fine))


@functools.partial(jax.jit, static_argnames=("plan", "hypotheses"))
def on_grid(plan: Plan, weights: Weights, source: Prepared, target: Prepared, keys: jax.Array, hypotheses: int) -> Grid:
    """Returns what both stages find for prepared images and one key a pair `[B]`."""
    look = plan.look
    of_source, of_target = (looking.maps(weights.pyramid, images, look) for images in (source, target))
    masks = None if of_source.mask is None else (of_source.fine_mask, of_target.fine_mask)
    found = looking.stage1(of_source.first, of_target.first, look, mask=of_target.mask)
    covariance = jnp.zeros((*found.winner.shape, 2))
    if plan.first is None:
        flow = looking.without_stage(found, look)
        drawn = flow[:, None]
    else:
        first, many = plan.first_drawn(hypotheses)
        drawn = draw(first, weights.first, found.conditions, hypotheses=many, keys=keys)
        told = summarise(first, drawn)
        flow, covariance, drawn = told.flow, pooled(told.covariance), drawn.hypotheses
    unit = None if found.conditions.unit is None else found.conditions.unit * (look.fine / look.cells)
    if plan.first is None and plan.second is None and look.refine:
        begun = looking.start(of_source.second, of_target.second, flow, look, masks=masks)
        flow, unit = begun.flow, begun.unit * (look.fine / look.fine_cells)
        drawn, covariance = flow[:, None], jnp.zeros((*flow.shape, 2))
    if plan.second is not None:
        size = of_target.second.shape[1:3]
        before = _resized(covariance, size, alignment=look.alignment)
        for i in range(plan.rounds):
            deviation = deviation_of(covariance)
            given = looking.stage2(of_source.second, of_target.second, flow, look, deviation=deviation, masks=masks)
            refined = draw(plan.second, weights.second, given, hypotheses=hypotheses, keys=folded(keys, 1 + i))
            told = summarise(plan.second, refined)
            flow, covariance = told.flow, pooled(told.covariance)
            if plan.second.draws or plan.first is None:
                drawn = refined.hypotheses
        # The second stage sees the first one's flow alone: what that was unsure of is still unsure. One that learned
        # how wrong its own flow is counts that already.
        if not plan.second.variable.learned_scale:
            covariance = covariance + before
    if any(stage.tells_spread(hypotheses) for stage in (plan.first, plan.second) if stage):
        confidence = confidence_of(spread_of(covariance) * look.fine, plan.confidence)
    elif unit is not None:
        confidence = confidence_of(resize(unit, flow.shape[1:3])[..., 0], plan.confidence)
    else:
        confidence = jnp.clip(resize(found.score[..., None], flow.shape[1:3])[..., 0], 0, 1)
    if target.texture is not None:
        # A flat region agrees with any other: what has no texture, on either side, is no evidence.
        of_source, of_target = (resize(each.texture, flow.shape[1:3], antialias=True) for each in (source, target))
        seen = sample(of_source, mapping_of(to_pixels(flow)), outside="border")
        confidence = confidence * (seen * of_target)[..., 0]
    return Grid(flow, covariance, confidence, drawn, found.winner)


def _resized(covariance: jax.Array, size: tuple[int, int], *, alignment: str) -> jax.Array:
    """Returns covariances `[B, h, w, 2, 2]` on another grid."""
    flat = resize(covariance.reshape(*covariance.shape[:3], 4), size, alignment=alignment)
    return flat.reshape(*flat.shape[:3], 2, 2)


@functools.partial(jax.jit, static_argnames=("size", "source", "alignment"))
def _finish(found: Grid, *, size: tuple[int, int], source: tuple[int, int], alignment: str) -> tuple[jax.Array, ...]:
    """Returns flow, confidence, spread, covariance and winner on the target's pixels."""
    # Corner-aligned flow into an image of the same size is scaled by its side, as the released code does.
    to = None if alignment == "corner" and source == size else source

    def pixels(flow):
        return to_pixels(resize_normalised(flow, size, alignment=alignment), source=to)

    wide = jnp.asarray([source[1], source[0]], jnp.float32)
    covariance = _resized(found.covariance, size, alignment=alignment) * wide[:, None] * wide
    confidence = resize(found.confidence[..., None], size, alignment=alignment)[..., 0]
    return pixels(found.flow), confidence, spread_of(covariance), covariance, pixels(found.winner)
