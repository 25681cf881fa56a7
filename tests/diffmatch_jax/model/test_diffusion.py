"""The process against its definition, samplers against closed forms, hypotheses as an axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from diffmatch_jax.model import diffusion, released
from diffmatch_jax.model.diffusion import Process

PROCESS = Process.cosine(5)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@given(steps=st.integers(1, 60), data=st.data())
@settings(max_examples=25, deadline=None)
def test_respacing_keeps_the_marginals(steps, data):
    process = Process.cosine(steps)
    bars = process.alphas_bar
    assert (np.diff(np.append(1.0, bars)) < 0).all() and bars[-1] > 0
    count = data.draw(st.integers(1, steps))
    kept = released.kept_levels(steps, [count])
    assert len(kept) == count and kept[0] == 0 and (count == 1 or kept[-1] == steps - 1)
    some = released.respaced(process, str(count))
    np.testing.assert_allclose(some.alphas_bar, bars[kept], rtol=1e-9)
    np.testing.assert_array_equal(some.times, np.asarray(process.times)[kept])


def test_the_released_process_is_no_respaced_one():
    long = released.respaced(Process.cosine(1000), "ddim5")
    assert long.times == PROCESS.times
    assert long.alphas_bar[-1] > 0.09 and PROCESS.alphas_bar[-1] < 1e-4
    assert hash(PROCESS) == hash(Process.cosine(5)) and len(PROCESS) == 5


@pytest.mark.parametrize("index", range(5))
def test_posterior_is_bayes(index):
    """q(x_{i-1} | x_i, x_0) from the product of the two Gaussians of which it is made."""
    q, beta, before = diffusion.posterior(PROCESS), PROCESS.betas[index], PROCESS.alphas_bar_before[index]
    x0, x = 0.7, -0.4
    if index == 0:
        assert q.variance[0] == 0 and q.on_x0[0] == 1 and q.on_x[0] == 0
        return
    precision = 1 / (1 - before) + (1 - beta) / beta
    mean = (np.sqrt(before) * x0 / (1 - before) + np.sqrt(1 - beta) * x / beta) / precision
    np.testing.assert_allclose(q.variance[index], 1 / precision, rtol=1e-10)
    np.testing.assert_allclose(q.on_x0[index] * x0 + q.on_x[index] * x, mean, rtol=1e-10)


def test_noise_and_signal():
    x0, eps, index = noise(3, 4, 4, 2), noise(3, 4, 4, 2, seed=1), jnp.asarray([0, 2, 3])
    x = diffusion.forward(PROCESS, x0, eps, index)
    np.testing.assert_allclose(diffusion.implied_noise(PROCESS, x, x0, index), eps, atol=1e-4)
    # With the true x_0 a deterministic step stays on the path of the same noise.
    got = diffusion.ddim_step(PROCESS, x, x0, index)
    want = diffusion.forward(PROCESS, x0, eps, jnp.maximum(index - 1, 0))
    np.testing.assert_allclose(got[1:], want[1:], atol=1e-4)
    np.testing.assert_allclose(got[0], x0[0], atol=1e-5)


def test_ancestral_step_is_the_posterior():
    """eta = 1 has mean and variance of q(x_{i-1} | x_i, x_0)."""
    x, x0, q = noise(5, 3, 2), noise(5, 3, 2, seed=1), diffusion.posterior(PROCESS)
    index = jnp.arange(5)
    zero = diffusion.ddim_step(PROCESS, x, x0, index, eta=1.0, noise=jnp.zeros_like(x))
    one = diffusion.ddim_step(PROCESS, x, x0, index, eta=1.0, noise=jnp.ones_like(x))
    np.testing.assert_allclose(zero, diffusion.posterior_mean(PROCESS, x0, x, index), atol=1e-5)
    np.testing.assert_allclose((one - zero)[:, 0, 0] ** 2, q.variance, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_sampled_gaussian(eta):
    """The exact denoiser of a Gaussian gives its mean; the last prediction's spread is what 5 levels leave of it."""
    process = Process.cosine(50)
    mean, std = 0.3, 0.5
    bars = jnp.asarray(process.alphas_bar, jnp.float32)

    def denoise(x, time):
        bar = bars[jnp.round(time / 20).astype(int)][..., None, None, None]
        return mean + std**2 * jnp.sqrt(bar) * (x - jnp.sqrt(bar) * mean) / (bar * std**2 + 1 - bar)

    keys = jax.random.split(jax.random.key(0), 2)
    start = diffusion.initial_noise(keys, 8, (32, 32, 2))
    found = jax.jit(lambda start: diffusion.sample(denoise, start, process=process, eta=eta, keys=keys).x0)(start)
    np.testing.assert_allclose(found.mean(), mean, atol=0.015)
    np.testing.assert_allclose(found.std(), std, rtol=0.08)


def test_coherent_noise_has_variance_1_and_the_correlation_it_promises():
    keys = jax.random.split(jax.random.key(3), 4)
    drawn = np.asarray(diffusion.initial_noise(keys, 1024, (24, 18, 2), noise_correlation=1.5), np.float64)
    drawn = drawn.reshape(-1, 24, 18, 2)
    np.testing.assert_allclose((drawn**2).mean(0), 1, atol=0.12)
    np.testing.assert_allclose(drawn.mean(), 0, atol=0.02)
    middle = drawn[:, 12, 9]
    for rows, columns in ((0, 1), (0, 3), (2, 2)):
        other = drawn[:, 12 + rows, 9 + columns]
        want = np.exp(-(rows**2 + columns**2) / (4 * 1.5**2))
        np.testing.assert_allclose((middle * other).mean(0), want, atol=0.06)
    np.testing.assert_allclose((middle[:, 0] * middle[:, 1]).mean(), 0, atol=0.06)
    np.testing.assert_array_equal(
        diffusion.correlated_noise(keys[0], (4, 4, 2), 0.0), jax.random.normal(keys[0], (4, 4, 2))
    )


