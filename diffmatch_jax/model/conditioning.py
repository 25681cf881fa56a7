"""From features to the inputs of the denoisers: an initial flow, and correlations around where it leads.

Stage 1 works on a grid of fine / 8 cells a side with four maps of the feature pyramid, stage 2 on fine / 2 cells with
one map and the first stage's flow. All flow here is normalised: 1 is a full image.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from common.errors import input_error
from diffmatch_jax.model import cost_volume, features, motions, released, robust_fit
from diffmatch_jax.model.features import Prepared, Pyramid
from diffmatch_jax.model.flow import flow_of, mapping_of, to_normalised, to_pixels
from diffmatch_jax.model.resize import area, blur, resize, resize_normalised

MEDIAN = 5  # cells of the filter of the winner-take-all flow, where no stage 1 refines it
WHOLLY = 0.75  # fraction of a cell of stage 1 that must lie inside the mask
APART = 2.5  # cells from a match, in x or y, from which a place is another
AHEAD = 0.05  # of cosines, by which a match leads that has no rival
AROUND = 1.0  # cells around, one deviation, over which that lead is averaged
WHOLE = 2**26  # numbers of a cost volume that may be in memory at once


@dataclass(frozen=True)
class ConditioningConfig:
    """Settings of the condition: grids and correlations; hashable. configs/diffmatch_jax/base.py describes each field.

    Raises `InputError` for sides that give no grid.
    """

    fine: int = 512
    radius: int = 4
    wide: int = 0
    score: bool = False
    fit: float = 0.0
    refine: int = 0
    gain: float = 0.0
    contrast: float = 0.0
    released: bool = False

    def __post_init__(self):
        if self.fine < 32 or self.fine % 32:
            fix = f"use {max(1, round(self.fine / 32)) * 32}"
            raise input_error("config.features.fine", expected="a multiple of 32", got=self.fine, fix=fix)
        if not 0 <= self.contrast <= 1 or (self.contrast and self.released):
            got, fix = self.contrast, "use 0" if self.released else "use 0.15, or 0 for none"
            expected = "0 with features.compat" if self.released else "a fraction of a side, 0 to 1"
            raise input_error("config.features.contrast", expected=expected, got=got, fix=fix)
        if not (self.fit == 0 or self.fit >= 1):
            raise input_error("config.conditioning.fit", expected="0, or 1 cell or more", got=self.fit, fix="use 4")
        if self.refine < 0 or (self.refine and self.released):
            got = f"{self.refine}{' with features.compat' * self.released}"
            fix = "use 0" if self.released else "use 2, or 0 for none"
            raise input_error(
                "config.conditioning.refine", expected="0, or without features.compat more", got=got, fix=fix
            )
        if self.wide < 0 or (self.wide and self.cells % self.wide):
            fix = "use 4, or 0 for none"
            raise input_error("config.conditioning.wide", expected=f"a divisor of {self.cells}", got=self.wide, fix=fix)

    @property
    def alignment(self) -> str:
        """The rule by which maps and flow are resized, see `model.resize`."""
        return released.ALIGNMENT if self.released else "half_pixel"

    @property
    def coarse(self) -> int:
        """Side of the coarser image."""
        return self.fine // 2

    @property
    def cells(self) -> int:
        """Cells a side of stage 1."""
        return self.fine // 8

    @property
    def fine_cells(self) -> int:
        """Cells a side of stage 2."""
        return self.fine // 2

    @property
    def patch(self) -> int:
        """Correlations in a patch."""
        return (2 * self.radius + 1) ** 2

    @property
    def fine_evidence(self) -> int:
        """Channels of the evidence of stage 2."""
        return self.patch + (5 if self.refine else 0)

    @property
    def evidence(self) -> int:
        """Channels of the evidence of stage 1."""
        return self.patch * (1 + bool(self.wide)) + 2 * (2 * bool(self.fit) + self.score)

    @property
    def is_plain(self) -> bool:
        """Returns whether evidence is correlations around the winner alone."""
        return not (self.wide or self.score or self.fit)


class Conditions(NamedTuple):
    """Inputs of a denoiser: the initial flow, normalised `[B, h, w, 2]`, and evidence for others `[B, h, w, K]`.

    `unit [B, h, w, 1]` is how wrong the initial flow may be from place to place, in cells: what is diffused is measured
    in it. None counts as 1.
    """

    flow: jax.Array
    evidence: jax.Array
    unit: jax.Array | None = None


class Stage1Inputs(NamedTuple):
    """Inputs of stage 1, and the winner-take-all flow, normalised `[B, h, w, 2]`, with its score `[B, h, w]`."""

    conditions: Conditions
    wta_flow: jax.Array
    score: jax.Array


class Maps(NamedTuple):
    """Features of a batch of images: the descriptor of stage 1 `[B, h, w, C]` and the map of stage 2.

    Where images have a mask, features of cells outside it are 0, and `mask [B, h, w]` and `fine_mask [B, H, W]` say
    which cells of either grid count.
    """

    first: jax.Array
    second: jax.Array
    mask: jax.Array | None = None
    fine_mask: jax.Array | None = None


class Matches(NamedTuple):
    """Matches on the grid of stage 1, `[B, h, w, ...]`: flow to the winners, in cells, and how mutual they are."""

    flow: jax.Array
    weight: jax.Array


def prepared(images: jax.Array, settings: ConditioningConfig) -> Prepared:
    """Returns images `[B, H, W, 1 or 3]` at the two sizes of the settings."""
    sides = {"fine": settings.fine, "coarse": settings.coarse}
    if settings.released:
        return released.prepared(images, **sides)
    return features.prepared(images, **sides, contrast=settings.contrast)


def maps(pyramid: Pyramid, images: Prepared, settings: ConditioningConfig) -> Maps:
    """Returns what both stages take from the pyramid; what is not used costs nothing in a compiled program."""
    four, one = features.both_stages(pyramid, images)
    size = (settings.cells, settings.cells)
    made = Maps(cost_volume.descriptor(four, size, alignment=settings.alignment), one)
    if images.mask is not None:
        mask, fine_mask = (
            (area(images.mask, each.shape[1:3])[..., 0] > least).astype(each.dtype)
            for each, least in ((made.first, WHOLLY), (made.second, 0.5))
        )
        made = Maps(made.first * mask[..., None], made.second * fine_mask[..., None], mask, fine_mask)
    return lax.stop_gradient(made)


def matches(
    source: jax.Array, target: jax.Array, settings: ConditioningConfig, *, mask: jax.Array | None = None
) -> Matches:
    """Returns the winners of descriptors `[B, h, w, C]` and how mutual they are; 0 outside the target's `mask`."""
    rows = _rows(source, target)
    there, back = (
        cost_volume.search(*pair, radius=settings.radius, rows=rows).positions[..., 0, :]
        for pair in ((source, target), (target, source))
    )
    there, back = flow_of(there), flow_of(back)
    weight = robust_fit.mutual(there, back)
    return Matches(there, weight if mask is None else weight * mask)


