"""Normalised log densities along the noise path by dual score matching.

Guth, Kadkhodaie, Simoncelli, "Learning normalized image densities via dual score matching", NeurIPS 2025 (arXiv
2506.05310). With y = x + sigma z, z ~ N(0, I) in d dimensions, and p_sigma the density of y, the energy U(y, sigma) =
-log p_sigma(y) has two conditional means as derivatives (Miyasawa, and the same in the noise level):

    grad_y U = E[y - x | y] / sigma^2,
    sigma dU/dsigma = E[d - ||y - x||^2 / sigma^2 | y].

Both follow from p_sigma(y) = E_x N(y; x, sigma^2 I), and together they are the diffusion equation dp/d(sigma^2) =
(1/2) Laplace p. The first ties energies at one sigma, the second ties levels to each other; one constant is left, and
at a level far above the spread of x the density is known: p_sigma -> N(mean x, Cov x + sigma^2 I).
Log densities are in nats.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import as_numbers
from common.errors import input_error
from common.prng import as_key

Energy = Callable[[Any, jax.Array, jax.Array], jax.Array]  # (params, y [B, ...], sigma [B]) -> U [B]


class DualLoss(NamedTuple):
    """The two terms of the dual score matching loss, each divided by d and without unit; means over the batch."""

    denoising: jax.Array  # E ||sigma grad_y U - z||^2 / d
    level: jax.Array  # E (sigma dU/dsigma - (d - ||z||^2))^2 / d^2


def both_scores(energy: Energy, params: Any, y: jax.Array, sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns grad_y U `[B, ...]` and dU/dsigma `[B]` of an energy, from one backward pass over the batch.

    y: noisy data `[B, ...]`; sigma: noise standard deviations `[B]`, data units. Energies must not mix examples.
    """
    return jax.grad(lambda y, sigma: energy(params, y, sigma).sum(), argnums=(0, 1))(y, sigma)


def dual_loss(energy: Energy, params: Any, x: jax.Array, sigma: jax.Array, z: jax.Array) -> DualLoss:
    """Returns both terms of the loss on y = x + sigma z; their sum is least at the true energy, up to its constant.

    x, z: clean data and standard normal noise `[B, ...]`; sigma `[B]`, data units, above 0.
    """
    size = math.prod(x.shape[1:])
    wide = sigma.reshape(-1, *(1,) * (x.ndim - 1))
    by_y, by_sigma = both_scores(energy, params, x + wide * z, sigma)
    axes = tuple(range(1, x.ndim))
    denoising = jnp.square(wide * by_y - z).sum(axes) / size
    level = jnp.square(sigma * by_sigma - (size - jnp.square(z).sum(axes))) / size**2
    return DualLoss(denoising.mean(), level.mean())


def gaussian_energy(x: jax.Array, y: jax.Array, sigma: float | jax.Array) -> jax.Array:
    """Returns -log N(y; m, C + sigma^2 I) `[B]` with mean m and covariance C of the data `x [N, ...]`, float64 or as y.

    At sigma far above the spread of x it is the energy of the noisy data: what energies are normalised by.
    """
    flat = np.asarray(as_numbers(x, "x"), np.float64).reshape(len(x), -1)
    size = flat.shape[1]
    values, vectors = np.linalg.eigh(np.cov(flat, rowvar=False, bias=True).reshape(size, size))
    away = (jnp.asarray(y).reshape(len(y), -1) - jnp.asarray(flat.mean(0), jnp.float32)) @ jnp.asarray(
        vectors, jnp.float32
    )
    variance = jnp.asarray(np.maximum(values, 0), jnp.float32) + jnp.square(sigma)
    return (jnp.square(away) / variance + jnp.log(2 * jnp.pi * variance)).sum(1) / 2


def constant(energy: Energy, params: Any, x: jax.Array, key: jax.Array, *, sigma: float, num: int = 4096) -> float:
    """Returns c for which U + c is normalised: E[gaussian_energy - U] over noisy data at the level `sigma`, in nats.

    x: data `[N, ...]`, of which examples are drawn with replacement. sigma: noise far above their spread; else the data
    are not Gaussian there, and `InputError` where it is not above twice the largest deviation of a direction.
    """
    flat = np.asarray(as_numbers(x, "x"), np.float64).reshape(len(x), -1)
    largest = float(np.sqrt(np.linalg.svd(flat - flat.mean(0), compute_uv=False)[0] ** 2 / len(flat)))
    if sigma < 2 * largest:
        expected = f"at least twice the largest deviation of the data, {2 * largest:.3g}"
        raise input_error("sigma", expected=expected, got=sigma, fix="normalise at stronger noise, and train up to it")
    index_key, noise_key = jax.random.split(as_key(key))
    drawn = jnp.asarray(x)[jax.random.randint(index_key, (num,), 0, len(x))]
    y = drawn + sigma * jax.random.normal(noise_key, drawn.shape, drawn.dtype)
    return float((gaussian_energy(x, y, sigma) - energy(params, y, jnp.full(num, sigma))).mean())


