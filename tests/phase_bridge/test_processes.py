"""Paths: moments against integrated equations, one copy of the data against linear algebra, one denoiser for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from common.errors import InputError
from phase_bridge import bridge as bridges
from phase_bridge import processes
from phase_bridge.bridge import Bridge
from phase_bridge.processes import CLD, EDM, Flow
from phase_bridge.toy import mixture

BRIDGES = st.builds(
    Bridge, p=st.floats(0.5, 5), correlation=st.floats(-0.9, 0.9), varx=st.floats(0.2, 5), varv=st.floats(0.2, 5)
)
PATHS = [Bridge(), Bridge(2.5, 0.3, 1.2, 2.0), Flow(), EDM(), CLD()]
IDS = ["published", "bridge", "flow", "edm", "cld"]
CENTRES, STD = np.array([[-0.5, 0.1], [0.4, 0.3], [0.2, -0.6]]), 0.1


def time_of(process, sigma):
    """Returns the time of a noise level as float64 on the host."""
    return float(process.time_at(np.float64(sigma)))


def by_hand(u, sigma):
    weights = np.exp(-np.square(u[:, None] - CENTRES).sum(-1) / (2 * (STD**2 + sigma**2)))
    fraction = STD**2 / (STD**2 + sigma**2)
    means = CENTRES + fraction * (u[:, None] - CENTRES)
    return (weights[..., None] * means).sum(1) / weights.sum(1, keepdims=True)


def textbook(b, t):
    s_xx, s_xv, s_vv = bridges.covariance(b, t)
    c = np.array(bridges.mean_coefficients(b, t))
    return c, np.linalg.inv([[s_xx, s_xv], [s_xv, s_vv]])


@settings(deadline=None, max_examples=40)
@given(b=BRIDGES, t=st.floats(0.02, 0.9))
def test_against_linear_algebra(b, t):
    c, inverse = textbook(b, t)
    precision = c @ inverse @ c
    m = np.random.default_rng(0).normal(size=(3, 4))
    u, sigma = b.observe(m, t)
    np.testing.assert_allclose(sigma, precision**-0.5, rtol=1e-6)
    on_x, on_v = c @ inverse / precision
    np.testing.assert_allclose(u, on_x * m[:, :2] + on_v * m[:, 2:], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("process", PATHS, ids=IDS)
@pytest.mark.parametrize("sigma", [0.01, 0.3, 2.0, 50.0])
def test_a_state_amounts_to_one_noisy_copy(process, sigma):
    """u = x1 + sigma e with e of unit variance, linear in the noise; and `embed` is a state of that copy."""
    if process.name == "cld" and sigma > 10:
        pytest.skip("its prior is at a noise level of about 100, and near it levels are flat")
    t = time_of(process, sigma)
    np.testing.assert_allclose(process.noise_level(t), sigma, rtol=1e-6)
    x1 = np.random.default_rng(0).normal(size=(4, 3))
    none = np.zeros((4, 3 * process.parts))
    np.testing.assert_allclose(process.observe(process.perturb(x1, none, t), t)[0], x1, rtol=1e-7)
    along = []
    for part in range(process.parts):
        noise = none.copy()
        noise[:, 3 * part : 3 * part + 3] = 1
        along.append(process.observe(process.perturb(np.zeros((4, 3)), noise, t), t)[0][0, 0])
    assert np.linalg.norm(along) == pytest.approx(sigma, rel=1e-6)
    np.testing.assert_allclose(process.observe(process.embed(x1, t), t)[0], x1, rtol=1e-7)


@pytest.mark.parametrize("process", PATHS, ids=IDS)
def test_field_and_denoiser_are_inverse(process):
    model = mixture(process, CENTRES, [1, 1, 1], STD)
    u = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)) * 0.5, jnp.float32)
    with jax.enable_x64(True):
        u = jnp.asarray(u, jnp.float64)
        back = process.denoiser_of(process.field_of(model.denoise))
        for sigma in (0.05, 0.3, 2.0):
            np.testing.assert_allclose(model.denoise(u, sigma), by_hand(np.asarray(u), sigma), rtol=1e-5, atol=1e-6)
            got = back(u, jnp.asarray(sigma))
            np.testing.assert_allclose(got, model.denoise(u, sigma), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("process", PATHS, ids=IDS)
def test_the_flow_carries_gaussians_into_gaussians(process):
    """With data N(0, 0.25) the flow keeps c^2 / 4 + L L' at all times: an equation for moments, integrated."""
    begin, end = time_of(process, 3.0), time_of(process, 0.2)
    k, variance = process.parts, 0.25

    def moments(t):
        c, spread = np.array(process.mean(t)), process.factor(t)
        lower = np.array([[spread[0]]]) if k == 1 else np.array([[spread[0], 0], [spread[1], spread[2]]])
        return variance * np.outer(c, c) + lower @ lower.T

    def rate(t, y):
        s = y.reshape(k, k)
        rows, source = process.flow(t)
        # E[x1 | m] is linear in m for Gaussian data.
        gain = variance * np.array(process.mean(t)) @ np.linalg.inv(moments(t))
        a = np.array(rows, float) + np.outer(np.array(source, float), gain)
        return (a @ s + s @ a.T).ravel()

    solved = solve_ivp(rate, (begin, end), moments(begin).ravel(), method="DOP853", rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(solved.y[:, -1].reshape(k, k), moments(end), rtol=2e-6)


def test_float32_and_batches():
    b = Bridge()
    t = np.array([1e-5, 0.1, 0.5, 0.9, 0.99])
    np.testing.assert_allclose(b.noise_level(jnp.asarray(t, jnp.float32)), b.noise_level(t), rtol=2e-4)
    m = jax.random.normal(jax.random.key(0), (5, 4))
    together, _ = b.observe(m, jnp.asarray(t, jnp.float32))
    for i in range(5):
        want = b.observe(m[i : i + 1], t[i])[0][0]
        np.testing.assert_allclose(together[i], want, rtol=2e-3, atol=1e-4 * float(b.noise_level(t[i])))


def test_the_rest_of_the_state_says_nothing():
    """The posterior of three points depends on the copy alone."""
    b, t = Bridge(), 0.4
    c, inverse = textbook(b, t)
    points, m = np.array([-1.0, 0.2, 0.7]), np.array([0.3, -0.4])
    across = np.linalg.solve(inverse, np.array([-c[1], c[0]]))  # c' Sigma^-1 across = 0
    for shift in (0.0, 0.5, -2.0):
        moved = m + shift * across
        logits = [-0.5 * (moved - c * x1) @ inverse @ (moved - c * x1) for x1 in points]
        weights = np.exp(logits - np.max(logits))
        mean = weights @ points / weights.sum()
        if shift == 0:
            first = mean
        assert mean == pytest.approx(first, rel=1e-9)
    assert b.observe(m + across, t)[0] == pytest.approx(b.observe(m, t)[0])


@settings(deadline=None, max_examples=20)
@given(b=BRIDGES, sigma=st.floats(1e-4, 500))
def test_times_by_noise_level(b, sigma):
    t = b.time_at(sigma)
    assert 0 < t < 1
    np.testing.assert_allclose(b.noise_level(t), sigma, rtol=1e-6)
    traced = jax.jit(b.time_at)(jnp.float32(np.clip(sigma, 0.01, 100)))
    assert float(b.noise_level(np.float64(traced))) == pytest.approx(np.clip(sigma, 0.01, 100), rel=5e-3)


def test_bad_levels():
    with pytest.raises(InputError, match="sigma: expected positive finite noise levels, got 0"):
        Bridge().time_at([1.0, 0.0])
    with pytest.raises(InputError, match="sigma_max: expected a positive number, got 0"):
        EDM(sigma_max=0)


def test_cld_moments_solve_the_moment_equations():
    drift = processes.BETA * np.array([[0, 1 / processes.MASS], [-1, -1 / processes.MASS]])
    kick = np.diag([0, 2 * processes.BETA])

    def rate(t, y):
        mean, cov = y[:2], y[2:].reshape(2, 2)
        return np.concatenate([drift @ mean, (drift @ cov + cov @ drift.T + kick).ravel()])

    start = np.array([1, 0, 0, 0, 0, processes.MASS * processes.START])
    times = np.array([0.002, 0.05, 0.3, 1.0])
    solved = solve_ivp(rate, (0, 1), start, t_eval=times, method="DOP853", rtol=1e-12, atol=1e-15).y
    for i, t in enumerate(times):
        np.testing.assert_allclose(CLD().mean(t), solved[:2, i], rtol=1e-8)
        np.testing.assert_allclose(CLD().covariance(t), solved[[2, 3, 5], i], rtol=1e-6)
    narrow = np.array(CLD().covariance(jnp.asarray(times, jnp.float32)))
    np.testing.assert_allclose(narrow, solved[[2, 3, 5]], rtol=2e-3)
    prior = CLD().prior(jax.random.key(0), (50_000, 1))
    np.testing.assert_allclose(np.std(prior, axis=0), [1, 0.5], rtol=0.02)
