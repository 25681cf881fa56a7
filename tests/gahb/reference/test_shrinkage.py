"""Shrinkage in fixed bases: PyWavelets' own coefficients, closed-form errors, bounds of the oracle."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pywt
import scipy.fft

from common.errors import InputError
from gahb.metrics.psnr import psnr_curve
from gahb.reference import dct, oracle, oracle_error, soft_error, soft_threshold, wavelet

SHAPE = (16, 24, 2)


def images(count=2, shape=SHAPE):
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(count, *shape)), 1), 2)
    return 0.5 + 0.3 * smooth / np.abs(smooth).max()


def by_pywavelets(image, name, levels):
    """Coefficients `[H, W, C]` from PyWavelets, channel by channel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that every coefficient of a small image feels the border
        channels = [
            pywt.coeffs_to_array(pywt.wavedec2(image[..., c], name, "periodization", level=levels))[0]
            for c in range(image.shape[-1])
        ]
    return np.stack(channels, -1)


@pytest.mark.parametrize("name", ["haar", "db2", "sym4", "coif2", "db8"])
@pytest.mark.parametrize("levels", [0, 1, 3])
def test_wavelet_transform_is_that_of_pywavelets(name, levels):
    with jax.enable_x64(True):
        x = images()
        basis = wavelet(SHAPE, name=name, levels=levels)
        got = basis.analyze(x)
        np.testing.assert_allclose(got, np.stack([by_pywavelets(each, name, levels) for each in x]), atol=1e-10)
        np.testing.assert_allclose(basis.synthesize(got), x, atol=1e-10)
        assert basis.coarse.sum() == (16 >> levels) * (24 >> levels)


@pytest.mark.parametrize("make", [dct, wavelet])
def test_bases_are_orthonormal(make):
    with jax.enable_x64(True):
        shape = (8, 4, 1)
        basis = make(shape)
        matrix = np.asarray(basis.analyze(np.eye(32).reshape(32, *shape))).reshape(32, 32)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(32), atol=1e-10)
        back = np.asarray(basis.synthesize(np.eye(32).reshape(32, *shape))).reshape(32, 32)
        np.testing.assert_allclose(back, matrix.T, atol=1e-10)


def test_default_levels_and_coarse_scale():
    assert wavelet((80, 80, 1)).coarse.sum() == 25  # 80 -> 40 -> 20 -> 10 -> 5
    assert wavelet((32, 64, 1)).coarse.sum() == 4 * 8
    assert wavelet((9, 9, 1)).coarse.all()
    x = images()
    np.testing.assert_allclose(
        dct(SHAPE).analyze(x.astype(np.float32)), scipy.fft.dctn(x, axes=(1, 2), norm="ortho"), atol=1e-5
    )
    assert dct(SHAPE).coarse.sum() == 1 and dct(SHAPE).coarse[0, 0]


def test_soft_threshold_moves_coefficients_towards_zero():
    with jax.enable_x64(True):
        x = images()
        basis = wavelet(SHAPE, name="db2", levels=2)
        c = by_pywavelets(x[0], "db2", 2)
        want = pywt.threshold(c, 0.05 * 1.5, "soft")
        want[:4, :6] = c[:4, :6]
        got = basis.analyze(soft_threshold(basis, 0.05, threshold=1.5)(x))[0]
        np.testing.assert_allclose(got, want, atol=1e-12)
        universal = np.sqrt(2 * np.log(16 * 24 * 2))
        np.testing.assert_array_equal(
            soft_threshold(basis, 0.05)(x), soft_threshold(basis, 0.05, threshold=universal)(x)
        )


@pytest.mark.parametrize("make", [dct, wavelet])
def test_expected_error_of_the_soft_threshold(make):
    basis, sigma, draws = make((8, 8, 1)), 0.1, 4000
    x = images(1, (8, 8, 1)).astype(np.float32)
    noisy = x + sigma * np.random.default_rng(1).normal(size=(draws, 8, 8, 1)).astype(np.float32)
    for threshold in (0.5, 2.0):
        denoised = np.asarray(soft_threshold(basis, sigma, threshold=threshold)(noisy))
        error = np.square(denoised - x).sum((1, 2, 3))
        expected = soft_error(basis, x, sigma, threshold=threshold)[0]
        assert abs(error.mean() - expected) < 4 * error.std() / np.sqrt(draws)
        assert error.std() / np.sqrt(draws) < 0.01 * expected
    # Without a threshold all noise stays; an endless one leaves the coarse noise and loses the rest.
    np.testing.assert_allclose(soft_error(basis, x, sigma, threshold=0.0), 64 * sigma**2, rtol=1e-6)
    rest = np.square(np.where(basis.coarse, 0, basis.analyze(x))).sum()
    lost = int(basis.coarse.sum()) * sigma**2 + rest
    np.testing.assert_allclose(soft_error(basis, x, sigma, threshold=1e3), lost, rtol=1e-4)


