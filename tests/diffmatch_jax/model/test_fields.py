"""Other samplers: Euler's rule is DDIM, rules of higher order are nearer to the exact solution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from common.networks.adm_unet import ADMUNet
from common.solvers.grids import power
from common.solvers.runge_kutta import EULER, HEUN
from diffmatch_jax.model import diffusion, fields
from diffmatch_jax.model.conditioning import Conditions
from diffmatch_jax.model.diffusion import Process, Variable
from diffmatch_jax.model.unet import inputs, predict

START = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 2, 2, 2)), jnp.float32)


def test_euler_is_ddim():
    process = Process.cosine(5)

    def denoise(x, time):
        return 0.5 * jnp.tanh(x) + 1e-3 * time[..., None, None, None]

    got = fields.sample(denoise, START, process=process)
    want = diffusion.sample(denoise, START, process=process)
    np.testing.assert_allclose(got.x0, want.x0, atol=2e-5)
    assert got.nfe == want.nfe == 5


def test_times_of_levels():
    process = Process.cosine(5)
    levels = fields.noise_levels(process)
    assert (np.diff(levels) < 0).all()
    np.testing.assert_allclose(levels**2, (1 / process.alphas_bar - 1)[::-1])
    np.testing.assert_allclose(fields.network_time(process, jnp.asarray(levels)), [800, 600, 400, 200, 0], atol=1e-2)
    between = fields.network_time(process, jnp.sqrt(levels[1] * levels[2]))
    np.testing.assert_allclose(between, 500, atol=1e-2)
    np.testing.assert_allclose(fields.network_time(process, jnp.asarray([1e3, 1e-3])), [800, 0])


def test_order_on_a_gaussian():
    """For data N(m, s^2) the flow is known: y - m goes as sqrt(s^2 + sigma^2)."""
    process, mean, std = Process.cosine(5), 0.2, 0.5

    def denoise(x, time):  # its time is not needed: sigma is told by the solver's own grid
        sigma = jnp.exp(jnp.interp(time[0, 0], jnp.arange(5) * 200.0, np.log(fields.noise_levels(process)[::-1])))
        y = x * jnp.sqrt(1 + sigma**2)
        return (sigma**2 * mean + std**2 * y) / (std**2 + sigma**2)

    levels = fields.noise_levels(process)
    first, last = levels[0], levels[-1]
    y0 = START * np.sqrt(1 + first**2)
    y = mean + (y0 - mean) * np.sqrt((std**2 + last**2) / (std**2 + first**2))
    want = (last**2 * mean + std**2 * y) / (std**2 + last**2)

    def error(rule, steps):
        found = fields.sample(denoise, START, process=process, rule=rule, sigmas=power(first, last, steps, order=7.0))
        assert found.nfe == steps * len(rule.b) + 1
        return float(jnp.abs(found.x0 - want).max())

    for rule in (EULER, HEUN):
        slope = np.log2(error(rule, 16) / error(rule, 32))
        assert slope > rule.order - 0.35, (rule, slope)
    assert error(HEUN, 16) < error(EULER, 32)


def network_of(learned_scale):
    """Returns `denoiser(process) -> (x_0, deviation)` of a small U-Net with conditions, as `sampling.draw` makes it."""
    variable = Variable(0.1, residual=True, shrunk=True, skip=True, learned_scale=learned_scale)
    network = ADMUNet(
        3 if learned_scale else 2,
        channels=8,
        multipliers=(1,),
        num_blocks=1,
        attention=(),
        heads=1,
        resampling="convolution",
    )
    rng = np.random.default_rng(1)
    conditions = Conditions(*(jnp.asarray(0.1 * rng.normal(size=(2, 2, 2, n)), jnp.float32) for n in (2, 3)))
    shown = inputs(conditions.flow, conditions, variable)
    shapes = jax.eval_shape(network.init, jax.random.key(0), shown, jnp.zeros(2))["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), jnp.float32), shapes)

    def denoiser(process):
        def of_pairs(x, time, given):
            signal = diffusion.signal(process, time)
            return predict(network, params, x, time, given, variable, signal=signal)

        return diffusion.per_hypothesis(of_pairs, conditions)

    return denoiser


@pytest.mark.parametrize("learned_scale", [False, True])
def test_euler_is_ddim_for_a_network_with_conditions(learned_scale):
    """So are the deviations that it returns beside x_0, at the last level."""
    denoiser, levels = network_of(learned_scale), Process.cosine(5)
    got, want = (
        jax.jit(
            lambda noise, sample=sample: sample(denoiser(levels), noise, process=levels, has_aux=True)[::3],
        )(START)
        for sample in (fields.sample, diffusion.sample)
    )
    np.testing.assert_allclose(got[0], want[0], atol=5e-5)
    assert (got[1] is not None) == learned_scale
    if learned_scale:
        assert got[1].shape == (1, 2, 3, 2, 2, 1) and float(jnp.std(got[1])) > 1e-3
        np.testing.assert_allclose(got[1][0], want[1][-1], rtol=1e-4)


def test_heun_comes_near_many_levels_of_a_network_sooner():
    denoiser, many = network_of(True), Process.cosine(400)
    first, *_, last = fields.noise_levels(many)

    @jax.jit
    def exact(noise):
        return diffusion.sample(denoiser(many), noise, process=many, has_aux=True).x0

    def error(rule, steps):
        grid = power(first, last, steps, order=7.0)
        run = jax.jit(
            lambda noise: fields.sample(denoiser(many), noise, process=many, rule=rule, sigmas=grid, has_aux=True).x0,
        )
        return float(jnp.abs(run(START) - finest).max())

    finest = exact(START)
    assert float(jnp.abs(finest).max()) > 1
    assert error(HEUN, 160) < 0.02
    assert 3 * error(HEUN, 60) < error(EULER, 60)


@pytest.mark.parametrize("sigmas", [[1.0], [1.0, 2.0], [1.0, 0.0]])
def test_mistakes(sigmas):
    with pytest.raises(InputError, match="sigmas: expected two or more falling positive numbers"):
        fields.sample(lambda x, t: x, START, process=Process.cosine(5), sigmas=sigmas)
