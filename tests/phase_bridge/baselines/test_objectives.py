"""Flow matching, EDM and CLD: moments, targets that read back as data, couplings, and the optimum on Gaussians."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from common.errors import InputError
from phase_bridge.baselines import cld, edm, flow


def batch(count=5, std=0.7, parts=1):
    x_key, z_key = jax.random.split(jax.random.key(0))
    return std * jax.random.normal(x_key, (count, 2)), jax.random.normal(z_key, (count, 2 * parts))


def test_edm_target_read_back_is_data_of_unit_variance():
    o = edm.objective(sigma_data=0.7)
    sigma = jnp.asarray([0.01, 0.1, 0.7, 3.0, 50.0])
    x1, z = batch()
    state = o.perturb(x1, z, sigma)
    np.testing.assert_allclose(o.read(o.target(x1, z, sigma), state, sigma), x1, rtol=2e-4, atol=2e-4)
    for level in (0.02, 1.0, 30.0):
        x1, z = batch(40_000)
        at = jnp.full(len(x1), level)
        shown, wanted = o.inputs(o.perturb(x1, z, at), at), o.target(x1, z, at)
        assert np.std(shown) == pytest.approx(1, abs=0.01) and np.std(wanted) == pytest.approx(1, abs=0.01)
        assert abs(np.mean(shown * wanted)) < 0.02
    np.testing.assert_allclose(o.label(sigma), np.log(sigma) / 4, rtol=1e-6)


def test_edm_levels_follow_the_data():
    keys = jax.random.split(jax.random.key(1), 20_000)
    logs = np.log(jax.vmap(edm.objective(sigma_data=1.5).times)(keys))
    assert abs(logs.mean() - (np.log(3) - 1.2)) < 0.03 and abs(logs.std() - 1.2) < 0.03
    levels = np.asarray(jax.vmap(edm.objective(sigma_data=2.0, times="log_uniform").times)(keys))
    assert levels.min() >= 0.008 * 0.99 and levels.max() <= 320 * 1.01
    assert np.median(np.log(levels)) == pytest.approx(np.log(0.008 * 320) / 2, abs=0.1)


def test_flow_path_and_target():
    o = flow.objective()
    x1, z = batch()
    t = jnp.asarray([0.0, 0.2, 0.5, 0.9, 1.0])
    np.testing.assert_allclose(o.perturb(x1, z, t), t[:, None] * x1 + (1 - t[:, None]) * z, rtol=1e-6)
    np.testing.assert_array_equal(o.target(x1, z, t), x1 - z)
    np.testing.assert_array_equal(o.label(t), 1 - t)


def test_coupling_is_the_best_pairing_of_each_group():
    x1, z = batch(8)
    paired = np.asarray(flow.couple(x1, z, size=4))
    for start in (0, 4):
        part, noise = np.asarray(x1)[start : start + 4], np.asarray(z)[start : start + 4]
        costs = {order: np.square(part[list(order)] - noise).sum() for order in itertools.permutations(range(4))}
        np.testing.assert_array_equal(paired[start : start + 4], part[list(min(costs, key=costs.get))])
    inside = jax.jit(lambda x1, z: flow.couple(x1, z, size=4))(x1, z)
    np.testing.assert_array_equal(inside, paired)
    with pytest.raises(InputError, match="coupling: expected at least 2, and a divisor of 8 examples, got 3"):
        flow.couple(x1, z, size=3)
    assert flow.objective(coupling=4).couple is not None and flow.objective().couple is None


def test_cld_moments_solve_the_moment_equations():
    drift = cld.BETA * np.array([[0, 1 / cld.MASS], [-1, -1 / cld.MASS]])
    kick = np.diag([0, 2 * cld.BETA])

    def rate(t, y):
        mean, cov = y[:2], y[2:].reshape(2, 2)
        return np.concatenate([drift @ mean, (drift @ cov + cov @ drift.T + kick).ravel()])

    start = np.array([1, 0, 0, 0, 0, cld.MASS * cld.START])
    times = np.array([0.002, 0.05, 0.3, 1.0])
    solved = solve_ivp(rate, (0, 1), start, t_eval=times, method="DOP853", rtol=1e-12, atol=1e-15).y
    for i, t in enumerate(times):
        np.testing.assert_allclose(cld.mean_coefficients(t), solved[:2, i], rtol=1e-8)
        np.testing.assert_allclose(cld.covariance(t), solved[[2, 3, 5], i], rtol=1e-6)
    narrow = np.array(cld.covariance(jnp.asarray(times, jnp.float32)))
    np.testing.assert_allclose(narrow, solved[[2, 3, 5]], rtol=2e-3)


def test_cld_reads_back_data():
    o = cld.objective(sigma_data=0.7)
    x1, noise = batch(4, parts=2)
    t = jnp.asarray([0.01, 0.1, 0.3, 0.6])
    state = o.perturb(x1, noise, t)
    np.testing.assert_allclose(o.read(o.target(x1, noise, t), state, t), x1, rtol=2e-2, atol=2e-2)
    drawn = cld.prior(jax.random.key(0), (50_000, 1))
    np.testing.assert_allclose(np.std(drawn, axis=0), [1, 0.5], rtol=0.02)


def test_cld_multistep_is_exact_for_a_constant_estimate():
    times = cld.times_between(20.0, 0.05, 4)
    assert times[0] == 1 and (np.diff(times) < 0).all()
    assert cld.noise_level(times[-1]) == pytest.approx(0.05, rel=1e-2)
    fine, coarse = cld.multistep(np.linspace(1.0, 0.2, 33), order=0), cld.multistep(np.array([1.0, 0.2]), order=0)
    m, x1 = np.array([0.3, -0.2]), 0.8
    for row in range(32):
        m = fine.transition[row] @ m + fine.weights[row, 0] * x1
    start = np.array([0.3, -0.2])
    np.testing.assert_allclose(coarse.transition[0] @ start + coarse.weights[0, 0] * x1, m, rtol=1e-6)
