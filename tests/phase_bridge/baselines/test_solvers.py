"""Solvers on Gaussian data, where the flow is known: orders, exactness, counts of evaluations, and mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from common.errors import InputError
from common.solvers import linear
from phase_bridge.baselines import cld, solvers

STD = 0.5


def denoise(x, sigma):
    return STD**2 / (STD**2 + sigma**2) * x


def velocity(x, t):
    variance = t**2 * STD**2 + (1 - t) ** 2
    return (t * STD**2 - (1 - t)) / variance * x


def errors(process, solver, counts):
    """Returns |end - exact| for a start at 1; x' = cos(t) x, or Gaussian data without the final step to sigma = 0."""
    found = []
    with jax.enable_x64(True):
        x = jnp.ones((1, 1), jnp.float64)
        for count in counts:
            if process == "flow":
                times = np.linspace(0, 2, count + 1)
                make = {"euler": solvers.euler, "ab2": solvers.adams_bashforth}
                steps, field = make[solver](times) if solver in make else times, lambda x, t: jnp.cos(t) * x
                exact = np.exp(np.sin(2))
            else:
                # Equal steps in ln(sigma), for a rate that is that of the rule.
                sigma = np.geomspace(10.0, 0.05, count + 1)
                make = {
                    "ddim": solvers.ddim,
                    "dpmpp_2m": lambda sigma: solvers.dpmpp(sigma, order=2),
                    "heun": lambda sigma: sigma,
                }
                steps, field = make[solver](sigma), denoise
                exact = np.hypot(STD, 0.05) / np.hypot(STD, 10.0)
            if isinstance(steps, np.ndarray):
                slope = field if process == "flow" else lambda x, sigma: (x - denoise(x, sigma)) / sigma
                end = solvers._integrate(slope, x, steps, solvers.TABLEAUS[solver])
            else:
                end = linear.run(field, steps, None, x).state
            found.append(abs(float(end[0, 0]) - exact))
    return np.array(found)


@pytest.mark.parametrize(
    ("process", "solver", "order"),
    [
        ("flow", "euler", 1), ("flow", "ab2", 2), ("flow", "midpoint", 2), ("flow", "heun", 2),
        ("edm", "ddim", 1), ("edm", "heun", 2), ("edm", "dpmpp_2m", 2),
    ],
)  # fmt: skip
def test_order(process, solver, order):
    counts = np.array([64, 128, 256])
    slope = -np.polyfit(np.log(counts), np.log(errors(process, solver, counts)), 1)[0]
    assert abs(slope - order) < 0.15


@pytest.mark.parametrize("order", [2, 3])
def test_dpmpp_is_exact_for_estimates_linear_in_log_noise(order):
    """x' = (s'/s) x + int of the estimate; the corrections of 2M match a line to second order, a constant exactly."""
    sigma = np.geomspace(5.0, 0.5, 7)
    out = linear.run(lambda x, s: jnp.full_like(x, 2.0), solvers.dpmpp(sigma, order=order), None, jnp.ones((1, 1)))
    ratio = sigma[-1] / sigma[0]
    np.testing.assert_allclose(out.state, ratio + (1 - ratio) * 2.0, rtol=1e-5)


def test_third_order_integrates_parabolas_in_log_noise():
    sigma = np.geomspace(5.0, 0.5, 4) ** np.array([1.0, 0.9, 1.1, 1.2])
    log = -np.log(sigma)
    steps = solvers.dpmpp(sigma, order=3)
    nodes, shares = np.polynomial.legendre.leggauss(40)
    inner = log[2] + (log[3] - log[2]) * (nodes + 1) / 2
    for power in range(3):
        want = (log[3] - log[2]) / 2 * shares @ (np.exp(inner - log[3]) * inner**power)
        assert steps.weights[2, :, 0] @ log[[2, 1, 0]] ** power == pytest.approx(want)


def test_ipndm_weights():
    """Three equal steps of Adams-Bashforth on dx/dsigma = c are exact, whatever their order."""
    sigma = np.array([4.0, 3.0, 2.0, 1.0])
    steps = solvers.ipndm(sigma)
    np.testing.assert_allclose(steps.weights[2, :, 0], -np.array([23, -16, 5, 0]) / 12)
    out = linear.run(lambda x, s: x - 0.7 * s, steps, None, jnp.full((1, 1), 9.0))
    np.testing.assert_allclose(out.state, 9.0 - 0.7 * 3, rtol=1e-6)


def test_levels():
    sigma = solvers.levels(5, largest=80.0, smallest=0.002)
    np.testing.assert_allclose(sigma[:-1] ** (1 / 7), np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 5))
    assert sigma[-1] == 0 and len(sigma) == 6
    np.testing.assert_array_equal(solvers.levels(1, largest=80.0, smallest=0.002), [80.0, 0.0])


@pytest.mark.parametrize("process", solvers.SOLVERS)
def test_samples_have_the_data_s_spread(process):
    field = {"edm": denoise, "flow": velocity, "cld": gaussian_cld}[process]
    for solver in solvers.SOLVERS[process]:
        drawn, info = solvers.sample(
            Partial(field), jax.random.key(0), (4000, 2), process=process, solver=solver, nfe=41,
            largest=20.0, smallest=0.01, order=3.0,
        )  # fmt: skip
        rough = solver in ("euler", "ddim")
        assert np.std(drawn) == pytest.approx(STD, rel=0.12 if rough else 0.03), solver
        assert info["nfe"] == (41 if process == "edm" or solver not in ("heun", "midpoint") else 40)


def gaussian_cld(m, t):
    (c_x, c_v), (s_xx, s_xv, s_vv) = cld.mean_coefficients(t), cld.covariance(t)
    x, v = m[..., :2], m[..., 2:]
    a, b, d = s_xx + (c_x * STD) ** 2, s_xv + c_x * c_v * STD**2, s_vv + (c_v * STD) ** 2
    det = a * d - b**2
    return STD**2 * (c_x * (d * x - b * v) + c_v * (a * v - b * x)) / det


def test_batches_and_keys():
    settings = {"process": "edm", "solver": "dpmpp_2m", "nfe": 5}
    whole, _ = solvers.sample(Partial(denoise), jax.random.key(3), (6, 2), **settings)
    second, _ = solvers.sample(Partial(denoise), jax.random.key(3), (3, 2), first=3, **settings)
    np.testing.assert_array_equal(whole[3:], second)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(jnp.arange(6))
    np.testing.assert_array_equal(whole, solvers.sample(Partial(denoise), keys, (6, 2), **settings)[0])


def test_counts():
    assert solvers.steps_for("edm", "heun", 1) == (1, 1)
    assert solvers.steps_for("edm", "heun", 8) == (4, 7)
    assert solvers.steps_for("flow", "midpoint", 5) == (2, 4)
    assert solvers.steps_for("flow", "ab2", 5) == (5, 5)


def test_mistakes():
    with pytest.raises(InputError, match="nfe: expected at least 2 for midpoint, got 1"):
        solvers.steps_for("flow", "midpoint", 1)
    with pytest.raises(InputError, match="nfe: expected a whole number"):
        solvers.steps_for("edm", "ddim", 0)
    with pytest.raises(InputError, match='solver: expected one of "ddim"'):
        solvers.sample(Partial(denoise), jax.random.key(0), (2, 2), process="edm", solver="euler", nfe=3)
