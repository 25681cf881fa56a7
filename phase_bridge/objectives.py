"""Training objectives: the paper's force, a denoiser at any law of noise levels, or a velocity.

"force" (Chen et al., ICLR 2024) regresses the force of a bridge over its scale z, weighted 1/(1 - t), at uniform times;
the network sees the state and 1 - t, and serves that bridge alone. "denoiser" (Karras et al., NeurIPS 2022) regresses
what the best linear estimate of x1 leaves of it, in units of unit variance; the network sees u = x1 + sigma e and
ln(sigma)/4, and serves every path. "velocity" (Lipman et al., ICLR 2023) regresses x1 - e on straight paths.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from common.data.batches import example_keys
from common.errors import choice, input_error
from common.method import Aux, Variables
from phase_bridge import bridge as bridges
from phase_bridge.bridge import Bridge
from phase_bridge.processes import Flow, Process, beside
from phase_bridge.sampling import Model

NAMES = ("force", "denoiser", "velocity")
OUTPUTS = ("force", "preconditioned")
WEIGHTS = ("reciprocal", "ones", "reciprocalinv")
LAWS = ("uniform", "log_normal", "log_uniform")


class Objective(NamedTuple):
    """A training objective as pure functions of states `[B, ..., parts C]`, data `[B, ..., C]` and times `[B]`.

    The time is that of a path, or the noise level of a denoiser. `times(key) -> t []`; `perturb(x1, noise, t) -> state`
    with standard normal noise of the state's shape; `inputs(state, t) -> [B, ..., C']` is what the network sees, beside
    `time_input(t)`; `target(x1, noise, t)` is what its output should be and `weight(t)` that of the squared error;
    `estimate(output, state, t)` turns its output into E[x1 | state]. `couple(x1, noise) -> x1`, if there is one, pairs
    the data and the noise of a batch anew. `denoiser`: whether the estimate serves every path.
    """

    name: str
    parts: int
    denoiser: bool
    times: Callable[[jax.Array], jax.Array]
    perturb: Callable[..., jax.Array]
    inputs: Callable[[jax.Array, jax.Array], jax.Array]
    time_input: Callable[[jax.Array], jax.Array]
    target: Callable[..., jax.Array]
    weight: Callable[[jax.Array], jax.Array]
    estimate: Callable[..., jax.Array]
    couple: Callable[[jax.Array, jax.Array], jax.Array] | None = None


class Scalings(NamedTuple):
    """A denoiser is `skip y + out network(input y, label)`; each field has the shape of the noise level."""

    skip: Any
    out: Any
    input: Any
    label: Any


def edm_scalings(sigma: Any, *, sigma_data: float) -> Scalings:
    """Returns the scalings of Karras et al. (2022, table 1) for y = x + sigma z, sigma > 0.

    `skip y` is the best linear estimate of x, `out` the standard deviation of its error, and the label is ln(sigma)/4.
    Computed from sigma and sigma_data without overflow at either end.
    """
    xp = jnp if isinstance(sigma, jax.Array) else np
    total = xp.hypot(sigma, sigma_data)
    return Scalings(
        skip=(sigma_data / total) ** 2,
        out=sigma_data * (sigma / total),
        input=1 / total,
        label=xp.log(sigma) / 4,
    )


def log_normal(key: jax.Array, *, mean: float = -1.2, std: float = 1.2, shape: tuple[int, ...] = ()) -> jax.Array:
    """Draws noise levels with ln(sigma) ~ N(mean, std^2); the defaults are those of Karras et al. (2022)."""
    return jnp.exp(mean + std * jax.random.normal(key, shape))


def force(
    b: Bridge, *, kind: str = "ode", output: str = "force", weight: str = "reciprocal", first: float = 1e-5,
    last: float = 0.999,
) -> Objective:  # fmt: skip
    """Returns the objective of Chen et al. (2024, eq. 9): force / z at times uniform in [first, last].

    kind: the force of the probability flow ("ode") or of the stochastic process ("sde"). output: "force": force / z;
    "preconditioned": the same over 1 - t. weight of the squared error of force / z: "reciprocal": 1/(1 - t), "ones",
    "reciprocalinv": 1/t. Raises `InputError` for choices and numbers that make no objective.
    """
    choice("kind", kind, bridges.KINDS)
    choice("output", output, OUTPUTS)
    choice("weight", weight, WEIGHTS)
    if not 0 < first < last < 1:
        got = f"first={first:g}, last={last:g}"
        raise input_error("times", expected="0 < first < last < 1", got=got, fix="published are 1e-5 and 0.999")

    def unit(t):
        """Returns force / z per output."""
        return 1 - t if output == "preconditioned" else jnp.ones_like(t)

    def target(x1, noise, t):
        return bridges.target(b, x1, noise, t, kind=kind) / beside(unit(t), x1)

    def weighted(t):
        of_force = {"reciprocal": 1 / (1 - t), "ones": jnp.ones_like(t), "reciprocalinv": 1 / t}[weight]
        return of_force * jnp.square(unit(t))

    def estimate(out, m, t):
        return bridges.data_estimate(
            b, m, beside(bridges.force_scale(b, t, kind=kind) * unit(t), out) * out, t, kind=kind
        )

    return Objective(
        name="force",
        parts=2,
        denoiser=False,
        times=lambda key: jax.random.uniform(key, minval=first, maxval=last),
        perturb=b.perturb,
        inputs=lambda m, t: m,
        time_input=lambda t: 1 - t,
        target=target,
        weight=weighted,
        estimate=estimate,
    )


def denoiser(
    *, sigma_data: float = 0.5, law: str = "log_normal", process: Process | None = None, first: float = 1e-5,
    last: float = 0.999, mean: float = -1.2, std: float = 1.2, least: float = 0.004, most: float = 160.0,
) -> Objective:  # fmt: skip
    """Returns the objective of Karras et al. (2022, eq. 8) at any law of noise levels.

    The weight makes the network's target one of unit variance at every level.

    sigma_data: standard deviation of the data's coordinates.
    law: "log_normal": ln(sigma) ~ N(mean, std^2) for data of standard deviation 0.5, scaled to `sigma_data`;
      "log_uniform": uniform logarithms from `least` to `most` times `sigma_data`; "uniform": the levels of `process` at
      times uniform between `first` and `last`.

    Raises `InputError` for choices and numbers that make no objective.
    """
    choice("law", law, LAWS)
    if not sigma_data > 0:
        raise input_error("sigma_data", expected="a positive number", got=sigma_data, fix="use that of the data")
    scale = math.log(sigma_data / 0.5)
    ends = math.log(least * sigma_data), math.log(most * sigma_data)
    if law == "uniform":
        if process is None or process.name == "edm":
            got = None if process is None else process.name
            raise input_error(
                "process", expected='a path of finite times with law "uniform"', got=got, fix="use Bridge"
            )
        low, high = sorted((first, last)) if process.first == 0 else sorted((1 - first, 1 - last))
        largest = max(float(process.noise_level(low)), float(process.noise_level(high)))
    else:
        largest = most * sigma_data

    def times(key):
        if law == "uniform" and process is not None:
            return process.noise_level(jax.random.uniform(key, minval=low, maxval=high))
        if law == "log_normal":
            return log_normal(key, mean=mean + scale, std=std)
        return jnp.exp(jax.random.uniform(key, minval=ends[0], maxval=ends[1]))

    def target(x1, noise, sigma):
        # (x1 - skip (x1 + sigma e)) / out, without the difference of near numbers.
        total = jnp.hypot(sigma, sigma_data)
        return beside(sigma / (sigma_data * total), x1) * x1 - beside(sigma_data / total, x1) * noise

    def scalings(sigma, like):
        return Scalings(*(beside(each, like) for each in edm_scalings(sigma, sigma_data=sigma_data)))

    def estimate(output, u, sigma):
        c = scalings(sigma, u)
        return c.skip * u + c.out * output

    return Objective(
        name="denoiser",
        parts=1,
        denoiser=True,
        times=times,
        perturb=lambda x1, noise, sigma: x1 + beside(sigma, x1) * noise,
        inputs=lambda u, sigma: scalings(sigma, u).input * u,
        # A level beyond the trained ones counts as the largest of them.
        time_input=lambda sigma: jnp.log(jnp.minimum(sigma, largest)) / 4,
        target=target,
        weight=jnp.ones_like,
        estimate=estimate,
    )


def velocity(*, coupling: int = 0) -> Objective:
    """Returns the objective of flow matching: x1 - e at uniform times of straight paths; the network's time is 1 - t.

    coupling: size of the groups of the batch within which noise and data are paired (0: independently). A network of
    coupled pairs gives the flow of these pairs and no denoiser, so it serves the path `Flow` alone.
    """
    plain = Objective(
        name="velocity",
        parts=1,
        denoiser=False,
        times=jax.random.uniform,
        perturb=Flow().perturb,
        inputs=lambda x, t: x,
        time_input=lambda t: 1 - t,
        target=lambda x1, noise, t: x1 - noise,
        weight=jnp.ones_like,
        estimate=lambda output, x, t: x + beside(1 - t, x) * output,
    )
    if coupling:
        return plain._replace(couple=lambda x1, noise: couple(x1, noise, size=coupling))

    def fraction(sigma):
        return sigma / (1 + sigma)  # 1 - t, of the time at which the noise level of straight paths is sigma

    return plain._replace(
        denoiser=True,
        times=lambda key: 1 / jax.random.uniform(key, minval=1e-6, maxval=1.0) - 1,
        perturb=lambda x1, noise, sigma: x1 + beside(sigma, x1) * noise,
        inputs=lambda u, sigma: u / beside(1 + sigma, u),
        time_input=fraction,
        estimate=lambda output, u, sigma: u / beside(1 + sigma, u) + beside(fraction(sigma), u) * output,
    )


def couple(x1: jax.Array, noise: jax.Array, *, size: int) -> jax.Array:
    """Returns `x1 [B, ...]` reordered within groups of `size`, so that sum |x1_i - noise_i|^2 is least in each.

    Tong et al., TMLR 2024; Pooladian et al., ICML 2023. The assignment is computed exactly, on the host. Raises
    `InputError` unless the batch consists of whole groups.
    """
    count = x1.shape[0]
    if size < 2 or count % size:
        fix = "use a divisor of the batch size on each device, or 0"
        raise input_error("coupling", expected=f"at least 2, and a divisor of {count} examples", got=size, fix=fix)
    groups = [each.reshape(count // size, size, -1) for each in (x1, noise)]
    order = jax.pure_callback(_assign, jax.ShapeDtypeStruct((count // size, size), jnp.int32), *groups)
    return jnp.take_along_axis(groups[0], order[..., None], axis=1).reshape(x1.shape)


def _assign(x1, noise) -> np.ndarray:
    pairs = zip(np.asarray(x1), np.asarray(noise), strict=True)
    return np.stack([linear_sum_assignment(cdist(b, a, "sqeuclidean"))[1] for a, b in pairs]).astype(np.int32)


def loss(
    network: nn.Module,
    objective: Objective,
    variables: Variables,
    key: jax.Array,
    batch: Mapping[str, Any],
    *,
    dropout: bool = False,
    label_dropout: float = 0.0,
) -> tuple[jax.Array, Aux]:
    """Returns mean(weight (network - target)^2) over the batch's examples and their numbers.

    `batch` has `data [B, ..., C]`, `position [B]` (keys the times, noise and dropout) and, for models of classes,
    `label [B]`, which is left out (-1, no class) with probability `label_dropout`.
    """
    x1 = batch["data"]
    shape = (*x1.shape[1:-1], objective.parts * x1.shape[-1])

    def random(key):
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        return objective.times(time_key), jax.random.normal(noise_key, shape, x1.dtype), dropout_key

    t, noise, keys = jax.vmap(random)(example_keys(key, batch["position"]))
    if objective.couple is not None:
        x1 = objective.couple(x1, noise)
    labels = batch.get("label")
    if labels is not None and label_dropout:
        chances = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1)))(keys)
        labels = jnp.where(chances < label_dropout, -1, labels)
    state = objective.perturb(x1, noise, t)
    output: Any = network.apply(
        {"params": variables.params, "stats": variables.stats},
        objective.inputs(state, t),
        objective.time_input(t),
        labels,
        keys if dropout else None,
    )
    squared = jnp.square(output - objective.target(x1, noise, t))
    weighted = beside(objective.weight(t), squared) * squared
    return weighted.mean(), Aux(variables.stats, {"unweighted": squared.mean()})


def model(network: nn.Module, objective: Objective, process: Process, variables: Variables, **options: Any) -> Model:
    """Returns the trained network as a model along a path; raises `InputError` if it does not serve that path.

    options: fields of `Model`.
    """
    own = {"force": "bridge", "velocity": "flow"}.get(objective.name)
    if not objective.denoiser and process.name != own:
        fix = f"use the path {own}, or the objective denoiser"
        raise input_error("process", expected=f'"{own}" with the objective {objective.name}', got=process.name, fix=fix)
    return Model(process, Read(network, objective), variables, denoiser=objective.denoiser, **options)


@dataclass(frozen=True)
class Read:
    """The estimate of a trained network, compared by what it is made of, as `jit` wants of what it compiles."""

    network: nn.Module
    objective: Objective

    def __call__(self, variables, labels, state, t):
        tree = {"params": variables.params, "stats": variables.stats}
        if labels is not None and labels.ndim == 0:
            labels = jnp.broadcast_to(labels, state.shape[:1])
        shown = self.objective.inputs(state, t), self.objective.time_input(t)
        return self.objective.estimate(self.network.apply(tree, *shown, labels), state, t)
