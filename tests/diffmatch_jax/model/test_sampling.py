"""From conditions to flow, with networks whose answers are known."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax.model import sampling, unet
from diffmatch_jax.model.conditioning import Conditions
from diffmatch_jax.model.diffusion import Process, Variable, initial_noise
from diffmatch_jax.model.sampling import Stage


class Scaled(nn.Module):
    """Returns the first two channels it sees, the noisy flow, times a parameter, and a constant."""

    @nn.compact
    def __call__(self, x, time, keys=None):
        gain = self.param("gain", nn.initializers.zeros, ())
        return gain * x[..., :2] + self.param("shift", nn.initializers.zeros, (2,))


class Learned(Scaled):
    """Also says how large the errors are, the same everywhere."""

    @nn.compact
    def __call__(self, x, time, keys=None):
        out = super().__call__(x, time)
        scale = self.param("log_scale", nn.initializers.zeros, ())
        return jnp.concatenate([out, jnp.broadcast_to(scale, (*out.shape[:-1], 1))], -1)


PROCESS = Process.cosine(5)
LEARNED = Variable(0.1, residual=True, shrunk=True, skip=True, predict_variance=True)
FLOW = jax.random.normal(jax.random.key(1), (2, 4, 4, 2)) / 10
GIVEN = Conditions(FLOW, jnp.zeros((2, 4, 4, 3)))
KEYS = jax.random.split(jax.random.key(2), 2)

draw = jax.jit(sampling.draw, static_argnums=0, static_argnames="hypotheses")
summarise = jax.jit(sampling.summarise, static_argnums=0)


def params(gain, shift=(0.0, 0.0), scale=1.0):
    return {"gain": jnp.asarray(gain), "shift": jnp.asarray(shift), "log_scale": jnp.log(scale)}


@pytest.mark.parametrize("residual", [True, False])
def test_a_network_without_output_returns_the_initial_flow(residual):
    stage = Stage(Scaled(), Variable(0.1, residual), PROCESS)
    drawn = draw(stage, params(0.0), GIVEN, hypotheses=3, keys=KEYS)
    found = summarise(stage, drawn)
    np.testing.assert_allclose(found.flow, FLOW, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.covariance, 0, atol=1e-10)


def test_a_constant_is_added_in_the_unit_of_the_variable():
    stage = Stage(Scaled(), Variable(0.1, residual=True), PROCESS)
    drawn = draw(stage, params(0.0, (1.0, -2.0)), GIVEN, hypotheses=2, keys=KEYS)
    np.testing.assert_allclose(drawn.hypotheses[:, 0], FLOW + jnp.asarray([0.1, -0.2]), rtol=0, atol=1e-6)


def test_the_unit_of_a_place_scales_what_is_added_there():
    unit = jnp.exp(jax.random.normal(jax.random.key(5), (2, 4, 4, 1)))
    stage = Stage(Scaled(), Variable(0.1, residual=True), PROCESS)
    drawn = draw(stage, params(0.0, (1.0, -2.0)), GIVEN._replace(unit=unit), hypotheses=2, keys=KEYS)
    away = drawn.hypotheses - FLOW[:, None]
    np.testing.assert_allclose(away[:, 1], unit * jnp.asarray([0.1, -0.2]), rtol=0, atol=1e-6)
    regression = Stage(Scaled(), Variable(0.1, residual=True), PROCESS, kind="regression")
    drawn = draw(regression, params(0.0, (1.0, -2.0)), GIVEN._replace(unit=unit), hypotheses=2, keys=KEYS)
    np.testing.assert_allclose(drawn.hypotheses[:, 0] - FLOW, unit * jnp.asarray([0.1, -0.2]), rtol=0, atol=1e-6)


def test_a_network_without_output_draws_a_unit_gaussian_with_a_skip():
    """sqrt(ab) x_t is the posterior mean of a unit Gaussian: its samples are as wide, by as many steps as it takes."""
    stage = Stage(Scaled(), Variable(0.1, residual=True, shrunk=True, skip=True), Process.cosine(50))
    given = Conditions(jnp.zeros((2, 16, 16, 2)), jnp.zeros((2, 16, 16, 3)))
    drawn = draw(stage, params(0.0), given, hypotheses=8, keys=KEYS)
    np.testing.assert_allclose(drawn.hypotheses.std() / 0.1, 1, rtol=0.1)
    np.testing.assert_allclose(drawn.predicted.mean(), drawn.hypotheses.mean(), atol=0.01)


NOWHERE = Conditions(jnp.zeros((2, 16, 16, 2)), jnp.zeros((2, 16, 16, 3)))


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_hypotheses_are_as_wide_as_the_learned_scale(scale):
    """A Gaussian x_0 of that deviation is what the network then stands for; for 1 it is the one of the plain skip."""
    stage = Stage(Learned(), LEARNED, Process.cosine(100))
    noise = initial_noise(KEYS, 8, (16, 16, 2))
    drawn = draw(stage, params(0.0, scale=scale), NOWHERE, hypotheses=8, noise=noise).hypotheses
    np.testing.assert_allclose(drawn.std() / 0.1, scale, rtol=0.1)
    plain = Stage(Scaled(), Variable(0.1, residual=True, shrunk=True, skip=True), Process.cosine(100))
    same = draw(plain, params(0.0), NOWHERE, hypotheses=8, noise=noise).hypotheses
    assert np.allclose(drawn, same, rtol=0, atol=1e-4) == (scale == 1)


@pytest.mark.parametrize(("scale", "least"), [(0.05, 0.98), (0.2, 0.96), (1.0, 0.82)])
def test_few_steps_lose_little_of_it_since_what_a_hypothesis_leaves_open_counts(scale, least):
    """The posteriors by conditioning one of two correlated Gaussians, and DDIM with their means, level by level."""
    bars = PROCESS.alphas_bar
    a, b = np.sqrt(bars), np.sqrt(1 - bars)
    total = a**2 * scale**2 + b**2
    gain, open_ = a * scale**2 / total, np.sqrt(scale**2 - (a * scale**2) ** 2 / total)
    factor = 1.0
    for i in range(4, 0, -1):
        factor *= a[i - 1] * gain[i] + b[i - 1] * (1 - a[i] * gain[i]) / b[i]
    unit = jnp.exp(jax.random.normal(jax.random.key(5), (2, 16, 16, 1)))
    stage = Stage(Learned(), LEARNED, PROCESS)
    drawn = draw(stage, params(0.0, scale=scale), NOWHERE._replace(unit=unit), hypotheses=16, keys=KEYS)
    np.testing.assert_allclose(
        drawn.deviation, np.broadcast_to(0.1 * unit[:, None] * open_[0], (2, 16, 16, 16, 1)), rtol=1e-3
    )
    variance = np.trace(summarise(stage, drawn).covariance, axis1=-2, axis2=-1) / (2 * (0.1 * unit[..., 0]) ** 2)
    np.testing.assert_allclose(variance.mean(), (gain[0] * factor) ** 2 + open_[0] ** 2, rtol=0.03)
    assert least * scale < np.sqrt(variance.mean()) < 1.02 * scale
    width = (drawn.hypotheses / (0.1 * unit[:, None])).std()  # hypotheses are drawn from what is left open, too
    np.testing.assert_allclose(width**2, variance.mean(), rtol=0.03)
    # A single one has nothing to differ from: what counts is what was open before it.
    alone = draw(stage, params(0.0, scale=scale), NOWHERE, hypotheses=1, keys=KEYS)
    np.testing.assert_allclose(summarise(stage, alone).covariance[..., 0, 0], (0.1 * open_[-1]) ** 2, rtol=1e-3)
    np.testing.assert_allclose(open_[-1], scale, rtol=1e-3)


def test_a_regression_says_how_wrong_it_may_be_if_it_learned_to():
    unit = jnp.exp(jax.random.normal(jax.random.key(5), (2, 4, 4, 1)))
    stage = Stage(Learned(), LEARNED, PROCESS, kind="regression")
    told = summarise(stage, draw(stage, params(0.0, scale=1.5), GIVEN._replace(unit=unit), hypotheses=1))
    np.testing.assert_allclose(told.covariance, (0.15 * unit[..., None]) ** 2 * np.eye(2), rtol=1e-5)
    assert stage.predicts_std(1) and not Stage(Scaled(), Variable(), PROCESS, kind="regression").predicts_std(4)


def test_hypotheses_of_a_regression_are_its_flow_and_as_much_noise_as_it_says():
    unit = jnp.exp(jax.random.normal(jax.random.key(5), (2, 4, 4, 1)))
    variable = dataclasses.replace(LEARNED, noise_correlation=1.5)
    stage = Stage(Learned(), variable, PROCESS, kind="regression")
    drawn = draw(stage, params(0.0, (1.0, 0.0), scale=1.5), GIVEN._replace(unit=unit), hypotheses=3, keys=KEYS)
    flow = FLOW + unit * jnp.asarray([0.1, 0.0])
    keys = jax.vmap(lambda key: jax.random.fold_in(key, sampling.LAST))(KEYS)
    noise = initial_noise(keys, 3, FLOW.shape[1:], noise_correlation=1.5)
    np.testing.assert_allclose(drawn.hypotheses, flow[:, None] + 0.15 * unit[:, None] * noise, rtol=0, atol=1e-6)
    told = summarise(stage, drawn)
    np.testing.assert_allclose(told.flow, flow, rtol=0, atol=1e-6)
    np.testing.assert_allclose(told.covariance, (0.15 * unit[..., None]) ** 2 * np.eye(2), rtol=1e-5, atol=1e-9)
    assert stage.draws and not Stage(Scaled(), Variable(), PROCESS, kind="regression").draws


def test_a_first_prediction_says_itself_how_wrong_it_is():
    """What follows it, and how many do, changes neither its flow nor its covariance."""
    stage = Stage(Learned(), LEARNED, PROCESS, estimate="first")
    told = [
        summarise(stage, draw(stage, params(0.0, scale=0.5), GIVEN, hypotheses=n, keys=KEYS)).covariance for n in (1, 4)
    ]
    for each in told:
        np.testing.assert_allclose(each, np.broadcast_to(np.eye(2) * 0.05**2, each.shape), rtol=1e-3, atol=1e-9)


def test_hypotheses_are_as_coherent_as_the_noise():
    stage = Stage(Learned(), dataclasses.replace(LEARNED, noise_correlation=2.0), PROCESS)
    away = draw(stage, params(0.0, scale=2.0), NOWHERE, hypotheses=64, keys=KEYS).hypotheses
    near = (away[..., 1:, :] * away[..., :-1, :]).mean() / (away**2).mean()
    np.testing.assert_allclose(near, np.exp(-1 / 16), atol=0.02)


def test_the_learned_scale_is_limited_and_can_come_back():
    def deviation(log):
        given = jax.tree.map(lambda each: each[:1], GIVEN)
        p = {**params(0.0), "log_scale": log}
        return unet.predict(Learned(), p, given.flow, jnp.zeros(1), given, LEARNED).deviation[0, 0, 0, 0]

    for log, want in ((-9.0, np.exp(-3)), (0.5, np.exp(0.5)), (9.0, np.exp(3))):
        value, slope = jax.value_and_grad(deviation)(log)
        np.testing.assert_allclose([value, slope], want, rtol=1e-5)


def test_hypotheses_and_first_prediction_of_a_linear_network():
    """x_0 = g x_i at every level: DDIM multiplies by what Song et al.'s equation 12 gives for it."""
    gain = 0.3
    stage = Stage(Scaled(), Variable(0.1, residual=True), PROCESS, estimate="first")
    drawn = draw(stage, params(gain), GIVEN, hypotheses=4, keys=KEYS)
    noise = np.asarray(initial_noise(KEYS, 4, FLOW.shape[1:]))
    bars = PROCESS.alphas_bar
    factor = 1.0
    for i in range(4, 0, -1):
        eps = (1 / np.sqrt(bars[i]) - gain) / np.sqrt(1 / bars[i] - 1)
        factor *= np.sqrt(bars[i - 1]) * gain + np.sqrt(1 - bars[i - 1]) * eps
    base = np.asarray(FLOW)[:, None]
    np.testing.assert_allclose(drawn.hypotheses, base + 0.1 * gain * factor * noise, rtol=0, atol=1e-5)
    np.testing.assert_allclose(drawn.predicted, base + 0.1 * gain * noise, rtol=0, atol=1e-6)
    told = summarise(stage, drawn)
    np.testing.assert_allclose(told.flow, np.asarray(drawn.predicted).mean(1), rtol=0, atol=1e-6)
    want = np.asarray(drawn.hypotheses).var(1, ddof=1)
    np.testing.assert_allclose(jnp.diagonal(told.covariance, axis1=-2, axis2=-1), want, rtol=1e-4, atol=1e-8)


