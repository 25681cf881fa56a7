"""Settings of the sampler, how its samples end, and their moments for a Gaussian prior in closed form."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from common.errors import choice, input_error, within

# Outcomes of a sample, in the order of the numbers in `info["outcome"]`.
OUTCOMES = ("converged", "unfinished", "diverged", "not a denoiser", "not finite")


class SamplerSettings(NamedTuple):
    """Settings of `sample`; see there.

    sigma_0: noise at the start, in intensity units, 1. sigma_L: noise at the end, 0.02. mean: intensity, or an image,
    around which the start is drawn, 0.5. step: step size h of the corrected algorithm, in (0, 1], 0.35. beta: in (0,
    1]; sigma falls by the factor 1 - beta h an iteration and 1 injects no noise, 0.2. hold: first iterations of the
    corrected algorithm, at sigma_0, 25. h0: first step size of the published algorithm, in (0, 1]; None, the default,
    takes the corrected one. fixed_step: the published algorithm with h = h0 throughout, False. max_steps: iterations
    after which a sample ends, 2000. divergence: sigma_0 times it is the noise above which a sample ends, 2.
    """

    sigma_0: float = 1.0
    sigma_L: float = 0.02  # noqa: N815
    mean: float | jax.Array = 0.5
    step: float = 0.35
    beta: float = 0.2
    hold: int = 25
    h0: float | None = None
    fixed_step: bool = False
    max_steps: int = 2000
    divergence: float = 2.0


DEFAULT = SamplerSettings()
# Of Kadkhodaie & Simoncelli 2021, algorithm 2, as the released code runs it.
PUBLISHED = SamplerSettings(sigma_L=0.05, beta=0.1, h0=0.01)


def outcomes(info: dict[str, Any]) -> str:
    """Describes in a line how the samples of `info` (of `sample`) ended: steps, and the number of each outcome.

    >>> outcomes({"steps": np.array([68, 69]), "outcome": np.array([0, 1])})
    '68 to 69 steps; 1 of 2 converged (0.50), 1 unfinished'
    """
    steps, outcome = (np.asarray(info[name]).reshape(-1) for name in ("steps", "outcome"))
    counts = {name: int((outcome == number_of(name)).sum()) for name in OUTCOMES}
    low, high = int(steps.min()), int(steps.max())
    reached = counts.pop("converged")
    others = [f"{count} {name}" for name, count in counts.items() if count]
    said = f"{reached} of {len(outcome)} converged ({reached / len(outcome):.2f})"
    counted = f"{low}" if low == high else f"{low} to {high}"
    return f"{counted} steps; " + ", ".join([said, *others])


def number_of(name: str) -> int:
    """Returns the number of an outcome, its place in `OUTCOMES`."""
    return OUTCOMES.index(name)


def changed(settings: Any, changes: dict[str, Any]) -> Any:
    """Returns the record `settings` with the fields of `changes`; raises `InputError` for a name that is no field."""
    for name in changes:
        choice("settings", name, settings._fields)
    return settings._replace(**changes)


def check(settings: SamplerSettings) -> None:
    """Raises `InputError`, naming the field, for numbers that `sample` cannot run with; traced ones are not checked."""
    for name in ("sigma_0", "sigma_L", "divergence", "step", "beta", "h0"):
        value = getattr(settings, name)
        if name == "h0" and value is None:
            continue
        check_positive(name, value, most=1 if name in ("step", "beta", "h0") else math.inf)
    for name, least in (("max_steps", 1), ("hold", 0)):
        check_count(name, getattr(settings, name), least)
    mean = settings.mean
    if np.ndim(mean) == 0 and not isinstance(mean, Tracer) and not (_is_number(mean) and abs(mean) <= 4):
        raise input_error("mean", expected="an intensity in [0, 1]", got=_got(mean), fix="divide it by 255")


def _is_number(value):
    return np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number) and not np.iscomplexobj(value)


def _got(value):
    return f"an array {list(np.shape(value))}" if np.ndim(value) else value


def check_positive(name: str, value: Any, *, most: float = math.inf) -> None:
    """Raises `InputError` unless `value` is traced or a number above 0, at most `most`."""
    if isinstance(value, Tracer) or (_is_number(value) and 0 < value <= most):
        return
    expected = "a positive number" if most == math.inf else f"a number in (0, {most:g}]"
    fix = "see the docstring of gahb.sampler_settings for its default"
    raise input_error(name, expected=expected, got=_got(value), fix=fix)


def check_count(name: str, value: Any, least: int) -> None:
    """Raises `InputError` unless `value` is traced or a whole number of at least `least`."""
    if isinstance(value, Tracer):
        return
    if not (_is_number(value) and value == int(value)):
        expected = f"a whole number of at least {least}"
        raise input_error(name, expected=expected, got=_got(value), fix=f"use {least} or more")
    within(name, value, least)


class Moments(NamedTuple):
    """variance_fraction `[...]`: variance of the samples over that of the prior. mean_factor `[...]`: error of the
    samples' mean over that of `settings.mean`. nfe: calls of the denoiser."""

    variance_fraction: np.ndarray
    mean_factor: np.ndarray
    nfe: int


def gaussian_moments(variance: np.ndarray, settings: SamplerSettings = DEFAULT) -> Moments:
    """Returns the variance and mean of `gahb.sample` relative to a Gaussian prior, along its principal axes.

    variance: `[...]`, positive eigenvalues v. The denoiser is the optimal one, x_hat = v y / (v + sigma^2), and most
    directions have no variance, so that ||d|| / sqrt(HWC) = sigma. With the error e of the mean of y and the covariance
    of (y, x_hat_before), each iteration is linear, y <- (1 - h) y + h x + gamma z, x = x_hat + (x_hat - x_hat_before) /
    2 or x_hat (see `gahb.sampling`). Raises `InputError` for impossible settings.

    >>> gaussian_moments(np.array([0.05, 1.0, 16.0])).variance_fraction.round(2).tolist()
    [1.0, 1.0, 0.99]
    """
    check(settings)
    v = np.asarray(variance, np.float64)
    published, sigma = settings.h0 is not None, float(settings.sigma_0)
    state = np.zeros((*v.shape, 2, 2))
    state[..., 0, 0] = sigma**2
    mean = np.ones((*v.shape, 2))
    t, going = 1, sigma > settings.sigma_L
    while going and t <= settings.max_steps:
        h, beta = settings.step, settings.beta if t > settings.hold else 0.0
        if settings.h0 is not None:
            h = settings.h0 if settings.fixed_step else settings.h0 * t / (1 + settings.h0 * (t - 1))
            beta = settings.beta
        ahead = 0.0 if published or t == 1 else 0.5
        gain = v / (v + sigma**2)
        step = np.zeros_like(state)
        step[..., 0, 0] = 1 - h + h * (1 + ahead) * gain
        step[..., 0, 1] = -h * ahead
        step[..., 1, 0] = gain
        state = step @ state @ np.swapaxes(step, -1, -2)
        state[..., 0, 0] += sigma**2 * h * (1 - beta) * (2 - h * (1 + beta))
        mean = (step @ mean[..., None])[..., 0]
        # The iteration at which sigma_L is reached is the last one.
        going, sigma, t = sigma > settings.sigma_L, sigma * (1 - beta * h), t + 1
    gain = v / (v + sigma**2)
    return Moments(gain**2 * state[..., 0, 0] / v, gain * mean[..., 0], t)
