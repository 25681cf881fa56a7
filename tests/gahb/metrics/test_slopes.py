"""Optima in closed form, and slopes fitted to curves whose slopes are known."""

import jax
import numpy as np
import pytest

from common.errors import InputError
from gahb.datasets.manifolds import DIMENSIONS
from gahb.metrics import psnr as slopes
from gahb.metrics.psnr import summarise

KEY = jax.random.key(0)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0, 5.0])
def test_diagonal_signals_have_the_contour_slope(alpha):
    sigma = 10.0 ** np.linspace(-4, -2, 9)
    energy = np.arange(1.0, 200_001.0) ** -(alpha + 1)
    gains = 1 + 0.5 * np.random.default_rng(0).random((20, 1))  # images differ in strength, not in regularity
    error = np.stack([slopes.oracle_mse(gain**2 * energy, sigma) for gain in gains], -1)
    curve = summarise(sigma, error)
    fit = slopes.fit_slope(curve.input_psnr, curve.per_image, KEY, selected=np.ones(9, bool), resamples=100)
    assert abs(fit.slope - slopes.contour_slope(alpha)) < 0.01
    assert np.abs(fit.local - slopes.contour_slope(alpha)).max() < 0.02
    assert 0 < fit.standard_error < 0.01


def test_oracle_of_one_coefficient():
    np.testing.assert_allclose(slopes.oracle_mse(np.array([4.0]), [1.0, 2.0]), [0.8, 2.0])
    np.testing.assert_allclose(slopes.oracle_mse(np.array([[4.0], [0.0]]), [1.0]), [[0.8, 0.0]])


@pytest.mark.parametrize(("name", "dimension"), [("disks", 5), ("sinusoids", 2), ("scaled_image", 1)])
def test_bound_of_a_manifold_is_a_line_of_slope_one(name, dimension):
    assert DIMENSIONS[name] == dimension
    sigma, pixels = np.array([0.001, 0.01, 0.05]), 40 * 40
    total = slopes.manifold_mse(sigma, dimension=dimension)
    np.testing.assert_allclose(total, dimension * sigma**2)
    curve = summarise(sigma, (total / pixels)[:, None])
    np.testing.assert_allclose(
        slopes.manifold_psnr(curve.input_psnr, dimension=dimension, pixels=pixels), curve.psnr_of_mean, rtol=1e-12
    )
    fit = slopes.fit_slope(curve.input_psnr, curve.per_image, KEY, selected=[True] * 3)
    assert abs(fit.slope - 1) < 1e-12
    assert abs(fit.intercept - 10 * np.log10(pixels / dimension)) < 1e-10
    assert np.isnan(fit.standard_error)


def test_window_of_the_protocol():
    levels = np.arange(34.0, -1.0, -2.0)
    np.testing.assert_array_equal(levels[slopes.window(levels)], np.arange(30.0, 17.0, -2.0))
    np.testing.assert_array_equal(slopes.window(levels[::-1]), slopes.window(levels)[::-1])
    np.testing.assert_array_equal(slopes.window(np.array([16.9, 17.0, 18.0]), skip=0), [False, True, True])


def test_only_the_window_counts():
    levels = np.arange(34.0, -1.0, -2.0)
    output = np.where(slopes.window(levels), 5 + 0.6 * levels, 3 + 0.1 * levels**2)
    fit = slopes.fit_slope(levels, np.repeat(output[:, None], 4, axis=1), KEY, resamples=10)
    assert abs(fit.slope - 0.6) < 1e-12 and abs(fit.intercept - 5) < 1e-10
    assert fit.standard_error < 1e-12
    increasing = output[::-1]
    np.testing.assert_allclose(fit.local, np.diff(increasing) / 2)
    np.testing.assert_allclose(fit.local_input_psnr, np.arange(1.0, 34.0, 2.0))


def test_means_are_of_squared_errors_not_of_decibels():
    levels = np.array([20.0, 30.0])
    per_image = np.array([[20.0, 30.0], [30.0, 50.0]])
    fit = slopes.fit_slope(levels, per_image, KEY, selected=[True, True], resamples=10)
    low, high = (-10 * np.log10((10 ** (-row / 10)).mean()) for row in per_image)
    assert abs(fit.slope - (high - low) / 10) < 1e-12


def test_bootstrap_agrees_with_repetition():
    levels, truth, generator = np.arange(18.0, 31.0, 2.0), 0.7, np.random.default_rng(3)

    def curve():
        slope = truth + 0.05 * generator.standard_normal(200)
        return 10 + slope * levels[:, None] + 0.3 * generator.standard_normal((len(levels), 200))

    fits = [slopes.fit_slope(levels, curve(), KEY, selected=[True] * 7, resamples=200) for _ in range(60)]
    spread = np.std([fit.slope for fit in fits], ddof=1)
    errors = np.array([fit.standard_error for fit in fits])
    assert 0.7 < errors.mean() / spread < 1.4


def test_same_key_same_error():
    levels = np.array([20.0, 24.0, 28.0])
    per_image = 5 + 0.5 * levels[:, None] + np.random.default_rng(0).standard_normal((3, 10))
    fit = slopes.fit_slope(levels, per_image, KEY, selected=[True] * 3, resamples=50)
    again = slopes.fit_slope(levels, per_image, KEY, selected=[True] * 3, resamples=50)
    other = slopes.fit_slope(levels, per_image, jax.random.key(1), selected=[True] * 3, resamples=50)
    assert fit.standard_error == again.standard_error != other.standard_error
    assert fit.slope == other.slope


@pytest.mark.parametrize(
    ("levels", "per_image", "selected", "message"),
    [
        ([20.0, 30.0], np.zeros((3, 4)), None, "per_image: expected"),
        ([20.0, 30.0], np.zeros(2), None, "per_image: expected"),
        ([20.0, 30.0], np.zeros((2, 4)), [True, False], "selected: expected at least 2 different input PSNRs, got 1"),
        ([20.0, 20.0], np.zeros((2, 4)), [True, True], "selected: expected"),
        ([20.0, 30.0], np.zeros((2, 4)), None, "got 0 of 2"),
    ],
)
def test_bad_input(levels, per_image, selected, message):
    with pytest.raises(InputError, match=message):
        slopes.fit_slope(np.array(levels), per_image, KEY, selected=selected)
