"""Energies by dual score matching, against Gaussians and mixtures whose densities are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from gahb import energy as e

KEY = jax.random.key(2)
MEANS = jnp.array([[-1.0, 0.5], [1.0, -0.5]])
WEIGHTS = jnp.array([0.3, 0.7])
SPREAD = 0.3


def gaussian(covariance, y, sigma):
    """The energy of N(0, diag(covariance)) in noise, in closed form."""
    variance = covariance + jnp.square(sigma)[:, None]
    return (jnp.square(y) / variance + jnp.log(2 * jnp.pi * variance)).sum(1) / 2


def mixture(params, y, sigma):
    """The energy of two Gaussians of deviation SPREAD in noise, in closed form, plus a constant `params`."""
    variance = (SPREAD**2 + jnp.square(sigma))[:, None]
    squared = jnp.square(y[:, None] - MEANS).sum(-1)
    return params - jax.nn.logsumexp(
        jnp.log(WEIGHTS) - squared / (2 * variance) - jnp.log(2 * jnp.pi * variance), axis=1
    )


def mixture_data(count, seed=0):
    random = np.random.default_rng(seed)
    which = random.choice(2, count, p=np.asarray(WEIGHTS))
    return (np.asarray(MEANS)[which] + SPREAD * random.normal(size=(count, 2))).astype(np.float32)


def test_both_scores_obey_the_diffusion_equation():
    """dp/d(sigma^2) = Laplace p / 2, in energies: dU/dsigma = sigma (Laplace U - ||grad U||^2)."""
    y, sigma = jnp.asarray(mixture_data(6)), jnp.array([0.2, 0.4, 0.7, 1.0, 2.0, 5.0])
    by_y, by_sigma = e.both_scores(mixture, 0.0, y, sigma)
    laplace = jax.vmap(lambda y, sigma: jnp.trace(jax.hessian(lambda y: mixture(0.0, y[None], sigma[None])[0])(y)))(
        y, sigma
    )
    np.testing.assert_allclose(by_sigma, sigma * (laplace - jnp.square(by_y).sum(1)), rtol=2e-4, atol=1e-4)


def test_loss_by_hand():
    """Of U = a ||y||^2 / 2 + b log sigma."""
    x, z, sigma = jnp.array([[1.0, 2.0]]), jnp.array([[0.5, -1.0]]), jnp.array([2.0])
    energy = lambda p, y, s: p[0] * jnp.square(y).sum(1) / 2 + p[1] * jnp.log(s)  # noqa: E731
    found = e.dual_loss(energy, (0.1, 3.0), x, sigma, z)
    # y = (2, 0), sigma grad U = (0.4, 0), minus z: (-0.1, 1); sigma dU/dsigma = 3, d - ||z||^2 = 0.75.
    assert float(found.denoising) == pytest.approx((0.01 + 1) / 2)
    assert float(found.level) == pytest.approx(2.25**2 / 4)


def test_the_loss_is_least_at_the_true_energy():
    covariance = jnp.array([0.5, 2.0])
    keys = jax.random.split(KEY, 3)
    x = jnp.sqrt(covariance) * jax.random.normal(keys[0], (20_000, 2))
    z, sigma = jax.random.normal(keys[1], x.shape), jnp.exp(jax.random.uniform(keys[2], (20_000,), minval=-2, maxval=1))
    true, *others = (
        e.dual_loss(gaussian, covariance * jnp.array(scale), x, sigma, z) for scale in ((1, 1), (1.3, 1), (1, 0.7))
    )
    for other in others:
        assert other.denoising > true.denoising and other.level > true.level
    shifted = e.dual_loss(lambda c, y, s: gaussian(c, y, s) + 5, covariance, x, sigma, z)
    np.testing.assert_allclose(np.stack(shifted), np.stack(true), rtol=1e-5)  # the constant is not seen


def test_far_away_all_data_are_gaussian():
    x = mixture_data(4000)
    y = jnp.asarray(x[:50]) + 8 * jax.random.normal(KEY, (50, 2))
    expected = mixture(0.0, y, jnp.full(50, 8.0))
    np.testing.assert_allclose(e.gaussian_energy(x, y, 8.0), expected, atol=0.01)


def test_the_constant_is_found():
    x = mixture_data(4000)
    assert e.constant(mixture, 3.5, x, KEY, sigma=8.0) == pytest.approx(-3.5, abs=0.01)
    with pytest.raises(InputError, match="sigma: expected at least twice the largest deviation"):
        e.constant(mixture, 0.0, x, KEY, sigma=1.0)


def test_a_small_network_learns_the_density_of_a_mixture():
    x = mixture_data(20_000)
    params = e.init_mlp(jax.random.key(0), 2, width=48)
    fitted = e.fit(e.mlp_energy, params, x, KEY, sigmas=(0.1, 8.0), steps=1500, learning_rate=5e-3)
    held_out = jnp.asarray(mixture_data(2000, seed=1))
    for sigma in (0.1, 0.5, 2.0):
        y = held_out + sigma * jax.random.normal(jax.random.fold_in(KEY, 9), held_out.shape)
        expected = -mixture(0.0, y, jnp.full(len(y), sigma))
        found = e.log_density(e.mlp_energy, fitted, y, sigma)
        assert float(jnp.abs(found - expected).mean()) < 0.1, sigma
        assert float((expected - found).mean()) == pytest.approx(0, abs=0.05), sigma  # KL divergence, in nats
    # It integrates to one.
    side = jnp.linspace(-4, 4, 161)
    grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    total = float(jnp.exp(e.log_density(e.mlp_energy, fitted, grid, 0.1)).sum() * 0.05**2)
    assert total == pytest.approx(1, abs=0.06)
    with pytest.raises(InputError, match="sigmas: expected 0 < least < largest"):
        e.fit(e.mlp_energy, params, x, KEY, sigmas=(1.0, 1.0))
