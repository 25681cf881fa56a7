"""DPS and DiffPIR beside the sampler, on Gaussian priors whose posteriors have a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import gahb
from common.errors import InputError
from gahb import inverse, operators
from gahb.inverse import BaselineSettings, diffpir, dps
from gahb.sampler_settings import OUTCOMES, PUBLISHED, gaussian_moments

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZE = 12
SHAPE = (SIZE, SIZE, 1)
MEAN = 0.45
SOLVERS = {"sampler": gahb.sample, "dps": dps, "diffpir": diffpir}


def prior(rank, seed):
    """Returns an orthonormal basis `[d, rank]` and the variances along it; the rest of the space is empty."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE**2, rank)))[0]
    return basis, 0.15 / np.arange(1, rank + 1) ** 0.7


def low_rank(basis, variance, y):
    a = y.reshape(len(y), -1) - MEAN
    c = a @ basis
    noise = (jnp.square(a).sum(1) - jnp.square(c).sum(1)) / (a.shape[1] - basis.shape[1])
    # Otherwise the gradient of DPS would also change the noise level, for which there is no closed form.
    noise = jax.lax.stop_gradient(noise)
    return (((variance / (variance + noise[:, None])) * c) @ basis.T + MEAN).reshape(y.shape)


def denoiser(basis, variance):
    return Partial(low_rank, jnp.asarray(basis, jnp.float32), jnp.asarray(variance, jnp.float32))


def hidden_fraction(name, variance):
    """Returns the fraction of the prior's variance that a solver leaves where nothing is measured.

    Steps from sigma to r sigma are those of the published algorithm with (1 - beta h) = r and h = 1 - r^2 (DPS) or
    h = 1 - r sqrt(1 - zeta) (DiffPIR).
    """
    if name == "sampler":
        return gaussian_moments(variance).variance_fraction
    settings = BaselineSettings()
    ratio = settings.sigma_L ** (1 / settings.steps)
    h = 1 - ratio**2 if name == "dps" else 1 - ratio * np.sqrt(1 - settings.renewal)
    steps = PUBLISHED._replace(h0=h, beta=(1 - ratio) / h, fixed_step=True, sigma_L=1e-9, max_steps=settings.steps)
    return gaussian_moments(variance, steps).variance_fraction


@pytest.mark.parametrize("name", SOLVERS)
def test_what_is_not_measured_has_the_variance_of_the_prior(name):
    basis, variance = prior(12, 3)
    count = 800
    # Every other direction of the prior is measured, and the others are independent of those.
    operator = operators.basis(jnp.asarray(basis[:, ::2], jnp.float32), SHAPE)
    clean = MEAN + basis @ (np.sqrt(variance) * np.random.default_rng(4).normal(size=12))
    m = operator.analyze(clean.reshape(1, *SHAPE).astype(np.float32))
    given = {"operator": operator, "measurement": m}
    x, info = SOLVERS[name](denoiser(basis, variance), jax.random.key(0), (count, *SHAPE), **given)
    assert info["converged"].all()
    c = (np.asarray(x, np.float64).reshape(count, -1) - MEAN) @ basis
    want = (clean - MEAN) @ basis
    np.testing.assert_allclose(c[:, ::2].mean(0), want[::2], atol=0.04)
    # The gradient of DPS has a fixed length, so that it ends within a step of the measurement.
    assert np.sqrt(np.square(c[:, ::2] - want[::2]).mean()) < (0.2 if name == "dps" else 0.05)
    # A standard error of .05 for a variance.
    fraction, expected = c[:, 1::2].var(0) / variance[1::2], hidden_fraction(name, variance[1::2])
    np.testing.assert_allclose(fraction, expected, atol=0.2)
    np.testing.assert_allclose(fraction.mean(), expected.mean(), atol=0.08)
    assert np.abs(c[:, 1::2].mean(0) / np.sqrt(variance[1::2] / count)).max() < 4.5