@pytest.mark.parametrize("make", [dct, wavelet])
def test_oracle_is_optimal_and_bounded(make):
    with jax.enable_x64(True):
        basis, sigma = make((8, 8, 1)), 0.1
        x = images(1, (8, 8, 1))
        c = np.asarray(basis.analyze(x)).ravel()
        bound = np.minimum(c**2, sigma**2).sum()
        error = oracle_error(basis, x, sigma)[0]
        assert bound / 2 <= error <= bound
        jacobian = np.asarray(jax.jacobian(lambda y: oracle(basis, sigma)(x)(y))(x)).reshape(64, 64)
        bias = jacobian @ x.ravel() - x.ravel()
        assert bias @ bias + sigma**2 * np.square(jacobian).sum() == pytest.approx(error, rel=1e-9)
        assert error == pytest.approx(sigma**2 * np.trace(jacobian), rel=1e-9)

        def diagonal(gain):
            return (np.square(gain - 1) * c**2 + sigma**2 * np.square(gain)).sum()

        best = c**2 / (c**2 + sigma**2)
        assert diagonal(best) == pytest.approx(error)
        assert all(diagonal(best + d) > error for d in np.random.default_rng(0).normal(size=(5, 64)) / 20)
        assert soft_error(basis, x, sigma)[0] > error


def test_decaying_coefficients_give_the_slope_of_their_decay():
    # c_k^2 = k^-(alpha + 1): error ~ sigma^(2 alpha / (alpha + 1)), the optimum on C^alpha images.
    shape, k = (64, 64, 1), np.arange(1, 4097.0)
    with jax.enable_x64(True):
        basis = dct(shape)
        for alpha in (1, 3):
            x = basis.synthesize(jnp.asarray(k ** (-(alpha + 1) / 2)).reshape(1, *shape))
            low, high = (oracle_error(basis, x, sigma)[0] for sigma in (0.01 * 2**-0.5, 0.01 * 2**0.5))
            assert np.log2(high / low) == pytest.approx(2 * alpha / (alpha + 1), abs=0.03)


def test_denoisers_of_the_other_tools():
    x = images(3, (16, 16, 1)).astype(np.float32)
    basis, sigma = wavelet((16, 16, 1)), 0.1
    denoisers = [soft_threshold(basis, sigma), oracle(basis, sigma)(x)]
    curve = psnr_curve(denoisers, x, [sigma] * 2, jax.random.key(0), batch_size=3)
    assert 20 < curve.psnr_of_mean[0] < curve.psnr_of_mean[1]
    expected = -10 * np.log10(oracle_error(basis, x, sigma).mean() / 256)
    assert abs(curve.psnr_of_mean[1] - expected) < 1.5
    # The denoiser of one image takes any number of its noisy versions.
    np.testing.assert_allclose(oracle(basis, sigma)(x[:1])(x)[0], denoisers[1](x)[0], atol=1e-6)
    assert denoisers[0](x).dtype == jnp.float32


def test_another_sigma_or_threshold_compiles_nothing():
    traces = []

    @jax.jit
    def run(denoise, y):
        traces.append(1)
        return denoise(y)

    basis, y = wavelet((16, 16, 1)), images(3, (16, 16, 1))
    one, two = (run(soft_threshold(basis, sigma, threshold=t), y) for sigma, t in ((0.1, 1), (0.2, None)))
    assert len(traces) == 1 and np.abs(one - two).max() > 1e-3


def test_mistakes_are_named():
    with pytest.raises(InputError, match='name: expected one of .* got "sym44"; did you mean "sym4"'):
        wavelet(SHAPE, name="sym44")
    with pytest.raises(InputError, match='name: expected an orthonormal wavelet, got "bior2.2"'):
        wavelet(SHAPE, name="bior2.2")
    with pytest.raises(InputError, match="levels: expected sides that are multiples of 16, got 16x24"):
        wavelet(SHAPE, levels=4)
    with pytest.raises(InputError, match=r"y: expected \[B, 16, 24, 2\], got \[1, 24, 16, 2\]"):
        wavelet(SHAPE).analyze(jnp.zeros((1, 24, 16, 2)))
    with pytest.raises(InputError, match="sigma: expected a positive number, got 0"):
        soft_threshold(dct(SHAPE), 0)
