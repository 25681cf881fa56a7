"""Samplers on the exact drift of a mixture of Gaussians: order, distribution; and the rules of the interface."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import phase_bridge
from common.errors import InputError
from common.solvers import grids, linear
from phase_bridge import bridge as bridges
from phase_bridge import sampling
from phase_bridge.bridge import Bridge


def _neighbour(name):
    """Imports a file beside this one, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mixture = _neighbour("mixture")
EVERY = [("ode", rule) for rule in sampling.RULES["ode"]] + [("sde", rule) for rule in sampling.RULES["sde"]]


def test_measured_order_of_every_ode_rule():
    """Order r + 1 when extrapolating through r + 1 evaluations, one more with the corrector, on the published grid."""
    cases = {("euler", None, None): 1}
    for rule in ("exponential", "data"):
        for order in range(4):
            for corrector in (False, True):
                cases[rule, order, corrector] = order + 1 + corrector
    # The rules of order 5 reach the rounding of the reference.
    cases = {case: order for case, order in cases.items() if order < 5}
    with jax.enable_x64(True):
        field = mixture.field("ode", std=0.3)

        def at(n, rule, order, corrector):
            options = {"kind": "ode", "rule": rule, "order": order, "corrector": corrector, "pad": 5}
            return mixture.states(field, sampling.time_grid("power", n, last=0.9), **options)

        exact = at(1000, "data", 3, True)
        measured = {}
        for case in cases:
            error = [np.sqrt(np.mean((at(n, *case) - exact) ** 2)) for n in (200, 400)]
            measured[case] = np.log2(error[0] / error[1])
    for case, order in cases.items():
        assert measured[case] == pytest.approx(order, abs=0.15), case


def coarser(steps, coarse, draws):
    """Returns the draws for a table of half as many steps that make the same Brownian path; all `[N, 2, B, 2C]`."""

    def split(z):
        return np.stack(np.split(z, 2, -1))  # [2, B, C]

    def back(factor, xi):
        return np.concatenate(np.linalg.solve(factor, xi.reshape(2, -1)).reshape(xi.shape), -1)

    out = np.zeros((len(coarse.times), *draws.shape[1:]))
    for n in range(len(coarse.times)):
        if coarse.before is None:
            parts = [(2 * n, 1, steps.noise), (2 * n + 1, 1, steps.noise)]
            groups = [(1, parts, coarse.noise[n], steps.transition[2 * n + 1])]
        else:
            groups = [
                (which, [(2 * n + which, 0, steps.before_noise), (2 * n + which, 1, steps.noise)], factor, flight)
                for which, factor, flight in (
                    (0, coarse.before_noise[n], steps.before[2 * n]),
                    (1, coarse.noise[n], steps.before[2 * n + 1]),
                )
            ]
        for which, ((i, before, first), (j, after, second)), factor, flight in groups:
            xi = np.einsum("ij,jbc->ibc", flight @ first[i], split(draws[i, before]))
            xi += np.einsum("ij,jbc->ibc", second[j], split(draws[j, after]))
            out[n, which] = back(factor, xi)
    return out


