"""Solvers of two-part states (position, velocity) as tables for `common.solvers.linear`, float64 on the host.

`t [N]` and `end [N]` are where steps begin, each with an evaluation, and where they end. The field of every table is
the data estimate E[x1 | m].
"""

from collections.abc import Callable

import numpy as np

from common.solvers.linear import Steps, check
from common.solvers.multistep import adaptive, gauss_legendre, tails, weights
from phase_bridge import bridge as bridges
from phase_bridge.bridge import Bridge
from phase_bridge.processes import Process

_NODES = 64


def euler_maruyama(b: Bridge, t: np.ndarray, end: np.ndarray) -> Steps:
    """Euler-Maruyama for the bridge's own process: of order 1, also strongly since the noise is additive."""
    dt = end - t
    f = force_rows(b, t, kind="sde")
    none = np.zeros_like(t)
    transition = np.stack([np.stack([none + 1, dt], -1), np.stack([dt * f[:, 1], 1 + dt * f[:, 2]], -1)], -2)
    kick = np.stack([none, dt * f[:, 0]], -1)[:, None]
    noise = np.stack([none, bridges.diffusion(b, t) * np.sqrt(dt)], -1)[:, :, None]
    return check(Steps(t, estimates(t), estimates(t), transition, kick, noise))


def splitting(b: Bridge, t: np.ndarray, end: np.ndarray) -> Steps:
    """Half a step of free flight with its exact noise, a kick by the force, half a step of free flight.

    After Dockhorn, Vahdat, Kreis, ICLR 2022 (SSCS). The force is evaluated at the middle of the step, where the state
    is. Weak and strong order 1: the force depends on the velocity that it kicks.
    """
    dt = end - t
    h = dt / 2
    middle, flight = t + h, free_flight(h)
    kicks = np.stack([h * dt, dt], -1)[:, None]
    noise = flight_noise(*flight_covariance(b, middle, h)), flight_noise(*flight_covariance(b, t, h))
    force = force_rows(b, middle, kind="sde")
    return check(Steps(middle, force, estimates(t), flight, kicks, noise[0], flight, noise[1]))


def gddim(b: Bridge, t: np.ndarray, end: np.ndarray, *, degree: int, corrector: bool = False) -> Steps:
    """The published image sampler (gDDIM): free flight is exact, F = force / z is extrapolated.

    F is replaced in a step by the polynomial of `degree` through its last values: x' = x + dt v + sum_j X_j F_(n-j),
    v' = v + sum_j V_j F_(n-j), with V_j the integral of z l_j and X_j that of (t' - tau) z l_j. Of order `degree` + 1,
    and one more with the corrector (which is not published).
    """

    def scale(t):
        return bridges.force_scale(b, t, kind="ode")

    flight, found = gddim_weights(t, end, scale, degree=degree, corrector=corrector, full_start=True)
    return check(Steps(t, force_rows(b, t, kind="ode") / scale(t)[:, None], estimates(t), flight, found))


