"""Scalings that give a network inputs and targets of unit variance at every noise level (Karras et al., 2022)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Scalings(NamedTuple):
    """A denoiser is `skip y + out network(input y, label)`; each field has the shape of the noise level."""

    skip: Any
    out: Any
    input: Any
    label: Any


def edm(sigma: Any, *, sigma_data: float) -> Scalings:
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
