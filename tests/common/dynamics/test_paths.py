"""Straight paths: conversions are inverse to each other and belong to the flow of Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.dynamics import paths

PATHS = {"flow": paths.FLOW, "exploding": paths.EXPLODING, "cosine": paths.cosine(), "linear": paths.linear()}


@pytest.mark.parametrize("name", PATHS)
def test_round_trips(name):
    path = PATHS[name]
    x1, z = jax.random.normal(jax.random.key(0), (2, 6, 3))
    t = jnp.linspace(0.2, 0.8, 6)
    x = paths.sample(path, x1, z, t)
    np.testing.assert_allclose(paths.noise_from_data(path, x, x1, t), z, atol=1e-5)
    np.testing.assert_allclose(paths.data_from_noise(path, x, z, t), x1, atol=2e-3)
    velocity = paths.velocity_from_data(path, x, x1, t)
    np.testing.assert_allclose(paths.data_from_velocity(path, x, velocity, t), x1, atol=1e-4)
    c = paths.at(path, t, x)
    np.testing.assert_allclose(velocity, c.da * x1 + c.db * z, atol=1e-4)
    np.testing.assert_allclose(paths.score_from_data(path, x, x1, t), -z / c.b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PATHS)
def test_velocity_keeps_the_variance_of_gaussian_data(name):
    """For x1 ~ N(0, v) the flow is x' = x d ln(std)/dt with std^2 = a^2 v + b^2."""
    path, variance, t, x = PATHS[name], 0.7, jnp.asarray([0.35]), jnp.asarray([[1.3]])

    def std(t):
        return jnp.sqrt(path.data(t) ** 2 * variance + path.noise(t) ** 2)

    c = paths.at(path, t, x)
    posterior_mean = c.a * variance / (c.a**2 * variance + c.b**2) * x
    growth = jax.jvp(lambda t: jnp.log(std(t)), (t,), (jnp.ones_like(t),))[1]
    np.testing.assert_allclose(paths.velocity_from_data(path, x, posterior_mean, t), growth[:, None] * x, rtol=1e-5)


def test_variance_preserving():
    t = jnp.linspace(0, 1, 11)
    for name in ("cosine", "linear"):
        c = paths.at(PATHS[name], t)
        np.testing.assert_allclose(c.a**2 + c.b**2, 1, rtol=1e-6)
        assert c.a[0] == 1 and c.b[0] == 0 and c.b[-1] > 0.999