def test_a_shrunk_state_is_the_best_linear_guess():
    """Shown sqrt(ab) x_i, a network that returns what it sees predicts x_0 = sqrt(ab) x_i."""
    stage = Stage(Scaled(), Variable(0.1, residual=True, shrunk=True), PROCESS, estimate="first")
    drawn = draw(stage, params(1.0), GIVEN, hypotheses=2, keys=KEYS)
    noise = np.asarray(initial_noise(KEYS, 2, FLOW.shape[1:]))
    want = np.asarray(FLOW)[:, None] + 0.1 * np.sqrt(PROCESS.alphas_bar[-1]) * noise
    np.testing.assert_allclose(drawn.predicted, want, rtol=0, atol=1e-6)


def test_the_flow_is_the_clipped_mean():
    flows = jax.random.normal(jax.random.key(3), (2, 5, 4, 4, 2))
    stage = Stage(Scaled(), Variable(), PROCESS, clip=0.5)
    told = summarise(stage, sampling.StageSamples(flows, flows))
    np.testing.assert_allclose(told.flow, np.clip(np.asarray(flows).mean(1), -0.5, 0.5), rtol=0, atol=1e-6)


def test_a_regression_is_one_evaluation_without_noise():
    stage = Stage(Scaled(), Variable(0.1, residual=True), PROCESS, kind="regression")
    drawn = draw(stage, params(5.0, (1.0, 0.0)), GIVEN, hypotheses=8)
    assert drawn.hypotheses.shape == (2, 1, 4, 4, 2) and stage.nfe == 1
    np.testing.assert_allclose(drawn.hypotheses[:, 0], FLOW + jnp.asarray([0.1, 0.0]), rtol=0, atol=1e-6)


