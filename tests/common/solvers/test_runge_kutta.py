"""Runge-Kutta rules and Euler-Maruyama on problems with closed solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from common.solvers import runge_kutta
from common.solvers.grids import power, uniform
from common.solvers.runge_kutta import TABLEAUS, euler_maruyama, integrate


@pytest.mark.parametrize("name", TABLEAUS)
@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
def test_measured_order(name, ends):
    def field(x, t):
        return x * jnp.cos(3 * t) - t**2

    rule = TABLEAUS[name]
    with jax.enable_x64(True):
        start = jnp.array([0.3, -1.0])
        exact, _ = integrate(field, start, uniform(*ends, 4000), rule=runge_kutta.RK4)
        errors = [np.abs(integrate(field, start, uniform(*ends, n), rule=rule)[0] - exact).max() for n in (40, 80)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(rule.order, abs=0.15)


def test_tableaus_are_consistent():
    for rule in TABLEAUS.values():
        assert sum(rule.b) == pytest.approx(1)
        assert [sum(row) for row in rule.a] == pytest.approx(list(rule.c))
        assert len(rule.a) == len(rule.b) == len(rule.c)


def test_stages_are_evaluated_where_the_step_ends():
    """To the last bit, where adding float32 steps would miss a final 0."""
    times = power(80, 0, 7, order=7)

    def field(x, t):
        return jnp.where(t == 0, 1.0, 0.0) * jnp.ones_like(x)

    last, states = integrate(field, jnp.zeros(3), times, store=True)
    np.testing.assert_allclose(last, -(times[-2] - times[-1]) / 2 * np.ones(3), rtol=1e-6)
    assert states.shape == (8, 3)
    np.testing.assert_array_equal(states[-1], last)


def test_euler_maruyama_draws_the_right_spread():
    """dx = -x dt + sqrt(2) dW from 0 has variance 1 - exp(-2 t); the step's own recursion gives it exactly."""
    times, n = uniform(0, 1, 50), 40_000
    keys = jax.random.split(jax.random.key(0), n)
    run = jax.jit(lambda keys, x: euler_maruyama(lambda x, t: -x, lambda t: jnp.sqrt(2.0), keys, x, times)[0])
    got = np.asarray(run(keys, jnp.zeros((n, 1))), float)
    dt = 1 / 50
    want = sum(2 * dt * (1 - dt) ** (2 * k) for k in range(50))
    assert got.var() == pytest.approx(want, rel=5 * np.sqrt(2 / n))
    part = run(keys[:7], jnp.zeros((7, 1)))
    np.testing.assert_array_equal(part, got[:7].astype(np.float32))


def test_without_diffusion_it_is_euler():
    times, x = uniform(0, 1, 9), jnp.arange(4.0)[:, None]
    field = lambda x, t: jnp.sin(x + t)  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 4)
    got = euler_maruyama(field, lambda t: 0.0 * t, keys, x, times, store=True)[1]
    np.testing.assert_array_equal(got, integrate(field, x, times, rule=runge_kutta.EULER, store=True)[1])


def test_times_are_checked():
    with pytest.raises(InputError, match="times: expected a NumPy array"):
        integrate(lambda x, t: x, jnp.ones(2), [0.0, 1.0])