def _rows(source: jax.Array, target: jax.Array) -> int:
    """Returns how many rows of the target are worked on at once: all where their cost volume is small enough."""
    cells = target.shape[1] * target.shape[2] * source.shape[1] * source.shape[2] * source.shape[0]
    # In one piece the search and the look-up share one volume.
    return target.shape[1] if cells <= WHOLE else 8


def stage1(
    source: jax.Array, target: jax.Array, settings: ConditioningConfig, *, mask: jax.Array | None = None
) -> Stage1Inputs:
    """Returns the conditions of stage 1 from descriptors `[B, h, w, C]`; matches count inside the target's `mask`.

    Evidence is the patch around the initial flow `[(2 radius + 1)^2]`; then, where asked for, the wide patch, the
    winner's flow from the initial one in radii (within -2..2), of a fit how mutual the winner is and the logarithm of
    the unit, the winner's score, and the fraction of the softmax that lies in the patch.
    """
    rows = _rows(source, target)
    found = cost_volume.search(source, target, radius=settings.radius, rows=rows)
    best = found.positions[..., 0, :] - mapping_of(jnp.zeros_like(found.flow))
    wta_flow, score = to_normalised(best), found.scores[..., 0]
    if settings.is_plain:
        return Stage1Inputs(Conditions(to_normalised(found.flow), scaled(found.local, settings)), wta_flow, score)
    flow, weight = found.flow, None
    if settings.fit:
        weight = matches(source, target, settings, mask=mask).weight
        flow = motions.robust(best, weight, sigma=settings.fit)
        flow = motions.piecewise(best, weight, flow, sigma=settings.fit)
    at_flow = cost_volume.look_up(
        source, target, mapping_of(flow), radius=settings.radius, wide=settings.wide, rows=rows
    )
    parts = [scaled(at_flow.local, settings)]
    if settings.wide:
        parts.append(scaled(at_flow.wide, settings))
    unit = None
    if weight is not None:
        unit = robust_fit.uncertainty(best - flow)
        parts += [jnp.clip((best - flow) / settings.radius, -2, 2), weight[..., None], jnp.log(unit)]
    if settings.score:
        parts += [at_flow.score[..., None], at_flow.share[..., None]]
    return Stage1Inputs(Conditions(to_normalised(flow), jnp.concatenate(parts, -1), unit), wta_flow, score)


def distinct(source: jax.Array, target: jax.Array, flow: jax.Array, settings: ConditioningConfig) -> jax.Array:
    """Returns how far ahead of all other places a match is, `[B, h, w, 1]` in [0, 1]: 0 where another is as good.

    The cosine of descriptors `[B, h, w, C]` near where a normalised flow leads (on any grid) less the best one
    elsewhere, averaged over neighbouring cells; a lead of 0.05 gives 1.
    """
    at = mapping_of(to_pixels(resize_normalised(flow, target.shape[1:3])))
    lead = cost_volume.margin(source, target, at, apart=APART, rows=_rows(source, target))
    mean = jax.vmap(lambda each: blur(each, AROUND, reach=4 * AROUND))(lead[..., None])
    return jnp.clip(mean / AHEAD, 0, 1)