@pytest.mark.parametrize("name", SOLVERS)
def test_the_mean_of_samples_is_near_that_of_the_posterior(name):
    basis, variance = prior(30, 5)
    covariance = basis @ np.diag(variance) @ basis.T
    operator = operators.random_pixels(jax.random.key(6), SHAPE, fraction=0.15)
    kept = np.flatnonzero(np.asarray(operator.analyze(jnp.ones((1, *SHAPE)))))
    clean = basis @ (np.sqrt(variance) * np.random.default_rng(8).normal(size=30))
    gain = covariance[:, kept] @ np.linalg.inv(covariance[np.ix_(kept, kept)])
    mean, spread = gain @ clean[kept], np.trace(covariance - gain @ covariance[kept])
    m = operator.analyze((MEAN + clean).reshape(1, *SHAPE).astype(np.float32))
    given = {"operator": operator, "measurement": m}
    x, info = SOLVERS[name](denoiser(basis, variance), jax.random.key(1), (300, *SHAPE), **given)
    assert info["converged"].all()
    c = np.asarray(x, np.float64).reshape(len(x), -1) - MEAN
    simple = np.asarray(inverse.minimum_norm(operator, m, MEAN), np.float64).reshape(-1) - MEAN
    assert np.square(c.mean(0) - mean).sum() < 0.5 * np.square(simple - mean).sum()
    if name == "dps":
        # It looks through the denoiser at what is measured; the others lag behind the measurement.
        assert np.square(c.mean(0) - mean).sum() < 0.15 * spread
        assert 0.5 < np.square(c - mean).sum(1).mean() / spread < 1.8


@pytest.mark.parametrize("solve", [dps, diffpir])
def test_an_identity_solves_nothing(solve):
    operator = operators.super_resolution(2)
    m = operator.analyze(jnp.ones((2, *SHAPE)))
    _, info = solve(lambda y: y, 0, (2, *SHAPE), operator=operator, measurement=m)
    assert [OUTCOMES[i] for i in info["outcome"]] == ["not a denoiser"] * 2
    assert not info["converged"].any() and (info["nfe"] == 81).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 0.0}, "weight: expected a positive number, got 0.0"),
        ({"renewal": 1.5}, r"renewal: expected a number in \(0, 1\], got 1.5"),
        ({"sigma_L": 1.0}, "sigma_L: expected below sigma_0=1, got 1.0"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
    ],
)
def test_mistakes_are_named(settings, message):
    operator = operators.super_resolution(2)
    m = operator.analyze(jnp.ones((2, *SHAPE)))
    with pytest.raises(InputError, match=message):
        dps(lambda y: 0 * y, 0, (2, *SHAPE), BaselineSettings(**settings), operator=operator, measurement=m)
    with pytest.raises(InputError, match=r"measurement: expected \[3, 6, 6, 1\]"):
        diffpir(lambda y: 0 * y, 0, (3, *SHAPE), operator=operator, measurement=m)


def test_restore_compares_on_one_measurement():
    basis, variance = prior(12, 9)
    images = MEAN + (np.random.default_rng(1).normal(size=(5, 12)) * np.sqrt(variance)) @ basis.T
    images = images.reshape(5, *SHAPE).astype(np.float32)
    operator = inverse.problems(["random_pixels"], jax.random.key(2), SHAPE, fraction=0.3)["random_pixels"]
    denoise = denoiser(basis, variance)
    found = {
        name: inverse.restore(denoise, 0, images, operator, settings, solve=solve, samples=2, batch_size=4)
        for name, solve, settings in (
            ("sampler", gahb.sample, inverse.DEFAULT),
            ("dps", dps, BaselineSettings()),
            ("diffpir", diffpir, BaselineSettings()),
        )
    }
    for arrays in found.values():
        np.testing.assert_array_equal(arrays["measured"], found["sampler"]["measured"])
        row = inverse.summary("random_pixels", arrays)
        per_image = arrays["psnr"].mean(1)
        assert row["error"] == pytest.approx(per_image.std(ddof=1) / np.sqrt(5))
        assert row["gain"] > 3
