"""The evaluation's numbers against denoisers whose result is known."""

import jax
import numpy as np
import pytest

from common.data.fitted import Crops, FixedCrops
from common.data.source import ArraySource
from common.errors import InputError
from gahb.evaluation import clustered_error, denoise_at, evaluate
from gahb.reference import fit, wiener


@pytest.fixture(scope="module")
def smooth():
    """Images with most of their power in the low frequencies."""
    rng = np.random.default_rng(0)
    return np.cumsum(np.cumsum(rng.normal(size=(40, 12, 12, 1)), 1), 2).astype(np.float32) * 0.02 + 0.5


def run(denoise, images, **how):
    arguments = {"sigmas": (0.1, 0.2), "curve_db": (20.0, 0.0), "panel": images[:2], "prior": fit(images), **how}
    return evaluate(denoise, jax.random.key(0), images=images, **arguments)


def test_doing_nothing_gives_the_input(smooth):
    found = run(lambda y: y, smooth)
    for row, sigma in zip(found.numbers["table"], (0.1, 0.2), strict=True):
        assert row["sigma"] == sigma
        np.testing.assert_allclose(row["noisy"], -20 * np.log10(sigma))
        np.testing.assert_allclose(row["denoised"], row["noisy"], atol=0.2)
        np.testing.assert_allclose(row["gain"], row["denoised"] - row["wiener"])
        assert row["gain"] < -1
    np.testing.assert_allclose(found.arrays["curve.sigma"], [0.1, 1.0])
    np.testing.assert_array_equal(found.arrays["panel.noisy"], found.arrays["panel.denoised"])


def test_rivals_see_the_same_noise(smooth):
    """A denoiser that is the Wiener filter of one level gains exactly nothing over it there."""
    found = run(wiener(fit(smooth), 0.1), smooth)
    assert found.numbers["table"][0]["gain"] == 0.0
    assert found.numbers["table"][1]["gain"] < 0.0


def test_order_of_the_numbers(smooth):
    found = run(wiener(fit(smooth), 0.1), smooth)
    of_mean = found.numbers["psnr_of_mean_mse"]
    assert set(of_mean) == {"noisy", "denoised", "wiener"}
    # The logarithm of a mean is below the mean of the logarithms.
    for i, row in enumerate(found.numbers["table"]):
        assert of_mean["denoised"][i] <= row["denoised"] and of_mean["noisy"][i] == row["noisy"]
    assert list(found.numbers["table"][0]) == ["sigma", "noisy", "denoised", "error", "wiener", "gain", "gain_error"]


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


def test_clustered_error_in_closed_form():
    values = np.array([1.0, 3.0, 4.0, 4.0, 6.0, 12.0])
    # Alone, it is the usual standard error.
    np.testing.assert_allclose(clustered_error(values, np.arange(6)), values.std(ddof=1) / np.sqrt(6))
    # Equal numbers of each origin: that of the means of the origins.
    means = values.reshape(3, 2).mean(1)
    np.testing.assert_allclose(clustered_error(values, [7, 7, 1, 1, 4, 4]), means.std(ddof=1) / np.sqrt(3))
    # Copies of an image say nothing new, whatever their number.
    copies = np.repeat([2.0, 5.0, 9.0], 50)
    np.testing.assert_allclose(
        clustered_error(copies, np.repeat([0, 1, 2], 50)), np.std([2, 5, 9], ddof=1) / np.sqrt(3)
    )
    assert np.isnan(clustered_error(values, np.zeros(6)))
    np.testing.assert_allclose(
        clustered_error(np.stack([values, 2 * values]), [0, 0, 0, 1, 1, 2]),
        clustered_error(values, [0, 0, 0, 1, 1, 2]) * np.array([1, 2]),
    )


def test_clustered_error_is_that_of_resampled_origins():
    rng = np.random.default_rng(0)
    origins = np.repeat(np.arange(40), rng.integers(1, 9, 40))
    values = rng.normal(size=40)[origins] + rng.normal(size=len(origins))
    sums, counts = np.bincount(origins, values), np.bincount(origins)
    chosen = rng.integers(0, 40, (4000, 40))
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    assert clustered_error(values, origins) == pytest.approx(means.std(), rel=0.06)
    # Crops of one photograph that are taken for independent ones look twice as certain.
    assert clustered_error(values, np.arange(len(values))) < 0.75 * means.std()


def test_errors_are_over_the_photographs(smooth):
    few = np.repeat(smooth[:3], 10, axis=0)
    origins = np.repeat([0, 1, 2], 10)
    found, alone = (run(lambda y: 0.2 * y, few, origins=each) for each in (origins, None))
    assert found.numbers["num_origins"] == 3 and alone.numbers["num_origins"] == found.numbers["num_images"] == 30
    per_image = found.arrays["levels.per_image"]
    np.testing.assert_array_equal(per_image, alone.arrays["levels.per_image"])
    for i, row in enumerate(found.numbers["table"]):
        means = per_image[i].reshape(3, 10).mean(1)
        assert row["error"] == pytest.approx(means.std(ddof=1) / np.sqrt(3), rel=1e-6)
        gains = (per_image[i] - found.arrays["levels.wiener.per_image"][i]).reshape(3, 10).mean(1)
        assert row["gain_error"] == pytest.approx(gains.std(ddof=1) / np.sqrt(3), rel=1e-6)
        assert row["error"] > 2 * alone.numbers["table"][i]["error"]
    np.testing.assert_array_equal(
        found.arrays["levels.mean_psnr_error"], [row["error"] for row in found.numbers["table"]]
    )


def test_origins_are_one_for_each_image(smooth):
    with pytest.raises(InputError, match=r"^origins: expected \[40\], got \[3\]"):
        run(lambda y: y, smooth, origins=[0, 1, 2])
    with pytest.raises(InputError, match="^sigma: expected a list of positive numbers"):
        run(lambda y: y, smooth, sigmas=(0.1, 0.0))


def test_crops_know_their_photograph():
    photographs = ArraySource({"image": np.zeros((3, 16, 16, 1), np.uint8)})
    source = FixedCrops(Crops(photographs, size=8), np.array([[16, 16, 1]] * 3), 8)
    assert [source.origin(i) for i in range(len(source))] == np.repeat([0, 1, 2], 9).tolist()
    assert ArraySource({"image": np.zeros((3, 4, 4, 1))}).origin(2) == 2