class Fit(NamedTuple):
    """A trained energy: its parameters, the constant that normalises it, and the loss of each step."""

    params: Any
    constant: float  # nats
    losses: np.ndarray  # [steps, 2] denoising, level


def fit(
    energy: Energy,
    params: Any,
    x: jax.Array,
    key: jax.Array,
    *,
    sigmas: tuple[float, float],
    steps: int = 2000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
) -> Fit:
    """Trains an energy on `x [N, ...]` by Adam on both terms, at levels uniform in log sigma, and normalises it.

    sigmas: least and largest level, data units; the largest is where it is normalised (see `constant`). The learning
    rate falls to 0 as a cosine. One compiled loop; batches are drawn with replacement from fold_in(key, step).
    """
    import optax

    low, high = sigmas
    if not 0 < low < high:
        raise input_error("sigmas", expected="0 < least < largest", got=sigmas, fix="for example (0.05, 10.0)")
    key, x = as_key(key), jnp.asarray(as_numbers(x, "x"))
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    @jax.jit
    def run(params, x, key):
        def step(state, i):
            params, memory = state
            keys = jax.random.split(jax.random.fold_in(key, i), 3)
            clean = x[jax.random.randint(keys[0], (batch_size,), 0, len(x))]
            level = jax.random.uniform(keys[1], (batch_size,), minval=jnp.log(low), maxval=jnp.log(high))
            z = jax.random.normal(keys[2], clean.shape, clean.dtype)

            def loss(params):
                both = dual_loss(energy, params, clean, jnp.exp(level), z)
                return both.denoising + both.level, jnp.stack(both)

            (_, both), gradient = jax.value_and_grad(loss, has_aux=True)(params)
            updates, memory = optimizer.update(gradient, memory)
            return (optax.apply_updates(params, updates), memory), both

        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))
        return params, losses

    params, losses = run(params, x, key)
    return Fit(params, constant(energy, params, x, jax.random.fold_in(key, steps), sigma=high), np.asarray(losses))


def log_density(energy: Energy, fitted: Fit, y: jax.Array, sigma: float) -> jax.Array:
    """Returns log p_sigma(y) `[B]`, in nats, of a trained energy at `y [B, ...]` and the noise level `sigma`."""
    y = jnp.asarray(as_numbers(y, "y"))
    return -energy(fitted.params, y, jnp.full(len(y), sigma, y.dtype)) - fitted.constant


def mlp_energy(params: Sequence[Any], y: jax.Array, sigma: jax.Array) -> jax.Array:
    """Returns the energy of a small network for vectors `y [B, d]`: that of noise of the right size, plus a correction.

    U = ||y||^2 / (2 (1 + sigma^2)) + (d / 2) log(2 pi (1 + sigma^2)) + g(y / sqrt(1 + sigma^2), log sigma), for data of
    about unit spread; g is a network with smooth activations. `params` are those of `init_mlp`.
    """
    variance = 1 + jnp.square(sigma)
    h = jnp.concatenate([y / jnp.sqrt(variance)[:, None], jnp.log(sigma)[:, None]], axis=1)
    for i, (kernel, bias) in enumerate(params):
        h = h @ kernel + bias
        if i < len(params) - 1:
            h = jax.nn.swish(h)
    return jnp.square(y).sum(1) / (2 * variance) + y.shape[1] / 2 * jnp.log(2 * jnp.pi * variance) + h[:, 0]


def init_mlp(key: jax.Array, size: int, *, width: int = 64, depth: int = 2) -> list[tuple[jax.Array, jax.Array]]:
    """Draws the parameters of `mlp_energy` for vectors of `size` numbers: `depth` hidden layers of `width` units."""
    widths = (size + 1, *(width,) * depth, 1)
    keys = jax.random.split(as_key(key), len(widths) - 1)
    pairs = zip(keys, widths[:-1], widths[1:], strict=True)
    return [(jax.random.normal(k, (a, b)) * math.sqrt(1 / a), jnp.zeros(b)) for k, a, b in pairs]
