"""The Wiener filter: optimal among filters, and its error is sigma^2 times the trace of its Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from common.errors import InputError
from gahb.reference import expected_mse, fit, wiener


def photographs(count=40, shape=(6, 5, 2)):
    """Smooth random images around 0.4."""
    rng = np.random.default_rng(0)
    rough = rng.normal(size=(count, *shape))
    smooth = rough + np.roll(rough, 1, 1) + np.roll(rough, 1, 2) + 0.3 * rng.normal(size=(count, 1, 1, 1))
    return (0.4 + 0.1 * smooth).astype(np.float32)


def mean_error(denoise, images, sigma):
    """The exact mean squared error over all noise of a linear filter: bias plus sigma^2 ||J||^2, per pixel."""
    jacobian = jax.jacobian(lambda y: denoise(y[None])[0])(images[0])
    bias = np.square(np.asarray(denoise(images)) - images).mean()
    return bias + sigma**2 * float(jnp.square(jacobian).sum()) / images[0].size, jacobian


@pytest.mark.parametrize("basis", ["dct", "dft"])
@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_error_is_the_trace_and_no_other_gains_do_better(basis, sigma):
    with jax.enable_x64(True):
        images = photographs().astype(np.float64)
        prior = fit(images, basis=basis)
        error, jacobian = mean_error(wiener(prior, sigma), images, sigma)
        size = images[0].size
        trace = float(np.trace(jacobian.reshape(size, size)))
        assert error == pytest.approx(sigma**2 * trace / size, rel=1e-9)
        assert error == pytest.approx(expected_mse(prior, sigma), rel=1e-9)
        np.testing.assert_allclose(jacobian.reshape(size, size), jacobian.reshape(size, size).T, atol=1e-12)
        assert error < min(sigma**2, images.var())
        rng = np.random.default_rng(1)
        for _ in range(3):
            # In the DFT a real filter must treat mirrored frequencies alike, so all are changed per channel.
            factor = rng.uniform(0.6, 1.6, prior.power.shape if basis == "dct" else (1, 1, 2))
            worse, _ = mean_error(wiener(prior._replace(power=prior.power * factor), sigma), images, sigma)
            assert worse > error


def test_power_is_that_of_the_transform():
    images = photographs()
    prior = fit(images, block=7)
    np.testing.assert_allclose(prior.mean, images.mean((0, 1, 2)), atol=1e-6)
    centred = images.astype(np.float64) - prior.mean
    coefficients = scipy.fft.dctn(centred, axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(prior.power, np.square(coefficients).mean(0), rtol=1e-10)
    assert prior.power.dtype == np.float64
    assert prior.power.sum() == pytest.approx(np.square(centred).sum((1, 2, 3)).mean())


def test_ends_of_the_noise_range():
    images = photographs()
    prior = fit(images)
    np.testing.assert_allclose(wiener(prior, 1e-6)(images), images, atol=1e-5)
    np.testing.assert_allclose(wiener(prior, 1e4)(images), np.broadcast_to(prior.mean, images.shape), atol=1e-4)
    flat = fit(np.full((2, 4, 4, 1), 0.25, np.float32))
    np.testing.assert_allclose(wiener(flat, 0.1)(jnp.ones((1, 4, 4, 1))), 0.25, atol=1e-6)
    assert wiener(prior, 0.1)(images).dtype == jnp.float32


def test_dct_beats_dft_on_images_that_do_not_close():
    ramp = np.linspace(0, 1, 16)[None, :, None, None] * np.linspace(-0.5, 0.5, 30)[:, None, None, None]
    images = (0.5 + ramp * np.ones((1, 1, 16, 1))).astype(np.float32)
    assert expected_mse(fit(images), 0.1) < 0.5 * expected_mse(fit(images, basis="dft"), 0.1)


def test_another_sigma_compiles_nothing():
    traces = []

    @jax.jit
    def run(denoise, y):
        traces.append(1)
        return denoise(y)

    prior = fit(photographs())
    low, high = (run(wiener(prior, sigma), photographs()) for sigma in (0.1, 0.5))
    assert len(traces) == 1
    assert np.std(high) < np.std(low)


def test_mistakes_are_named():
    with pytest.raises(InputError, match="basis: expected dct or dft, got 'wavelet'"):
        fit(photographs(), basis="wavelet")
    with pytest.raises(InputError, match=r"images: expected bytes \(uint8\) or floats in \[0, 1\], got uint16"):
        fit(np.zeros((2, 4, 4, 1), np.uint16))
    with pytest.raises(InputError, match=r"got \[0, 4, 4, 1\]"):
        fit(np.zeros((0, 4, 4, 1)))
    with pytest.raises(InputError, match=r"y: expected \[B, 6, 5, 2\], got \[1, 5, 6, 2\]"):
        wiener(fit(photographs()), 0.1)(jnp.zeros((1, 5, 6, 2)))
