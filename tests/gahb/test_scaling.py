"""Ranges."""

import jax.numpy as jnp
import numpy as np

from gahb.similarity import rescale


def test_rescale_meets_both_ends_in_proportion():
    x = jnp.array([[2.0, 3.0], [4.0, 6.0]])
    np.testing.assert_allclose(rescale(x), [[0, 0.25], [0.5, 1]])
    np.testing.assert_allclose(rescale(x, low=-1, high=1), [[-1, -0.5], [0, 1]])
    np.testing.assert_array_equal(rescale(jnp.full((2, 2), 7.0), low=0.5, high=1), 0.5)
