"""Explicit Runge-Kutta rules for any field, over a fixed grid."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from common.errors import input_error


class Tableau(NamedTuple):
    """An explicit rule: stage i is at x + dt sum_j a_ij k_j and t + c_i dt; the step is dt sum_i b_i k_i."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    order: int


EULER = Tableau(((),), (1.0,), (0.0,), 1)
HEUN = Tableau(((), (1.0,)), (0.5, 0.5), (0.0, 1.0), 2)
MIDPOINT = Tableau(((), (0.5,)), (0.0, 1.0), (0.0, 0.5), 2)
RK4 = Tableau(((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), (0.0, 0.5, 0.5, 1.0), 4)
TABLEAUS = {"euler": EULER, "heun": HEUN, "midpoint": MIDPOINT, "rk4": RK4}


def integrate(
    field: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    times: np.ndarray,
    *,
    rule: Tableau = HEUN,
    store: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Solves dx/dt = field(x, t) over `times [N + 1]`, forwards or backwards; N * len(rule.b) evaluations.

    Returns x at the last time, and, if `store`, x at all times `[N + 1, ...]`. To be called under `jit`.
    """
    _check(times)

    def body(x, row):
        stages, dt = row
        slopes = []
        for i, coefficients in enumerate(rule.a):
            inner = x + dt * sum((a * slope for a, slope in zip(coefficients, slopes, strict=True)), jnp.zeros_like(x))
            slopes.append(field(inner, stages[i]))
        x = x + dt * sum(b * slope for b, slope in zip(rule.b, slopes, strict=True))
        return x, x if store else None

    # In float64, and differences before rounding: those of float32 times would be wrong by 1e-4 where steps are short.
    stages = times[:-1, None] + np.diff(times)[:, None] * rule.c
    rows = (jnp.asarray(stages, x.dtype), jnp.asarray(np.diff(times), x.dtype))
    states: Any
    last, states = lax.scan(body, x, rows)
    return last, jnp.concatenate([x[None], states]) if store else None


def _check(times):
    if not isinstance(times, np.ndarray) or times.ndim != 1 or len(times) < 2:
        raise input_error(
            "times", expected="a NumPy array of two or more", got=type(times).__name__, fix="see solvers.grids"
        )
