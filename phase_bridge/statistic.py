"""All that a bridge state tells about the data: one noisy copy of it, as in ordinary diffusion.

Given x1 the state m = [x, v] is N(c x1, Sigma), alike in every coordinate, so x1 enters the likelihood only through
c' Sigma^-1 m: the posterior of x1 given the pair (x, v) is the posterior given one number a coordinate,

    u = c' Sigma^-1 m / P = x1 + P^(-1/2) e,    P = c' Sigma^-1 c,  e ~ N(0, 1),

a noisy copy with noise level P^(-1/2). The rest of the state is noise that no estimate of x1 should depend on. A
denoiser of ordinary diffusion is therefore all the network that a bridge needs, for its ODE and its SDE alike.
"""

import jax
import jax.numpy as jnp
import numpy as np

from common.errors import input_error
from common.solvers import grids
from phase_bridge import bridge as bridges
from phase_bridge.bridge import Bridge

_GRID = 4096  # places of the table by which noise levels are turned into times while training


def _whitening(b: Bridge, t):
    """Returns (n_x, n_v, root_p): P^(-1/2) times the whitened means, and the root of P; finite at t = 0."""
    xp = jnp if isinstance(t, jax.Array) else np
    l_xx, l_xv, l_vv = bridges.cholesky(b, t)
    # The means over t, whose direction is known also where both vanish.
    c_x, c_v = t * (6 - 4 * t + t**2) / 3, 4 * (3 - 3 * t + t**2) / 3
    first = c_x / l_xx
    second = (c_v - l_xv * first) / l_vv
    length = xp.hypot(first, second)
    return first / length, second / length, t * length


def root_precision(b: Bridge, t):
    """Returns P^(1/2) = 1 / (the noise level of the state's copy of x1); 0 at t = 0, about s^(-5/2) near t = 1."""
    return _whitening(b, t)[2]


def noise_level(b: Bridge, t):
    """Returns P^(-1/2), in data units: infinite at t = 0, falling to 0 at t = 1."""
    return 1 / root_precision(b, t)


def statistic_coefficients(b: Bridge, t):
    """Returns (y_x, y_v): y = y_x x + y_v v = P^(1/2) x1 + e is the state's copy of x1 with noise of unit variance."""
    n_x, n_v, _ = _whitening(b, t)
    l_xx, l_xv, l_vv = bridges.cholesky(b, t)
    y_v = n_v / l_vv
    return (n_x - l_xv * y_v) / l_xx, y_v


def statistic(b: Bridge, m, t):
    """Returns y = P^(1/2) x1 + e, `[..., C]` of a state `[..., 2C]`."""
    x, v = bridges.split(m)
    y_x, y_v = (_beside(each, x) for each in statistic_coefficients(b, t))
    return y_x * x + y_v * v


def statistic_noise(b: Bridge, noise, t):
    """Returns the e of `statistic` for the noise `[..., 2C]` from which `bridge.sample_bridge` made the state."""
    e_x, e_v = bridges.split(noise)
    n_x, n_v, _ = (_beside(each, e_x) for each in _whitening(b, t))
    return n_x * e_x + n_v * e_v


def time_at_noise_level(b: Bridge, sigma):
    """Returns the times, float64, at which the noise level is `sigma`; found by bisection.

    Raises `InputError` for a level that is not positive and finite.
    """
    sigma = np.asarray(sigma, np.float64)
    if not (np.isfinite(sigma) & (sigma > 0)).all():
        raise input_error("sigma", expected="positive finite noise levels", got=sigma.min(), fix="use 0.002 or more")
    # In ln(1 - t) towards the data and in ln(t) towards the prior, so that both ends are resolved.
    low, high = np.full_like(sigma, -40.0), np.full_like(sigma, 40.0)
    for _ in range(100):
        middle = (low + high) / 2
        above = noise_level(b, np.clip(_time(middle), 1e-17, 1 - 1e-13)) > sigma
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return _time((low + high) / 2)


def _time(logit):
    return 1 / (1 + np.exp(-logit))


def times_at_levels(
    b: Bridge,
    nfe: int,
    *,
    largest: float,
    smallest: float,
    power: float = 7.0,
    first: float = 1e-5,
    end: float = 0.9999,
) -> np.ndarray:
    """Returns `nfe` + 1 times for a sampler: `nfe` evaluations spread over noise levels as in ordinary diffusion.

    The first evaluation is at `first`, where the prior is; those after it are where a grid of levels from `largest` to
    `smallest`, equally spaced in their roots of order `power`, has its second, third, ... level. The last step, to
    `end`, matters only to those who want the state there.
    """
    if nfe < 1 or nfe != int(nfe):
        raise input_error("nfe", expected="a whole number, at least 1", got=nfe, fix="use 10 or so")
    if not 0 < smallest < largest:
        got = f"{largest:g} to {smallest:g}"
        raise input_error("levels", expected="0 < smallest < largest", got=got, fix="for example 80 to 0.002")
    times = np.array([first])
    if nfe > 1:
        times = np.append(times, time_at_noise_level(b, grids.power(largest, smallest, nfe - 1, order=power)[1:]))
    if not (np.diff(np.append(times, end)) > 0).all():
        raise input_error(
            "levels", expected=f"levels of times from {first:g} to {end:g}", got=times, fix="raise smallest"
        )
    return np.append(times, end)


def time_table(b: Bridge, *, first: float, last: float):
    """Returns (ln noise levels falling, times) of a grid from `first` to `last`, to be interpolated in."""
    near, far = np.log(first / (1 - first)), np.log(last / (1 - last))
    times = _time(np.linspace(near, far, _GRID))
    return np.log(noise_level(b, times)), times


def _beside(value, like):
    if isinstance(like, jax.Array):
        value = jnp.asarray(value, like.dtype)
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if np.ndim(value) else value
