"""From conditions to flow: several hypotheses by diffusion, the flow that they agree on, and how wrong it may be.

At the noisiest level the state carries hardly any information, so that the first prediction of x_0 is a regression: the
flow itself may be taken from it (`estimate="first"`), and its uncertainty too where that is learned; the hypotheses
that follow say which flows are as likely.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.errors import choice, input_error
from diffmatch_jax.model import diffusion
from diffmatch_jax.model.conditioning import Conditions
from diffmatch_jax.model.diffusion import Denoiser, Process, Variable, folded
from diffmatch_jax.model.resize import gaussian_matrix
from diffmatch_jax.model.unet import predict

POOLED = 1.0  # cells around, one deviation, over which covariances are averaged
KINDS = ("diffusion", "regression")
ESTIMATES = ("mean", "first")
LAST = 1 << 16  # of a pair's key, for the noise around last predictions


@dataclass(frozen=True)
class Stage:
    """A stage beside its weights: network, what is diffused, and the levels it is sampled at; hashable."""

    network: nn.Module
    variable: Variable
    process: Process
    kind: str = "diffusion"
    estimate: str = "mean"
    clip: float | None = None  # of the estimate, normalised flow (released: 1)

    def __post_init__(self):
        choice("config.objective.kind", self.kind, KINDS)
        choice("config.sampler.estimate", self.estimate, ESTIMATES)

    @property
    def nfe(self) -> int:
        """Network evaluations of a hypothesis."""
        return 1 if self.kind == "regression" else len(self.process)

    @property
    def at_once(self) -> bool:
        """True where the flow is a first prediction, which later hypotheses do not change."""
        return self.kind == "regression" or self.estimate == "first"

    @property
    def once(self) -> "Stage":
        """The stage without the levels that its flow does not use, for one hypothesis."""
        if self.kind == "regression" or not self.at_once:
            return self
        return replace(self, process=self.process.noisiest)

    @property
    def draws(self) -> bool:
        """True where hypotheses differ: a regression samples them only if it has a variance head."""
        return self.kind == "diffusion" or self.variable.predict_variance

    def predicts_std(self, hypotheses: int) -> bool:
        """True where the covariance is an uncertainty of the stage, with so many hypotheses."""
        return self.variable.predict_variance or (self.kind == "diffusion" and hypotheses > 1)


class StageSamples(NamedTuple):
    """Normalised flows `[B, n, h, w, 2]`: hypotheses, and the predictions of x_0 that the stage's flow is made of.

    predicted: at the noisiest level, of a stage whose flow is a first prediction; else at the last level. `deviation
    [B, n, h, w, 1]`, normalised, is what these leave open (a single one at the noisiest level, for it differs from
    none); None where that is not learned. A regression has one of each for all hypotheses.
    """

    hypotheses: jax.Array
    predicted: jax.Array
    deviation: jax.Array | None = None


class Estimate(NamedTuple):
    """Normalised flow `[B, h, w, 2]` and its covariance `[B, h, w, 2, 2]`."""

    flow: jax.Array
    covariance: jax.Array


def draw(
    stage: Stage,
    params: Any,
    conditions: Conditions,
    *,
    hypotheses: int,
    keys: jax.Array | None = None,
    noise: jax.Array | None = None,
) -> StageSamples:
    """Returns hypotheses for each pair from the noise of `keys [B]`, or from `noise [B, n, h, w, 2]`.

    Where it is learned what a prediction leaves open, the hypothesis is drawn from that, with noise of `keys`: around
    the last prediction, of a regression around its flow. Else, and without `keys`, it is the prediction itself, and
    that of a regression the only one. Raises `InputError` for fewer than one.
    """
    if hypotheses < 1:
        raise input_error("hypotheses", expected="at least 1", got=hypotheses, fix="use 4")
    flow, variable = conditions.flow, stage.variable

    def noise_of(keys):
        return diffusion.initial_noise(keys, hypotheses, flow.shape[1:], noise_correlation=variable.noise_correlation)

    def drawn_around(predicted, deviation):
        return predicted if keys is None else predicted + deviation * noise_of(folded(keys, LAST))

    if stage.kind == "regression":
        time = jnp.zeros(flow.shape[:1], flow.dtype)
        found = predict(stage.network, params, jnp.zeros_like(flow), time, conditions, variable)
        one = variable.decode(found.x0, flow, conditions.unit)[:, None]
        if found.deviation is None:
            return StageSamples(one, one)
        deviation = variable.lengthened(found.deviation, conditions.unit)[:, None]
        return StageSamples(drawn_around(one, deviation), one, deviation)
    if noise is None:
        noise = noise_of(keys)

    def network(x, time, given):
        signal = diffusion.signal(stage.process, time) if variable.shrunk else None
        return predict(stage.network, params, x, time, given, variable, signal=signal)

    denoise = diffusion.per_hypothesis(network, conditions)
    x0, first, aux = _sampled(stage, denoise, noise)
    unit = None if conditions.unit is None else conditions.unit[:, None]
    last, first = (variable.decode(each, flow[:, None], unit) for each in (x0, first))
    predicted = first if stage.at_once else last
    if aux is None:
        return StageSamples(last, predicted)
    open_first, open_last = (variable.lengthened(aux[i], unit) for i in (0, -1))
    deviation = open_first if stage.at_once or hypotheses == 1 else open_last
    return StageSamples(drawn_around(last, open_last), predicted, deviation)


def _sampled(stage: Stage, denoise: Denoiser, noise: jax.Array) -> tuple[jax.Array, ...]:
    """Returns x_0, what was predicted of it first if the estimate asks, and what else the denoiser returned.

    That is `[m, ...]`, first that of the first prediction and last that of the last.
    """
    wants_first = stage.estimate == "first"
    settings: dict[str, Any] = {"process": stage.process, "trace": wants_first, "has_aux": True}
    sampled = diffusion.sample(denoise, noise, **settings)
    return sampled.x0, sampled.trace["x0"][0] if wants_first else sampled.x0, sampled.aux


def summarise(stage: Stage, samples: StageSamples, *, count: jax.Array | None = None) -> Estimate:
    """Returns the flow that the stage's rule makes of its predictions, and the covariance.

    Of a first prediction that learned how wrong it is, the latter is what that says. Else it is that of the predictions
    and, where it is learned, the mean of what each leaves open (law of total variance).
    The first `count` samples decide, None: all.
    """
    summary = diffusion.summary(samples.predicted, count)
    flow = summary.mean
    if samples.deviation is None:
        covariance = diffusion.summary(samples.hypotheses, count).covariance
    else:
        left = diffusion.mean_of(samples.deviation**2, count)[..., None] * jnp.eye(2)
        covariance = left if stage.at_once else summary.covariance + left
    if stage.clip is not None:
        flow = jnp.clip(flow, -stage.clip, stage.clip)
    return Estimate(flow, covariance)


def pooled(covariance: jax.Array) -> jax.Array:
    """Returns covariances `[B, h, w, 2, 2]`, averaged with those of the cells around."""
    rows, columns = (gaussian_matrix(length, POOLED, reach=4 * POOLED) for length in covariance.shape[1:3])
    return jnp.einsum("yh,xw,bhwij->byxij", rows, columns, covariance, precision="highest")


def deviation_of(covariance: jax.Array) -> jax.Array:
    """Returns the deviation of a coordinate `[..., 1]` from covariances `[..., 2, 2]`: sqrt(trace / 2)."""
    return diffusion.std(covariance)[..., None] / jnp.sqrt(2.0)


def confidence_of(std: jax.Array, scale: float) -> jax.Array:
    """Returns 1 / (1 + (spread / scale)^2): 1 where all hypotheses agree, 1/2 where they are `scale` apart."""
    return 1 / (1 + (std / scale) ** 2)
