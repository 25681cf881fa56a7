"""Scalings of a denoiser: unit variances, the best linear estimate, and both ends of the noise levels."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from phase_bridge.objectives import edm_scalings, log_normal


@settings(deadline=None, max_examples=30)
@given(sigma=st.floats(1e-3, 1e3), sigma_data=st.floats(0.05, 5.0))
def test_moments(sigma, sigma_data):
    c = edm_scalings(sigma, sigma_data=sigma_data)
    variance = sigma_data**2 + sigma**2
    assert np.isclose(c.input**2 * variance, 1)
    # Regression of x on y, and the variance it leaves.
    assert np.isclose(c.skip, sigma_data**2 / variance)
    assert np.isclose(c.out**2, sigma_data**2 - c.skip * sigma_data**2)
    # The network's target (x - skip y) / out has unit variance.
    assert np.isclose(((1 - c.skip) ** 2 * sigma_data**2 + c.skip**2 * sigma**2) / c.out**2, 1)
    assert np.isclose(np.exp(4 * c.label), sigma)


def test_extremes_in_float32():
    c = edm_scalings(jnp.asarray([1e-30, 1e30]), sigma_data=0.5)
    np.testing.assert_allclose(c.skip, [1, 0], atol=1e-30)
    np.testing.assert_allclose(c.out, [1e-30, 0.5], rtol=1e-6)
    np.testing.assert_allclose(c.input, [2, 1e-30], rtol=1e-6)


def test_log_normal():
    levels = np.log(log_normal(jax.random.key(0), mean=-1.0, std=0.5, shape=(20_000,)))
    assert abs(levels.mean() + 1) < 0.02 and abs(levels.std() - 0.5) < 0.02
