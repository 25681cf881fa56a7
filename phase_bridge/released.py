"""Deviations of the published code from its paper, for comparison with its outputs; nothing else uses them.

Its networks give F = force / z, so tables and fields here are over F, not over data estimates.
"""

import jax
import jax.numpy as jnp
import numpy as np

from common.solvers.linear import Steps, check
from phase_bridge import bridge as bridges
from phase_bridge import phase_solvers as phase
from phase_bridge.bridge import Bridge
from phase_bridge.conditioning import Condition
from phase_bridge.sampling import Model


def outputs(model: Model, *, kind: str):
    """Returns the function F = force of `kind` / z of a model along a bridge, `(m, t) -> [B, ..., C]`."""
    return jax.tree_util.Partial(_Outputs(kind), model)


class _Outputs:
    """Equal to another of the same kind, as `jit` wants of what it compiles."""

    def __init__(self, kind: str):
        self.kind = kind

    def __call__(self, model, m, t):
        b, t = model.process, jnp.asarray(t, m.dtype)
        force = bridges.force_from_data(b, m, model.estimate(m, t), t, kind=self.kind)
        return force / bridges.force_scale(b, t, kind=self.kind)

    def __eq__(self, other):
        return isinstance(other, _Outputs) and self.kind == other.kind

    def __hash__(self):
        return hash(self.kind)


def gddim(b: Bridge, t: np.ndarray, end: np.ndarray, *, degree: int, sign: int = 1) -> Steps:
    """Returns the table of the published image sampler over F, whose first steps are of lower degree.

    sign: as of `bridge.force_scale`.
    """

    def scale(t):
        return bridges.force_scale(b, t, kind="ode", sign=sign)

    flight, found = phase.gddim_weights(t, end, scale, degree=degree, corrector=False, full_start=False)
    return check(Steps(t, phase.estimates(t), _estimates(b, t, "ode"), flight, found))


def splitting(b: Bridge, t: np.ndarray, end: np.ndarray) -> Steps:
    """Returns the table of the published splitting over F.

    It has the noise of the process with g = p (1 - t)(1 - u), which is too large, the step's first time for both halves
    and the force, the estimate of the kicked velocity, and ends at [x + v dt, v] after the last kick.
    """
    dt = end - t
    h = dt / 2
    kick = bridges.force_scale(b, t, kind="sde") * dt
    noise = phase.flight_noise(*flight_covariance(b, t, h))
    kicks = np.stack([h * kick, kick], -1)[:, None]
    look = _estimates(b, t, "sde")
    look = np.stack([look[:, 0] + look[:, 2] * kick, look[:, 1], look[:, 2]], -1)
    flight, after, last_noise = phase.free_flight(h), phase.free_flight(h), noise.copy()
    after[-1, 0, 1], last_noise[-1] = dt[-1], 0
    kicks[-1, 0, 0] = dt[-1] * kick[-1]
    return check(Steps(t, phase.estimates(t), look, after, kicks, last_noise, flight, noise))


def flight_covariance(b: Bridge, t, h):
    """Returns (xx, xv, vv) of what noise adds to (x, v) in free flight for a time h, with g = p (1 - t)(1 - u)."""
    s = 1 - t
    xx = h**3 * s**2 * (1 / 3 - h / 6 + h**2 / 30)
    xv = h**2 * s**2 * (1 / 2 - h / 3 + h**2 / 12)
    vv = h * s**2 * (1 - h + h**2 / 3)
    return b.p**2 * xx, b.p**2 * xv, b.p**2 * vv


def rows(b: Bridge, condition: Condition, times: np.ndarray) -> np.ndarray:
    """Returns `Condition.rows` with the variance of the velocity for its standard deviation."""
    right = condition.rows(b, times)
    return np.concatenate([right[:, :4], right[:, 4:] ** 2], 1)


def _estimates(b, t, kind):
    e_f, e_x, e_v = bridges.estimate_coefficients(b, t, kind=kind)
    return np.stack([e_f * bridges.force_scale(b, t, kind=kind), e_x, e_v], -1)
