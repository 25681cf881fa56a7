"""Runge-Kutta rules on problems with closed solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from common.solvers import runge_kutta
from common.solvers.grids import power, uniform
from common.solvers.runge_kutta import TABLEAUS, integrate


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


def test_times_are_checked():
    with pytest.raises(InputError, match="times: expected a NumPy array"):
        integrate(lambda x, t: x, jnp.ones(2), [0.0, 1.0])
