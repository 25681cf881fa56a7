"""The samplers of the phase-space bridge as tables of numbers for `common.solvers.linear`, float64 on the host.

`t [N]` and `end [N]` are where steps begin, each with an evaluation, and where they end; time runs to the data at 1. A
field gives F = force / z, on the network's scale. `estimate` of every table is the data estimate ("sampling hop") of
`bridge.data_estimate`.
"""

import numpy as np

from common.errors import input_error
from common.solvers.linear import Steps, check
from common.solvers.multistep import weights
from common.solvers.quadrature import adaptive, gauss_legendre, tails
from phase_bridge import bridge as bridges
from phase_bridge.bridge import Bridge

_NODES = 64


def euler(b: Bridge, t: np.ndarray, end: np.ndarray, *, kind: str, convention: str) -> Steps:
    """Euler for kind "ode", Euler-Maruyama for kind "sde": of order 1, also strongly since the noise is additive."""
    dt = end - t
    z, look = _look(b, t, kind, convention)
    nothing = np.zeros_like(t)
    noise = None
    if kind == "sde":
        noise = np.stack([nothing, bridges.diffusion(b, t) * np.sqrt(dt)], -1)[:, :, None]
    kick = np.stack([nothing, z * dt], -1)[:, None]
    return check(Steps(t, _output(t), look, _free_flight(dt), kick, noise))


def splitting(
    b: Bridge, t: np.ndarray, end: np.ndarray, *, kind: str, convention: str, released: bool = False
) -> Steps:
    """Half a step of free flight with its exact noise, a kick by the force, half a step of free flight; "sde" only.

    After Dockhorn, Vahdat, Kreis, ICLR 2022 (SSCS). The force is asked for at the middle of the step, where the state
    is. Weak and strong order 1: the force depends on the velocity that it kicks. `released`: the original's noise
    (of the process with g = p (1 - t)(1 - u), too large), times (the step's first, for both halves and the force),
    estimate (of the kicked velocity) and end ([x + v dt, v] after the last kick).
    """
    _only("splitting", kind, "sde")
    dt = end - t
    h = dt / 2
    middle = t if released else t + h
    z, look = _look(b, middle, kind, convention)
    nothing, one = np.zeros_like(t), np.ones_like(t)
    flight, kick = _free_flight(h), z * dt
    first = _flight_noise(b, t, h, released)
    second = first if released else _flight_noise(b, t + h, h, released)
    kicks = np.stack([h * kick, kick], -1)[:, None]
    if released:
        look = np.stack([look[:, 0] + look[:, 2] * kick, look[:, 1], look[:, 2]], -1)
        flight_after, second = flight.copy(), second.copy()
        flight_after[-1, 0, 1], second[-1] = dt[-1], 0
        kicks[-1, 0, 0] = dt[-1] * kick[-1]
    else:
        flight_after = flight
    output = np.stack([one, nothing, nothing], -1)
    return check(Steps(middle, output, look, flight_after, kicks, second, flight, first))


def exponential(
    b: Bridge, t: np.ndarray, end: np.ndarray, *, order: int, kind: str, convention: str, corrector: bool = False
) -> Steps:
    """The published image sampler (gDDIM): free flight is exact, F is extrapolated through `order` + 1 evaluations.

    With q = min(n, order), F is replaced in step n by the polynomial through its last q + 1 values:
    x' = x + dt v + sum_j X_j F_(n-j), v' = v + sum_j V_j F_(n-j), with V_j the integral of z l_j and X_j that of
    (t' - tau) z l_j. Kind "ode" only; of order `order` + 1, and one more with the corrector (which is not published).
    """
    _only("exponential", kind, "ode")
    _, look = _look(b, t, kind, convention)

    def rate(root):
        # z grows like s^(-1/2): as a function of sqrt(s), z dt is smooth, but for a layer near t = 0 of the width
        # varv / p^2, in which the variance of the velocity grows by its size at t = 0.
        return bridges.normaliser(b, 1 - root**2, kind=kind, convention=convention) * -2 * root

    roots, shares = adaptive(rate, np.sqrt(1 - t), np.sqrt(1 - end))
    tau, z = 1 - roots**2, rate(roots) * shares
    kernel = np.stack([(end[:, None] - tau) * z, z], -1)
    flight = _free_flight(end - t)
    shares = weights(t, tau, kernel, order=order, corrector=corrector, transition=flight)
    return check(Steps(t, _output(t), look, flight, shares))


