"""Objectives: targets that read back as data, units, weights and laws of noise levels, and what serves which path."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from phase_bridge import bridge as bridges
from phase_bridge import objectives
from phase_bridge.bridge import Bridge
from phase_bridge.objectives import couple
from phase_bridge.processes import EDM, Flow

B = Bridge()
T = jnp.asarray([0.01, 0.2, 0.5, 0.8, 0.95])
SIGMA = jnp.asarray([0.01, 0.1, 0.7, 3.0, 50.0])


def batch(count=5, std=0.7, parts=1):
    x_key, z_key = jax.random.split(jax.random.key(0))
    return std * jax.random.normal(x_key, (count, 2)), jax.random.normal(z_key, (count, 2 * parts))


@pytest.mark.parametrize("kind", bridges.KINDS)
@pytest.mark.parametrize("output", objectives.OUTPUTS)
def test_the_target_of_a_force_read_back_is_the_data(kind, output):
    o = objectives.force(B, kind=kind, output=output)
    x1, noise = batch(parts=2)
    m = o.perturb(x1, noise, T)
    np.testing.assert_allclose(o.estimate(o.target(x1, noise, T), m, T), x1, rtol=2e-3, atol=2e-3)


def test_force_is_the_published_objective():
    o = objectives.force(B)
    x1, noise = batch(parts=2)
    m = o.perturb(x1, noise, T)
    np.testing.assert_array_equal(o.inputs(m, T), m)
    np.testing.assert_array_equal(o.time_input(T), 1 - T)
    np.testing.assert_allclose(o.weight(T), 1 / (1 - T), rtol=1e-6)
    np.testing.assert_allclose(o.target(x1, noise, T), bridges.target(B, x1, noise, T, kind="ode"), rtol=1e-6)
    scaled = objectives.force(B, output="preconditioned")
    np.testing.assert_allclose(scaled.weight(T), 1 - T, rtol=1e-5)  # the same loss, in other units
    np.testing.assert_allclose(scaled.target(x1, noise, T) * (1 - T)[:, None], o.target(x1, noise, T), rtol=1e-5)
    assert not o.denoiser


@pytest.mark.parametrize("weight", objectives.WEIGHTS)
def test_weights_do_not_depend_on_the_output_s_units(weight):
    values = []
    for output in objectives.OUTPUTS:
        o = objectives.force(B, output=output, weight=weight)
        x1, noise = batch(parts=2)
        values.append(o.weight(T)[:, None] * jnp.square(o.target(x1, noise, T)))
    np.testing.assert_allclose(*values, rtol=1e-4)
    plain = {"reciprocal": 1 / (1 - T), "ones": jnp.ones_like(T), "reciprocalinv": 1 / T}
    np.testing.assert_allclose(objectives.force(B, weight=weight).weight(T), plain[weight], rtol=1e-5)


@pytest.mark.parametrize("law", ["log_normal", "uniform"])
def test_a_denoiser_has_inputs_and_targets_of_unit_variance(law):
    o = objectives.denoiser(sigma_data=0.7, law=law, process=B)
    x1, z = batch()
    np.testing.assert_allclose(o.estimate(o.target(x1, z, SIGMA), o.perturb(x1, z, SIGMA), SIGMA), x1, atol=2e-4)
    for level in (0.02, 1.0, 30.0):
        x1, z = batch(40_000)
        at = jnp.full(len(x1), level)
        shown, wanted = o.inputs(o.perturb(x1, z, at), at), o.target(x1, z, at)
        assert np.std(shown) == pytest.approx(1, abs=0.01) and np.std(wanted) == pytest.approx(1, abs=0.01)
        # The best linear estimate is taken out: what is left cannot be inferred linearly from the input.
        assert abs(np.mean(shown * wanted)) < 0.02
    np.testing.assert_allclose(o.time_input(SIGMA), np.log(SIGMA) / 4, rtol=1e-6)
    np.testing.assert_array_equal(o.weight(SIGMA), 1)
    assert o.denoiser and o.time_input(jnp.float32(1e15)) == o.time_input(jnp.float32(1e12))


def test_laws_of_noise_levels():
    keys = jax.random.split(jax.random.key(1), 20_000)
    logs = np.log(jax.vmap(objectives.denoiser(sigma_data=1.5).times)(keys))
    assert abs(logs.mean() - (np.log(3) - 1.2)) < 0.03 and abs(logs.std() - 1.2) < 0.03
    levels = np.asarray(jax.vmap(objectives.denoiser(sigma_data=2.0, law="log_uniform").times)(keys))
    assert levels.min() >= 0.008 * 0.99 and levels.max() <= 320 * 1.01
    assert np.median(np.log(levels)) == pytest.approx(np.log(0.008 * 320) / 2, abs=0.1)
    for process in (B, Flow()):
        levels = np.asarray(jax.vmap(objectives.denoiser(law="uniform", process=process).times)(keys), np.float64)
        times = process.time_at(levels)
        assert times.min() > 0 and times.max() < 1 and np.quantile(times, 0.25) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("coupling", [0, 4])
def test_velocity_is_that_of_straight_paths(coupling):
    o = objectives.velocity(coupling=coupling)
    x1, z = batch(4)
    t = jnp.asarray([0.1, 0.3, 0.5, 0.9])
    at = t if coupling else (1 - t) / t
    state = o.perturb(x1, z, at)
    x = t[:, None] * x1 + (1 - t[:, None]) * z
    np.testing.assert_allclose(o.inputs(state, at), x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(o.time_input(at), 1 - t, rtol=1e-5)
    np.testing.assert_array_equal(o.target(x1, z, at), x1 - z)
    np.testing.assert_allclose(o.estimate(o.target(x1, z, at), state, at), x1, rtol=1e-5, atol=1e-5)
    times = jax.vmap(o.times)(jax.random.split(jax.random.key(0), 5000))
    assert np.median(times) == pytest.approx(0.5 if coupling else 1.0, abs=0.04)
    assert o.denoiser == (not coupling) and (o.couple is not None) == bool(coupling)


def test_coupling_is_the_best_pairing_of_each_group():
    x1, z = batch(8)
    paired = np.asarray(couple(x1, z, size=4))
    for start in (0, 4):
        part, noise = np.asarray(x1)[start : start + 4], np.asarray(z)[start : start + 4]
        costs = {order: np.square(part[list(order)] - noise).sum() for order in itertools.permutations(range(4))}
        np.testing.assert_array_equal(paired[start : start + 4], part[list(min(costs, key=costs.get))])
    inside = jax.jit(lambda x1, z: couple(x1, z, size=4))(x1, z)
    np.testing.assert_array_equal(inside, paired)
    with pytest.raises(InputError, match="coupling: expected at least 2, and a divisor of 8 examples, got 3"):
        couple(x1, z, size=3)


def test_all_objectives_give_finite_numbers_at_both_ends():
    x1, noise = batch(2, parts=2)
    ends = jnp.asarray([1e-5, 0.999])
    options = itertools.product(bridges.KINDS, objectives.OUTPUTS, objectives.WEIGHTS)
    made = [objectives.force(B, kind=kind, output=output, weight=weight) for kind, output, weight in options]
    for o in [*made, objectives.denoiser(law="uniform", process=B), objectives.velocity()]:
        at = ends if o.name == "force" else B.noise_level(ends)
        noise = noise[:, : 2 * o.parts]
        m = o.perturb(x1, noise, at)
        out = [o.inputs(m, at), o.time_input(at), o.target(x1, noise, at), o.weight(at), o.estimate(x1, m, at)]
        assert all(np.isfinite(each).all() for each in out), o.name
        noise = batch(2, parts=2)[1]


def test_what_was_trained_on_one_path_serves_no_other():
    for goal, path, own in ((objectives.force(B), Flow(), "bridge"), (objectives.velocity(coupling=2), B, "flow")):
        with pytest.raises(InputError, match=f'process: expected "{own}" with the objective {goal.name}'):
            objectives.model(None, goal, path, None)
    for path in (B, Flow(), EDM()):
        assert objectives.model(None, objectives.denoiser(), path, None).denoiser
    model = objectives.model(None, objectives.force(B), B, None)
    with pytest.raises(InputError, match="process: expected Bridge.*whose states the network was trained on"):
        model.along(Bridge(p=2))
    assert objectives.model(None, objectives.denoiser(), B, None).along(Flow()).process == Flow()


def test_mistakes():
    with pytest.raises(InputError, match="kind: expected one of"):
        objectives.force(B, kind="pde")
    with pytest.raises(InputError, match="times: expected 0 < first < last < 1"):
        objectives.force(B, last=1.0)
    with pytest.raises(InputError, match="sigma_data: expected a positive number"):
        objectives.denoiser(sigma_data=0.0)
    with pytest.raises(InputError, match='process: expected a path of finite times with law "uniform"'):
        objectives.denoiser(law="uniform", process=EDM())
