"""Densities of a trained bridge, by its probability-flow ODE in phase space, solved with adaptive steps.

Along dm/dt = (v, f(m, t)) the density of the state obeys d log p(m(t), t)/dt = -sum_i df_i/dv_i, and at t = 0 it is the
prior's (Chen et al., NeurIPS 2018). All densities are in nats, of states or positions on the scale of the data.
"""

import functools
import math
from dataclasses import replace
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from common.arrays import SIGNED, AnyArray, as_images, as_numbers
from common.errors import RunError, input_error
from common.prng import as_key
from phase_bridge import bridge as bridges
from phase_bridge.bridge import Bridge
from phase_bridge.processes import join, split
from phase_bridge.sampling import Model, Sampler
from phase_bridge.schedules import END

# With more coordinates the trace is estimated unless asked for.
EXACT_UP_TO = 4


class Density(NamedTuple):
    """log p of each state `[B]`, what it came from at t = 0 `[B, ..., 2C]`, and steps tried, of six evaluations."""

    log_density: Float[Array, " batch"]
    origin: Float[Array, "batch *spatial two_channels"]
    steps: int


def log_density(
    model: Model,
    m: Float[AnyArray, "batch *spatial two_channels"],
    *,
    t: float = END,
    exact: bool | None = None,
    key: jax.Array | None = None,
    probes: int = 1,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 4096,
) -> Density:
    """Returns log p(x, v) of states m `[B, ..., 2C]` at time t.

    model: along a Bridge. exact: the whole trace (default where data have up to 4 coordinates), else Hutchinson's
    unbiased estimate from `probes` random signs, made from `key`. rtol, atol: of the adaptive steps (Dormand-Prince 5).
    Raises `InputError` for what does not fit together and `RunError` if `max_steps` do not suffice.

    >>> from phase_bridge import mixture
    >>> model = mixture(Bridge(), [[0.0]], [1.0], 0.5)
    >>> log_density(model, jnp.zeros((1, 2))).log_density.shape
    (1,)
    """
    _bridge(model)
    m = jnp.asarray(as_numbers(m, "m", scale=SIGNED))
    if m.ndim < 2 or m.shape[-1] % 2:
        raise input_error(
            "m", expected="states [B, ..., 2C]", got=m.shape, fix="put x and v side by side on the last axis"
        )
    _check_time(t)
    shape = (*m.shape[:-1], m.shape[-1] // 2)
    size = math.prod(shape[1:])
    exact = size <= EXACT_UP_TO if exact is None else bool(exact)
    if exact:
        directions = jnp.eye(size, dtype=m.dtype).reshape(size, 1, *shape[1:])
    else:
        if key is None:
            raise input_error(
                "key", expected=f"a key: data have {size} coordinates", got=None, fix="give one or exact=True"
            )
        if probes < 1:
            raise input_error("probes", expected="at least 1", got=probes, fix="use 1 or more")
        directions = jax.random.rademacher(as_key(key), (probes, *shape), m.dtype)
    solved = _solve(
        replace(model, sampler=Sampler(), shape=(), kind="ode"),
        m,
        directions,
        jnp.asarray(t, m.dtype),
        (jnp.asarray(rtol, m.dtype), jnp.asarray(atol, m.dtype)),
        exact=exact,
        max_steps=int(max_steps),
    )
    log_p, origin, steps, finished = solved
    if not bool(finished):
        raise RunError(f"the likelihood's ODE did not end within {max_steps} steps; allow more or larger rtol")
    return Density(log_p, origin, int(steps))


@functools.partial(jax.jit, static_argnames=("exact", "max_steps"))
def _solve(model, m, directions, t, tolerances, *, exact, max_steps):
    bridge = model.process

    def force(x, v, t):
        m = join(x, v)
        return bridges.force_from_data(bridge, m, model.estimate(m, t).astype(m.dtype), t, kind="ode")

    def slope(t, state, directions):
        x, v = split(state[0])

        def along(direction):
            direction = jnp.broadcast_to(direction, v.shape)
            f, change = jax.jvp(lambda v: force(x, v, t), (v,), (direction,))
            return f, jnp.sum(direction * change, range(1, v.ndim))

        f, each = jax.vmap(along, out_axes=(None, 0))(directions)
        return join(v, f), each.sum(0) if exact else each.mean(0)

    rtol, atol = tolerances
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Dopri5(),
        t0=t,
        t1=jnp.zeros_like(t),
        dt0=None,
        y0=(m, jnp.zeros(m.shape[0], m.dtype)),
        args=directions,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )
    states: Any = solution.ys
    origin, gained = (last[-1] for last in states)
    # `gained` is the integral of the divergence from t back to 0: minus that from 0 to t.
    log_p = prior_log_density(bridge, origin) + gained
    return log_p, origin, solution.stats["num_steps"], solution.result == diffrax.RESULTS.successful


