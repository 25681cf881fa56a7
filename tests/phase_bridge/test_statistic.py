"""What a state tells about the data, against linear algebra in float64, and times found by noise level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from phase_bridge import bridge as bridges
from phase_bridge import statistic
from phase_bridge.bridge import Bridge

BRIDGES = st.builds(
    Bridge, p=st.floats(0.5, 5), correlation=st.floats(-0.9, 0.9), varx=st.floats(0.2, 5), varv=st.floats(0.2, 5)
)


def textbook(b, t):
    s_xx, s_xv, s_vv = bridges.covariance(b, t)
    c = np.array(bridges.mean_coefficients(b, t))
    return c, np.linalg.inv([[s_xx, s_xv], [s_xv, s_vv]])


@settings(deadline=None, max_examples=40)
@given(b=BRIDGES, t=st.floats(0.02, 0.9))
def test_against_linear_algebra(b, t):
    c, inverse = textbook(b, t)
    precision = c @ inverse @ c
    np.testing.assert_allclose(statistic.noise_level(b, t), precision**-0.5, rtol=1e-6)
    np.testing.assert_allclose(statistic.statistic_coefficients(b, t), c @ inverse / precision**0.5, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(b=BRIDGES, t=st.floats(0.0, 0.999))
def test_noise_of_the_copy(b, t):
    rng = np.random.default_rng(0)
    x1, noise = rng.standard_normal((4, 3)), rng.standard_normal((4, 6))
    m, _ = bridges.sample_bridge(b, noise, x1, t)
    e = statistic.statistic_noise(b, noise, t)
    root = statistic.root_precision(b, t)
    np.testing.assert_allclose(statistic.statistic(b, m, t), root * x1 + e, atol=1e-9 * max(1, root))
    unit = statistic.statistic_noise(b, np.array([1.0, 0]), t), statistic.statistic_noise(b, np.array([0.0, 1]), t)
    assert np.hypot(*unit) == pytest.approx(1)


def test_float32_and_batches():
    b = Bridge()
    t = np.array([1e-5, 0.1, 0.5, 0.9, 0.99])
    want = statistic.noise_level(b, t)
    np.testing.assert_allclose(statistic.noise_level(b, jnp.asarray(t, jnp.float32)), want, rtol=2e-4)
    m = jax.random.normal(jax.random.key(0), (5, 4))
    together = statistic.statistic(b, m, jnp.asarray(t, jnp.float32))
    for i in range(5):
        np.testing.assert_allclose(together[i], statistic.statistic(b, m[i : i + 1], t[i])[0], rtol=2e-3, atol=1e-4)


def test_the_rest_of_the_state_tells_nothing():
    """The posterior of a point mass mixture depends on the statistic alone."""
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
    assert statistic.statistic(b, m + across, t) == pytest.approx(statistic.statistic(b, m, t))


@settings(deadline=None, max_examples=20)
@given(b=BRIDGES, sigma=st.floats(1e-4, 500))
def test_times_by_noise_level(b, sigma):
    t = statistic.time_at_noise_level(b, sigma)
    assert 0 < t < 1
    np.testing.assert_allclose(statistic.noise_level(b, t), sigma, rtol=1e-6)


def test_table_and_bad_levels():
    levels, times = statistic.time_table(Bridge(), first=1e-5, last=0.999)
    assert (np.diff(levels) < 0).all() and (np.diff(times) > 0).all()
    np.testing.assert_allclose(times[[0, -1]], [1e-5, 0.999])
    with pytest.raises(InputError, match="sigma: expected positive finite noise levels, got 0"):
        statistic.time_at_noise_level(Bridge(), [1.0, 0.0])
