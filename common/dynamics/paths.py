"""Straight Gaussian paths x_t = a(t) x1 + b(t) z, and the change between what networks predict on them.

`x1` is data, `z` standard normal noise. The direction of time is that of the path's functions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Function = Callable[[Any], Any]


class Path(NamedTuple):
    """Coefficients of data and noise as functions of time; their derivatives are taken by `jax.jvp`."""

    data: Function
    noise: Function


FLOW = Path(data=lambda t: t, noise=lambda t: 1 - t)  # flow matching: noise at t = 0, data at t = 1
EXPLODING = Path(data=jnp.ones_like, noise=lambda sigma: sigma)  # time is the noise level


def cosine() -> Path:
    """Returns the variance-preserving path a = cos(pi t / 2), b = sin(pi t / 2) from data (0) to noise (1)."""
    return Path(lambda t: jnp.cos(0.5 * jnp.pi * t), lambda t: jnp.sin(0.5 * jnp.pi * t))


def linear(beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
    """Returns the variance-preserving path with beta linear in t (Ho et al., 2020; Song et al., 2021)."""

    def exponent(t):
        return 0.5 * t * beta_min + 0.25 * t**2 * (beta_max - beta_min)

    return Path(lambda t: jnp.exp(-exponent(t)), lambda t: jnp.sqrt(-jnp.expm1(-2 * exponent(t))))


class Coefficients(NamedTuple):
    """a, b and their time derivatives at one time or at `[B]` times."""

    a: Any
    b: Any
    da: Any
    db: Any


def at(path: Path, t: Any, like: Any = None) -> Coefficients:
    """Returns the path's coefficients at `t`, with axes added to multiply `like [B, ...]` if given."""
    t = jnp.asarray(t, jnp.promote_types(jnp.result_type(t), jnp.float32))
    if like is not None and t.ndim:
        t = t.reshape(t.shape + (1,) * (like.ndim - t.ndim))
    one = jnp.ones_like(t)
    a, da = jax.jvp(path.data, (t,), (one,))
    b, db = jax.jvp(path.noise, (t,), (one,))
    return Coefficients(a, b, da, db)


def sample(path: Path, x1: Any, z: Any, t: Any) -> Any:
    """Returns x_t = a x1 + b z."""
    c = at(path, t, x1)
    return c.a * x1 + c.b * z


def noise_from_data(path: Path, x: Any, x1: Any, t: Any) -> Any:
    """Returns z = (x - a x1) / b."""
    c = at(path, t, x)
    return (x - c.a * x1) / c.b


def data_from_noise(path: Path, x: Any, z: Any, t: Any) -> Any:
    """Returns x1 = (x - b z) / a."""
    c = at(path, t, x)
    return (x - c.b * z) / c.a


def score_from_data(path: Path, x: Any, x1: Any, t: Any) -> Any:
    """Returns grad log p_t(x) = -(x - a x1) / b^2, x1 being the posterior mean."""
    c = at(path, t, x)
    return -(x - c.a * x1) / c.b**2


def velocity_from_data(path: Path, x: Any, x1: Any, t: Any) -> Any:
    """Returns dx/dt = a' x1 + b' z of the probability flow, z = (x - a x1) / b."""
    c = at(path, t, x)
    return c.da * x1 + c.db / c.b * (x - c.a * x1)


def data_from_velocity(path: Path, x: Any, velocity: Any, t: Any) -> Any:
    """Returns x1, the inverse of `velocity_from_data`; where a' b = a b' nothing can be told."""
    c = at(path, t, x)
    return (c.b * velocity - c.db * x) / (c.da * c.b - c.a * c.db)
