"""Traces, dimensions, asymmetry and Stein's risk estimate: exact values, and standard errors that can be believed."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from common.errors import InputError
from gahb import eigenbasis
from gahb.reference import expected_mse, fit, wiener

_SPEC = importlib.util.spec_from_file_location("matrices", Path(__file__).with_name("matrices.py"))
matrices = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(matrices)
SHAPE, SIZE = matrices.SHAPE, matrices.SIZE


def lopsided(seed=3):
    rng = np.random.default_rng(seed)
    return matrices.symmetric(0.93 ** np.arange(SIZE)) + 0.03 * rng.normal(size=(SIZE, SIZE))


@pytest.mark.parametrize("block", [7, 1000])
def test_exact_sums(block):
    matrix = lopsided()
    denoise, y = matrices.linear(matrix), matrices.image()
    divergence = eigenbasis.trace(denoise, y, block=block)
    assert divergence.value == pytest.approx(np.trace(matrix), rel=1e-5)
    assert (divergence.error, divergence.products) == (0, SIZE)
    trace, squares = eigenbasis.effective_dimension(denoise, y, block=block)
    assert trace.value == pytest.approx(np.trace(matrix), rel=1e-5)
    assert squares.value == pytest.approx(np.square(matrix).sum(), rel=1e-5)
    ratio = eigenbasis.asymmetry(denoise, y, block=block)
    want = np.linalg.norm(matrix - matrix.T) / np.linalg.norm(matrix + matrix.T)
    assert ratio.value == pytest.approx(want, rel=1e-5)
    assert (ratio.error, ratio.products) == (0, 2 * SIZE)


def estimates(function, count=60):
    found = [function(jax.random.key(seed)) for seed in range(count)]
    return np.array([each.value for each in found]), np.array([each.error for each in found])


def assert_honest(values, errors, truth):
    """The mean is right, and errors as large as they say: both within what chance allows for so many repetitions."""
    assert abs(values.mean() - truth) < 4 * values.std(ddof=1) / np.sqrt(len(values))
    assert 0.75 < errors.mean() / values.std(ddof=1) < 1.33
    assert np.mean(np.abs(values - truth) < 2 * errors) > 0.85


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_standard_errors_of_the_trace(method):
    matrix = lopsided()
    denoise, y = matrices.linear(matrix), matrices.image()
    values, errors = estimates(lambda key: eigenbasis.trace(denoise, y, key=key, num=48, method=method))
    assert_honest(values, errors, np.trace(matrix))


def test_hutch_plus_plus_is_exact_at_low_rank_where_hutchinson_is_not():
    values = np.concatenate([np.linspace(2, 1, 8), np.zeros(SIZE - 8)])
    denoise, y = matrices.linear(matrices.symmetric(values)), matrices.image()
    better = eigenbasis.trace(denoise, y, key=jax.random.key(0), num=48, method="hutch++")
    plain = eigenbasis.trace(denoise, y, key=jax.random.key(0), num=48)
    assert better.value == pytest.approx(12, abs=1e-4) and better.products == plain.products == 48
    assert better.error < 1e-4 < 0.1 < plain.error


def test_standard_errors_of_dimension_and_asymmetry():
    matrix = lopsided()
    denoise, y = matrices.linear(matrix), matrices.image()
    ratio = np.linalg.norm(matrix - matrix.T) / np.linalg.norm(matrix + matrix.T)
    assert_honest(*estimates(lambda key: eigenbasis.asymmetry(denoise, y, key=key, num=48)), ratio)
    squares = estimates(lambda key: eigenbasis.effective_dimension(denoise, y, key=key, num=48).squares)
    assert_honest(*squares, np.square(matrix).sum())


def test_an_estimate_does_not_depend_on_the_block():
    denoise, y = matrices.linear(lopsided()), matrices.image()
    one, other = (eigenbasis.trace(denoise, y, key=jax.random.key(0), num=30, block=block) for block in (4, 30))
    assert one.value == pytest.approx(other.value, rel=1e-5)


def test_symmetric_and_antisymmetric_matrices():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(SIZE, SIZE)) / SIZE
    y = matrices.image()
    assert eigenbasis.asymmetry(matrices.linear(matrix + matrix.T), y).value < 1e-6
    assert eigenbasis.asymmetry(matrices.linear(matrix - matrix.T), y).value == np.inf
    assert eigenbasis.asymmetry(matrices.linear(np.zeros((SIZE, SIZE))), y).value == 0


def test_homogeneity():
    y = matrices.image()
    assert eigenbasis.homogeneity(lambda y: jnp.maximum(y, 2 * y - 0.0), y) < 1e-6
    # J y = y, f(y) = y + 1
    want = np.linalg.norm(np.ones(SIZE)) / np.linalg.norm(y + 1)
    assert eigenbasis.homogeneity(lambda y: y + 1, y) == pytest.approx(want, rel=1e-5)


def test_homogeneity_of_zero_output():
    y = matrices.image()
    with np.errstate(all="raise"):
        assert eigenbasis.homogeneity(lambda y: 0 * y, y) == 0
        # f(1) = 0, J = 2: a straight line that does not pass through the origin.
        assert eigenbasis.homogeneity(lambda y: 2 * (y - 1), np.ones_like(y)) == np.inf


@pytest.mark.parametrize("sigma", [0.05, 0.2])
def test_the_noise_level_that_a_filter_assumes(sigma):
    """An optimal denoiser of Gaussian images implies the noise that is there: E ||y - f||^2 = sigma^2 (d - tr J)."""
    rng, deviation, count = np.random.default_rng(0), np.linspace(0.02, 0.6, SIZE), 400
    gain = (deviation**2 / (deviation**2 + sigma**2)).reshape(SHAPE).astype(np.float32)
    x = deviation.reshape(SHAPE) * rng.normal(size=(count, *SHAPE))
    y = (x + sigma * rng.normal(size=x.shape)).astype(np.float32)
    f = Partial(jnp.multiply, gain)
    found = [eigenbasis.implied_sigma(f, each, block=SIZE) for each in y[:40]]
    assert {each.error for each in found} == {0.0}
    assert np.mean([each.value for each in found]) == pytest.approx(sigma, rel=0.03)
    for each, noisy in zip(found[:3], y, strict=False):
        assert each.value == pytest.approx(np.linalg.norm((1 - gain) * noisy) / np.sqrt(SIZE - gain.sum()), rel=1e-4)
    # J is diagonal, so that random signs give its trace exactly.
    probed = eigenbasis.implied_sigma(f, y[0], key=jax.random.key(0), num=8)
    assert probed.value == pytest.approx(found[0].value, rel=1e-4) and probed.products == 8
    assert np.isnan(eigenbasis.implied_sigma(lambda y: y, y[0]).value)


def test_the_error_of_the_implied_noise_level():
    matrix, y = lopsided(), matrices.image()
    exact = eigenbasis.implied_sigma(matrices.linear(matrix), y)
    moved = np.linalg.norm(y.reshape(-1) - matrix @ y.reshape(-1))
    assert exact.value == pytest.approx(moved / np.sqrt(SIZE - np.trace(matrix)), rel=1e-4)
    found = estimates(lambda key: eigenbasis.implied_sigma(matrices.linear(matrix), y, key=key, num=48))
    assert_honest(*found, exact.value)


def smooth_images(count=60, shape=(6, 8, 2)):
    rough = np.random.default_rng(0).normal(size=(count, *shape))
    return (0.4 + 0.1 * (rough + np.roll(rough, 1, 1) + np.roll(rough, 1, 2))).astype(np.float32)


@pytest.mark.parametrize("basis", ["dct", "dft"])
def test_wiener_basis_is_the_known_one_and_its_error_the_trace(basis):
    images, sigma = smooth_images(), 0.1
    prior = fit(images, basis=basis)
    denoise, size = wiener(prior, sigma), prior.power.size
    known = np.sort((prior.power / (prior.power + sigma**2)).reshape(-1))[::-1]
    found = eigenbasis.top_k(denoise, images[0], 12, method="krylov", tolerance=1e-5, block=4)
    np.testing.assert_allclose(found.values, known[:12], atol=1e-4)
    divergence = eigenbasis.trace(denoise, images[0])
    assert divergence.value == pytest.approx(known.sum(), rel=1e-5)
    assert sigma**2 * divergence.value / size == pytest.approx(expected_mse(prior, sigma), rel=1e-5)
    assert eigenbasis.asymmetry(denoise, images[0]).value < 1e-5


@pytest.mark.parametrize("method", ["exact", "hutchinson", "hutch++"])
def test_sure_is_unbiased(method):
    # A denoiser that is neither linear nor homogeneous nor good.
    def denoise(gain, y):
        return jnp.tanh(3 * y) * gain + 0.1 * jnp.roll(y, 1, axis=1)

    clean, sigma, count = matrices.image(), 0.3, 200
    f = Partial(denoise, np.linspace(0.1, 0.5, SIZE, dtype=np.float32).reshape(SHAPE))
    noise = np.random.default_rng(0).normal(size=(count, *SHAPE)).astype(np.float32)
    differences = []
    for i, z in enumerate(noise):
        y = clean + sigma * z
        how = {} if method == "exact" else {"key": jax.random.key(i), "num": 12, "method": method}
        estimate = eigenbasis.sure(f, y, sigma, block=SIZE, **how)
        assert (estimate.error == 0) == (method == "exact")
        differences.append(estimate.value - float(np.square(np.asarray(f(y[None]))[0] - clean).mean()))
    mean, error = np.mean(differences), np.std(differences, ddof=1) / np.sqrt(count)
    assert abs(mean) < 3.5 * error < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num": 1}, "num: expected at least 2"),
        ({"num": 5, "method": "hutch++"}, "num: expected at least 6"),
        ({"method": "hutch"}, "method: expected one of"),
    ],
)
def test_mistakes(change, message):
    with pytest.raises(InputError, match=message):
        eigenbasis.trace(lambda y: y, matrices.image(), **{"key": jax.random.key(0), **change})