def test_hypotheses_do_not_depend_on_the_batch():
    keys = jax.random.split(jax.random.key(1), 3)
    whole = diffusion.initial_noise(keys, 4, (2, 3, 2))
    np.testing.assert_array_equal(diffusion.initial_noise(keys[1:2], 2, (2, 3, 2))[0], whole[1, :2])
    assert np.unique(np.asarray(whole)).size == whole.size

    def network(x, time, condition):
        return 0.5 * jnp.tanh(x) + condition["flow"] + 1e-3 * time[:, None, None, None]

    flow = noise(3, 2, 3, 2)

    def run(keys, flow, n):
        denoise = diffusion.per_hypothesis(network, {"flow": flow})
        start = diffusion.initial_noise(keys, n, (2, 3, 2))
        return diffusion.sample(denoise, start, process=PROCESS, eta=0.5, keys=keys).x0

    # The third pair alone, with fewer hypotheses.
    np.testing.assert_allclose(run(keys, flow, 4)[2:, :2], run(keys[2:], flow[2:], 2), atol=1e-6)


def test_clip_and_trace():
    start = 3 * noise(1, 2, 4, 4, 2)
    found = diffusion.sample(lambda x, time: x, start, process=PROCESS, clip=0.5, trace=True)
    assert jnp.abs(found.x0).max() == 0.5 and found.nfe == 5
    np.testing.assert_array_equal(found.trace["x"][0], start)
    np.testing.assert_array_equal(found.trace["x"][1:], found.trace["next"][:-1])
    np.testing.assert_array_equal(found.trace["time"][:, 0, 0], [800, 600, 400, 200, 0])
    assert diffusion.sample(lambda x, time: x, start, process=PROCESS).trace is None


def test_summary():
    x = noise(2, 7, 3, 4, 2)
    mean, covariance = diffusion.summary(x)
    flat = np.asarray(x)
    np.testing.assert_allclose(mean, flat.mean(1), atol=1e-6)
    np.testing.assert_allclose(covariance[1, 2, 3], np.cov(flat[1, :, 2, 3].T), atol=1e-5)
    want = np.sqrt(np.trace(np.cov(flat[1, :, 2, 3].T)))
    np.testing.assert_allclose(diffusion.std(covariance)[1, 2, 3], want, atol=1e-5)
    assert (diffusion.summary(x[:, :1]).covariance == 0).all()


@pytest.mark.parametrize("residual", [True, False])
def test_variable(residual):
    flow, initial = 0.15 * noise(2, 3, 3, 2), 0.1 * noise(2, 3, 3, 2, seed=1)
    variable = diffusion.Variable(0.15, residual=residual)
    x0 = variable.encode(flow, initial)
    np.testing.assert_allclose(x0, (flow - residual * initial) / 0.15, atol=1e-6)
    np.testing.assert_allclose(variable.decode(x0, initial), flow, atol=1e-6)
    unit = jnp.exp(noise(2, 3, 3, 1, seed=2))
    x0 = variable.encode(flow, initial, unit)
    np.testing.assert_allclose(x0, (flow - residual * initial) / (0.15 * unit), atol=1e-5)
    np.testing.assert_allclose(variable.decode(x0, initial, unit), flow, atol=1e-6)
    with pytest.raises(InputError, match="variable.scale: expected a positive number, got 0"):
        diffusion.Variable(0)
    with pytest.raises(InputError, match="variable.skip: expected False unless shrunk and residual, got True"):
        diffusion.Variable(1, skip=True)
    for noise_correlation in (-1.0, float("nan"), 1e7):
        with pytest.raises(InputError, match="process.noise_correlation: expected 0 to 128 cells"):
            diffusion.Variable(noise_correlation=noise_correlation)
    with pytest.raises(InputError, match="process.predict_variance: expected False without a skip, got True"):
        diffusion.Variable(1, predict_variance=True)


def test_mistakes():
    start = noise(1, 1, 2, 2, 2)
    with pytest.raises(InputError, match="steps: expected at least 1, got 0"):
        Process.cosine(0)
    with pytest.raises(InputError, match="more than 20"):
        released.linear_process(20)
    with pytest.raises(InputError, match="keep: expected a count that a stride through 5"):
        released.respaced(PROCESS, "ddim4")
    with pytest.raises(InputError, match='write "ddim5"'):
        released.respaced(PROCESS, "all")
    with pytest.raises(InputError, match="1 to 5 levels"):
        released.respaced(PROCESS, "6")
    with pytest.raises(InputError, match=r"betas: expected numbers between 0 and 1"):
        Process((1.5,), (0,))
    with pytest.raises(InputError, match="one time for each"):
        Process((0.5,), (0, 1))
    with pytest.raises(InputError, match="eta: expected 0"):
        diffusion.sample(lambda x, t: x, start, process=PROCESS, eta=2)
    with pytest.raises(InputError, match="keys: expected one a pair"):
        diffusion.sample(lambda x, t: x, start, process=PROCESS, eta=0.5)
    with pytest.raises(ValueError, match="noise: expected an array"):
        diffusion.ddim_step(PROCESS, start, start, 1, eta=0.5)


def test_the_noisiest_level_alone():
    whole = Process.cosine(5)
    last = whole.noisiest
    assert len(last) == 1 and last.times == whole.times[-1:]
    np.testing.assert_allclose(last.alphas_bar, whole.alphas_bar[-1:], rtol=1e-9)