def prior_log_density(bridge: Bridge, m: jax.Array) -> jax.Array:
    """Returns log p(x, v) `[B]` of states `[B, ..., 2C]` under the prior at t = 0."""
    l_xx, l_xv, l_vv = (float(value) for value in bridges.cholesky(bridge, 0.0))
    x, v = split(m)
    e_x = x / l_xx
    e_v = (v - l_xv * e_x) / l_vv
    return jnp.sum(-(e_x**2 + e_v**2) / 2 - math.log(2 * math.pi * l_xx * l_vv), range(1, m.ndim))


def log_likelihood(
    model: Model,
    x: Real[AnyArray, "batch *spatial channels"],
    key: jax.Array,
    *,
    draws: int = 1,
    t: float = END,
    **options: Any,
) -> Float[Array, " batch"]:
    """Returns a lower bound `[B]` on log p(x) of positions `[B, ..., C]` at time t, where they are data almost exactly.

    log p(x) >= E log (1/K) sum_k p(x, v_k) / q(v_k | x), tight as K = `draws` grows (Burda et al., ICLR 2016), with
    velocities from q(v | x), which is p(v | x) wherever the density of the data is flat on the scale of L_xx (1.4e-3 at
    t = 0.999). x: points, or images `[B, H, W, C]` of bytes or floats in [-1, 1]. options: of `log_density`.

    >>> from phase_bridge import mixture
    >>> model = mixture(Bridge(), [[0.0]], [1.0], 0.5)
    >>> round(float(log_likelihood(model, jnp.zeros((1, 1)), 0)[0]), 1), round(-0.5 * math.log(2 * math.pi * 0.25), 1)
    (-0.2, -0.2)
    """
    bridge = _bridge(model)
    _check_time(t)
    if draws < 1:
        raise input_error("draws", expected="at least 1", got=draws, fix="use 1 or more")
    key, check = as_key(key), as_images if np.ndim(x) == 4 else as_numbers
    x = jnp.asarray(check(x, "x", scale=SIGNED))
    c_x, c_v = bridges.mean_coefficients(bridge, t)
    l_xx, l_xv, l_vv = bridges.cholesky(bridge, t)
    std = float(np.hypot(l_xv - c_v * l_xx / c_x, l_vv))
    for_noise, for_trace = jax.random.split(key)
    e = jax.random.normal(for_noise, (draws, *x.shape), x.dtype)
    states = join(jnp.broadcast_to(x, e.shape), float(c_v / c_x) * x + std * e)
    if model.labels is not None and model.labels.ndim:
        model = replace(model, labels=jnp.tile(model.labels, draws))
    found = log_density(model, states.reshape(-1, *states.shape[2:]), t=t, **{"key": for_trace, **options})
    axes = range(2, e.ndim)
    log_q = jnp.sum(-(e**2) / 2 - math.log(math.sqrt(2 * math.pi) * std), axes)
    ratio = found.log_density.reshape(draws, -1) - log_q
    return jax.nn.logsumexp(ratio, 0) - math.log(draws)


def _bridge(model) -> Bridge:
    if not isinstance(model, Model) or not isinstance(model.process, Bridge):
        got = getattr(getattr(model, "process", None), "name", type(model).__name__)
        raise input_error("model", expected="a Model along a Bridge", got=got, fix="see phase_bridge.load")
    if model.num_classes and model.labels is None:
        raise input_error("model", expected="classes", got="none", fix="use model.of_class(labels)")
    return model.process


def _check_time(t: float) -> None:
    if not 0 < t < 1:
        fix = "the published models are trained up to 0.999"
        raise input_error("t", expected="a time between 0 and 1", got=t, fix=fix)