@pytest.mark.parametrize("rule", sampling.RULES["sde"])
@pytest.mark.parametrize("corrector", [False, True])
def test_measured_order_of_every_sde_rule(rule, corrector):
    """Strong order 1 along common Brownian paths, as for any rule with this noise that looks at increments only."""
    if corrector and rule != "data":
        pytest.skip("mends only what extrapolates")
    order = {"order": 0, "corrector": corrector} if rule == "data" else {}
    particles, finest = 256, 512
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(finest, 2, particles, 4))
    start = rng.normal(size=(particles, 4))
    ends = []
    with jax.enable_x64(True):
        field, steps = mixture.field("sde", std=0.3), None
        for n in (finest, finest // 2, finest // 4, finest // 8):
            finer, steps = (
                steps,
                sampling.make_steps(Bridge(), grids.uniform(0, 0.9, n), kind="sde", rule=rule, **order),
            )
            if finer is not None and rule == "euler":
                draws = (draws[::2] + draws[1::2]) / np.sqrt(2)
            elif finer is not None:
                draws = coarser(finer, steps, draws)
            _, info = sampling.sample(
                field, jax.random.key(0), (particles, 2), steps=steps, start=start, output="state",
                noise=Partial(_replay, jnp.asarray(draws)), dtype=jnp.float64,
            )  # fmt: skip
            ends.append(np.asarray(info["state"]))
    change = [np.sqrt(np.mean((one - other) ** 2)) for one, other in zip(ends, ends[1:], strict=False)]
    slopes = np.log2(np.divide(change[1:], change[:-1]))
    assert slopes[0] == pytest.approx(1, abs=0.15), slopes


def _replay(draws, keys, n, which, like):
    return draws[n, which][..., : like.shape[-1]]


@pytest.mark.parametrize(("kind", "rule"), EVERY)
def test_every_rule_meets_the_true_distribution_at_200_steps(kind, rule):
    n, t = 8_000, 0.99
    times = grids.uniform(0, t, 200)
    x = mixture.states(mixture.field(kind), times, n=n, dtype=jnp.float32, kind=kind, rule=rule)[:, :2]
    spread, shares = mixture.describe(x, t)
    want, _ = mixture.describe(mixture.draw(np.random.default_rng(1), 200_000, t), t)
    # Sampling error of the spread is 0.6 %; splitting has the largest bias left.
    assert spread == pytest.approx(want, rel=0.025)
    assert np.abs(shares - mixture.WEIGHTS).max() < 0.02


def test_the_recommended_sde_sampler_keeps_the_spread_at_20_steps():
    t, n = 0.95, 20_000
    times = 1 - grids.power(1, 1 - t, 20, order=2)
    want, _ = mixture.describe(mixture.draw(np.random.default_rng(1), 200_000, t), t)
    field = mixture.field("sde")

    def error(**options):
        x = mixture.states(field, times, n=n, dtype=jnp.float32, kind="sde", **options)[:, :2]
        return mixture.describe(x, t)[0] / want - 1

    assert abs(error()) < 0.02
    samples, info = phase_bridge.sample(field, jax.random.key(1), (n, 2), kind="sde", nfe=20)
    assert info["nfe"] == 20
    assert abs(mixture.describe(np.asarray(samples), 1.0)[0] / mixture.STD - 1) < 0.02
    # What it is recommended over.
    assert abs(error(rule="euler")) > 0.02
    assert abs(error(rule="splitting")) > 0.02


@pytest.mark.parametrize("kind", bridges.KINDS)
def test_normaliser_makes_no_difference_to_an_exact_field_with_the_data_rule(kind):
    x = [
        mixture.states(mixture.field(kind, normaliser=each), grids.uniform(0, 0.9, 10), kind=kind, rule="data",
                       normaliser=each, dtype=jnp.float32)
        for each in bridges.CONVENTIONS
    ]  # fmt: skip
    np.testing.assert_allclose(*x, atol=2e-5)


def test_without_noise_euler_maruyama_is_euler():
    field = mixture.field("sde")
    steps = sampling.make_steps(Bridge(), grids.uniform(0, 0.9, 10), kind="sde", rule="euler")
    key, shape = jax.random.key(0), (8, 2)
    still, _ = sampling.sample(field, key, shape, kind="sde", steps=steps._replace(noise=steps.noise * 0))
    without, _ = sampling.sample(field, key, shape, kind="sde", steps=steps._replace(noise=None))
    np.testing.assert_array_equal(still, without)


@pytest.mark.parametrize("kind", bridges.KINDS)
def test_stored_values_are_those_of_the_run(kind):
    field, b = mixture.field(kind), Bridge()
    options = {"kind": kind, "nfe": 6, "store_estimates": True, "store_states": True}
    x, info = phase_bridge.sample(field, jax.random.key(3), (5, 2), **options)
    assert info["nfe"] == 6 and info["times"].shape == (6,)
    assert info["states"].shape == (5, 7, 4) and info["estimates"].shape == (5, 6, 2)
    np.testing.assert_array_equal(x, info["estimates"][:, -1])
    for n, t in enumerate(info["times"].tolist()):
        m = info["states"][:, n]
        f = field(m, jnp.float32(t)) * bridges.normaliser(b, t, kind=kind)
        np.testing.assert_allclose(info["estimates"][:, n], bridges.data_estimate(b, m, f, t, kind=kind), atol=2e-4)
    # The run ends where the last estimate was made.
    np.testing.assert_array_equal(info["states"][:, -1], info["states"][:, -2])
    np.testing.assert_array_equal(info["state"], info["states"][:, -1])
    x, info = phase_bridge.sample(field, jax.random.key(3), (5, 2), **options, output="state")
    np.testing.assert_array_equal(x, info["states"][:, -1, :2])
    assert (info["states"][:, -1] != info["states"][:, -2]).any()


def _drift(m, t):
    return 0.3 * bridges.split(m)[0] - t


@pytest.mark.parametrize(("kind", "rule"), EVERY)
def test_samples_do_not_depend_on_the_batch(kind, rule):
    field, key = _drift, jax.random.key(5)
    whole, _ = sampling.sample(field, key, (6, 2), kind=kind, rule=rule, nfe=5)
    part, _ = sampling.sample(field, key, (3, 2), kind=kind, rule=rule, nfe=5, first=2)
    np.testing.assert_allclose(part, whole[2:5], rtol=1e-5, atol=1e-5)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(6, dtype=jnp.uint32))
    own, _ = sampling.sample(field, keys, (6, 2), kind=kind, rule=rule, nfe=5)
    np.testing.assert_array_equal(own, whole)
    other, _ = sampling.sample(field, jax.random.key(6), (6, 2), kind=kind, rule=rule, nfe=5)
    assert np.abs(other - whole).max() > 0.01


