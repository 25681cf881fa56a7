"""The training objective: noise levels in closed form, draws that belong to examples, frozen normalisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.method import Variables
from gahb.networks import BFCNN, apply, init
from gahb.objective import RULES, add_noise, loss, noise_level, squared_error

pytestmark = pytest.mark.usefixtures("quick_compilation")

NETWORK = BFCNN(num_kernels=3, num_layers=3, gain_init="unit")
IMAGES = jax.random.uniform(jax.random.key(5), (6, 6, 4, 1))


trained = jax.jit(functools.partial(loss, NETWORK))
evaluated = jax.jit(functools.partial(loss, NETWORK, train=False))


@functools.cache
def variables():
    return init(NETWORK, jax.random.key(1), IMAGES)


def silent():
    """A network whose residual is zero."""
    return jax.tree.map(jnp.zeros_like, variables().params)


def batch(rows=slice(None), progress=0.0):
    position = jnp.arange(len(IMAGES), dtype=jnp.int32)[rows]
    return {"image": IMAGES[rows], "position": position, "progress": jnp.float32(progress)}


@settings(max_examples=30, deadline=None)
@given(a=st.floats(0, 1), b=st.floats(0, 1), u=st.floats(0, 1), rule=st.sampled_from(RULES))
def test_levels_run_from_low_to_high(a, b, u, rule):
    low, high = min(a, b), max(a, b)
    ends = noise_level(np.array([0.0, 1.0]), sigma_min=low, sigma_max=high, rule=rule)
    np.testing.assert_allclose(ends, [low, high], rtol=1e-9, atol=1e-12)
    middle = noise_level(u, sigma_min=low, sigma_max=high, rule=rule)
    assert low - 1e-9 <= middle <= high + 1e-9
    assert middle >= noise_level(u / 2, sigma_min=low, sigma_max=high, rule=rule) - 1e-12


def test_quadratic_rule_squares_the_draw():
    u = np.linspace(0, 1, 7)
    np.testing.assert_allclose(noise_level(u, sigma_min=0, sigma_max=1), u**2, rtol=1e-12)
    np.testing.assert_allclose(noise_level(u, sigma_min=0, sigma_max=1, rule="linear"), u, rtol=1e-12)


def test_unknown_rule():
    with pytest.raises(InputError, match="noise.rule: expected quadratic or linear, got 'cubic'"):
        noise_level(0.5, sigma_min=0, sigma_max=1, rule="cubic")


def test_noise_has_its_level():
    z = jax.random.normal(jax.random.key(0), (3, 4, 4, 1))
    noisy, noise = add_noise(jnp.ones_like(z), jnp.array([0.0, 0.5, 2.0]), z)
    np.testing.assert_array_equal(noise[0], 0)
    np.testing.assert_array_equal(noise[2], 2 * z[2])
    np.testing.assert_array_equal(noisy, 1 + noise)


def test_loss_is_the_mean_of_summed_squares():
    noise = jnp.array([1.0, 2.0, 3.0, 0.0, 0.0, 0.0])[:, None, None, None] * jnp.ones_like(IMAGES)
    value, _ = squared_error(NETWORK, Variables(silent(), variables().stats), IMAGES + noise, noise)
    assert float(value) == pytest.approx((1 + 4 + 9) * 24 / 6)
    residual, _ = apply(NETWORK, variables(), IMAGES, train=True)
    value, aux = squared_error(NETWORK, variables(), IMAGES, jnp.zeros_like(IMAGES))
    per_image = np.mean(np.square(residual), (1, 2, 3))
    assert float(value) == pytest.approx(per_image.mean() * 24, rel=1e-5)
    assert float(aux.metrics["psnr"]) == pytest.approx(np.mean(-10 * np.log10(per_image)), rel=1e-5)


def test_mean_loss_of_a_silent_network_is_the_mean_square_of_the_noise():
    many = {"image": jnp.zeros((4000, 4, 4, 1)), "position": jnp.arange(4000), "progress": jnp.float32(0)}
    start = Variables(silent(), variables().stats)
    for rule, moment in (("quadratic", 1 / 5), ("linear", 1 / 3)):
        value, _ = jax.jit(functools.partial(loss, NETWORK, rule=rule))(start, jax.random.key(2), many)
        assert float(value) / 16 == pytest.approx(moment, rel=0.06)
    value, _ = trained(start, jax.random.key(2), many, sigma_min=0.2, sigma_max=0.2)
    assert float(value) / 16 == pytest.approx(0.04, rel=0.03)


def test_draws_belong_to_examples_not_to_batches():
    def one(rows, seed=3):
        # Evaluation, in which images do not meet in the normalisation.
        return float(evaluated(variables(), jax.random.key(seed), batch(rows))[0])

    whole, parts = one(slice(None)), [one(slice(0, 3)), one(slice(3, 6))]
    assert whole == pytest.approx((parts[0] + parts[1]) / 2, rel=1e-6)
    assert whole != one(slice(None), seed=4)


def test_normalisation_freezes_when_told():
    for progress, moves in ((0.0, True), (0.59, True), (0.6, False), (0.9, False)):
        start = variables()
        value, aux = trained(start, jax.random.key(3), batch(progress=progress), freeze_after=0.6)
        moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (aux.stats, start.stats)), strict=True)]
        assert all(moved) if moves else not any(moved)
        running, _ = evaluated(start, jax.random.key(3), batch())
        assert np.isclose(value, running, rtol=1e-6) != moves
    _, aux = trained(start, jax.random.key(3), batch(progress=0.999))
    assert not np.array_equal(jax.tree.leaves(aux.stats)[0], jax.tree.leaves(start.stats)[0])
