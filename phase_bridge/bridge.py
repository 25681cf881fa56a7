"""The phase-space bridge of AGM (Chen et al., ICLR 2024): Gaussian paths of position x and velocity v that end in x1.

Time runs from the prior at t = 0 to data at t = 1; s = 1 - t. A state m = [x, v] has both on its last axis `[..., 2C]`.
Under dx = v dt, dv = a dt + g dW with the control a = (4/s) ((x1 - x)/s - v), and (x, v) at t = 0 from the prior, the
state at t given x1 is Gaussian, alike in every coordinate: mean (c_x, c_v) x1, covariance Sigma_t. `correlation` is
that of x and v at t = 0 with its own sign: the published models have -0.2 (their code stores +0.2 and subtracts).

All functions take t in [0, 1), a scalar or one number a sample, and compute on the host in float64 unless t is a JAX
array. Every variance is written as a sum of what cannot cancel, so float32 is as good as its t: nothing is lost by
subtraction up to t = 0.99999, where the textbook form of the conditional variance has no digit left at 0.999.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.errors import choice, input_error
from phase_bridge.processes import Process, split

_MOST = 1e6  # p and the variances, whose fourth powers are computed

KINDS = ("sde", "ode")


@dataclass(frozen=True)
class Bridge(Process):
    """The numbers of a bridge: g(t) = p (1 - t), and correlation and variances of x and v in the prior.

    Raises `InputError` for numbers that describe no bridge.
    """

    name: ClassVar[str] = "bridge"
    parts: ClassVar[int] = 2
    first: ClassVar[float] = 0.0
    last: ClassVar[float] = 1.0

    p: float = 3.0
    correlation: float = -0.2
    varx: float = 1.0
    varv: float = 1.0

    def __post_init__(self):
        for name in ("p", "correlation", "varx", "varv"):
            value = getattr(self, name)
            if not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
                fix = f"the published models have {getattr(type(self), name)}"
                raise input_error(f"bridge.{name}", expected="a finite number", got=value, fix=fix)
            object.__setattr__(self, name, float(value))
            if name != "correlation" and not 0 < value <= _MOST:
                fix = f"the published models have {getattr(type(self), name)}"
                expected = f"a positive number, at most {_MOST:g}"
                raise input_error(f"bridge.{name}", expected=expected, got=value, fix=fix)
        if not -1 < self.correlation < 1:
            fix = "the published models have -0.2"
            raise input_error("bridge.correlation", expected="a number between -1 and 1", got=self.correlation, fix=fix)

    def mean(self, t):
        return mean_coefficients(self, t)

    def factor(self, t):
        return cholesky(self, t)

    def flow(self, t):
        e_f, e_x, e_v = estimate_coefficients(self, t, kind="ode")
        return ((0 * e_f, 1 + 0 * e_f), (-e_x / e_f, -e_v / e_f)), (0 * e_f, 1 / e_f)

    def whitening(self, t):
        xp = jnp if isinstance(t, jax.Array) else np
        l_xx, l_xv, l_vv = cholesky(self, t)
        # The means over t, whose direction is known also where both vanish.
        first = t * (6 - 4 * t + t**2) / 3 / l_xx
        second = (4 * (3 - 3 * t + t**2) / 3 - l_xv * first) / l_vv
        length = xp.hypot(first, second)
        return (first / length, second / length), t * length


class _Parts(NamedTuple):
    """Scaled moments that stay finite at t = 1, of which all closed forms are made."""

    s: Any
    w: Any  # s^3
    xx: Any  # Sigma_xx / s^2
    xv: Any  # Sigma_xv / s
    det: Any  # det Sigma / s^5
    error: Any  # variance of the velocity error r = (x1 - x)/s - v, over w
    shared: Any  # (L_xx / s + L_xv) sqrt(xx) / w


def _sinh_minus(h):
    """Returns sinh(h) - h without cancellation, for h up to 1."""
    series = 1.0
    for n in range(8, 0, -1):
        series = 1 + h**2 / ((2 * n + 2) * (2 * n + 3)) * series
    return h**3 / 6 * series


def _brackets(h, w, xp):
    """Returns 1 - w^2 - 2 w h and (1 - w)^2 - w h^2 for w = exp(-h): of third and fourth order in h."""
    half = xp.minimum(h, 1) / 2
    third = xp.where(h < 1, 2 * w * _sinh_minus(xp.minimum(h, 1)), 1 - w**2 - 2 * w * h)
    fourth = xp.where(h < 1, 4 * w * _sinh_minus(half) * (xp.sinh(half) + half), xp.expm1(-h) ** 2 - w * h**2)
    return third, fourth


def _parts(b, t) -> _Parts:
    xp = jnp if isinstance(t, jax.Array) else np
    m, n, p2 = b.varx, b.varv, b.p**2
    c = b.correlation * math.sqrt(m * n)
    s = 1 - t
    h = -3 * xp.log1p(-t)
    w, gone = xp.exp(-h), -xp.expm1(-h)
    third, fourth = _brackets(h, w, xp)
    rest = n * (1 - b.correlation) * (1 + b.correlation)
    along = (4 - w) * math.sqrt(m) + gone * (b.correlation * math.sqrt(n))
    xx = (along**2 + rest * gone**2) / 9 + p2 / 27 * third
    xv = -4 * (4 - w) * gone * m + ((4 - w) * (4 * w - 1) - 4 * gone**2) * c + gone * (4 * w - 1) * n
    xv = xv / 9 - p2 / 27 * (gone * (1 + 4 * w) - 5 * w * h)
    # det(A + B) = det A + det B + mixed, A from the prior and B from the noise, in (alpha, r) of the closed loop.
    mixed = m * (gone * (16 + w) - 8 * w * h) + 2 * c * (gone * (4 + w) - 5 * w * h) + n * third
    det = w * m * rest + p2**2 / 81 * fourth + p2 / 27 * mixed
    error = w * (m + n + 2 * c) + p2 / 3 * gone
    shared = (m * (4 - w) + c * (5 - 2 * w) + n * gone) / 3 + p2 / 9 * (h - gone)
    return _Parts(s, w, xx, xv, det, error, shared)


def mean_coefficients(b: Bridge, t):
    """Returns (c_x, c_v): the means of x and v per unit of x1, with zero mean at t = 0."""
    return t**2 * (6 - 4 * t + t**2) / 3, 4 * t * (3 - 3 * t + t**2) / 3


def mean(b: Bridge, t, x0, v0, x1):
    """Returns the means of x and v at t given both at t = 0 and x1: what the control does to a path without noise."""
    t = _beside(t, x1)
    xp = jnp if isinstance(t, jax.Array) else np
    c_x, c_v = mean_coefficients(b, t)
    gone = -xp.expm1(3 * xp.log1p(-t))
    s, w = 1 - t, 1 - gone
    return (x0 * (4 - w) + v0 * gone) * s / 3 + x1 * c_x, (v0 * (4 * w - 1) - 4 * x0 * gone) / 3 + x1 * c_v


def covariance(b: Bridge, t):
    """Returns (Sigma_xx, Sigma_xv, Sigma_vv) of (x, v) given x1."""
    q = _parts(b, t)
    return q.s**2 * q.xx, q.s * q.xv, (q.xv**2 + q.w * q.det) / q.xx


def cholesky(b: Bridge, t):
    """Returns (L_xx, L_xv, L_vv) with x = c_x x1 + L_xx e_x, v = c_v x1 + L_xv e_x + L_vv e_v."""
    xp = jnp if isinstance(t, jax.Array) else np
    q = _parts(b, t)
    root = xp.sqrt(q.xx)
    return q.s * root, q.xv / root, xp.sqrt(q.w * q.det / q.xx)


def score_coefficient(b: Bridge, t):
    """Returns l = -1 / L_vv: d log p(x, v | x1) / dv = l e_v."""
    return -1 / cholesky(b, t)[2]


def diffusion(b: Bridge, t):
    """Returns g(t) = p (1 - t), the diffusion coefficient of v."""
    return b.p * (1 - t)


def control(b: Bridge, m, x1, t):
    """Returns a = (4/s) ((x1 - x)/s - v), the acceleration that steers m `[..., 2C]` to x1 (same for every bridge)."""
    x, v = split(m)
    t = _beside(t, x)
    first, second = _like(x, 4 / (1 - t) ** 2, 4 / (1 - t))
    return first * (x1 - x) - second * v


def force(b: Bridge, x1, noise, t, *, kind: str):
    """Returns the drift of v that networks regress on, at the bridge sample of `noise [..., 2C]` = [e_x, e_v].

    kind "sde": f = a*; kind "ode": f = a* - (g^2/2) d log p(x, v | x1) / dv (probability flow).
    """
    signal, along_x, along_v = _force_coefficients(b, _beside(t, x1), kind)
    signal, along_x, along_v = _like(x1, signal, along_x, along_v)
    e_x, e_v = split(noise)
    return signal * x1 - along_x * e_x - along_v * e_v


def _force_coefficients(b, t, kind):
    """Returns f's coefficients of x1, -e_x and -e_v."""
    xp = jnp if isinstance(t, jax.Array) else np
    choice("kind", kind, KINDS)
    q = _parts(b, t)
    along_x = 4 * q.s**2 * q.shared / xp.sqrt(q.xx)
    along_v = xp.sqrt(q.s * q.det / q.xx) * (4 if kind == "sde" else 4 - _pull(b, q))
    return 4 * q.s**2, along_x, along_v


