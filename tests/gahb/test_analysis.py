"""PSNR curves against closed forms and against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from common.errors import InputError
from gahb.analysis import psnr_curve, summarise
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
