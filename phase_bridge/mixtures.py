"""Mixtures of Gaussians as data: the exact posterior mean, which is what a perfectly trained network would give."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from phase_bridge.models import Model, denoiser_model
from phase_bridge.processes.base import Process, beside


def posterior_mean(centres: jax.Array, weights: jax.Array, std: jax.Array, u: jax.Array, sigma) -> jax.Array:
    """Returns E[x1 | u = x1 + sigma e] `[..., C]` for isotropic Gaussians at `centres [K, C]` with `weights [K]`.

    With k^2 = std^2 + sigma^2: responsibilities softmax(log w_i - |u - c_i|^2 / 2 k^2), and means c_i + std^2 / k^2
    (u - c_i).
    """
    sigma = beside(sigma, u)
    total = std**2 + sigma**2
    # |u|^2 is the same for all and may be large.
    logits = jnp.log(weights) + (u @ centres.T - jnp.square(centres).sum(-1) / 2) / total
    mean = jax.nn.softmax(logits, -1) @ centres
    return mean + std**2 / total * (u - mean)


def mixture(process: Process, centres, weights, std: float, *, kind: str = "ode") -> Model:
    """Returns the exact model of a mixture of isotropic Gaussians along a path.

    centres `[K, C]`, weights `[K]` (normalised here), std of every component. Its numbers travel as arguments of the
    compiled sampler.

    >>> from phase_bridge import Bridge, sample
    >>> points, info = sample(mixture(Bridge(), [[0.0, 0.0]], [1.0], 0.1), jax.random.key(0), (4, 2), nfe=5)
    >>> points.shape, info["nfe"]
    ((4, 2), 5)
    """
    centres, weights, std = (jnp.asarray(each, jnp.result_type(float)) for each in (centres, weights, std))
    return denoiser_model(process, Partial(posterior_mean, centres, weights / weights.sum(), std), kind=kind)
