"""PSNR curves against closed forms and against a plain loop.

The evaluation's numbers against denoisers whose result is known.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from common.data.fitted import Crops, FixedCrops
from common.data.source import ArraySource
from common.errors import InputError
from gahb.metrics.psnr import clustered_error, denoise_at, evaluate, psnr_curve, summarise
from gahb.reference import expected_mse, fit, wiener

IMAGES = np.random.default_rng(0).uniform(size=(7, 8, 8, 1)).astype(np.float32)
SIGMAS = (0.02, 0.1, 0.5)
KEY = jax.random.key(0)


def identity(y):
    return y


def test_identity_keeps_the_input_psnr():
    many = np.zeros((64, 16, 16, 1), np.float32)
    curve = psnr_curve(identity, many, SIGMAS, KEY)
    np.testing.assert_allclose(curve.input_psnr, -20 * np.log10(SIGMAS))
    np.testing.assert_allclose(curve.psnr_of_mean, curve.input_psnr, atol=0.15)
    # The relative standard deviation of a mean of d squares is sqrt(2 / d).
    want = 10 / np.log(10) * np.sqrt(2 / 256 / 64)
    np.testing.assert_allclose(curve.psnr_of_mean_error, want, rtol=0.3)
    np.testing.assert_allclose(curve.mean_psnr_error, want, rtol=0.3)
    assert (curve.mean_psnr > curve.psnr_of_mean).all()


def test_matrix_against_a_plain_loop():
    noise = np.random.default_rng(1).normal(size=(3, *IMAGES.shape)).astype(np.float32)
    denoise = Partial(jnp.multiply, jnp.float32(0.7))
    for batch_size in (2, 7, 100):
        curve = psnr_curve(denoise, IMAGES, SIGMAS, KEY, noise=noise, batch_size=batch_size)
        for s, sigma in enumerate(SIGMAS):
            error = np.square(0.7 * (IMAGES + sigma * noise[s]) - IMAGES).mean((1, 2, 3))
            np.testing.assert_allclose(curve.per_image[s], -10 * np.log10(error), atol=1e-4)
            assert curve.mean_psnr[s] == pytest.approx(np.mean(-10 * np.log10(error)), abs=1e-4)
            assert curve.psnr_of_mean[s] == pytest.approx(-10 * np.log10(error.mean()), abs=1e-4)


def test_noise_belongs_to_image_and_level():
    whole = psnr_curve(identity, IMAGES, SIGMAS, KEY, batch_size=7).per_image
    np.testing.assert_allclose(psnr_curve(identity, IMAGES, SIGMAS, KEY, batch_size=3).per_image, whole, atol=1e-4)
    np.testing.assert_allclose(psnr_curve(identity, IMAGES[:4], SIGMAS, KEY).per_image, whole[:, :4], atol=1e-4)
    relative = whole - whole.mean(1, keepdims=True)
    assert np.abs(relative[0] - relative[1]).max() > 0.1
    assert np.abs(whole - psnr_curve(identity, IMAGES, SIGMAS, jax.random.key(1)).per_image).max() > 0.1


def test_one_trace_for_all_levels_and_batches():
    traces = []

    def traced(scale, y):
        traces.append(1)
        return scale * y

    psnr_curve(Partial(traced, jnp.float32(1)), IMAGES, SIGMAS, KEY, batch_size=3)
    psnr_curve(Partial(traced, jnp.float32(0.5)), IMAGES, (0.3,), KEY, batch_size=3)
    assert len(traces) == 1


def test_a_denoiser_per_level():
    rng = np.random.default_rng(2)
    images = (0.5 + 0.1 * np.cumsum(rng.normal(size=(400, 8, 8, 1)), 1)).astype(np.float32)
    prior = fit(images)
    filters = [wiener(prior, sigma) for sigma in SIGMAS]
    curve = psnr_curve(filters, images, SIGMAS, KEY)
    want = [-10 * np.log10(expected_mse(prior, sigma)) for sigma in SIGMAS]
    np.testing.assert_allclose(curve.psnr_of_mean, want, atol=0.1)
    with pytest.raises(InputError, match="denoise: expected 3 denoisers, got 2"):
        psnr_curve(filters[:2], images, SIGMAS, KEY)


def test_summary_of_a_single_image_has_no_error_bar():
    curve = summarise(np.array([0.1]), np.array([[0.01]]))
    assert curve.mean_psnr == curve.psnr_of_mean == pytest.approx(20)
    assert np.isnan(curve.mean_psnr_error).all() and np.isnan(curve.psnr_of_mean_error).all()


def test_mistakes_are_named():
    with pytest.raises(InputError, match="images: expected at least one image"):
        psnr_curve(identity, IMAGES[:0], SIGMAS, KEY)
    with pytest.raises(InputError, match=r"noise: expected \[3, 7, 8, 8, 1\], got \[7, 8, 8, 1\]"):
        psnr_curve(identity, IMAGES, SIGMAS, KEY, noise=IMAGES)
    with pytest.raises(InputError, match=r"images: expected \[N, None, None, None\]|images: expected \[N, H, W, C\]"):
        psnr_curve(identity, IMAGES[0], SIGMAS, KEY)
    with pytest.raises(InputError, match="images: .*divide by 255"):
        psnr_curve(identity, 255 * IMAGES, SIGMAS, KEY)
    for batch_size in (0, -1, 2.5):
        with pytest.raises(InputError, match="batch_size: expected .*at least 1"):
            psnr_curve(identity, IMAGES, SIGMAS, KEY, batch_size=batch_size)


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