def test_noise_of_a_pair_is_its_own_keys():
    stage = Stage(Scaled(), Variable(0.1, residual=True), PROCESS)
    both = draw(stage, params(0.3), GIVEN, hypotheses=2, keys=KEYS).hypotheses
    one = jax.tree.map(lambda x: x[1:], GIVEN)
    alone = draw(stage, params(0.3), one, hypotheses=3, keys=KEYS[1:]).hypotheses
    np.testing.assert_allclose(alone[:, :2], both[1:], rtol=0, atol=1e-6)


def test_confidence_falls_with_the_spread():
    std = jnp.asarray([0.0, 3.0, 9.0])
    np.testing.assert_allclose(sampling.confidence_of(std, 3.0), [1, 0.5, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "gan"}, "config.objective.kind"),
        ({"estimate": "mode"}, "config.sampler.estimate"),
    ],
)
def test_impossible_stages(change, words):
    with pytest.raises(InputError, match=words):
        Stage(**{"network": Scaled(), "variable": Variable(), "process": PROCESS, **change})


def test_no_hypotheses():
    with pytest.raises(InputError, match="hypotheses: expected at least 1"):
        sampling.draw(Stage(Scaled(), Variable(), PROCESS), params(0.0), GIVEN, hypotheses=0, keys=KEYS)


def test_covariances_are_pooled_over_neighbouring_cells():
    one = jnp.asarray([[2.0, 1.0], [1.0, 4.0]])
    pooled = np.asarray(sampling.pooled(jnp.zeros((1, 16, 16, 2, 2)).at[0, 8, 8].set(one)))
    np.testing.assert_allclose(pooled.sum((0, 1, 2)), one, rtol=1e-4)
    np.testing.assert_allclose(pooled[0, 8, 7] / pooled[0, 8, 8], np.full((2, 2), np.exp(-0.5)), rtol=1e-4)
    np.testing.assert_allclose(sampling.pooled(jnp.ones((1, 16, 16, 2, 2))), 1, rtol=1e-5)
    np.testing.assert_allclose(sampling.deviation_of(one), [np.sqrt(3)], rtol=1e-6)
