"""The sampler: closed-form decay, a Gaussian prior, samples that do not depend on their batch, one trace."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import gahb
from common.errors import InputError
from gahb import operators
from gahb.networks import BFCNN, UNet, init
from gahb.sampler_settings import OUTCOMES, PUBLISHED, SamplerSettings, gaussian_moments, outcomes
from gahb.sampling import gaussian_noise, recorded_noise, rms

pytestmark = pytest.mark.usefixtures("quick_compilation")


def nothing(y):
    """The denoiser of a prior that is all zero: the residual is the whole image."""
    return jnp.zeros_like(y)


def shrink(factor, y):
    return factor * y


def test_noise_decays_as_computed_by_hand():
    # y <- (1 - h) y, so sigma follows in closed form, step by step.
    shape, h0, end = (3, 4, 4, 1), 0.1, 0.01
    initial = jax.random.normal(jax.random.key(1), shape) * jnp.array([1.0, 0.1, 0.005])[:, None, None, None]
    settings = {"sigma_L": end, "h0": h0, "beta": 1.0, "initial": initial, "max_steps": 60}
    start = rms(initial)

    x, info = gahb.sample(nothing, jax.random.key(0), shape, fixed_step=True, **settings)
    steps = [1 + max(0, math.ceil(math.log(end / s) / math.log(1 - h0))) if s > end else 0 for s in start.tolist()]
    assert info["steps"].tolist() == steps
    assert info["nfe"].tolist() == [n + 1 for n in steps]
    assert info["converged"].all()
    np.testing.assert_array_equal(x, 0)
    for i, n in enumerate(steps):
        want = float(start[i]) * (1 - h0) ** np.arange(n)
        np.testing.assert_allclose(info["sigmas"][i, 1 : n + 1], want, rtol=1e-4)
        np.testing.assert_allclose(info["sigma"][i], float(start[i]) * (1 - h0) ** n, rtol=1e-4)
        assert np.isnan(info["sigmas"][i, n + 2 :]).all()

    _, info = gahb.sample(nothing, jax.random.key(0), shape, **settings)
    t = np.arange(1, 61)
    decay = np.cumprod(1 - h0 * t / (1 + h0 * (t - 1)))
    n = int(info["steps"][0])
    np.testing.assert_allclose(info["sigmas"][0, 2 : n + 1], float(start[0]) * decay[: n - 1], rtol=1e-4)
    assert decay[n - 2] * float(start[0]) <= end < decay[n - 3] * float(start[0])


def test_injected_noise_holds_the_total_at_its_target():
    # In one step (1 - h)^2 sigma^2 is kept and gamma^2 added: together ((1 - beta h) sigma)^2.
    shape, h, beta = (1, 200, 200, 1), 0.5, 0.2
    _, info = gahb.sample(
        nothing, jax.random.key(0), shape, sigma_L=0.01, h0=h, beta=beta, fixed_step=True, max_steps=3, mean=0.0
    )
    sigmas = np.asarray(info["sigmas"][0])
    np.testing.assert_allclose(sigmas[0], 1, rtol=0.02)
    np.testing.assert_allclose(sigmas[2:5] / sigmas[1:4], 1 - beta * h, rtol=0.02)


def gaussian_prior(size):
    k = np.fft.fftfreq(size) * size
    radius = np.hypot(*np.meshgrid(k, k))
    return np.where(radius < 2.5, 0.5 / (1 + radius**2), 0)


def blind_wiener(power, mean, y):
    """The optimal denoiser of a stationary Gaussian prior that leaves the high frequencies empty, blind to sigma."""
    spectrum = jnp.fft.fft2(y - mean, axes=(1, 2), norm="ortho")
    empty = (power == 0)[..., None]
    noise = jnp.sum(empty * jnp.abs(spectrum) ** 2, (1, 2, 3), keepdims=True) / empty.sum()
    gain = power[..., None] / (power[..., None] + noise)
    return mean + jnp.fft.ifft2(gain * spectrum, axes=(1, 2), norm="ortho").real


def test_samples_of_a_gaussian_prior_have_its_mean_and_covariance():
    size, mean = 8, 0.3
    power = gaussian_prior(size)
    denoise = Partial(blind_wiener, jnp.asarray(power, jnp.float32), jnp.float32(mean))
    x, info = gahb.sample(
        denoise, jax.random.key(0), (1024, size, size, 1), sigma_0=2.0, sigma_L=0.02, h0=0.1, beta=0.1, fixed_step=True
    )
    done = np.asarray(info["converged"])
    assert done.mean() > 0.99
    spectrum = np.fft.fft2(np.asarray(x)[done, ..., 0] - mean, norm="ortho")
    kept = power > 0
    # Standard errors of the estimates: 0.031 for a mean, 0.031 to 0.044 for a power, in units of the true one.
    assert (np.abs(spectrum.mean(0))[kept] / np.sqrt(power[kept])).max() < 0.16
    ratio = np.square(np.abs(spectrum)).mean(0)[kept] / power[kept]
    assert np.abs(ratio - 1).max() < 0.2
    assert abs(ratio.mean() - 1) < 0.05
    # Coefficients of different frequencies do not correlate (half of them are the mirror images of the others).
    unit = (spectrum / np.sqrt(np.where(kept, power, 1)))[:, [0, 0, 1, 1, 2], [0, 1, 0, 1, 0]]
    covariance = np.abs(unit.conj().T @ unit) / len(unit)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.16


TINY = {"sigma_L": 0.05, "h0": 0.1, "beta": 0.5, "max_steps": 200}


def tiny_denoiser():
    return Partial(blind_wiener, jnp.asarray(gaussian_prior(8), jnp.float32), jnp.float32(0.5))


def tiny(**settings):
    settings = TINY | settings
    return lambda count, **more: gahb.sample(tiny_denoiser(), jax.random.key(3), (count, 8, 8, 1), **settings, **more)


def test_a_sample_does_not_depend_on_its_batch():
    draw = tiny(store_every=4)
    x, info = draw(5)
    assert len(set(info["steps"].tolist())) > 1
    singles = [draw(1, first=i) for i in range(5)]
    parts = [draw(2, first=0), draw(3, first=2)]
    for others in (singles, parts):
        np.testing.assert_allclose(np.concatenate([part for part, _ in others]), x, atol=1e-6)
        for name in ("steps", "converged", "nfe"):
            np.testing.assert_array_equal(np.concatenate([side[name] for _, side in others]), info[name])
        for name in ("sigmas", "means", "sigma", "trajectory"):
            joined = np.concatenate([side[name] for _, side in others])
            np.testing.assert_allclose(joined, info[name], atol=1e-6, equal_nan=True)


def test_a_key_is_a_result():
    x, _ = tiny()(2)
    again, _ = tiny()(2)
    np.testing.assert_array_equal(x, again)
    power = jnp.asarray(gaussian_prior(8), jnp.float32)
    denoise = Partial(blind_wiener, power, jnp.float32(0.5))
    other, _ = gahb.sample(denoise, jax.random.key(4), (2, 8, 8, 1), sigma_L=0.05, h0=0.1, beta=0.5, max_steps=200)
    assert np.abs(x - other).max() > 0.1
    assert np.abs(x[0] - x[1]).max() > 0.1


def test_recorded_draws_give_the_same_samples():
    shape = (2, 8, 8, 1)
    keys = jnp.stack([jax.random.fold_in(jax.random.key(3), i) for i in range(2)])
    draws = jnp.stack([gaussian_noise(keys, t, jnp.zeros(shape)) for t in range(201)])
    replayed, _ = tiny()(2, noise=recorded_noise(draws))
    np.testing.assert_allclose(tiny()(2)[0], replayed, atol=1e-5)


def test_trajectory_holds_every_kth_iterate_then_the_result():
    x, info = tiny(store_every=5)(4)
    _, every = tiny(store_every=1)(4)
    path, steps = info["trajectory"], info["steps"].tolist()
    assert path.shape == (4, 42, 8, 8, 1)
    for i, n in enumerate(steps):
        complete = every["trajectory"][i]
        np.testing.assert_array_equal(path[i, 0], complete[0])
        for j in range(1, n // 5 + 1):
            np.testing.assert_array_equal(path[i, j], complete[5 * j])
        for j in range(n // 5 + 1, 42):
            np.testing.assert_array_equal(path[i, j], x[i])
        # Slot 1 is the iterate before t = 1, which nothing has moved yet; the start has the sigma of the log.
        np.testing.assert_array_equal(complete[1], complete[0])
        np.testing.assert_allclose(complete[:n].mean((1, 2, 3))[1:], info["means"][i, : n - 1], atol=1e-5)


def test_one_trace_whatever_the_numbers_and_weights():
    traces = []

    def traced(factor, y):
        traces.append(y.shape)
        return factor * y

    def draw(factor, shape=(2, 4, 4, 1), **settings):
        return gahb.sample(Partial(traced, jnp.float32(factor)), jax.random.key(0), shape, max_steps=7, **settings)

    draw(0.5)
    once = len(traces)
    draw(0.25, sigma_0=2, sigma_L=0.5, h0=np.float32(0.3), beta=1, mean=0, fixed_step=True, divergence=3, first=9)
    draw(0.9, sigma_0=0.3, beta=0.01)
    assert len(traces) == once
    draw(0.5, (3, 4, 4, 1))
    assert len(traces) == 2 * once


def test_one_call_of_the_denoiser_a_step():
    calls = []

    def counted(y):
        jax.debug.callback(lambda: calls.append(1))
        return 0.5 * y

    _, info = gahb.sample(counted, jax.random.key(0), (2, 4, 4, 1), sigma_L=0.2, h0=0.3, beta=0.5)
    jax.effects_barrier()
    assert len(calls) == int(info["nfe"].max())


@pytest.mark.parametrize(
    ("denoise", "settings", "steps"),
    [
        (nothing, {"sigma_L": 1e-4, "max_steps": 9}, 9),  # too few steps
        (lambda y: -4 * y, {"h0": 1.0, "beta": 1.0}, 1),  # moves away: sigma starts above twice sigma_0
        (lambda y: jnp.full_like(y, jnp.nan), {}, 0),
    ],
    ids=["unfinished", "diverged", "nan"],
)
def test_what_does_not_converge_is_said_so(denoise, settings, steps):
    _, info = gahb.sample(denoise, jax.random.key(0), (2, 4, 4, 1), mean=0.0, **settings)
    assert info["converged"].tolist() == [False, False]
    assert info["steps"].tolist() == [steps, steps]


def test_divergence_is_relative_to_the_noise_at_the_start():
    def draw(sigma_0):
        return gahb.sample(nothing, jax.random.key(0), (1, 8, 8, 1), sigma_0=sigma_0, mean=0.0, h0=0.2, beta=0.5)[1]

    assert draw(1.0)["converged"].all() and draw(10.0)["converged"].all()
    assert np.asarray(draw(10.0)["sigmas"])[0, 0] > 5


@pytest.mark.parametrize("diverges", [False, True])
def test_the_rest_of_a_batch_goes_on(diverges):
    # One sample fails at once or ends at once; its neighbour must still come out as if alone.
    initial = jnp.stack([jnp.full((4, 4, 1), 100.0 if diverges else 1e-3), jnp.ones((4, 4, 1))])
    settings = {"sigma_L": 0.05, "h0": 0.2, "beta": 0.5, "mean": 0.0}
    denoise = Partial(shrink, jnp.float32(0.1))
    x, info = gahb.sample(denoise, jax.random.key(0), (2, 4, 4, 1), initial=initial, **settings)
    alone, _ = gahb.sample(denoise, jax.random.key(0), (1, 4, 4, 1), initial=initial[1:], first=1, **settings)
    assert info["converged"].tolist() == [not diverges, True]
    assert info["steps"][0] == int(diverges) and info["steps"][1] > 5
    np.testing.assert_allclose(x[1:], alone, atol=1e-7)


def test_measurement_is_respected():
    power = jnp.asarray(gaussian_prior(8), jnp.float32)
    denoise = Partial(blind_wiener, power, jnp.float32(0.5))
    clean = 0.5 + 0.3 * jnp.cos(jnp.arange(8) * jnp.pi / 4)[None, :, None, None] * jnp.ones((1, 8, 8, 1))
    operator = operators.super_resolution(2)
    settings = {"sigma_L": 0.01, "h0": 0.05, "beta": 0.2, "operator": operator, "max_steps": 1000}
    x, info = gahb.sample(denoise, jax.random.key(0), (4, 8, 8, 1), measurement=operator.analyze(clean), **settings)
    assert info["converged"].all()
    assert np.abs(operator.analyze(x) - operator.analyze(clean)).max() < 0.05
    assert np.abs(np.asarray(x[0] - x[1])).max() > 1e-4
    free, _ = gahb.sample(denoise, jax.random.key(0), (4, 8, 8, 1), **(settings | {"operator": None}))
    assert np.abs(operator.analyze(free) - operator.analyze(clean)).max() > 0.3


def test_no_noise_without_noise():
    initial = jax.random.normal(jax.random.key(9), (2, 4, 4, 1))
    settings = {"initial": initial, "beta": 1.0, "h0": 0.2, "max_steps": 50}
    one, two = (gahb.sample(nothing, jax.random.key(i), (2, 4, 4, 1), store_every=1, **settings) for i in (0, 1))
    np.testing.assert_array_equal(one[1]["trajectory"], two[1]["trajectory"])


def test_precision_follows_the_caller():
    with jax.enable_x64(True):
        x, info = gahb.sample(nothing, jax.random.key(0), (1, 4, 4, 1), max_steps=5)
        assert x.dtype == jnp.float64 and info["sigmas"].dtype == jnp.float64
    assert gahb.sample(nothing, jax.random.key(0), (1, 4, 4, 1), max_steps=5)[0].dtype == jnp.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, r"beta: expected a number in \(0, 1\], got 0.0"),
        ({"h0": 1.5}, r"h0: expected a number in \(0, 1\], got 1.5"),
        ({"sigma_L": -1}, "sigma_L: expected a positive number, got -1"),
        ({"sigma_0": float("nan")}, "sigma_0: expected a positive number, got nan"),
        ({"max_steps": 0}, "max_steps: expected at least 1, got 0"),
        ({"store_every": -1}, "store_every: expected at least 0, got -1"),
        ({"operator": operators.synthesis()}, "measurement: expected operator and measurement together"),
        ({"measurement": jnp.zeros((1, 4, 4, 1))}, "operator: expected operator and measurement together"),
        ({"initial": jnp.zeros((4, 4, 1))}, r"initial: expected \[N, H, W, C\]"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        gahb.sample(nothing, jax.random.key(0), (1, 4, 4, 1), **settings)


def test_mistaken_shape_or_denoiser():
    with pytest.raises(InputError, match=r"shape: expected \[N, H, W, C\], got \(4, 4, 1\)"):
        gahb.sample(nothing, jax.random.key(0), (4, 4, 1))
    with pytest.raises(InputError, match="denoise: expected a function y -> x_hat, got str"):
        gahb.sample("runs/x", jax.random.key(0), (1, 4, 4, 1))


@pytest.mark.parametrize("settings", [SamplerSettings(), PUBLISHED, PUBLISHED._replace(beta=1.0, fixed_step=True)])
@pytest.mark.parametrize(
    "denoise", [lambda y: y, lambda y: 0.95 * y, lambda y: y + 1e-3, lambda y: 0 * y + y.mean() + 0.9 * (y - y.mean())]
)
def test_noise_that_is_not_removed_is_no_sample(denoise, settings):
    _, info = gahb.sample(denoise, jax.random.key(0), (2, 8, 8, 1), settings)
    assert not info["converged"].any()
    assert [OUTCOMES[i] for i in info["outcome"]] == ["not a denoiser"] * 2
    assert outcomes(info).endswith(" steps; 0 of 2 converged (0.00), 2 not a denoiser")


@pytest.mark.parametrize("settings", [SamplerSettings(), PUBLISHED])
def test_an_identity_below_some_noise_is_no_denoiser(settings):
    # Removes all noise above .3, none below: the residual drops to zero with the noise still there.
    def denoise(y):
        return jnp.where(rms(y)[:, None, None, None] > 0.3, 0, y)

    _, info = gahb.sample(denoise, jax.random.key(0), (3, 8, 8, 1), settings, mean=0.0)
    assert (info["steps"] > 5).all()
    assert [OUTCOMES[i] for i in info["outcome"]] == ["not a denoiser"] * 3


@pytest.mark.parametrize("gain", ["released", "unit"])
def test_untrained_networks_do_not_converge(gain):
    for seed, network in enumerate(
        [UNet(4, 1, gain_init=gain), UNet(8, 2, gain_init=gain), BFCNN(6, 5, gain_init=gain)]
    ):
        variables = init(network, jax.random.key(seed), jnp.zeros((1, 8, 8, 1)))
        settings = {"max_steps": 150} if gain == "unit" else {}
        for published in ({}, {"h0": 0.01, "beta": 0.1}):
            _, info = gahb.sample(
                gahb.denoiser(variables, network), jax.random.key(1), (3, 8, 8, 1), **published, **settings
            )
            assert not info["converged"].any(), (network, published)


def low_rank(basis, variance, mean, y):
    """The optimal denoiser of a Gaussian prior with variance along the columns of `basis`, blind to sigma."""
    a = y.reshape(len(y), -1) - mean
    c = a @ basis
    noise = (jnp.square(a).sum(1) - jnp.square(c).sum(1)) / (a.shape[1] - basis.shape[1])
    return (((variance / (variance + noise[:, None])) * c) @ basis.T + mean).reshape(y.shape)


@pytest.mark.parametrize("settings", [SamplerSettings(), PUBLISHED], ids=["corrected", "published"])
def test_closed_form_of_what_is_left_of_a_gaussian_prior(settings):
    size, count, mean = 16, 4000, 0.35
    variance = np.geomspace(6, 0.03, 10)
    basis = np.linalg.qr(np.random.default_rng(5).normal(size=(size**2, len(variance))))[0]
    denoise = Partial(low_rank, *(jnp.asarray(each, jnp.float32) for each in (basis, variance, mean)))
    x, info = gahb.sample(denoise, jax.random.key(11), (count, size, size, 1), settings)
    assert info["converged"].all()
    want = gaussian_moments(variance, settings)
    coefficients = (np.asarray(x, np.float64).reshape(count, -1) - mean) @ basis
    error = np.sqrt(2 / count)
    fraction = coefficients.var(0) / variance
    np.testing.assert_allclose(fraction, want.variance_fraction, atol=4.5 * error)
    # The start is off by .15 in each pixel.
    offset = want.mean_factor * (np.full(size**2, 0.15) @ basis)
    assert (np.abs(coefficients.mean(0) - offset) / np.sqrt(variance * fraction / count)).max() < 4.5
    if settings == SamplerSettings():
        assert abs(info["nfe"].max() - want.nfe) <= 2
        assert want.variance_fraction.min() > 0.97 and want.variance_fraction.max() < 1.05
        assert want.nfe < gaussian_moments(variance, PUBLISHED).nfe
    else:
        assert want.variance_fraction.max() < 0.85 and want.variance_fraction.min() < 0.7


def white(variance, y):
    """The optimal denoiser of images whose first channel is white Gaussian and whose second one is 1/2."""
    a = y - 0.5
    noise = jnp.square(a[..., 1:]).mean((1, 2, 3), keepdims=True)
    return 0.5 + a * jnp.array([1.0, 0.0]) * variance / (variance + noise)


@pytest.mark.parametrize("variance", [0.02, 0.06, 0.2])
def test_a_white_prior_keeps_its_variance(variance):
    x, info = gahb.sample(Partial(white, jnp.float32(variance)), jax.random.key(2), (40, 16, 16, 2), mean=0.3)
    assert info["converged"].all()
    first, second = np.asarray(x[..., 0]), np.asarray(x[..., 1])
    # Of 10240 numbers: a standard error of .014.
    np.testing.assert_allclose(first.var() / variance, 1, atol=0.06)
    np.testing.assert_allclose(first.mean(), 0.5, atol=0.02)
    np.testing.assert_allclose(second, 0.5, atol=1e-6)


def test_a_power_law_keeps_the_variance_of_every_frequency():
    size, count = 16, 1500
    k = np.fft.fftfreq(size) * size
    radius = np.hypot(*np.meshgrid(k, k))
    power = np.where(radius < 5, 2.0 / np.maximum(radius, 0.5) ** 2, 0)
    x, info = gahb.sample(
        Partial(blind_wiener, jnp.asarray(power, jnp.float32), jnp.float32(0.4)),
        jax.random.key(7),
        (count, size, size, 1),
    )
    assert info["converged"].all()
    spectrum = np.fft.fft2(np.asarray(x)[..., 0] - 0.4, norm="ortho")
    kept = power > 0
    ratio = np.square(np.abs(spectrum)).mean(0)[kept] / power[kept]
    # Real coefficients of two frequencies in three have a standard error of .026, the others of .037.
    assert 0.97 < ratio.mean() < 1.04 and np.abs(ratio - 1).max() < 0.15
    assert (np.abs(spectrum.mean(0))[kept] / np.sqrt(power[kept])).max() < 0.15


def test_settings_travel_as_one_record_or_by_name():
    record = SamplerSettings(sigma_L=0.1, step=0.4, beta=0.6, hold=3)
    one, _ = gahb.sample(nothing, jax.random.key(0), (1, 4, 4, 1), record)
    two, info = gahb.sample(nothing, jax.random.key(0), (1, 4, 4, 1), **record._asdict())
    np.testing.assert_array_equal(one, two)
    # 3 iterations at sigma_0, then sigma falls by 1 - .24 until it is below .1; the last one begins there.
    assert info["steps"].tolist() == [3 + math.ceil(math.log(0.1) / math.log(0.76)) + 1]
    with pytest.raises(InputError, match='settings: expected one of .*got "sigma_l"; did you mean "sigma_L"'):
        gahb.sample(nothing, jax.random.key(0), (1, 4, 4, 1), sigma_l=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma_0": np.float32(-1)}, "sigma_0: expected a positive number, got -1"),
        ({"sigma_0": jnp.float32(-1)}, "sigma_0: expected a positive number, got -1"),
        ({"sigma_L": np.array([0.1, 0.2])}, r"sigma_L: expected a positive number, got an array \[2\]"),
        ({"sigma_L": "small"}, "sigma_L: expected a positive number, got small"),
        ({"sigma_L": 1.5}, "sigma_L: expected below sigma_0=1, got 1.5"),
        ({"step": 0}, r"step: expected a number in \(0, 1\], got 0"),
        ({"hold": -1}, "hold: expected at least 0, got -1"),
        ({"max_steps": 2.5}, "max_steps: expected a whole number of at least 1, got 2.5"),
        ({"mean": 127}, r"mean: expected an intensity in \[0, 1\], got 127"),
        ({"mean": np.ones((5, 4, 1))}, r"mean: expected what broadcasts to \[3, 4, 4, 1\], got \[5, 4, 1\]"),
        ({"mean": np.ones((1, 3, 4, 4, 1))}, r"mean: expected what broadcasts to \[3, 4, 4, 1\]"),
        ({"initial": np.ones((3, 4, 5, 1))}, r"initial: expected \[3, 4, 4, 1\], or one image of it, got"),
        ({"initial": np.ones((2, 4, 4, 1))}, r"initial: expected \[3, 4, 4, 1\], or one image of it, got"),
        (
            {"operator": operators.super_resolution(2), "measurement": np.ones((3, 4, 4, 1))},
            r"measurement: expected \[3, 2, 2, 1\], or one measurement \[1, 2, 2, 1\], got \[3, 4, 4, 1\]",
        ),
        (
            {"operator": operators.super_resolution(2), "measurement": np.ones((2, 2, 2, 1))},
            r"measurement: expected \[3, 2, 2, 1\]",
        ),
        (
            {"operator": operators.random_pixels(0, (5, 5, 1), fraction=0.5), "measurement": np.ones((3, 5, 5, 1))},
            r"operator: expected one of images \[3, 4, 4, 1\], got",
        ),
    ],
)
def test_mistaken_numbers_and_shapes_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        gahb.sample(nothing, jax.random.key(0), (3, 4, 4, 1), **settings)


@pytest.mark.parametrize(
    "denoise",
    [lambda y: y[:, :2], lambda y: y.reshape(3, 16) @ jnp.ones((25, 16)), lambda y: y + jnp.ones((3, 5, 5, 1))],
)
def test_a_denoiser_of_another_shape_is_named(denoise):
    with pytest.raises(InputError, match="^denoise: expected "):
        gahb.sample(denoise, jax.random.key(0), (3, 4, 4, 1))


@pytest.mark.parametrize("shape", [(0, 4, 4, 1), (1, 4, -4, 1), (1, 4.5, 4, 1)])
def test_mistaken_lengths(shape):
    with pytest.raises(InputError, match="^shape: expected four whole numbers above 0"):
        gahb.sample(nothing, jax.random.key(0), shape)


def test_a_seed_is_a_key():
    np.testing.assert_array_equal(tiny()(1)[0], gahb.sample(tiny_denoiser(), 3, (1, 8, 8, 1), **TINY)[0])
