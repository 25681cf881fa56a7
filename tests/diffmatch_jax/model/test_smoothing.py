"""Blur by matrices: the same as by filters, and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from diffmatch_jax.model.resize import blur, gaussian_matrix


@pytest.mark.parametrize(("size", "sigma"), [((20, 31), 1.5), ((5, 9), 4.0), ((1, 8), 2.0)])
def test_is_the_mirrored_filter(size, sigma):
    """Also where the kernel is longer than the picture and is mirrored more than once."""
    x = np.random.default_rng(0).uniform(size=(*size, 2))
    radius = round(4 * sigma)
    want = ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="mirror", radius=(radius, radius, 0))
    np.testing.assert_allclose(blur(x, sigma, reach=radius), want, atol=1e-12)


def test_a_traced_width_gives_the_same():
    x = np.random.default_rng(1).uniform(size=(12, 17, 2))
    got = jax.jit(lambda x, sigma: blur(x, sigma, reach=9, radius=3 * sigma))(jnp.asarray(x, jnp.float32), 2.0)
    np.testing.assert_allclose(got, blur(x, 2.0, reach=6), atol=1e-6)
    assert isinstance(blur(x, 2.0, reach=6), np.ndarray)


def test_constants_stay_and_wide_blurs_average():
    matrix = gaussian_matrix(9, 2.5, reach=10)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-14)
    # Mirrored about the outermost centres these count half.
    weights = np.array([0.5, *np.ones(7), 0.5]) / 8
    np.testing.assert_allclose(gaussian_matrix(9, 60.0, reach=400), np.tile(weights, (9, 1)), atol=1e-6)