def data(
    b: Bridge, t: np.ndarray, end: np.ndarray, *, order: int, kind: str, convention: str, corrector: bool = False
) -> Steps:
    """Extrapolates the data estimate through `order` + 1 evaluations; everything else of a step is exact.

    Kind "ode": of order `order` + 1, and one more with the corrector. Kind "sde": order 0 freezes the estimate and
    draws from the exact transition of the bridge to it. Of order 1 (also strongly) whatever the polynomial's order, but
    the corrector sees what the noise of a step did to the estimate, which makes the error several times smaller.
    """
    _, look = _look(b, t, kind, convention)
    # Sources grow like powers of 1/s: as functions of log s they are smooth, but for the layer of `exponential`.
    logs = np.log(1 - t), np.log(1 - end)
    if kind == "sde":
        logs, shares = gauss_legendre(*logs, _NODES)
        s = np.exp(logs)
        later = bridges.flow(b, 1 - s, end[:, None])
        kernel = np.stack([-later[..., 0, 1], later[..., 1, 1]], -1) * (-4 / s * shares)[..., None]
        transition = bridges.flow(b, t, end) * [[1, -1], [-1, 1]]
        noise = bridges.noise_cholesky(b, t, end)
    else:

        def rates(log):
            s = np.exp(log)
            xx, _, vv = bridges.cholesky(b, 1 - s)
            return np.stack([s * _inverse_estimate(b, 1 - s, kind)[2], s * vv / xx, 1 / vv], -1)

        logs, shares = adaptive(rates, *logs)
        s = np.exp(logs)
        per_force, angle, _ = np.moveaxis(rates(logs), -1, 0)
        later = _flow_by_angle(b, 1 - s, end[:, None], tails(-angle, shares))
        kernel = later[..., 1] * (-per_force * shares)[..., None]
        transition, noise = flow_ode(b, t, end), None
    shares = weights(t, 1 - s, kernel, order=order, corrector=corrector, transition=transition)
    return check(Steps(t, look, look, transition, shares, noise))


def flow_ode(b: Bridge, t, until) -> np.ndarray:
    """Returns how (x, v) go from t to `until` by the probability flow of the bridge to x1 = 0, `[..., 2, 2]`.

    The flow carries the Gaussian at t into that at `until`, so it is L(until) R(theta) L(t)^-1 with the Cholesky
    factors L and a rotation, whose angle grows at the rate L_vv / L_xx.
    """
    t, until = np.broadcast_arrays(np.asarray(t, np.float64), np.asarray(until, np.float64))

    def rate(root):
        inner_xx, _, inner_vv = bridges.cholesky(b, 1 - root**2)
        return inner_vv / inner_xx * -2 * root

    roots, shares = adaptive(rate, np.sqrt(1 - t), np.sqrt(1 - until))
    return _flow_by_angle(b, t, until, np.sum(rate(roots) * shares, -1))


def _flow_by_angle(b, t, until, angle):
    xx, xv, vv = bridges.cholesky(b, t)
    to_xx, to_xv, to_vv = bridges.cholesky(b, until)
    cos, sin = np.cos(angle), np.sin(angle)
    # R L^-1, row by row.
    top = (cos / xx - sin * xv / (xx * vv), sin / vv)
    bottom = (-sin / xx - cos * xv / (xx * vv), cos / vv)
    rows = [[to_xx * top[i] for i in (0, 1)], [to_xv * top[i] + to_vv * bottom[i] for i in (0, 1)]]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def _look(b, t, kind, convention):
    """Returns z and the coefficients of F, x and v in the data estimate."""
    z = bridges.normaliser(b, t, kind=kind, convention=convention)
    e_f, e_x, e_v = bridges.estimate_coefficients(b, t, kind=kind)
    return z, np.stack([e_f * z, e_x, e_v], -1)


def _inverse_estimate(b, t, kind):
    """Returns the coefficients of x, v and the data in the force."""
    e_f, e_x, e_v = bridges.estimate_coefficients(b, t, kind=kind)
    return -e_x / e_f, -e_v / e_f, 1 / e_f


def _output(t):
    return np.broadcast_to([1.0, 0.0, 0.0], (len(t), 3))


def _free_flight(dt):
    one, nothing = np.ones_like(dt), np.zeros_like(dt)
    return np.stack([np.stack([one, dt], -1), np.stack([nothing, one], -1)], -2)


def flight_covariance(b: Bridge, t, h, *, released: bool = False):
    """Returns (xx, xv, vv) of what noise adds to (x, v) in free flight from t for a time h.

    released: as the original, with g(u) = p (1 - t)(1 - u) where it is p (1 - t - u).
    """
    # With g(u) = p (top - rate u) at the time u after t.
    top, rate = (1 - t, 1 - t) if released else (1 - t, 1.0)
    xx = h**3 * (top**2 / 3 - top * rate * h / 6 + rate**2 * h**2 / 30)
    xv = h**2 * (top**2 / 2 - top * rate * h / 3 + rate**2 * h**2 / 12)
    vv = h * (top**2 - top * rate * h + rate**2 * h**2 / 3)
    return b.p**2 * xx, b.p**2 * xv, b.p**2 * vv


def _flight_noise(b, t, h, released):
    xx, xv, vv = flight_covariance(b, t, h, released=released)
    moving = h > 0
    first = np.sqrt(xx)
    cross = np.divide(xv, first, out=np.zeros_like(xv), where=moving)
    rest = np.sqrt(np.maximum(vv - cross**2, 0))
    return np.stack([np.stack([first, np.zeros_like(t)], -1), np.stack([cross, rest], -1)], -2)


def _only(rule, kind, allowed):
    if kind != allowed:
        raise input_error(
            "rule", expected=f'one for kind "{kind}"', got=f'"{rule}"', fix=f'it solves kind "{allowed}" only'
        )
