"""From conditions to flow: several hypotheses by diffusion, what they agree on, and how far they are apart.

At the noisiest level the state carries hardly any information, so that the first prediction of x_0 is a regression: the
flow itself may be taken from it (`estimate="first"`) and its uncertainty from the hypotheses that follow.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.errors import bad, choice
from common.solvers.runge_kutta import TABLEAUS
from diffmatch_jax import diffusion, fields
from diffmatch_jax.conditions import Conditions
from diffmatch_jax.diffusion import Denoiser, Process, Variable
from diffmatch_jax.network import predict
from diffmatch_jax.smoothing import gaussian_matrix

POOLED = 1.0  # cells around, one deviation, over which the variance of the hypotheses is averaged
KINDS = ("diffusion", "regression")
ESTIMATES = ("mean", "median", "first")
DDIM = "ddim"
RULES = (DDIM, *TABLEAUS)


@dataclass(frozen=True)
class Stage:
    """A stage beside its weights: network, what is diffused, and the levels it is sampled at; hashable."""

    network: nn.Module
    variable: Variable
    process: Process
    kind: str = "diffusion"
    eta: float = 0.0
    estimate: str = "mean"
    clip: float | None = None  # of the estimate, normalised flow (released: 1)
    rule: str = DDIM  # or a rule of common.solvers for the probability flow, over the same levels

    def __post_init__(self):
        choice("config.objective.kind", self.kind, KINDS)
        choice("config.sampler.estimate", self.estimate, ESTIMATES)
        if not 0 <= self.eta <= 1:
            raise bad("config.sampler.eta", expected="0 (deterministic) to 1", got=self.eta, fix="use 0")
        choice("config.sampler.rule", self.rule, RULES)
        if self.rule != DDIM and (self.eta or len(self.process) < 2):
            expected = f'"{DDIM}" with noise or with a single level'
            raise bad("config.sampler.rule", expected=expected, got=f'"{self.rule}"', fix=f'use "{DDIM}"')

    @property
    def nfe(self) -> int:
        """Network evaluations of a hypothesis."""
        if self.kind == "regression":
            return 1
        if self.rule == DDIM:
            return len(self.process)
        return 2 + (len(self.process) - 1) * len(TABLEAUS[self.rule].b)

    def tells_spread(self, hypotheses: int) -> bool:
        """Whether the covariance tells how sure the stage is, with so many hypotheses."""
        return self.variable.learned_scale or (self.kind == "diffusion" and hypotheses > 1)


class Drawn(NamedTuple):
    """Normalised flows `[B, n, h, w, 2]`: hypotheses, and what was predicted first, from noise alone.

    `deviation [B, n, h, w, 1]`, normalised, is what a hypothesis leaves open: at the last level, and of a single one or
    a regression at the first; None where that is not learned.
    """

    hypotheses: jax.Array
    first: jax.Array
    deviation: jax.Array | None = None


class Estimate(NamedTuple):
    """Normalised flow `[B, h, w, 2]` and its covariance `[B, h, w, 2, 2]`, by hypotheses and what they leave open."""

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
) -> Drawn:
    """Returns hypotheses for each pair from the noise of `keys [B]`, or from `noise [B, n, h, w, 2]`.

    A regression has one hypothesis, whatever is asked for. Raises `InputError` for fewer than one.
    """
    if hypotheses < 1:
        raise bad("hypotheses", expected="at least 1", got=hypotheses, fix="use 4")
    flow = conditions.flow
    if stage.kind == "regression":
        time = jnp.zeros(flow.shape[:1], flow.dtype)
        found = predict(stage.network, params, jnp.zeros_like(flow), time, conditions, stage.variable)
        one = stage.variable.decode(found.x0, flow, conditions.unit)[:, None]
        if found.deviation is None:
            return Drawn(one, one)
        return Drawn(one, one, stage.variable.lengthened(found.deviation, conditions.unit)[:, None])
    if noise is None:
        noise = diffusion.initial_noise(keys, hypotheses, flow.shape[1:])

    def network(x, time, given):
        signal = diffusion.signal(stage.process, time) if stage.variable.shrunk else None
        return predict(stage.network, params, x, time, given, stage.variable, signal=signal)

    denoise = diffusion.per_hypothesis(network, conditions)
    x0, first, aux = _sampled(stage, denoise, noise, keys)
    unit = None if conditions.unit is None else conditions.unit[:, None]
    found, first = (stage.variable.decode(each, flow[:, None], unit) for each in (x0, first))
    if aux is None:
        return Drawn(found, first)
    return Drawn(found, first, stage.variable.lengthened(aux[0 if hypotheses == 1 else -1], unit))


def _sampled(stage: Stage, denoise: Denoiser, noise: jax.Array, keys: jax.Array | None) -> tuple[jax.Array, ...]:
    """Returns x_0, what was predicted of it first if the estimate asks, and what else the denoiser returned.

    That is `[m, ...]`, first that of the first prediction and last that of the last.
    """
    if stage.rule == DDIM:
        wants_first = stage.estimate == "first"
        settings = {"process": stage.process, "eta": stage.eta, "keys": keys}
        sampled = diffusion.sample(denoise, noise, **settings, trace=wants_first, has_aux=True)
        return sampled.x0, sampled.trace["x0"][0] if wants_first else sampled.x0, sampled.aux
    time = jnp.full(noise.shape[:2], stage.process.times[-1], noise.dtype)
    first, aux = denoise(noise, time)
    sampled = fields.sample(denoise, noise, process=stage.process, rule=TABLEAUS[stage.rule], has_aux=True)
    return sampled.x0, first, None if aux is None else jnp.concatenate([aux[None], sampled.aux])


def summarise(stage: Stage, drawn: Drawn) -> Estimate:
    """Returns the flow that the stage's rule makes of its hypotheses, and the covariance.

    It is that of the hypotheses and, where it is learned, the mean of what each leaves open (law of total variance).
    """
    told = diffusion.summary(drawn.hypotheses)
    covariance = told.covariance
    if drawn.deviation is not None:
        covariance += (drawn.deviation**2).mean(1)[..., None] * jnp.eye(2)
    flow = {"mean": told.mean, "median": told.median, "first": drawn.first.mean(1)}[stage.estimate]
    if stage.clip is not None:
        flow = jnp.clip(flow, -stage.clip, stage.clip)
    return Estimate(flow, covariance)


def pooled(covariance: jax.Array) -> jax.Array:
    """Returns covariances `[B, h, w, 2, 2]`, pooled with those of the cells around: each is an estimate from a few."""
    rows, columns = (gaussian_matrix(length, POOLED, reach=4 * POOLED) for length in covariance.shape[1:3])
    return jnp.einsum("yh,xw,bhwij->byxij", rows, columns, covariance, precision="highest")


def deviation_of(covariance: jax.Array) -> jax.Array:
    """Returns the deviation of a coordinate `[..., 1]` from covariances `[..., 2, 2]`: sqrt(trace / 2)."""
    return diffusion.spread(covariance)[..., None] / jnp.sqrt(2.0)


def confidence_of(spread: jax.Array, scale: float) -> jax.Array:
    """Returns 1 / (1 + (spread / scale)^2): 1 where all hypotheses agree, 1/2 where they are `scale` apart."""
    return 1 / (1 + (spread / scale) ** 2)