def _pull(b, q):
    """Returns s g^2 / (2 L_vv^2): the contribution of the score to the probability-flow force."""
    return b.p**2 * q.xx / (2 * q.det)


def force_scale(b: Bridge, t, *, kind: str, sign: int = 1):
    """Returns z(t): the output of a network trained as published, times z, is a force.

    kind "sde": z s is the standard deviation of the noise in f. kind "ode": the same with the part of the score added
    where it should be subtracted, as in the published code; z is then 2.2 to 2.8 times larger, which changes units
    alone. `sign` -1 subtracts it. Infinite at t = 1, as s^(-1/2).
    """
    xp = jnp if isinstance(t, jax.Array) else np
    choice("kind", kind, KINDS)
    q = _parts(b, t)
    if kind == "sde":
        return 4 * xp.sqrt(q.error / q.s)
    along_v = 1 + sign * _pull(b, q) / 4
    return 4 * xp.sqrt((q.w * q.shared**2 + q.det * along_v**2) / (q.xx * q.s))


def target(b: Bridge, x1, noise, t, *, kind: str):
    """Returns `force / force_scale`, the published target of a network; of order s as t goes to 1."""
    at = _beside(t, x1)
    z = force_scale(b, at, kind=kind)
    signal, along_x, along_v = _force_coefficients(b, at, kind)
    signal, along_x, along_v = _like(x1, signal / z, along_x / z, along_v / z)
    e_x, e_v = split(noise)
    return signal * x1 - along_x * e_x - along_v * e_v


