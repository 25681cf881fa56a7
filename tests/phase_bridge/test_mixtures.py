"""Exact estimates against brute-force posteriors; samples of the mixture along every path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from phase_bridge import bridge as bridges
from phase_bridge.bridge import Bridge
from phase_bridge.processes import CLD, EDM, Flow
from phase_bridge.sampling import sample
from phase_bridge.toy import mixture, toy

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
        got = mixture(B, MEANS, WEIGHTS, STD).estimate(jnp.asarray(m), t)
    np.testing.assert_allclose(got[:, 0], want, rtol=0, atol=1e-6)
    single = mixture(B, MEANS, WEIGHTS, STD).estimate(jnp.asarray(m, jnp.float32), jnp.float32(t))
    np.testing.assert_allclose(single[:, 0], want, rtol=0, atol=2e-4)


def test_equal_models_share_a_program():
    traces = []

    @jax.jit
    def call(model, m):
        traces.append(0)
        return model.estimate(m, 0.5)

    m = jnp.ones((2, 2))
    one, other = (mixture(Bridge(), MEANS, WEIGHTS, std) for std in (0.1, 0.2))
    assert (call(one, m) != call(other, m)).all() and len(traces) == 1
    call(mixture(Bridge(p=2), MEANS, WEIGHTS, 0.1), m)
    assert len(traces) == 2


@pytest.mark.parametrize("process", [Bridge(), EDM(sigma_max=20.0), Flow(), CLD()], ids=lambda each: each.name)
def test_samples_are_of_the_mixture(process):
    of = toy("mixture")
    model = mixture(process, of.centres, [1] * 9, of.mode)
    levels = {"kind": "levels", "sigma_max": 20.0, "sigma_min": 0.01}
    # CLD's velocity is damped too fast for explicit stages of so few steps.
    for solver in ("data_multistep", "unipc" if process == CLD() else "heun"):
        drawn, info = sample(model, jax.random.key(0), (3000, 2), solver=solver, schedule=levels, nfe=41)
        assert info["nfe"] == 41
        assert np.mean(of.distance(np.asarray(drawn)) > of.radius) < 0.03
        nearest = np.linalg.norm(np.asarray(drawn)[:, None] - of.centres, axis=-1).argmin(1)
        counts = np.bincount(nearest, minlength=9)
        assert counts.min() > 220 and counts.max() < 460