def test_images_and_points_are_treated_alike():
    def halve(m, t):
        return -bridges.split(m)[1] * 0.1

    flat, _ = sampling.sample(halve, jax.random.key(0), (2, 12), start=jnp.arange(48.0).reshape(2, 24) / 48)
    image = jnp.arange(48.0).reshape(2, 24) / 48
    x, v = (part.reshape(2, 2, 2, 3) for part in bridges.split(image))
    got, _ = sampling.sample(halve, jax.random.key(0), (2, 2, 2, 3), start=jnp.concatenate([x, v], -1))
    np.testing.assert_allclose(got.reshape(2, 12), flat, rtol=1e-6)


def test_other_weights_times_and_bridges_compile_nothing():
    traces = []

    def network(weight, m, t):
        traces.append(m.shape)
        return weight * bridges.split(m)[0]

    results = []
    for weight, last, b in ((0.1, 0.9, Bridge()), (0.2, 0.9, Bridge()), (0.1, 0.7, Bridge()), (0.1, 0.9, Bridge(p=2))):
        field = Partial(network, jnp.float32(weight))
        results.append(sampling.sample(field, jax.random.key(0), (3, 2), bridge=b, nfe=7, last_time=last)[0])
    assert len(traces) == 1
    for other in results[1:]:
        assert np.abs(other - results[0]).max() > 1e-3


def test_time_grids():
    grid = sampling.time_grid("reversed_power", 5, last=0.4)
    assert len(grid) == 6 and grid[0] == 1e-5 and grid[-2:].tolist() == [0.4, 0.999]
    np.testing.assert_allclose(np.diff(np.sqrt(grid[:-1])), (np.sqrt(0.4) - np.sqrt(1e-5)) / 4)
    grid = sampling.time_grid("remaining", 5, last=0.9)
    np.testing.assert_allclose(np.diff(np.sqrt(1 - grid[:-1])), (np.sqrt(0.1) - np.sqrt(1 - 1e-5)) / 4)
    assert sampling.time_grid("uniform", 4, first=0, last=0.8).tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert sampling.time_grid("reversed_power", 1, last=0.4).tolist() == [1e-5, 0.999]
    assert [sampling.usual_last(n, kind="ode") for n in (5, 10, 20, 100)] == [0.4, 0.7, 0.9, 0.999]


def test_steps_that_end_at_the_last_estimate_are_kept():
    steps = sampling.make_steps(Bridge(), [0.0, 0.5, 0.9], kind="sde")
    kept = linear.keep_last(steps)
    np.testing.assert_array_equal(kept.transition[-1], np.eye(2))
    assert not kept.noise[-1].any() and not kept.weights[-1].any()
    np.testing.assert_array_equal(kept.noise[0], steps.noise[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "odd"}, 'kind: expected one of "sde", "ode"'),
        ({"rule": "gddim"}, "rule: expected one of"),
        ({"rule": "splitting"}, 'rule: expected one for kind "ode", got "splitting"'),
        ({"kind": "sde", "rule": "exponential"}, 'rule: expected one for kind "sde"'),
        ({"order": -1}, "order: expected a whole number"),
        ({"rule": "euler", "order": 2}, 'order: expected None with rule "euler", got 2'),
        ({"normaliser": "fixed"}, "normaliser: expected one of"),
        ({"nfe": 0}, "nfe: expected a whole number"),
        ({"grid": "karras"}, "grid: expected one of"),
        ({"last_time": 1.0}, "last: expected a time after first"),
        ({"last_time": 0.9995}, "end: expected a time from last"),
        ({"times": [0.0, 0.5, 0.4]}, "times: expected numbers in order"),
        ({"times": [0.5, 0.0]}, "times: expected times in"),
        ({"compat": "original"}, "compat: expected"),
        ({"compat": "released", "rule": "data"}, "compat: expected None with this rule"),
        ({"output": "sample"}, "output: expected one of"),
        ({"start": np.zeros((4, 2))}, r"start: expected \[x, v\] of shape \(4, 4\), got \(4, 2\)"),
        (
            {"key": jax.random.split(jax.random.key(0), 3)},
            "key: expected a key .*, or 4 such keys, one a sample, got keys of shape",
        ),
        ({"shape": (4,)}, r"shape: expected \[B, ..., C\]"),
        ({"field": 3}, "field: expected a function"),
    ],
)
def test_mistakes_are_told_before_anything_is_compiled(options, message):
    def never(m, t):
        raise AssertionError("traced")

    call = {"field": never, "key": jax.random.key(0), "shape": (4, 2), **options}
    with pytest.raises(InputError, match=message):
        sampling.sample(call.pop("field"), call.pop("key"), call.pop("shape"), **call)