def estimate_coefficients(b: Bridge, t, *, kind: str):
    """Returns (e_f, e_x, e_v): the data estimate is e_f f + e_x x + e_v v."""
    choice("kind", kind, KINDS)
    s = 1 - t
    if kind == "sde":
        return s**2 / 4, s**0, s
    q = _parts(b, t)
    c_x, c_v = mean_coefficients(b, t)
    pull, slope = _pull(b, q), q.xv / q.xx
    scale = 4 - pull * (s * c_v - slope * c_x)
    return s**2 / scale, (4 + pull * slope) / scale, s * (4 - pull) / scale


def data_estimate(b: Bridge, m, f, t, *, kind: str):
    """Returns the x1 `[..., C]` whose bridge has force f at the state m `[..., 2C]` at t ("sampling hop").

    With f = E[force | m] this is E[x1 | m], since a force is affine in x1 given m.
    """
    x, v = split(m)
    e_f, e_x, e_v = _like(x, *estimate_coefficients(b, _beside(t, x), kind=kind))
    return e_f * f + e_x * x + e_v * v


def flow(b: Bridge, t, until):
    """Returns how x1 - x and v go from t to `until` under the control alone, `[..., 2, 2]`; float64, on the host."""
    s, u = 1 - np.asarray(t, np.float64), 1 - np.asarray(until, np.float64)
    w = (u / s) ** 3
    rows = [[u / s * (4 - w) / 3, u * (w - 1) / 3], [4 * (1 - w) / (3 * s), (4 * w - 1) / 3]]
    return np.stack([np.stack(np.broadcast_arrays(*row), -1) for row in rows], -2)


def noise_cholesky(b: Bridge, t, until):
    """Returns the factor `[..., 2, 2]` of the covariance that noise from t to `until` gives (x, v) under the control.

    float64, on the host; zero where the times are equal.
    """
    s, u = 1 - np.asarray(t, np.float64), 1 - np.asarray(until, np.float64)
    h = -3 * np.log1p((u - s) / s)
    w = np.exp(-h)
    third, fourth = _brackets(h, w, np)
    scale = b.p * np.sqrt(s**3 / 27)
    root = np.sqrt(third)
    with np.errstate(invalid="ignore", divide="ignore"):
        cross = np.where(h > 0, -(-np.expm1(-h) * (1 + 4 * w) - 5 * w * h) / root, 0.0)
        rest = np.where(h > 0, np.sqrt(9 * w * fourth) / root, 0.0)
    zero = np.zeros_like(rest)
    return np.stack([np.stack([u * root, zero], -1), np.stack([cross, rest], -1)], -2) * scale[..., None, None]


def force_from_data(b: Bridge, m, x1, t, *, kind: str):
    """Returns the force at m of the bridge to x1, the inverse of `data_estimate`."""
    x, v = split(m)
    e_f, e_x, e_v = estimate_coefficients(b, _beside(t, x), kind=kind)
    e_f, e_x, e_v = _like(x, 1 / e_f, e_x / e_f, e_v / e_f)
    return e_f * x1 - e_x * x - e_v * v


def _beside(t, like):
    """Returns t with axes added so that it multiplies `like [B, ...]`."""
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim)) if np.ndim(t) else t


def _like(x, *coefficients):
    """Casts coefficients that were computed on the host in float64 to the type of the JAX array they multiply."""
    if not isinstance(x, jax.Array):
        return coefficients
    return tuple(jnp.asarray(value, x.dtype) for value in coefficients)
