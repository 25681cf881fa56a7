"""Every recipe has the force as its optimum; targets of unit variance; weights that mean what they say."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from phase_bridge import bridge as bridges
from phase_bridge import recipes
from phase_bridge.bridge import Bridge
from phase_bridge.recipes import RECIPES, Recipe, objective

B = Bridge()
T = jnp.asarray([0.01, 0.2, 0.5, 0.8, 0.95])


def batch(seed=0, std=0.7, count=5):
    x_key, noise_key = jax.random.split(jax.random.key(seed))
    return std * jax.random.normal(x_key, (count, 2)), jax.random.normal(noise_key, (count, 4))


@pytest.mark.parametrize("kind", bridges.KINDS)
@pytest.mark.parametrize("output", recipes.OUTPUTS)
def test_the_target_read_back_is_the_normalised_force(kind, output):
    recipe = RECIPES["improved"]._replace(output=output)
    o = objective(B, recipe, kind=kind, sigma_data=0.7)
    x1, noise = batch()
    m = o.perturb(x1, noise, T)
    got = o.read(o.target(x1, noise, T), m, T)
    want = bridges.target(B, x1, noise, T, kind=kind)
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)


def test_released_is_the_published_objective():
    o = objective(B, RECIPES["released"], kind="ode")
    x1, noise = batch()
    m = o.perturb(x1, noise, T)
    np.testing.assert_array_equal(o.inputs(m, T), m)
    np.testing.assert_array_equal(o.label(T), 1 - T)
    np.testing.assert_allclose(o.weight(T), 1 / (1 - T), rtol=1e-6)
    np.testing.assert_allclose(o.target(x1, noise, T), bridges.target(B, x1, noise, T, kind="ode"), rtol=1e-6)
    preconditioned = objective(B, RECIPES["released"]._replace(output="preconditioned"), kind="ode")
    np.testing.assert_allclose(preconditioned.weight(T), 1 - T, rtol=1e-5)  # the same loss, in other units
    np.testing.assert_allclose(preconditioned.read(jnp.ones((5, 2)), m, T)[:, 0], 1 - T, rtol=1e-6)


def test_improved_is_a_denoiser_of_the_statistic():
    std = 0.7
    o = objective(B, RECIPES["improved"], kind="sde", sigma_data=std)
    for t in (1e-5, 0.1, 0.5, 0.9, 0.99):
        x1, noise = batch(count=40_000, std=std)
        at = jnp.full(len(x1), t)
        shown, wanted = o.inputs(o.perturb(x1, noise, at), at), o.target(x1, noise, at)
        assert np.std(shown) == pytest.approx(1, abs=0.01)
        assert np.std(wanted) == pytest.approx(1, abs=0.01)
        # The best linear estimate is taken out: what is left cannot be told linearly from the input.
        assert abs(np.mean(shown * wanted)) < 0.02
    np.testing.assert_array_equal(o.weight(T), jnp.ones_like(T))


@pytest.mark.parametrize("inputs", ["scaled", "statistic"])
def test_inputs_of_unit_variance(inputs):
    o = objective(B, RECIPES["released"]._replace(inputs=inputs), kind="ode", sigma_data=0.7)
    x1, noise = batch(count=20_000)
    for t in (0.05, 0.6, 0.97):
        at = jnp.full(len(x1), t)
        shown = o.inputs(o.perturb(x1, noise, at), at)
        np.testing.assert_allclose(np.std(shown, axis=0), 1, atol=0.03)
        assert shown.shape[-1] == (4 if inputs == "scaled" else 2)


@pytest.mark.parametrize("weight", recipes.WEIGHTS)
def test_weights_do_not_depend_on_the_output_s_units(weight):
    """The weighted error of a force that is off by one is the same, whatever the network's output stands for."""
    x1, noise = batch()
    values = []
    for output in recipes.OUTPUTS:
        o = objective(B, RECIPES["improved"]._replace(output=output, weight=weight), kind="ode", sigma_data=0.7)
        m = o.perturb(x1, noise, T)
        per_output = o.read(jnp.ones((5, 2)), m, T) - o.read(jnp.zeros((5, 2)), m, T)
        values.append(o.weight(T) / per_output[:, 0] ** 2)
    for each in values[1:]:
        np.testing.assert_allclose(each, values[0], rtol=2e-3)
    plain = {"reciprocal": 1 / (1 - T), "ones": jnp.ones_like(T), "reciprocalinv": 1 / T}
    if weight in plain:
        np.testing.assert_allclose(values[0], plain[weight], rtol=1e-5)


def test_times():
    for times, low, high in (("uniform", 1e-5, 0.999), ("log_normal", 1e-5, 0.999), ("log_uniform", 1e-5, 0.999)):
        o = objective(B, RECIPES["improved"]._replace(times=times), kind="ode", sigma_data=1.0)
        t = np.asarray(jax.vmap(o.times)(jax.random.split(jax.random.key(0), 20_000)))
        assert low <= t.min() and t.max() <= high
        from phase_bridge.statistic import noise_level

        logs = np.log(noise_level(B, t.astype(np.float64)))
        if times == "uniform":
            assert abs(t.mean() - 0.5) < 0.01
        elif times == "log_normal":
            assert abs(logs.mean() - (np.log(2) - 1.2)) < 0.03 and abs(logs.std() - 1.2) < 0.03
        else:
            assert abs(np.quantile(logs, 0.5) - np.log(0.004 * 160) / 2) < 0.1


def test_all_recipes_give_finite_numbers_at_both_ends():
    x1, noise = batch(count=2)
    ends = jnp.asarray([1e-5, 0.999])
    options = itertools.product(
        recipes.INPUTS, recipes.OUTPUTS, recipes.LABELS, recipes.WEIGHTS, ["uniform"], bridges.KINDS
    )
    for *recipe, kind in options:
        o = objective(B, Recipe(*recipe), kind=kind)
        m = o.perturb(x1, noise, ends)
        out = [o.inputs(m, ends), o.label(ends), o.target(x1, noise, ends), o.weight(ends), o.read(x1, m, ends)]
        assert all(np.isfinite(each).all() for each in out), recipe


def test_bad_recipes():
    with pytest.raises(InputError, match='recipe.inputs: expected one of "state", "scaled", "statistic"'):
        objective(B, RECIPES["improved"]._replace(inputs="stat"), kind="ode")
    with pytest.raises(InputError, match="kind: expected one of"):
        objective(B, RECIPES["improved"], kind="pde")
    with pytest.raises(InputError, match="times: expected 0 < first < last < 1"):
        objective(B, RECIPES["improved"], kind="ode", last=1.0)
    with pytest.raises(InputError, match="sigma_data: expected a positive number"):
        objective(B, RECIPES["improved"], kind="ode", sigma_data=0.0)
