"""The evaluation's numbers against denoisers whose result is known."""

import jax
import numpy as np
import pytest

from gahb.evaluation import denoise_at, evaluate
from gahb.reference import fit, wiener


@pytest.fixture(scope="module")
def smooth():
    """Images with most of their power in the low frequencies."""
    rng = np.random.default_rng(0)
    return np.cumsum(np.cumsum(rng.normal(size=(40, 12, 12, 1)), 1), 2).astype(np.float32) * 0.02 + 0.5


def run(denoise, images, **how):
    arguments = {"levels": (25.0, 50.0), "curve_db": (20.0, 0.0), "panel": images[:2], "prior": fit(images), **how}
    return evaluate(denoise, jax.random.key(0), images=images, **arguments)


def test_doing_nothing_gives_the_input(smooth):
    found = run(lambda y: y, smooth)
    for row, level in zip(found.numbers["table"], (25.0, 50.0), strict=True):
        np.testing.assert_allclose(row["noisy"], -20 * np.log10(level / 255))
        np.testing.assert_allclose(row["denoised"], row["noisy"], atol=0.2)
        np.testing.assert_allclose(row["gain"], row["denoised"] - row["wiener"])
        assert row["gain"] < -1
    np.testing.assert_allclose(found.arrays["curve.sigma"], [0.1, 1.0])
    np.testing.assert_array_equal(found.arrays["panel.noisy"], found.arrays["panel.denoised"])


def test_rivals_see_the_same_noise(smooth):
    """A denoiser that is the Wiener filter of one level gains exactly nothing over it there."""
    found = run(wiener(fit(smooth), 25 / 255), smooth)
    assert found.numbers["table"][0]["gain"] == 0.0
    assert found.numbers["table"][1]["gain"] < 0.0


def test_order_of_the_numbers(smooth):
    found = run(wiener(fit(smooth), 25 / 255), smooth)
    of_mean = found.numbers["psnr_of_mean_mse"]
    assert set(of_mean) == {"noisy", "denoised", "wiener"}
    # The logarithm of a mean is below the mean of the logarithms.
    for i, row in enumerate(found.numbers["table"]):
        assert of_mean["denoised"][i] <= row["denoised"] and of_mean["noisy"][i] == row["noisy"]
    assert list(found.numbers["table"][0]) == ["sigma", "noisy", "denoised", "error", "wiener", "gain"]


def test_panel(smooth):
    found = run(lambda y: 0.5 * y, smooth)
    clean, noisy, denoised = (found.arrays[f"panel.{name}"] for name in ("clean", "noisy", "denoised"))
    assert noisy.shape == denoised.shape == (2, *clean.shape)
    np.testing.assert_allclose(denoised, 0.5 * noisy, rtol=1e-6)
    noise = (noisy - clean) / found.arrays["panel.sigma"][:, None, None, None, None]
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-4)
    mse = np.square(denoised - clean).mean((2, 3, 4))
    np.testing.assert_allclose(found.arrays["panel.psnr"], -10 * np.log10(mse), rtol=1e-5)


def test_without_prior(smooth):
    found = run(lambda y: y, smooth, prior=None)
    assert not any("wiener" in name for name in found.arrays)
    assert set(found.numbers["psnr_of_mean_mse"]) == {"noisy", "denoised"}


def test_denoise_at_without_noise(smooth):
    noisy, denoised = denoise_at(lambda y: 2 * y, jax.random.key(0), smooth[:3], [0.0])
    np.testing.assert_array_equal(noisy[0], smooth[:3])
    np.testing.assert_array_equal(denoised[0], 2 * smooth[:3])
