"""How a bridge is learned: the published recipe, one that uses what the state tells, and the steps in between.

"released" regresses the force over its normaliser, weighted 1/(1 - t), times uniform, the network seeing m and 1 - t.
Its output is a prediction of noise, which at small t says little about where the path should go: an error of 1 there is
an error of 2.3 in the data; and the network has to find out for every t which combination of x and v matters.

"improved" shows the network that combination alone (`phase_bridge.statistic`), scaled to unit variance, with the
logarithm of its noise level, and lets it predict what the best linear estimate of x1 leaves, scaled to unit variance
(Karras et al., 2022, for ordinary diffusion). The estimate is then turned into the force that samplers expect. Times
stay uniform: they train fine structure more than the usual noise levels of diffusion do, and reach the prior, where
every sampler begins.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from common.errors import choice, input_error
from phase_bridge import bridge as bridges
from phase_bridge import statistic as statistics
from phase_bridge.bridge import Bridge
from phase_bridge.objective import Objective, beside

INPUTS = ("state", "scaled", "statistic")
OUTPUTS = ("force", "preconditioned", "data")
LABELS = ("remaining", "noise")
WEIGHTS = ("reciprocal", "ones", "reciprocalinv", "data")
TIMES = ("uniform", "log_normal", "log_uniform")


class Recipe(NamedTuple):
    """The choices of which a recipe consists.

    inputs: "state": m | "scaled": x and v, each of unit variance | "statistic": what m tells about x1, likewise.
    output: "force": force / normaliser | "preconditioned": the same over 1 - t | "data": the rest of the best linear
    estimate of x1, of unit variance. label: "remaining": 1 - t | "noise": ln(noise level) / 4.
    weight of the squared error: "reciprocal": 1/(1 - t), "ones", "reciprocalinv": 1/t, all three of force / normaliser;
    "data": of the output with "data". times: "uniform" in [first, last] | "log_normal" or "log_uniform": noise levels
    of which ln ~ N(-1.2, 1.2^2) relative to the data, or of which the logarithms are uniform between `least` and
    `most` of the data's standard deviation.
    """

    inputs: str
    output: str
    label: str
    weight: str
    times: str


RECIPES = {
    "released": Recipe("state", "force", "remaining", "reciprocal", "uniform"),
    "improved": Recipe("statistic", "data", "noise", "data", "uniform"),
}


def check(recipe: Recipe, field: str = "recipe") -> Recipe:
    """Returns the recipe; raises `InputError` for a choice that is none."""
    for name, options in zip(Recipe._fields, (INPUTS, OUTPUTS, LABELS, WEIGHTS, TIMES), strict=True):
        choice(f"{field}.{name}", getattr(recipe, name), options)
    return recipe


def objective(
    b: Bridge,
    recipe: Recipe,
    *,
    kind: str,
    convention: str = "released",
    sigma_data: float = 0.5,
    first: float = 1e-5,
    last: float = 0.999,
    mean: float = -1.2,
    std: float = 1.2,
    least: float = 0.004,
    most: float = 160.0,
) -> Objective:
    """Returns the objective of a recipe; its fields give the force of `kind` over the normaliser of `convention`.

    sigma_data: standard deviation of the data's coordinates. first, last: ends of the times. mean, std: of
    "log_normal". least, most: of "log_uniform". Raises `InputError` for choices and numbers that make no objective.
    """
    numbers = {"sigma_data": sigma_data, "first": first, "last": last, "mean": mean, "std": std}
    again = functools.partial(objective, b, recipe, convention=convention, least=least, most=most, **numbers)
    check(recipe)
    choice("kind", kind, bridges.KINDS)
    choice("convention", convention, bridges.CONVENTIONS)
    if not 0 < first < last < 1:
        got = f"first={first:g}, last={last:g}"
        raise input_error(
            "times", expected="0 < first < last < 1", got=got, fix="the published ends are 1e-5 and 0.999"
        )
    if not sigma_data > 0:
        raise input_error("sigma_data", expected="a positive number", got=sigma_data, fix="use that of the data")

    def normaliser(t):
        return bridges.normaliser(b, t, kind=kind, convention=convention)

    def error_per_output(t):
        """Returns d(force / normaliser) / d(output)."""
        if recipe.output == "force":
            return jnp.ones_like(t)
        if recipe.output == "preconditioned":
            return 1 - t
        return _scalings(b, t, sigma_data).out / data_per_force(t)

    def data_per_force(t):
        return bridges.estimate_coefficients(b, t, kind=kind)[0] * normaliser(t)

    def weight(t):
        weights = {
            "reciprocal": lambda: 1 / (1 - t),
            "ones": lambda: jnp.ones_like(t),
            "reciprocalinv": lambda: 1 / t,
            "data": lambda: jnp.square(data_per_force(t) / _scalings(b, t, sigma_data).out),
        }
        if recipe.weight == "data" and recipe.output == "data":
            return jnp.ones_like(t)
        return weights[recipe.weight]() * jnp.square(error_per_output(t))

    def target(x1, noise, t):
        if recipe.output == "data":
            # From the noise, not from the state: near the data both are many times the difference.
            scale = _scalings(b, t, sigma_data)
            e = statistics.statistic_noise(b, noise, t)
            return beside(scale.signal, x1) * x1 - beside(scale.noise, x1) * e
        of_force = bridges.target(b, x1, noise, t, kind=kind, convention=convention)
        return of_force / beside(error_per_output(t), x1)

    def inputs(m, t):
        if recipe.inputs == "state":
            return m
        if recipe.inputs == "scaled":
            return _scaled(b, m, t, sigma_data)
        return beside(_scalings(b, t, sigma_data).input, m) * statistics.statistic(b, m, t)

    def read(output, m, t):
        if recipe.output != "data":
            return beside(error_per_output(t), output) * output
        scale = _scalings(b, t, sigma_data)
        estimate = beside(scale.skip, output) * statistics.statistic(b, m, t) + beside(scale.out, output) * output
        return bridges.force_from_data(b, m, estimate, t, kind=kind) / beside(normaliser(t), output)

    def label(t):
        return 1 - t if recipe.label == "remaining" else -jnp.log(statistics.root_precision(b, t)) / 4

    return Objective(
        name=f"agm-{kind}",
        parts=2,
        times=_times(b, recipe.times, sigma_data, first, last, mean, std, least, most),
        perturb=lambda x1, noise, t: bridges.sample_bridge(b, noise, x1, t)[0],
        inputs=inputs,
        label=label,
        target=target,
        weight=weight,
        read=read,
        of_kind=lambda kind: again(kind=kind),
    )


class _Scalings(NamedTuple):
    """With y = P^(1/2) x1 + e: x1 = skip y + out target, target = signal x1 - noise e; `input y` has unit variance."""

    skip: jax.Array
    out: jax.Array
    input: jax.Array
    signal: jax.Array
    noise: jax.Array


def _scalings(b: Bridge, t, sigma_data: float) -> _Scalings:
    root = statistics.root_precision(b, t)
    total = jnp.hypot(1.0, sigma_data * root)
    return _Scalings(
        skip=sigma_data**2 * root / total**2,
        out=sigma_data / total,
        input=1 / total,
        signal=1 / (sigma_data * total),
        noise=sigma_data * root / total,
    )


def _scaled(b: Bridge, m, t, sigma_data: float):
    c_x, c_v = bridges.mean_coefficients(b, t)
    s_xx, _, s_vv = bridges.covariance(b, t)
    x, v = bridges.split(m)
    of_x, of_v = (beside(jnp.sqrt(s + (c * sigma_data) ** 2), m) for s, c in ((s_xx, c_x), (s_vv, c_v)))
    return bridges.join(x / of_x, v / of_v)


def _times(b, rule, sigma_data, first, last, mean, std, least, most) -> Callable[[jax.Array], jax.Array]:
    if rule == "uniform":
        return lambda key: jax.random.uniform(key, minval=first, maxval=last)
    levels, times = statistics.time_table(b, first=first, last=last)
    # The table's levels fall with time; interpolation wants them rising.
    levels, times = jnp.asarray(levels[::-1], jnp.float32), jnp.asarray(times[::-1], jnp.float32)

    def draw(key):
        if rule == "log_normal":
            level = math.log(sigma_data / 0.5) + mean + std * jax.random.normal(key)
        else:
            ends = (math.log(least * sigma_data), math.log(most * sigma_data))
            level = jax.random.uniform(key, minval=ends[0], maxval=ends[1])
        return jnp.interp(level, levels, times)

    return draw