def gddim_weights(
    t: np.ndarray, end: np.ndarray, scale: Callable, *, degree: int, corrector: bool, full_start: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns free flight `[N, 2, 2]` and the weights `[N, q, 2]` of F = force / scale(t) in `gddim`."""

    def rate(root):
        # z grows like s^(-1/2): as a function of sqrt(s), z dt is smooth, but for a layer near t = 0 of the width
        # varv / p^2, in which the variance of the velocity grows by its size at t = 0.
        return scale(1 - root**2) * -2 * root

    roots, shares = adaptive(rate, np.sqrt(1 - t), np.sqrt(1 - end))
    tau, z = 1 - roots**2, rate(roots) * shares
    kernel = np.stack([(end[:, None] - tau) * z, z], -1)
    flight = free_flight(end - t)
    options = {"corrector": corrector, "transition": flight, "full_start": full_start}
    return flight, weights(t, tau, kernel, order=degree, **options)


def data_multistep(process: Process, t: np.ndarray, end: np.ndarray, *, degree: int, corrector: bool = False) -> Steps:
    """Extrapolates the data estimate by a polynomial of `degree`; everything else of a step of the flow is exact.

    Of order `degree` + 1, and one more with the corrector.
    """
    sign = 1.0 if process.last > process.first else -1.0  # the bridge has its data at 1, CLD at 0

    def place(log):
        """Returns the time and its derivative by the logarithm of its distance from the data, in which it is smooth."""
        s = np.exp(log)
        return process.last - sign * s, -sign * s

    def rates(log):
        at, slope = place(log)
        (drift, _), (_, source) = process.flow(at)
        xx, _, vv = process.factor(at)
        return np.stack([slope * source, slope * drift[1] * vv / xx, 1 / vv], -1)

    logs, shares = adaptive(rates, *(np.log(abs(process.last - each)) for each in (t, end)))
    at, _ = place(logs)
    source, angle, _ = np.moveaxis(rates(logs), -1, 0)
    later = _flow_by_angle(process, at, end[:, None], tails(angle, shares))
    kernel = later[..., 1] * (source * shares)[..., None]
    transition = flow_between(process, t, end)
    options = {"corrector": corrector, "transition": transition, "full_start": True}
    found = weights(t, at, kernel, order=degree, **options)
    return check(Steps(t, estimates(t), estimates(t), transition, found))


def data_multistep_sde(b: Bridge, t: np.ndarray, end: np.ndarray, *, degree: int, corrector: bool = False) -> Steps:
    """Extrapolates the data estimate by a polynomial of `degree`; the rest of a step of the bridge's process is exact.

    Degree 0 freezes the estimate and draws from the exact transition of the bridge to it. Of order 1 (also strongly)
    whatever the degree, but the corrector sees what the noise of a step did to the estimate, which makes the error
    several times smaller.
    """
    logs, shares = gauss_legendre(np.log(1 - t), np.log(1 - end), _NODES)
    s = np.exp(logs)
    later = bridges.flow(b, 1 - s, end[:, None])
    kernel = np.stack([-later[..., 0, 1], later[..., 1, 1]], -1) * (-4 / s * shares)[..., None]
    transition = bridges.flow(b, t, end) * [[1, -1], [-1, 1]]
    found = weights(t, 1 - s, kernel, order=degree, corrector=corrector, transition=transition)
    return check(Steps(t, estimates(t), estimates(t), transition, found, bridges.noise_cholesky(b, t, end)))


def flow_between(process: Process, t, until) -> np.ndarray:
    """Returns how (x, v) go from t to `until` by the probability flow to x1 = 0, `[..., 2, 2]`.

    The flow carries the Gaussian at t into that at `until`, so it is L(until) R(theta) L(t)^-1 with the Cholesky
    factors L and a rotation, whose angle grows at the rate A_xv L_vv / L_xx.
    """
    t, until = np.broadcast_arrays(np.asarray(t, np.float64), np.asarray(until, np.float64))
    sign = 1.0 if process.last > process.first else -1.0

    def rate(root):
        at = process.last - sign * root**2
        inner_xx, _, inner_vv = process.factor(at)
        return process.flow(at)[0][0][1] * inner_vv / inner_xx * (-2 * sign) * root

    roots, shares = adaptive(rate, *(np.sqrt(abs(process.last - each)) for each in (t, until)))
    return _flow_by_angle(process, t, until, np.sum(rate(roots) * shares, -1))


def _flow_by_angle(process, t, until, angle):
    xx, xv, vv = process.factor(t)
    to_xx, to_xv, to_vv = process.factor(until)
    cos, sin = np.cos(angle), np.sin(angle)
    # R L^-1, row by row.
    top = (cos / xx - sin * xv / (xx * vv), sin / vv)
    bottom = (-sin / xx - cos * xv / (xx * vv), cos / vv)
    rows = [[to_xx * top[i] for i in (0, 1)], [to_xv * top[i] + to_vv * bottom[i] for i in (0, 1)]]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def force_rows(b: Bridge, t, *, kind: str) -> np.ndarray:
    """Returns the coefficients of the data estimate, x and v in the force of `kind`, `[N, 3]`."""
    e_f, e_x, e_v = bridges.estimate_coefficients(b, t, kind=kind)
    return np.stack([1 / e_f, -e_x / e_f, -e_v / e_f], -1)


def estimates(t) -> np.ndarray:
    """Returns the rows `[N, 3]` of tables that remember or report the data estimate itself."""
    return np.broadcast_to([1.0, 0.0, 0.0], (len(t), 3))


def free_flight(dt) -> np.ndarray:
    """Returns how (x, v) go on for a time dt without a force, `[N, 2, 2]`."""
    one, nothing = np.ones_like(dt), np.zeros_like(dt)
    return np.stack([np.stack([one, dt], -1), np.stack([nothing, one], -1)], -2)


def flight_covariance(b: Bridge, t, h):
    """Returns (xx, xv, vv) of what noise adds to (x, v) in free flight from t for a time h."""
    s = 1 - t
    xx = h**3 * (s**2 / 3 - s * h / 6 + h**2 / 30)
    xv = h**2 * (s**2 / 2 - s * h / 3 + h**2 / 12)
    vv = h * (s**2 - s * h + h**2 / 3)
    return b.p**2 * xx, b.p**2 * xv, b.p**2 * vv


def flight_noise(xx, xv, vv) -> np.ndarray:
    """Returns the Cholesky factor `[N, 2, 2]` of a covariance that vanishes where nothing moves."""
    moving = xx > 0
    first = np.sqrt(xx)
    cross = np.divide(xv, first, out=np.zeros_like(xv), where=moving)
    rest = np.sqrt(np.maximum(vv - cross**2, 0))
    return np.stack([np.stack([first, np.zeros_like(first)], -1), np.stack([cross, rest], -1)], -2)
