"""The oracle that knows the contour: closed forms, its own filter applied to Gaussian fields, and the class itself."""

import jax
import numpy as np
import pytest

from common.errors import InputError
from configs.gahb.base import base
from gahb.datasets import calpha, synthetic
from gahb.reference import contour_variances, wiener_mse

SIZE = 8
POWER = calpha.gain_2d(SIZE) ** 2 / 3
SIGMAS = np.array([0.01, 0.1, 0.5])


def test_one_background_is_the_stationary_wiener_filter():
    variances = contour_variances(np.ones((SIZE, SIZE)), POWER, (0.7, 9.0))
    np.testing.assert_allclose(variances, np.sort(0.49 * POWER.ravel())[::-1], rtol=1e-9)
    np.testing.assert_allclose(contour_variances(np.zeros((SIZE, SIZE)), POWER, (9.0, 0.7)), variances, rtol=1e-9)
    want = [(sigma**2 * 0.49 * POWER / (0.49 * POWER + sigma**2)).mean() for sigma in SIGMAS]
    np.testing.assert_allclose(wiener_mse(variances, SIGMAS), want, rtol=1e-9)


def test_white_backgrounds_are_pixels_by_themselves():
    mask = np.random.default_rng(0).random((4, 6))
    variances = contour_variances(mask, np.full((4, 6), 0.2), (2.0, 3.0))
    pixels = 0.2 * (4 * mask**2 + 9 * (1 - mask) ** 2)
    np.testing.assert_allclose(variances, np.sort(pixels.ravel())[::-1], rtol=1e-10)
    sigma = 0.3
    np.testing.assert_allclose(wiener_mse(variances, sigma), [(sigma**2 * pixels / (pixels + sigma**2)).mean()])


def test_error_is_that_of_the_filter_on_gaussian_fields():
    rng = np.random.default_rng(1)
    mask = (np.arange(SIZE)[:, None] >= rng.integers(2, 6, SIZE)).astype(float)
    mask[:, 2] = 0.5
    a, sigma, count = (0.8, 0.4), 0.2, 4000

    def fields():
        white = rng.normal(size=(count, SIZE, SIZE))
        return np.fft.ifft2(np.fft.fft2(white) * np.sqrt(POWER)).real

    x = (a[0] * fields() * mask + a[1] * fields() * (1 - mask)).reshape(count, -1)
    y = x + sigma * rng.normal(size=x.shape)
    # The best linear map, fitted to other pairs of the same law, comes close; the formula is its limit.
    half = count // 2
    best = np.linalg.lstsq(y[:half], x[:half], rcond=None)[0]
    expected = wiener_mse(contour_variances(mask, POWER, a), sigma)[0]
    fitted, tested = (np.square(y[rows] @ best - x[rows]).mean() for rows in (slice(half), slice(half, None)))
    assert fitted < expected < tested
    assert expected == pytest.approx((fitted + tested) / 2, rel=0.01)


def test_slope_of_a_background_is_alpha_minus_one_over_alpha():
    """n-th largest variance ~ n^-alpha in two dimensions, so that PSNR rises by (alpha - 1) / alpha dB per dB."""
    sigmas = 10 ** (-np.arange(30.0, 60.0, 4) / 20)
    for alpha, slope in ((2.0, 0.5), (3.0, 2 / 3), (4.0, 0.75)):
        variances = (calpha.gain_2d(256) ** (2 * alpha)).ravel()
        psnr = -10 * np.log10(wiener_mse(variances, sigmas))
        assert np.polyfit(-20 * np.log10(sigmas), psnr, 1)[0] == pytest.approx(slope, abs=0.01)


def config(**changes):
    made = base()
    made.data.source, made.data.size, made.data.flip = "calpha", 16, False
    for name, value in changes.items():
        made.synthetic[name] = value
    return made


@pytest.mark.parametrize("background", ["isotropic", "separable"])
def test_the_geometry_of_a_source_is_that_of_its_images(background):
    """Dividing by what the oracle knows leaves the filtered noise, up to a constant."""
    made = config(alpha=2.0, background=background)
    source = synthetic.build(made)["test"]
    i = 4
    key = jax.random.fold_in(jax.random.key(1), i)
    draws = calpha.draw(key, 16)
    mask = np.asarray(calpha.blurred_mask(draws, alpha=2.0))
    factors = np.asarray(calpha.amplitudes(draws, beta=2.0, kind=background))
    image = source[i]["image"][..., 0]
    gain = calpha.gain_2d(16, separable=background == "separable") ** 2
    for white, factor, alone in ((draws.first, factors[0], mask == 1), (draws.second, factors[1], mask == 0)):
        rest = (image - factor * np.asarray(calpha.filtered(white, gain)))[alone]
        assert rest.std() < 1e-5 and rest.size > 10
    variances = contour_variances(mask, gain**2 / 3, factors)
    np.testing.assert_allclose(source.oracle_mse([i], SIGMAS)[:, 0], wiener_mse(variances, SIGMAS), rtol=1e-5)


def test_only_two_stationary_backgrounds_have_an_oracle():
    for made in (config(background="constant"), config(antialias=1)):
        source = synthetic.build(made)["test"]
        assert not source.has_oracle and source.oracle_mse([0], SIGMAS) is None


def test_error_is_below_that_of_doing_nothing_and_of_the_mean():
    source = synthetic.build(config(alpha=1.0))["test"]
    error = source.oracle_mse(range(3), SIGMAS)
    assert error.shape == (3, 3) and (np.diff(error, axis=0) > 0).all()
    assert (error < SIGMAS[:, None] ** 2).all() and (error < 0.3).all()


@pytest.mark.parametrize(
    ("mask", "power", "amplitudes", "message"),
    [
        (np.ones((4, 4)), np.ones((4, 5)), (1, 1), "mask, power: expected two arrays"),
        (np.ones(4), np.ones(4), (1, 1), "mask, power: expected two arrays"),
        (np.ones((4, 4)), np.ones((4, 4)), (1,), "amplitudes: expected two numbers"),
        (2 * np.ones((4, 4)), np.ones((4, 4)), (1, 1), r"mask: expected numbers in \[0, 1\]"),
        (np.ones((4, 4)), -np.ones((4, 4)), (1, 1), "power: expected finite variances"),
        (np.full((4, 4), np.nan), np.ones((4, 4)), (1, 1), "mask: expected"),
    ],
)
def test_bad_input(mask, power, amplitudes, message):
    with pytest.raises(InputError, match=message):
        contour_variances(mask, power, amplitudes)


def test_noise_is_positive():
    for sigma in (0, -1, float("nan"), []):
        with pytest.raises(InputError, match="^sigma: expected"):
            wiener_mse(np.ones(3), sigma)
