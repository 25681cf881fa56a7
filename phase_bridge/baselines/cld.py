"""Critically damped Langevin diffusion (Dockhorn et al., 2022): noise enters through a velocity, as in a bridge.

dx = 4 beta v dt, dv = -(beta x + 4 beta v) dt + sqrt(2 beta) dW, from data with v ~ N(0, 0.01) at t = 0 to x ~ N(0, 1),
v ~ N(0, 1/4). The network learns the noise of the velocity ("hybrid score matching"), beside the part that it would be
for Gaussian data ("mixed score"). The field it gives is the data estimate, which follows from that and the state.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from common.solvers.linear import Steps
from common.solvers.quadrature import lagrange
from phase_bridge.bridge import join, split
from phase_bridge.objective import Objective, beside

BETA, MASS, START = 4.0, 0.25, 0.04  # variance of v in the prior, and the share of it that v has at t = 0


def objective(*, sigma_data: float = 1.0, first: float = 1e-3) -> Objective:
    """Returns the objective; t is uniform in [first, 1], the weight one, and the network's time is t."""

    def perturb(x1, noise, t):
        c_x, c_v, l_xx, l_xv, l_vv = (beside(each, x1) for each in (*mean_coefficients(t), *cholesky(t)))
        e_x, e_v = split(noise)
        return join(c_x * x1 + l_xx * e_x, c_v * x1 + l_xv * e_x + l_vv * e_v)

    def gaussian(t):
        """Returns e_v per v for Gaussian data of standard deviation `sigma_data`."""
        c_v, (_, l_xv, l_vv) = mean_coefficients(t)[1], cholesky(t)
        return l_vv / (l_xv**2 + l_vv**2 + (c_v * sigma_data) ** 2)

    def target(x1, noise, t):
        _, v = split(perturb(x1, noise, t))
        return split(noise)[1] - beside(gaussian(t), v) * v

    def read(output, m, t):
        x, v = split(m)
        (c_x, c_v), (l_xx, l_xv, l_vv) = mean_coefficients(t), cholesky(t)
        ratio = l_xv / l_xx
        ratio, l_vv, scale, linear = (beside(each, x) for each in (ratio, l_vv, c_v - ratio * c_x, gaussian(t)))
        return (v - l_vv * (output + linear * v) - ratio * x) / scale

    return Objective(
        name="cld",
        parts=2,
        times=lambda key: jax.random.uniform(key, minval=first, maxval=1.0),
        perturb=perturb,
        inputs=lambda m, t: m,
        label=lambda t: t,
        target=target,
        weight=jnp.ones_like,
        read=read,
    )


def mean_coefficients(t):
    """Returns (c_x, c_v): means of x and v per unit of x1."""
    xp = jnp if isinstance(t, jax.Array) else np
    b = BETA * t
    return xp.exp(-2 * b) * (1 + 2 * b), -b * xp.exp(-2 * b)


def covariance(t):
    """Returns (S_xx, S_xv, S_vv) given x1."""
    xp = jnp if isinstance(t, jax.Array) else np
    b = BETA * t
    decay = xp.exp(-4 * b)
    lost, kept = MASS * (1 - START), MASS * START
    # 1 - exp(-y) (1 + y + y^2/2) at y = 4 b, as a series where it would cancel.
    y = 4 * b
    series = sum(np.float32(6 / math.factorial(n)) * y ** (n - 3) for n in range(3, 14))
    rest = xp.where(y < 1, y**3 / 6 * series * decay, 1 - decay * (1 + y + y**2 / 2))
    s_xx = rest + 16 * kept * b**2 * decay
    s_xv = decay * ((1 + 2 * b) * b - 4 * lost * b * (1 - 2 * b))
    s_vv = MASS - decay * (b**2 + lost * (1 - 2 * b) ** 2)
    return s_xx, s_xv, s_vv


def cholesky(t):
    """Returns (L_xx, L_xv, L_vv) with x = c_x x1 + L_xx e_x, v = c_v x1 + L_xv e_x + L_vv e_v."""
    xp = jnp if isinstance(t, jax.Array) else np
    s_xx, s_xv, s_vv = covariance(t)
    root = xp.sqrt(s_xx)
    return root, s_xv / root, xp.sqrt(s_vv - (s_xv / root) ** 2)


def noise_level(t):
    """Returns the noise level of the copy of x1 that a state amounts to (see `phase_bridge.statistic`)."""
    (c_x, c_v), (l_xx, l_xv, l_vv) = mean_coefficients(t), cholesky(t)
    return 1 / np.hypot(c_x / l_xx, (c_v - l_xv / l_xx * c_x) / l_vv)


def prior(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws states `[..., 2C]` at t = 1 for data of `shape [..., C]`."""
    x, v = jax.random.normal(key, (2, *shape))
    return join(x, math.sqrt(MASS) * v)


def _flow(t: float):
    """Returns (M, n) of the probability flow dm/dt = M m + n x1_hat."""
    s_xx, s_xv, s_vv = covariance(t)
    c_x, c_v = mean_coefficients(t)
    det = s_xx * s_vv - s_xv**2
    row = np.array([-s_xv, s_xx]) / det  # of the inverse of the covariance
    drift = BETA * np.array([[0.0, 1 / MASS], [-1.0, -1 / MASS]])
    drift[1] += BETA * row
    return drift, np.array([0.0, -BETA * (row @ np.array([c_x, c_v]))])


def multistep(times: np.ndarray, *, order: int) -> Steps:
    """Returns the exponential integrator whose data estimate is extrapolated through the last `order` + 1 evaluations.

    times `[N + 1]` fall from 1; there are N evaluations, at all but the last. Exact for a constant estimate.
    """
    count = len(times) - 1
    transition, weights = np.zeros((count, 2, 2)), np.zeros((count, order + 1, 2))
    for n in range(count):
        points = times[n - min(n, order) : n + 1][::-1]
        size = len(points)

        def slope(t, y, points=points, size=size):
            drift, source = _flow(t)
            y = y.reshape(2, 2 + size)
            rate = drift @ y
            rate[:, 2:] += source[:, None] * lagrange(points, np.asarray(t))
            return rate.ravel()

        start = np.concatenate([np.eye(2), np.zeros((2, size))], 1).ravel()
        ends = solve_ivp(slope, (times[n], times[n + 1]), start, method="DOP853", rtol=1e-9, atol=1e-12).y[:, -1]
        ends = ends.reshape(2, 2 + size)
        transition[n], weights[n, :size] = ends[:, :2], ends[:, 2:].T
    keep = np.tile([1.0, 0.0, 0.0], (count, 1))  # what the field gives is the data estimate itself
    return Steps(times[:-1], keep, keep, transition, weights)


def times_between(first: float, last: float, count: int) -> np.ndarray:
    """Returns `count` + 1 times from 1 to the one of noise level `last`, with equal steps in the level's logarithm.

    `first` caps the level at which the equal steps begin, below that of t = 1.
    """
    fine = np.geomspace(1.0, 1e-4, 4000)
    levels = np.log(noise_level(fine))
    start = min(math.log(first), levels[0])
    grid = np.interp(-np.linspace(start, math.log(last), count + 1), -levels, fine)
    grid[0] = 1.0
    return grid
