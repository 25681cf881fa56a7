"""Solvers of all paths: measured orders on three grids, exactness, counts of evaluations, schedules, and mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import phase_bridge
from common.errors import InputError
from common.solvers import grids, linear
from phase_bridge import schedules, solvers
from phase_bridge.bridge import Bridge
from phase_bridge.processes import CLD, EDM, Flow
from phase_bridge.sampling import denoiser_model, estimate_model, sample
from phase_bridge.solvers import SOLVERS, Stages, make_steps, steps_for

STD = 0.5


CENTRES = np.array([[0.5, 0.5], [-0.5, 0.3], [0.2, -0.6], [-0.4, -0.5]])
WIDTH = 0.3


def denoise(u, sigma):
    return STD**2 / (STD**2 + sigma**2) * u


def posterior_mean(u, sigma):
    """Returns E[x1 | u] for four Gaussians, in NumPy."""
    total = WIDTH**2 + sigma**2
    logits = (u @ CENTRES.T - np.square(CENTRES).sum(1) / 2) / total
    weights = np.exp(logits - logits.max(1, keepdims=True))
    nearest = weights / weights.sum(1, keepdims=True) @ CENTRES
    return nearest + WIDTH**2 / total * (u - nearest)


def follow(process, steps, m, mean=posterior_mean):
    """Returns the last state of a table of steps, followed in NumPy and float64 on exact estimates."""
    if isinstance(steps, Stages):
        return follow_stages(process, steps, m, mean)
    k, past = process.parts, []
    parts = [m[:, 2 * i : 2 * i + 2] for i in range(k)]
    for n, t in enumerate(steps.times.tolist()):
        seen = [mean(*process.observe(np.concatenate(parts, 1), t)), *parts]
        known = sum(number * each for number, each in zip(steps.history[n], seen, strict=True))
        past = [known, *past][: steps.weights.shape[1]]
        parts = [
            sum(steps.transition[n, i, j] * parts[j] for j in range(k))
            + sum(weight[i] * each for weight, each in zip(steps.weights[n], past, strict=False))
            for i in range(k)
        ]
    return np.concatenate(parts, 1)


def follow_stages(process, stages, m, mean):
    """Returns the last state of a rule of two stages; the second weight is that of order 2."""

    def slope(m, t, a, b):
        parts, estimate = np.stack(np.split(m, process.parts, -1)), mean(*process.observe(m, float(t)))
        return np.concatenate(np.einsum("ij,jbc->ibc", a, parts) + b[:, None, None] * estimate, -1)

    for t, dt, a, b in zip(*stages[:-1], strict=True):
        node = (t[1] - t[0]) / dt
        first = slope(m, t[0], a[0], b[0])
        m = m + dt * (first + (slope(m + node * dt * first, t[1], a[1], b[1]) - first) / (2 * node))
    return m


B, E, F, C = Bridge(), EDM(), Flow(), CLD()
GRIDS = {
    "bridge, uniform": (B, lambda n: grids.uniform(0, 0.9, n)),
    "bridge, graded": (B, lambda n: grids.power(1e-5, 0.9, n, order=2)),
    "bridge, levels": (B, lambda n: B.time_at(grids.power(20, 0.3, n, order=7))),
    "edm, uniform": (E, lambda n: grids.uniform(5, 0.3, n)),
    "edm, levels": (E, lambda n: grids.power(20, 0.3, n, order=7)),
    "flow, uniform": (F, lambda n: grids.uniform(0, 0.8, n)),
    "flow, levels": (F, lambda n: F.time_at(grids.power(20, 0.3, n, order=7))),
    "cld, uniform": (C, lambda n: grids.uniform(1, 0.2, n)),
}
OF_BRIDGE = [("euler", None, None, 1)] + [
    (solver, degree, corrector, degree + 1 + corrector)
    for solver in ("gddim", "data_multistep")
    for degree in range(4)
    for corrector in (False, True)
    if degree + corrector < 4
]
OF_POSITIONS = [("euler", None, None, 1), ("ddim", None, None, 1), ("unipc", 1, None, 3), ("unipc", 2, None, 4)] + [
    (solver, degree, None, degree + 1) for solver in ("dpmpp", "deis") for degree in (1, 2, 3)
]
CASES = {
    "bridge": OF_BRIDGE,
    "edm": OF_POSITIONS,
    "flow, uniform": [("euler", None, None, 1), *(("ab", degree, None, degree + 1) for degree in range(4))],
    "flow, levels": OF_POSITIONS,
    "cld": [("euler", None, None, 1), ("unipc", 2, None, 4),
            *(("data_multistep", degree, None, degree + 1) for degree in range(4))],
}  # fmt: skip


@pytest.mark.parametrize("name", GRIDS)
def test_measured_orders(name):
    """All rules have the order that `SOLVERS` states, on grids that begin with short steps and on others."""
    process, times = GRIDS[name]
    start = np.random.default_rng(0).normal(size=(16, 2 * process.parts))
    if process.parts == 1:
        start *= process.factor(times(1)[0])[0]

    def at(n, solver, degree, corrector):
        return follow(process, make_steps(process, times(n), solver=solver, degree=degree, corrector=corrector), start)

    exact = at(3200, *(("ab", 3, None) if name == "flow, uniform" else ("data_multistep", 3, True)))
    for *case, order in CASES.get(name, CASES.get(process.name)):
        error = [np.sqrt(np.mean((at(n, *case) - exact) ** 2)) for n in (400, 800)]
        assert np.log2(error[0] / error[1]) == pytest.approx(order, abs=0.15), case


@pytest.mark.parametrize("solver", ["heun", "midpoint"])
@pytest.mark.parametrize("process", [E, F, B], ids=lambda each: each.name)
def test_two_stages_are_of_order_2(process, solver):
    ends = {"edm": (5.0, 0.3), "flow": (0.1, 0.8), "bridge": (0.0, 0.8)}[process.name]
    start = np.random.default_rng(0).normal(size=(16, 2 * process.parts))
    state = []
    for n in (200, 400, 2400):
        times = np.append(grids.uniform(*ends, n), ends[1] + 1e-3 * (ends[1] - ends[0]))
        state.append(follow(process, make_steps(process, times, solver=solver), start))
    errors = [np.sqrt(np.mean((each - state[2]) ** 2)) for each in state[:2]]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("solver", ["heun", "midpoint"])
def test_two_stages_in_the_compiled_loop(solver):
    start, times = np.random.default_rng(0).normal(size=(3, 4)), np.array([0.0, 0.2, 0.5, 0.8, 0.9])
    model = denoiser_model(B, denoise)
    with jax.enable_x64(True):
        _, info = sample(model, 0, (3, 2), solver=solver, schedule=times, start=start, dtype=jnp.float64)
    want = follow(B, make_steps(B, times, solver=solver), start, denoise)
    assert info["nfe"] == 7
    np.testing.assert_allclose(info["state"], want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("degree", [1, 2])
def test_dpmpp_is_exact_for_constant_estimates(degree):
    sigma = np.geomspace(5.0, 0.5, 7)
    out = linear.run(lambda x, s: jnp.full_like(x, 2.0), solvers.dpmpp(E, sigma, degree=degree), None, jnp.ones((1, 1)))
    ratio = sigma[-1] / sigma[0]
    np.testing.assert_allclose(out.state, ratio + (1 - ratio) * 2.0, rtol=1e-5)


def test_third_order_integrates_parabolas_in_log_noise():
    sigma = np.geomspace(5.0, 0.5, 6) ** np.array([1.0, 0.9, 1.1, 1.2, 1.1, 1.0])
    log = -np.log(sigma)
    steps = solvers.dpmpp(E, sigma, degree=2)
    nodes, shares = np.polynomial.legendre.leggauss(40)
    n = 4
    inner = log[n] + (log[n + 1] - log[n]) * (nodes + 1) / 2
    for power in range(3):
        want = (log[n + 1] - log[n]) / 2 * shares @ (np.exp(inner - log[n + 1]) * inner**power)
        assert steps.weights[n, :3, 0] @ log[[n, n - 1, n - 2]] ** power == pytest.approx(want)


def test_ipndm_weights():
    """Three equal steps of Adams-Bashforth on du/dsigma = c are exact, whatever their order."""
    sigma = np.array([4.0, 3.0, 2.0, 1.0])
    steps = solvers.ipndm(E, sigma)
    np.testing.assert_allclose(steps.weights[2, :, 0], -np.array([23, -16, 5, 0]) / 12)
    out = linear.run(lambda x, s: x - 0.7 * s, steps, None, jnp.full((1, 1), 9.0))
    np.testing.assert_allclose(out.state, 9.0 - 0.7 * 3, rtol=1e-6)


def test_flow_and_diffusion_are_one_path_for_solvers_in_noise_levels():
    """x = t u turns straight paths into diffusion, so the same levels give the same samples."""
    sigma = np.append(grids.power(20, 0.05, 6, order=7), 0.0)
    start = np.random.default_rng(0).normal(size=(5, 2))
    for solver in ("ddim", "dpmpp", "unipc", "deis", "ipndm", "data_multistep"):
        ends = [
            follow(process, make_steps(process, process.time_at(sigma), solver=solver), scale * start)
            for process, scale in ((E, 20.0), (F, 20.0 / 21))
        ]
        np.testing.assert_allclose(*ends, rtol=1e-9, atol=1e-12, err_msg=solver)


@pytest.mark.parametrize("process", [B, E, F, C], ids=lambda each: each.name)
def test_states_have_the_spread_of_gaussian_data(process):
    """With every solver of the probability flow, at the last evaluation of 41; the data have deviation 1/2."""
    noise = np.random.default_rng(0).normal(size=(4000, 2 * process.parts))
    for solver, rule in SOLVERS.items():
        try:
            solvers.chosen(process, solver, "ode")
        except InputError:
            continue
        if process is C and solver in ("euler", "heun", "midpoint"):
            continue  # whose velocity is damped too fast for explicit steps so long
        count = steps_for(solver, 41)[0]
        times = phase_bridge.schedule(process, count, kind="levels", sigma_max=20.0, sigma_min=0.05, rho=3.0)
        begin = process.first if process.parts == 2 else times[0]
        lower = process.factor(begin)
        start = noise * lower[0]
        if process.parts == 2:
            e_x, e_v = np.split(noise, 2, 1)
            start = np.concatenate([lower[0] * e_x, lower[1] * e_x + lower[2] * e_v], 1)
        steps = make_steps(process, times, solver=solver)
        if rule.stages == 1:
            steps = linear.keep_last(steps)
        u, sigma = process.observe(follow(process, steps, start, denoise), float(times[-2]))
        rough = solver in ("euler", "ddim")
        assert np.std(u) == pytest.approx(np.hypot(STD, sigma), rel=0.15 if rough else 0.03), solver


def test_counts():
    assert steps_for("heun", 1) == (1, 1)
    assert steps_for("heun", 8) == (4, 7)
    assert steps_for("midpoint", 5) == (3, 5)
    assert steps_for("ab", 5) == (5, 5)
    for nfe in (0, 2.5, True):
        with pytest.raises(InputError, match="nfe: expected a whole number, at least 1"):
            steps_for("ddim", nfe)
    calls = []

    def counted(u, sigma):
        jax.debug.callback(lambda sigma: calls.append(float(sigma)), sigma)
        return denoise(u, sigma)

    for process, solver, nfe in ((E, "heun", 6), (F, "ab", 4), (C, "unipc", 3), (B, "gddim", 5)):
        calls.clear()
        _, info = sample(denoiser_model(process, counted), 0, (1, 2), solver=solver, nfe=nfe)
        jax.effects_barrier()
        assert len(calls) == info["nfe"] == steps_for(solver, nfe)[1]


def test_the_default_along_a_bridge_is_the_papers_for_its_own_networks_and_for_conditions():
    def made(model, **options):
        return np.asarray(sample(model, 0, (8, 2), nfe=5, **options)[0])

    mixture = phase_bridge.mixture(B, [[-0.5, 0.0], [0.5, 0.0]], [0.3, 0.7], 0.1)
    forced = estimate_model(B, Partial(lambda model, m, t: model.estimate(m, t), mixture))
    np.testing.assert_array_equal(made(mixture), made(mixture, solver="unipc"))
    np.testing.assert_array_equal(made(forced), made(forced, solver="gddim"))
    steered = {"condition": phase_bridge.stroke(np.full((1, 2), 0.5, np.float32))}
    np.testing.assert_array_equal(made(mixture, **steered), made(mixture, solver="gddim", **steered))
    assert np.abs(made(mixture) - made(forced)).max() > 1e-3
    assert solvers.chosen(B, None, "sde", published=True) == solvers.chosen(B, None, "sde") == "data_multistep"


def test_levels():
    sigma = phase_bridge.schedule(E, 5)
    np.testing.assert_allclose(sigma[:-1] ** (1 / 7), np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 5))
    assert sigma[-1] == 0 and len(sigma) == 6
    np.testing.assert_array_equal(phase_bridge.schedule(E, 1), [80.0, 0.0])
    for process in (B, C):
        times = phase_bridge.schedule(process, 4, kind="levels", sigma_max=20, sigma_min=0.05)
        want = grids.power(20, 0.05, 3, order=7)[1:]
        np.testing.assert_allclose(process.noise_level(times[1:4]), want, rtol=1e-6)
    np.testing.assert_allclose(phase_bridge.schedule(F, 4), [0, 0.25, 0.5, 0.75, 1])


def test_time_grids_of_bridges():
    grid = schedules.schedule(B, 5)
    assert len(grid) == 6 and grid[0] == 1e-5 and grid[-2:].tolist() == [0.4, 0.999]
    np.testing.assert_allclose(np.diff(np.sqrt(grid[:-1])), (np.sqrt(0.4) - np.sqrt(1e-5)) / 4)
    grid = schedules.schedule(B, 5, kind="power_to_1", last=0.9)
    np.testing.assert_allclose(np.diff(np.sqrt(1 - grid[:-1])), (np.sqrt(0.1) - np.sqrt(1 - 1e-5)) / 4)
    grid = schedules.schedule(B, 4, kind="uniform", first=0, last=0.8)
    assert grid.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert schedules.schedule(B, 1, last=0.4).tolist() == [1e-5, 0.999]
    assert [schedules.usual_last(n, sampler="ode") for n in (5, 10, 20, 100)] == [0.4, 0.7, 0.9, 0.999]


@pytest.mark.parametrize(
    ("process", "options", "message"),
    [
        (E, {"kind": "uniform", "sigma_max": 3.0}, 'sigma_max: expected none with schedule "uniform", got 3.0'),
        (E, {"last": 0.5}, 'last: expected none with schedule "levels", got 0.5'),
        (F, {"kind": "power_from_0"}, 'schedule: expected one for the path "flow"'),
        (B, {"kind": "karras"}, "schedule: expected one of"),
        (B, {"last": 1.0}, "last: expected a time after first"),
        (B, {"last": 0.9995}, "end: expected a time from last"),
        (E, {"sigma_min": 90.0}, "levels: expected 0 < sigma_min < sigma_max"),
        (E, {"nfe": 0}, "nfe: expected a whole number, at least 1"),
    ],
)
def test_mistakes_in_schedules(process, options, message):
    with pytest.raises(InputError, match=message):
        phase_bridge.schedule(process, **{"nfe": 5, **options})


@pytest.mark.parametrize(
    ("process", "options", "message"),
    [
        (E, {"solver": "gddim"}, 'solver: expected one for the path "edm" and kind "ode": euler, .*, got "gddim"'),
        (B, {"solver": "dpmpp"}, 'solver: expected one for the path "bridge"'),
        (B, {"solver": "ddimm"}, "solver: expected one of .*did you mean"),
        (F, {"kind": "sde"}, 'kind: expected "ode" for the path "flow"'),
        (E, {"solver": "ddim", "degree": 2}, 'degree: expected none with solver "ddim", got 2'),
        (E, {"solver": "dpmpp", "corrector": True}, 'corrector: expected none with solver "dpmpp"'),
        (E, {"solver": "unipc", "degree": 4}, "degree: expected 0, 1, 2 or 3, got 4"),
        (F, {"solver": "deis"}, 'times: expected finite noise levels for solver "deis"'),
    ],
)
def test_mistakes_in_solvers(process, options, message):
    with pytest.raises(InputError, match=message):
        make_steps(process, phase_bridge.schedule(process, 4), **options)
    for times in ([0.5, 0.0], [0.0, 1.2]):
        with pytest.raises(InputError, match="times: expected times from 0 towards 1, where the data are"):
            make_steps(F, times)
