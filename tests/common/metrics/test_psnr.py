"""PSNR against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.metrics.psnr import mse, psnr, sigma_to_psnr, ssim


@settings(max_examples=20, deadline=None)
@given(error=st.floats(1e-3, 10), peak=st.floats(0.1, 255))
def test_constant_error(error, peak):
    image = jnp.zeros((2, 3, 4, 1))
    np.testing.assert_allclose(mse(image, image + error), error**2, rtol=1e-5)
    np.testing.assert_allclose(psnr(image, image - error, peak=peak), 20 * np.log10(peak / error), atol=1e-3)


def test_each_image_has_its_own():
    image = jnp.zeros((3, 2, 2, 3))
    other = image + jnp.array([0.1, 1.0, 0.0])[:, None, None, None]
    np.testing.assert_allclose(psnr(image, other)[:2], [20, 0], atol=1e-4)
    assert np.isinf(psnr(image, other)[2])


def test_of_noise():
    assert sigma_to_psnr(0.1) == pytest.approx(20)
    np.testing.assert_allclose(sigma_to_psnr([25, 255], peak=255), [20.17200, 0], atol=1e-5)
    assert sigma_to_psnr(0.1).dtype == np.float64


@pytest.mark.parametrize(("high", "peak"), [(200, 255.0), (1, 255.0), (4000, 4095.0)])
def test_the_advice_for_integers_below_the_peak_keeps_their_numbers(high, peak):
    """Already on the scale of the peak, so that dividing them, or any other change, would give another PSNR."""
    image = np.full((1, 2, 2, 1), high, np.int32)
    with pytest.raises(InputError) as error:
        psnr(image, image, peak=peak)
    assert str(error.value).endswith("; use reference.astype(np.float32)")


def test_ssim_is_that_of_explicit_windows():
    rng = np.random.default_rng(0)
    x = 0.9 + 0.02 * rng.normal(size=(2, 13, 12, 2))
    y = x + [[[[0.1]]], [[[0.003]]]] * rng.normal(size=x.shape)
    weights = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    weights = np.outer(weights, weights)[..., None] / weights.sum() ** 2
    expected = np.zeros((2, 3, 2, 2))
    for n, i, j in np.ndindex(2, 3, 2):
        a, b = (each[n, i : i + 11, j : j + 11] for each in (x, y))
        mean_a, mean_b = (weights * a).sum((0, 1)), (weights * b).sum((0, 1))
        var_a, var_b, both = (
            (weights * p * q).sum((0, 1)) for p, q in ((a - mean_a,) * 2, (b - mean_b,) * 2, (a - mean_a, b - mean_b))
        )
        expected[n, i, j] = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        expected[n, i, j] *= (2 * both + 9e-4) / (var_a + var_b + 9e-4)
    np.testing.assert_allclose(ssim(x, y), expected.mean((1, 2, 3)), atol=2e-5)
    np.testing.assert_allclose(ssim(x, x), 1, atol=1e-6)
    with pytest.raises(InputError, match="height and width of at least 11, got"):
        ssim(x[:, :10], x[:, :10])
