"""A training step of either stage: from a batch of pairs to conditions and truth, and the loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from common.data.batches import example_keys
from common.errors import input_error
from common.method import Aux, Variables
from diffmatch_jax.model import conditioning, diffusion
from diffmatch_jax.model.conditioning import Conditions
from diffmatch_jax.model.diffusion import Process, Variable, folded
from diffmatch_jax.model.features import Prepared, Pyramid
from diffmatch_jax.model.flow import mapping_of, to_pixels
from diffmatch_jax.model.resize import area, average_flow, resize_normalised
from diffmatch_jax.model.sampling import Stage, deviation_of, draw, pooled, summarise
from diffmatch_jax.model.unet import predict
from diffmatch_jax.training import objective

DEGRADED_NOISE = 0.01  # errors of the degraded truth, normalised flow


@dataclass(frozen=True)
class LossConfig:
    """A stage's objective; hashable. `process` has the levels of training.

    A penalty of |prediction - truth| / scale (normalised flow) on the valid pixels of the truth; `first_share` of the
    examples are at the noisiest level, the others at any, and the noisiest counts `first_weight` times as much as any
    other. Each pair is seen with `draws` levels and noises at once, which costs no features; its levels are spread out,
    so that of two samples one is at the noisiest level, a fraction of 1/2.
    A learned scale has `likelihood` times -log p of x_0 besides; its errors are taken as they are, without gradient.
    """

    process: Process
    variable: Variable
    kind: str = "diffusion"
    penalty: str = "charbonnier"
    scale: float = 0.02
    epsilon: float = 0.1
    first_share: float = 0.0
    first_weight: float = 1.0
    draws: int = 1
    pooled: bool = False
    likelihood: float = 0.0
    alignment: str = "half_pixel"

    def __post_init__(self):
        if not 0 <= self.first_share <= 1:
            got = self.first_share
            raise input_error("config.objective.first_share", expected="a share from 0 to 1", got=got, fix="use 0.5")
        if self.draws < 1:
            raise input_error("config.objective.draws", expected="at least 1", got=self.draws, fix="use 1")
        if self.likelihood < 0 or bool(self.likelihood) != self.variable.predict_variance:
            expected = "more than 0 with process.predict_variance, 0 without"
            fix = "use 0.3 and set process.predict_variance, or neither"
            raise input_error("config.objective.likelihood", expected=expected, got=self.likelihood, fix=fix)
        for name in ("scale", "epsilon", "first_weight"):
            if not getattr(self, name) > 0:
                got = getattr(self, name)
                raise input_error(f"config.objective.{name}", expected="a positive number", got=got, fix="see configs")


def levels(loss_config: LossConfig, keys: jax.Array) -> jax.Array:
    """Returns the noise levels of the draws of each of `keys [B]`, int32 `[B, draws]`.

    Each is the noisiest with probability `first_share`, else uniform over all; those of one key are stratified.
    """
    last = len(loss_config.process) - 1
    places = np.arange(loss_config.draws, dtype=np.float32) / loss_config.draws

    def one(key):
        of_coin, of_level = jax.random.split(key)
        coins, ranks = ((jax.random.uniform(each) + places) % 1 for each in (of_coin, of_level))
        index = jnp.minimum(ranks * (last + 1), last).astype(jnp.int32)
        return jnp.where(coins < loss_config.first_share, last, index)

    return jax.vmap(one)(keys)


def loss(
    loss_config: LossConfig,
    network,
    params: Any,
    conditions: Conditions,
    truth: jax.Array,
    mask: jax.Array,
    keys: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss and metrics of a batch: `truth [B, H, W, 2]` normalised, `mask [B, H, W]`, `keys [B]`.

    x_0 is the mean truth of each cell (of corner-aligned grids and for cells without any, its value in the middle); the
    prediction is compared with the truth itself. `first` is the loss at the noisiest level, without the likelihood,
    `error` the mean end-point error in pixels of the truth, `log_likelihood` that of x_0.
    """
    index = levels(loss_config, folded(keys, 0)).reshape(-1) if loss_config.kind != "regression" else None
    if loss_config.draws > 1 and index is not None:
        repeated = (conditions, truth, mask)
        conditions, truth, mask = jax.tree.map(lambda each: jnp.repeat(each, loss_config.draws, axis=0), repeated)
        numbers = jnp.tile(jnp.arange(loss_config.draws), len(keys)) + 100
        keys = jax.vmap(jax.random.fold_in)(jnp.repeat(keys, loss_config.draws, axis=0), numbers)
    of_noise = folded(keys, 1)
    flow, variable, process = conditions.flow, loss_config.variable, loss_config.process
    last = len(process) - 1
    x0 = variable.encode(on_grid(truth, mask, flow, alignment=loss_config.alignment), flow, conditions.unit)
    if index is None:
        x, time = jnp.zeros_like(flow), jnp.zeros(flow.shape[:1], flow.dtype)
    else:
        noise = jax.vmap(lambda key: diffusion.correlated_noise(key, flow.shape[1:], variable.noise_correlation))(
            of_noise
        )
        x = diffusion.forward(process, x0, noise, index)
        time = jnp.asarray(process.times, jnp.float32)[index]
    signal = diffusion.signal(process, time) if variable.shrunk and index is not None else None
    predicted = predict(network, params, x, time, conditions, variable, signal=signal)
    settings = {
        "penalty": loss_config.penalty,
        "scale": loss_config.scale,
        "epsilon": loss_config.epsilon,
        "alignment": loss_config.alignment,
    }
    decoded = variable.decode(predicted.x0, flow, conditions.unit)
    sums = objective.totals(decoded, truth, mask, **settings)
    each = objective.per_sample(sums)
    # By the share that is expected, so that parts of a batch have the loss of the whole as their mean.
    share = loss_config.first_share + (1 - loss_config.first_share) / len(process)
    weights = 1.0
    if index is not None:
        weights = jnp.where(index == last, loss_config.first_weight, 1) / (1 + share * (loss_config.first_weight - 1))

    def reduced(sums: objective.Totals) -> jax.Array:
        weighted = sums._replace(total=weights * sums.total)
        return objective.pooled(weighted) if loss_config.pooled else objective.per_sample(weighted).mean()

    value = reduced(sums)
    side = jnp.asarray(truth.shape[1:3], jnp.float32).mean()
    length = objective.totals(
        lax.stop_gradient(decoded),
        truth,
        mask,
        penalty="charbonnier",
        epsilon=1e-3 / side,
        alignment=loss_config.alignment,
    )
    metrics = {"error": objective.per_sample(length).mean() * side}
    if loss_config.likelihood:
        weight = area(mask[..., None].astype(flow.dtype), flow.shape[1:3])[..., 0]
        error = x0 - lax.stop_gradient(predicted.x0)
        surprise = reduced(objective.surprise(error, predicted.deviation, weight))
        value += loss_config.likelihood * surprise
        metrics["log_likelihood"] = -surprise
    if index is not None:
        metrics["first"] = jnp.where(index == last, each, 0).mean() / share
    return value, metrics


