"""Samplers on the exact model of a mixture of Gaussians: distribution; and the rules of the interface."""

import dataclasses
import doctest
import importlib
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
from phase_bridge.processes import EDM, Flow
from phase_bridge.sampling import Sampler, denoiser_model, estimate_model
from phase_bridge.solvers import make_steps


def _neighbour(name):
    """Imports a file beside this one, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mixture = _neighbour("mixture")
SDE = ("data_multistep", "splitting", "euler_maruyama")
EVERY = [("ode", "gddim"), ("ode", "data_multistep"), ("ode", "euler"), *(("sde", solver) for solver in SDE)]


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


@pytest.mark.parametrize("solver", SDE)
@pytest.mark.parametrize("corrector", [False, True])
def test_measured_order_of_every_sde_solver(solver, corrector):
    """Strong order 1 along common Brownian paths, as for any rule with this noise that looks at increments only."""
    if corrector and solver != "data_multistep":
        pytest.skip("corrects only what extrapolates")
    degree = {"degree": 0, "corrector": corrector} if solver == "data_multistep" else {}
    particles, finest = 256, 512
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(finest, 2, particles, 4))
    start = rng.normal(size=(particles, 4))
    ends = []
    with jax.enable_x64(True):
        field, steps = Partial(sampling.estimate, mixture.model(std=0.3)), None
        for n in (finest, finest // 2, finest // 4, finest // 8):
            finer, steps = (
                steps,
                make_steps(Bridge(), grids.uniform(0, 0.9, n), kind="sde", solver=solver, **degree),
            )
            if finer is not None and solver == "euler_maruyama":
                draws = (draws[::2] + draws[1::2]) / np.sqrt(2)
            elif finer is not None:
                draws = coarser(finer, steps, draws)
            _, info = sampling.run(
                field, steps, jax.random.key(0), (particles, 2), Bridge(), start=jnp.asarray(start), output="state",
                noise=Partial(_replay, jnp.asarray(draws)), dtype=jnp.float64,
            )  # fmt: skip
            ends.append(np.asarray(info["state"]))
    change = [np.sqrt(np.mean((one - other) ** 2)) for one, other in zip(ends, ends[1:], strict=False)]
    slopes = np.log2(np.divide(change[1:], change[:-1]))
    assert slopes[0] == pytest.approx(1, abs=0.15), slopes


def _replay(draws, keys, n, which, like):
    return draws[n, which][..., : like.shape[-1]]


@pytest.mark.parametrize(("kind", "solver"), EVERY)
def test_every_solver_meets_the_true_distribution_at_200_steps(kind, solver):
    n, t = 8_000, 0.99
    times = grids.uniform(0, t, 200)
    x = mixture.states(mixture.model(), times, n=n, dtype=jnp.float32, kind=kind, solver=solver)[:, :2]
    spread, fractions = mixture.describe(x, t)
    want, _ = mixture.describe(mixture.draw(np.random.default_rng(1), 200_000, t), t)
    # Sampling error of the spread is 0.6 %; splitting has the largest bias left.
    assert spread == pytest.approx(want, rel=0.025)
    assert np.abs(fractions - mixture.WEIGHTS).max() < 0.02


def test_the_recommended_sde_sampler_keeps_the_spread_at_20_steps():
    t, n = 0.95, 20_000
    times = 1 - grids.power(1, 1 - t, 20, order=2)
    want, _ = mixture.describe(mixture.draw(np.random.default_rng(1), 200_000, t), t)
    model = mixture.model()

    def error(**options):
        x = mixture.states(model, times, n=n, dtype=jnp.float32, kind="sde", **options)[:, :2]
        return mixture.describe(x, t)[0] / want - 1

    assert abs(error()) < 0.02
    samples, info = phase_bridge.sample(model, jax.random.key(1), (n, 2), kind="sde", nfe=20)
    assert info["nfe"] == 20
    assert abs(mixture.describe(np.asarray(samples), 1.0)[0] / mixture.STD - 1) < 0.02
    # What it is recommended over.
    assert abs(error(solver="euler_maruyama")) > 0.02
    assert abs(error(solver="splitting")) > 0.02


def test_one_model_serves_both_kinds():
    """A network trained on the force of one kind gives the data estimate, which no sampler can misread."""
    for trained in bridges.KINDS:
        own = mixture.model(kind=trained)
        for kind in bridges.KINDS:
            x, _ = phase_bridge.sample(own, jax.random.key(1), (4000, 2), kind=kind, nfe=100)
            assert mixture.describe(np.asarray(x), 1.0)[0] == pytest.approx(mixture.STD, rel=0.1)


def test_without_noise_euler_maruyama_is_euler():
    field, key, shape = Partial(sampling.estimate, mixture.model()), jax.random.key(0), (8, 2)
    steps = make_steps(Bridge(), grids.uniform(0, 0.9, 10), kind="sde", solver="euler_maruyama")
    still, _ = sampling.run(field, steps._replace(noise=steps.noise * 0), key, shape, Bridge())
    without, _ = sampling.run(field, steps._replace(noise=None), key, shape, Bridge())
    np.testing.assert_array_equal(still, without)


@pytest.mark.parametrize("kind", bridges.KINDS)
def test_stored_values_are_those_of_the_run(kind):
    model = mixture.model(kind=kind)
    options = {"nfe": 6, "store_estimates": True, "store_states": True}
    x, info = phase_bridge.sample(model, jax.random.key(3), (5, 2), **options)
    assert info["nfe"] == 6 and info["times"].shape == (6,)
    assert info["states"].shape == (5, 7, 4) and info["estimates"].shape == (5, 6, 2)
    np.testing.assert_array_equal(x, info["estimates"][:, -1])
    for n, t in enumerate(info["times"].tolist()):
        want = model.estimate(info["states"][:, n], jnp.float32(t))
        np.testing.assert_allclose(info["estimates"][:, n], want, atol=2e-4)
    # The run ends where the last estimate was made.
    np.testing.assert_array_equal(info["states"][:, -1], info["states"][:, -2])
    np.testing.assert_array_equal(info["state"], info["states"][:, -1])
    x, info = phase_bridge.sample(model, jax.random.key(3), (5, 2), **options, output="state")
    np.testing.assert_array_equal(x, info["states"][:, -1, :2])
    assert (info["states"][:, -1] != info["states"][:, -2]).any()


def _denoise(u, sigma):
    return 0.3 * u / (1 + sigma) - 0.1


DRIFT = denoiser_model(Bridge(), _denoise)


@pytest.mark.parametrize(("kind", "solver"), EVERY)
def test_samples_do_not_depend_on_the_batch(kind, solver):
    key, options = jax.random.key(5), {"kind": kind, "solver": solver, "nfe": 5}
    whole, _ = sampling.sample(DRIFT, key, (6, 2), **options)
    part, _ = sampling.sample(DRIFT, key, (3, 2), first_index=2, **options)
    np.testing.assert_allclose(part, whole[2:5], rtol=1e-5, atol=1e-5)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(6, dtype=jnp.uint32))
    own, _ = sampling.sample(DRIFT, keys, (6, 2), **options)
    np.testing.assert_array_equal(own, whole)
    other, _ = sampling.sample(DRIFT, jax.random.key(6), (6, 2), **options)
    assert np.abs(other - whole).max() > 0.01


@pytest.mark.parametrize("process", [EDM(), Flow()])
def test_batches_of_other_paths(process):
    model = denoiser_model(process, _denoise)
    whole, _ = sampling.sample(model, jax.random.key(3), (6, 2), nfe=5)
    second, _ = sampling.sample(model, jax.random.key(3), (3, 2), first_index=3, nfe=5)
    np.testing.assert_allclose(whole[3:], second, rtol=1e-5, atol=1e-6)


def test_images_and_points_are_treated_alike():
    model, start = denoiser_model(Bridge(), _denoise), jnp.arange(48.0).reshape(2, 24) / 48
    flat, _ = sampling.sample(model, jax.random.key(0), (2, 12), start=start)
    x, v = (part.reshape(2, 2, 2, 3) for part in bridges.split(start))
    got, _ = sampling.sample(model, jax.random.key(0), (2, 2, 2, 3), start=jnp.concatenate([x, v], -1))
    np.testing.assert_allclose(got.reshape(2, 12), flat, rtol=1e-5)


def test_other_weights_and_times_compile_nothing():
    traces = []

    def network(weight, u, sigma):
        traces.append(u.shape)
        return weight * u / (1 + sigma)

    results = []
    for weight, last in ((0.1, 0.9), (0.2, 0.9), (0.1, 0.7)):
        model = denoiser_model(Bridge(), Partial(network, jnp.float32(weight)))
        results.append(sampling.sample(model, jax.random.key(0), (3, 2), nfe=7, schedule={"last": last})[0])
    assert len(traces) == 1
    for other in results[1:]:
        assert np.abs(other - results[0]).max() > 1e-3


def test_what_is_not_chosen_is_the_model_s_own():
    own = dataclasses.replace(DRIFT, sampler=Sampler("data_multistep", (("last", 0.5),), nfe=7, degree=0))
    got, info = sampling.sample(own, 0, (3, 2))
    want, _ = sampling.sample(DRIFT, 0, (3, 2), solver="data_multistep", schedule={"last": 0.5}, nfe=7, degree=0)
    assert info["nfe"] == 7 and info["times"][-1] == 0.5
    np.testing.assert_array_equal(got, want)
    assert sampling.sample(own, 0, (3, 2), nfe=3)[1]["nfe"] == 3
    # A choice of one's own begins anew.
    assert sampling.sample(own, 0, (3, 2), solver="euler")[1]["nfe"] == 20


def test_estimates_of_states_serve_their_own_path():
    model = estimate_model(Bridge(), lambda m, t: 0.5 * bridges.split(m)[0])
    assert sampling.sample(model, 0, (3, 2), nfe=3)[0].shape == (3, 2)
    with pytest.raises(InputError, match="process: expected Bridge"):
        model.along(Flow())


def test_steps_that_end_at_the_last_estimate_are_kept():
    steps = make_steps(Bridge(), [0.0, 0.5, 0.9], kind="sde")
    kept = linear.keep_last(steps)
    np.testing.assert_array_equal(kept.transition[-1], np.eye(2))
    assert not kept.noise[-1].any() and not kept.weights[-1].any()
    np.testing.assert_array_equal(kept.noise[0], steps.noise[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "odd"}, 'kind: expected one of "sde", "ode"'),
        ({"solver": "rk45"}, "solver: expected one of"),
        ({"solver": "splitting"}, 'solver: expected one for the path "bridge" and kind "ode"'),
        ({"kind": "sde", "solver": "gddim"}, 'solver: expected one for the path "bridge" and kind "sde"'),
        ({"degree": -1}, "degree: expected 0, 1, 2 or 3, got -1"),
        ({"solver": "euler", "degree": 2}, 'degree: expected none with solver "euler", got 2'),
        ({"nfe": 0}, "nfe: expected a whole number"),
        ({"nfe": 20, "schedule": [0.0, 0.5, 0.9]}, "nfe: expected 2, as the schedule has 3 times, got 20"),
        ({"nfe": 4, "schedule": [0.0, 0.5, 0.9, 0.95], "solver": "heun"}, "nfe: expected 5, as the schedule has 4"),
        ({"schedule": "karras"}, "schedule: expected one of"),
        ({"schedule": {"last_time": 0.5}}, "schedule: expected one of .*last"),
        ({"schedule": {"last": 1.0}}, "last: expected a time after first"),
        ({"schedule": [0.0, 0.5, 0.4]}, "times: expected numbers in order"),
        ({"schedule": [0.5, 0.0]}, "times: expected times from 0 towards 1"),
        ({"output": "sample"}, "output: expected one of"),
        ({"solver": "heun", "store_states": True}, "solver: expected none of two stages with store_estimates"),
        ({"start": np.zeros((4, 2))}, r"start: expected \[x, v\] of shape \(4, 4\), got \(4, 2\)"),
        (
            {"key": jax.random.split(jax.random.key(0), 3)},
            "key: expected a key .*, or 4 such keys, one a sample, got keys of shape",
        ),
        ({"shape": (4,)}, r"shape: expected \[B, ..., C\]"),
        ({"shape": (-1, 2)}, r"shape: expected \[B, ..., C\], of whole numbers from 1 on, got \(-1, 2\)"),
        ({"shape": (0, 2)}, r"shape: expected \[B, ..., C\]"),
        ({"shape": (2.5, 2)}, r"shape: expected \[B, ..., C\]"),
        ({"model": 3}, "model: expected a Model, got int; make one by phase_bridge.denoiser_model"),
        ({"model": lambda m, t: m}, "model: expected a Model, got function"),
    ],
)
def test_mistakes_are_reported_before_anything_is_compiled(options, message):
    def never(u, sigma):
        raise AssertionError("traced")

    call = {"model": denoiser_model(Bridge(), never), "key": jax.random.key(0), "shape": (4, 2), **options}
    with pytest.raises(InputError, match=message):
        sampling.sample(call.pop("model"), call.pop("key"), call.pop("shape"), **call)


def test_the_package_lists_what_it_has():
    assert {"Bridge", "Flow", "EDM", "CLD", "load", "sample", "stroke", "inpainting", "log_likelihood", "schedule",
            "guided", "denoiser_model"} <= set(dir(phase_bridge))  # fmt: skip
    for name in phase_bridge.__all__:
        assert getattr(phase_bridge, name).__doc__


@pytest.mark.parametrize("module", ["conditioning", "sampling", "schedules"])
def test_examples_in_docstrings(module):
    found = importlib.import_module(f"phase_bridge.{module}")
    assert doctest.testmod(found).failed == 0 and doctest.testmod(found).attempted > 1
