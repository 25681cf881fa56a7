"""Densities of Gaussian data, whose states are Gaussian at all times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from common.errors import InputError, RunError
from phase_bridge import bridge as bridges
from phase_bridge.bridge import Bridge
from phase_bridge.likelihood import log_density, log_likelihood, prior_log_density
from phase_bridge.processes import Flow
from phase_bridge.sampling import estimate_model
from phase_bridge.toy import mixture

pytestmark = pytest.mark.usefixtures("quick_compilation")

CENTRE, STD, B = np.array([0.3, -0.5]), 0.4, Bridge()


def model(process=B, kind="ode"):
    return mixture(process, CENTRE[None], [1.0], STD, kind=kind)


def exact(m, t, bridge=B, centre=CENTRE):
    """Returns log p(x, v) at t: coordinates are independent, each with the covariance Sigma + STD^2 c c'."""
    c = np.array(bridges.mean_coefficients(bridge, t))
    xx, xv, vv = bridges.covariance(bridge, t)
    sigma = np.array([[xx, xv], [xv, vv]]) + STD**2 * np.outer(c, c)
    pairs = np.stack(bridges.split(np.asarray(m, float)), -1)
    return sum(multivariate_normal(c * centre[i], sigma).logpdf(pairs[:, i]) for i in range(len(centre)))


def states(t, n=12, bridge=B):
    rng = np.random.default_rng(0)
    x1 = CENTRE + STD * rng.normal(size=(n, 2))
    return bridge.perturb(x1, rng.normal(size=(n, 4)), t)


@pytest.mark.parametrize(("kind", "t"), [("ode", 0.999), ("sde", 0.9)])
def test_density_of_gaussian_data(kind, t):
    bridge = Bridge(2.5, 0.3, 1.2, 2.0)
    with jax.enable_x64(True):
        m = jnp.asarray(states(t, bridge=bridge))
        got = log_density(model(bridge, kind), m, t=t, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(got.log_density, exact(m, t, bridge), rtol=0, atol=1e-5)
    assert 10 < got.steps < 4096


def test_float32_and_hutchinson():
    m = jnp.asarray(states(0.95), jnp.float32)
    plain = log_density(model(), m, t=0.95)
    assert plain.log_density.dtype == jnp.float32
    np.testing.assert_allclose(plain.log_density, exact(m, 0.95), atol=2e-3)
    # The Jacobian of Gaussian data is a multiple of the identity: one probe gives its trace.
    one = log_density(model(), m, t=0.95, exact=False, key=jax.random.key(0), probes=2)
    np.testing.assert_allclose(one.log_density, plain.log_density, atol=2e-3)


def test_hutchinson_is_right_on_average():
    """A force that mixes coordinates, for which single probes are wrong."""
    mixing = jnp.array([[0.3, 0.8], [-0.5, 0.1]])

    def estimate(m, t):
        """The estimate whose force, over its scale, is a product with the velocity."""
        force = m[..., 2:] @ mixing.T * (1 - t) * bridges.force_scale(B, t, kind="ode")
        return bridges.data_estimate(B, m, force, t, kind="ode")

    force = estimate_model(B, estimate)

    m = jnp.asarray(states(0.5, 1), jnp.float32)
    want = log_density(force, m, t=0.5).log_density[0]
    many = jnp.broadcast_to(m, (400, 4))
    got = np.asarray(log_density(force, many, t=0.5, exact=False, key=jax.random.key(1)).log_density)
    assert got.std() > 0.01
    assert got.mean() == pytest.approx(float(want), abs=5 * got.std() / np.sqrt(400))


def test_prior_density():
    m = np.random.default_rng(1).normal(size=(5, 4))
    got = prior_log_density(Bridge(3, -0.4, 2.0, 0.5), jnp.asarray(m, jnp.float32))
    cov = np.array([[2.0, -0.4], [-0.4, 0.5]])
    want = sum(multivariate_normal(np.zeros(2), cov).logpdf(m[:, [i, i + 2]]) for i in range(2))
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_likelihood_of_positions_is_a_bound_and_nearly_tight():
    t = 0.999
    x = jnp.asarray(CENTRE + STD * np.random.default_rng(2).normal(size=(8, 2)), jnp.float32)
    c_x, spread = bridges.mean_coefficients(B, t)[0], bridges.covariance(B, t)[0]
    want = norm(c_x * CENTRE, np.sqrt((c_x * STD) ** 2 + spread)).logpdf(np.asarray(x)).sum(-1)
    got = log_likelihood(model(), x, jax.random.key(0), draws=4, t=t)
    np.testing.assert_allclose(got, want, atol=0.02)


def test_mistakes_are_reported():
    m = jnp.zeros((2, 12))
    with pytest.raises(InputError, match="key: expected a key: data have 6 coordinates"):
        log_density(estimate_model(B, lambda m, t: m[..., :6]), m)
    with pytest.raises(InputError, match=r"m: expected states \[B, ..., 2C\]"):
        log_density(model(), jnp.zeros((2, 3)))
    with pytest.raises(InputError, match="t: expected a time between 0 and 1"):
        log_density(model(), m, t=1.0)
    with pytest.raises(RunError, match="did not end within 2 steps"):
        log_density(model(), jnp.asarray(states(0.95), jnp.float32), t=0.95, max_steps=2)
    for t in (0.0, 1.0, -0.5):
        with pytest.raises(InputError, match="t: expected a time between 0 and 1"):
            log_likelihood(model(), jnp.zeros((2, 2)), 0, t=t)
    with pytest.raises(InputError, match="model: expected a Model along a Bridge, got flow"):
        log_likelihood(model(Flow()), jnp.zeros((2, 2)), 0)