def on_grid(truth: jax.Array, mask: jax.Array, like: jax.Array, *, alignment: str = "half_pixel") -> jax.Array:
    """Returns a true flow `[B, H, W, 2]`, normalised, on the grid of `like [B, h, w, 2]`."""
    size = like.shape[1:3]
    middle = resize_normalised(truth, size, alignment=alignment)
    if alignment == "corner":
        return middle
    mean, share = average_flow(truth, mask, size)
    # Invalid flow is known too, but may be far away; beyond two images nothing is learnt from it.
    return jnp.where(share[..., None] > 0, mean, jnp.clip(jnp.where(jnp.isfinite(middle), middle, 0), -2, 2))


class Stage2Training(NamedTuple):
    """Training of stage 2: fractions and errors of degraded truth, and the side of the trained crops (0 = all)."""

    degraded: float
    size: int


def truth_of(batch: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the normalised true flow of a batch whose `flow [B, S, S, 2]` is in pixels."""
    return batch["flow"] / batch["flow"].shape[1]


def stage1_batch(
    settings: conditioning.ConditioningConfig, pyramid: Pyramid, batch: Mapping[str, jax.Array]
) -> tuple[Conditions, jax.Array, jax.Array]:
    """Returns conditions, normalised truth and mask of stage 1 for a batch of pairs."""
    source, target = (conditioning.maps(pyramid, images, settings).first for images in prepared_pair(settings, batch))
    return conditioning.stage1(source, target, settings).conditions, truth_of(batch), batch["mask"]


def prepared_pair(
    settings: conditioning.ConditioningConfig, batch: Mapping[str, jax.Array]
) -> tuple[Prepared, Prepared]:
    """Returns both images of each pair at the sizes of the features."""
    return conditioning.prepared(batch["source"], settings), conditioning.prepared(batch["target"], settings)


def stage2_batch(
    settings: conditioning.ConditioningConfig,
    first: Stage | None,
    second: Stage2Training,
    pyramid: Pyramid,
    params: Any,
    batch: Mapping[str, jax.Array],
    keys: jax.Array,
) -> tuple[Conditions, jax.Array, jax.Array]:
    """Returns conditions, normalised truth and mask of stage 2 for a batch of pairs.

    The initial flow is that of the frozen stage 1 of `params`, asked once (without one, that of `without_stage`), or
    for a fraction of the pairs a degraded truth. With a crop, of that part of the target's grid alone.
    """
    source, target = (conditioning.maps(pyramid, images, settings) for images in prepared_pair(settings, batch))
    truth, mask = truth_of(batch), batch["mask"]
    found = conditioning.stage1(source.first, target.first, settings)
    of_first, of_worse, of_coin, of_crop = (folded(keys, 10 + i) for i in range(4))
    deviation = jnp.zeros_like(found.conditions.flow[..., :1])
    if first is None:
        flow = conditioning.without_stage(found, settings)
    else:
        samples = draw(first.once, params, found.conditions, hypotheses=1, keys=of_first)
        estimate = summarise(first, samples)
        flow, deviation = estimate.flow, deviation_of(pooled(estimate.covariance))
    if second.degraded:
        coarse = on_grid(truth, mask, flow, alignment=settings.alignment)
        worse, away = jax.vmap(lambda key, each: conditioning.degraded(key, each, noise=DEGRADED_NOISE))(
            of_worse, coarse
        )
        coin = (jax.vmap(jax.random.uniform)(of_coin) < second.degraded)[:, None, None, None]
        flow = jnp.where(coin, worse, flow)
        deviation = jnp.where(coin, away[:, None, None], deviation)
    flow, deviation = lax.stop_gradient((flow, deviation))
    if not second.size:
        return conditioning.stage2(source.second, target.second, flow, settings, deviation=deviation), truth, mask
    start = conditioning.stage2_start(source.second, target.second, flow, settings, deviation=deviation)
    return cropped(settings, source.second, target.second, start, truth, mask, of_crop, size=second.size)


def cropped(
    settings: conditioning.ConditioningConfig,
    source: jax.Array,
    target: jax.Array,
    start: conditioning.Stage2Start,
    truth: jax.Array,
    mask: jax.Array,
    keys: jax.Array,
    *,
    size: int,
) -> tuple[Conditions, jax.Array, jax.Array]:
    """Returns conditions, truth and mask of stage 2 on a square of `size` cells of the target's grid for each pair."""
    height, width = target.shape[1:3]
    ratio = truth.shape[1] // height
    positions = mapping_of(to_pixels(start.flow))
    corners = jax.vmap(
        lambda key: jax.random.randint(key, (2,), 0, jnp.asarray([height - size + 1, width - size + 1]))
    )(keys)

    def cut(x: jax.Array, times: int = 1) -> jax.Array:
        def one(each, corner):
            begin = (corner[0] * times, corner[1] * times, *(0,) * (each.ndim - 2))
            return lax.dynamic_slice(each, begin, (size * times, size * times, *each.shape[2:]))

        return jax.vmap(one)(x, corners)

    patches = conditioning.look_up_fine(source, cut(target), cut(positions), settings)
    given = conditioning.conditions_of(jax.tree.map(cut, start), patches)
    return given, cut(truth, ratio), cut(mask, ratio)


def batch_keys(key: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the examples' own keys."""
    return example_keys(key, batch["position"])


def aux(variables: Variables, metrics: Mapping[str, jax.Array]) -> Aux:
    """Returns side results with the stats as they are: they hold what is frozen."""
    return Aux(variables.stats, metrics)
