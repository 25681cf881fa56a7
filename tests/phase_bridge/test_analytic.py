"""Exact estimates against brute-force posteriors, and fields against the bridge's own forces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from phase_bridge import bridge as bridges
from phase_bridge.analytic import field_of_estimate, mixture_estimate, mixture_field
from phase_bridge.bridge import Bridge

B, MEANS, WEIGHTS, STD = Bridge(2.5, 0.3, 1.2, 2.0), np.array([[0.5], [-0.7], [0.1]]), np.array([0.5, 0.3, 0.2]), 0.15


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8, 0.9])
def test_estimate_is_the_posterior_mean(t):
    m = np.random.default_rng(0).normal(size=(6, 2))
    x1 = np.linspace(-3, 3, 20001)
    log_prior = logsumexp(-(((x1[:, None] - MEANS[:, 0]) / STD) ** 2) / 2, axis=1, b=WEIGHTS)
    c_x, c_v = bridges.mean_coefficients(B, t)
    l_xx, l_xv, l_vv = bridges.cholesky(B, t)
    m = np.stack([c_x, c_v]) * x1[[9000, 11000, 8000, 12500, 9900, 10100], None] + m * [l_xx, l_vv]
    e_x = (m[:, :1] - c_x * x1) / l_xx
    e_v = (m[:, 1:] - c_v * x1 - l_xv * e_x) / l_vv
    log_p = log_prior - (e_x**2 + e_v**2) / 2
    posterior = np.exp(log_p - log_p.max(1, keepdims=True))
    want = (posterior * x1).sum(1) / posterior.sum(1)
    with jax.enable_x64(True):
        got = mixture_estimate(B, jnp.asarray(MEANS), jnp.asarray(WEIGHTS), STD, jnp.asarray(m), jnp.asarray(t))
    np.testing.assert_allclose(got[:, 0], want, rtol=0, atol=1e-6)
    single = mixture_estimate(B, *(jnp.asarray(a, jnp.float32) for a in (MEANS, WEIGHTS, STD, m, t)))
    np.testing.assert_allclose(single[:, 0], want, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", bridges.KINDS)
@pytest.mark.parametrize("normaliser", bridges.CONVENTIONS)
def test_field_of_one_point_is_its_target(kind, normaliser):
    x1, noise, t = jnp.array([[0.4, -0.2]] * 3), jax.random.normal(jax.random.key(0), (3, 4)), jnp.float32(0.6)
    m, _ = bridges.sample_bridge(B, noise, x1, t)
    field = field_of_estimate(B, lambda m, t: x1, kind=kind, normaliser=normaliser)
    want = bridges.target(B, x1, noise, t, kind=kind, convention=normaliser)
    np.testing.assert_allclose(field(m, t), want, rtol=1e-4, atol=1e-5)


def test_equal_fields_share_a_program():
    traces = []

    @jax.jit
    def call(field, m):
        traces.append(0)
        return field(m, jnp.float32(0.5))

    m = jnp.ones((2, 2))
    one, other = (mixture_field(Bridge(), MEANS, WEIGHTS, std, kind="ode") for std in (0.1, 0.2))
    assert (call(one, m) != call(other, m)).all() and len(traces) == 1
    call(mixture_field(Bridge(p=2), MEANS, WEIGHTS, 0.1, kind="ode"), m)
    assert len(traces) == 2