def without_stage(found: Stage1Inputs, settings: ConditioningConfig) -> jax.Array:
    """Returns the flow `[B, h, w, 2]` that takes the place of stage 1: the fit, or the winners under a 5x5 median."""
    return found.conditions.flow if settings.fit else median(found.wta_flow, MEDIAN)


class Stage2Start(NamedTuple):
    """The start of stage 2, on its grid: the flow, the evidence that is no patch (None without), and the unit."""

    flow: jax.Array
    evidence: jax.Array | None = None
    unit: Any = None  # an array or None


def stage2_start(
    source: jax.Array,
    target: jax.Array,
    flow: jax.Array,
    settings: ConditioningConfig,
    *,
    deviation: jax.Array | None = None,
    masks: tuple[jax.Array, jax.Array] | None = None,
) -> Stage2Start:
    """Returns what stage 2 starts from: the first stage's flow, refined `settings.refine` times.

    Evidence of a refined one: from it to its last matches in radii (within -2..2), whether these are inside of what was
    looked at, and logarithms, in cells, of the unit and of `deviation [B, h, w, 1]`, normalised, which is how far off
    the first stage thinks it may be (None: not at all). `masks` are those of both maps, None where all cells count.
    """
    size = target.shape[1:3]
    if not settings.refine:
        return Stage2Start(resize_normalised(flow, size, alignment=settings.alignment))
    places = (settings.cells, settings.cells)
    found = robust_fit.refine(
        source, target, flow, places=places, radius=settings.radius, rounds=settings.refine, masks=masks
    )
    unit = robust_fit.uncertainty(found.away)
    deviation = jnp.zeros_like(unit) if deviation is None else resize(deviation, places) * size[0]
    parts = [
        jnp.clip(found.away / settings.radius, -2, 2),
        found.weight[..., None],
        jnp.log(unit),
        jnp.log(deviation + robust_fit.SMALLEST),
    ]
    return Stage2Start(found.flow, resize(jnp.concatenate(parts, -1), size), resize(unit, size))


def stage2(
    source: jax.Array,
    target: jax.Array,
    flow: jax.Array,
    settings: ConditioningConfig,
    *,
    deviation: jax.Array | None = None,
    masks: tuple[jax.Array, jax.Array] | None = None,
) -> Conditions:
    """Returns the conditions of stage 2 from maps `[B, h, w, C]` and the first stage's flow, on any grid.

    Evidence is the patch around the flow that it starts from, then what `stage2_start` says of it.
    """
    start = stage2_start(source, target, flow, settings, deviation=deviation, masks=masks)
    patches = look_up_fine(source, target, mapping_of(to_pixels(start.flow)), settings)
    return conditions_of(start, patches)


def conditions_of(start: Stage2Start, patches: jax.Array) -> Conditions:
    """Returns the conditions of a start and the patches around it."""
    evidence = patches if start.evidence is None else jnp.concatenate([patches, start.evidence], -1)
    return Conditions(start.flow, evidence, start.unit)


def look_up_fine(source: jax.Array, target: jax.Array, positions: jax.Array, settings: ConditioningConfig) -> jax.Array:
    """Returns the patches of stage 2 for target cells `[B, h, w, C]` that look at `positions [B, h, w, 2]`."""
    look_up = released.local_features if settings.released else cost_volume.local_features
    found = look_up(source, target, positions, radius=settings.radius)
    return scaled(found, settings)


def scaled(patches: jax.Array, settings: ConditioningConfig) -> jax.Array:
    """Returns patches `[..., n]` as the networks see them: with a `gain`, that many times their distance from the mean.

    Cosines of neighbours differ by a tenth or so, beside channels of unit variance.
    """
    if not settings.gain:
        return patches
    return settings.gain * (patches - patches.mean(-1, keepdims=True))


def median(flow: jax.Array, side: int) -> jax.Array:
    """Returns the median over squares of `side` cells of each channel of `[B, h, w, C]`; the border is repeated."""
    pad = side // 2
    padded = jnp.pad(flow, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    height, width = flow.shape[1:3]
    shifted = [padded[:, y : y + height, x : x + width] for y in range(side) for x in range(side)]
    return jnp.median(jnp.stack(shifted), axis=0)


def degraded(key: jax.Array, flow: jax.Array, *, noise: float) -> tuple[jax.Array, jax.Array]:
    """Returns a true flow on the grid of stage 1 `[h, w, 2]` as that might give it, and the error's deviation `[1]`.

    The error differs from cell to cell and, as much, from four cells to the next four; between these the latter is
    interpolated, so that the deviation is up to 15 % less there. It is sqrt(2) times `noise` times a log-normal number,
    one for the pair. All is normalised flow.
    """
    height, width = flow.shape[:2]
    of_error, of_smooth, of_size = jax.random.split(key, 3)
    few = (max(height // 4, 1), max(width // 4, 1), 2)
    error = jax.random.normal(of_error, flow.shape) + resize(jax.random.normal(of_smooth, few), (height, width))
    level = noise * jnp.exp(jax.random.normal(of_size, (1,)) * 0.7)
    return flow + level * error, level * jnp.sqrt(2.0)
