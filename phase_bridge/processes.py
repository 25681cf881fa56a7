"""The paths: states that are Gaussian given the data, and probability flows linear in both; bridges are in `bridge`.

The state m `[..., k C]` has k parts of the data's size on its last axis (k = 1: a position; k = 2: position, velocity).
Given x1 it is m = c(t) x1 + L(t) e with e ~ N(0, I), alike in every coordinate, so x1 enters the likelihood of m only
through c' (L L')^-1 m: the posterior of x1 given m is the posterior given one number a coordinate,

    u = x1 + sigma_t e,    sigma_t = |L^-1 c|^-1,

and E[x1 | m] = D(u, sigma_t) with the denoiser D of ordinary diffusion. The rest of the state is noise that no estimate
of x1 depends on. The probability flow is dm/dt = A(t) m + b(t) E[x1 | m].

Times may be scalars or one number a sample; functions compute on the host in float64 unless t is a JAX array.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from common.errors import input_error
from common.prng import as_keys

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]  # (u [B, ..., C], sigma [] or [B]) -> E[x1 | u]
Field = Callable[[jax.Array, jax.Array], jax.Array]  # (m [B, ..., k C], t []) -> dm/dt

_LEAST_ROOT = 1e-15  # of the precision: the noise level stays finite where nothing is known
_GRID = 4096  # entries of the table by which traced noise levels are turned into times


@dataclass(frozen=True)
class Process:
    """A path. `parts` is k, `first` the time of the prior and `last` that of the data, at which nothing is evaluated.

    Subclasses give `mean`, `factor` and `flow`; hashable, hence fit for `static_argnames`.
    """

    name: ClassVar[str]
    parts: ClassVar[int]
    first: ClassVar[float]
    last: ClassVar[float]

    def mean(self, t) -> tuple:
        """Returns c(t), one entry a part."""
        raise NotImplementedError

    def factor(self, t) -> tuple:
        """Returns L(t), lower triangular: (l,) for one part, (l_xx, l_xv, l_vv) for two."""
        raise NotImplementedError

    def flow(self, t) -> tuple[tuple[tuple, ...], tuple]:
        """Returns (A, b) of the probability flow dm/dt = A m + b E[x1 | m], as rows."""
        raise NotImplementedError

    def whitening(self, t) -> tuple[tuple, Any]:
        """Returns (n, root): the unit vector along L^-1 c, and its length, the root of the precision 1/sigma^2."""
        c, spread = self.mean(t), self.factor(t)
        if self.parts == 1:
            return (1.0 + 0 * t,), c[0] / spread[0]
        xp = jnp if isinstance(t, jax.Array) else np
        first = c[0] / spread[0]
        second = (c[1] - spread[1] * first) / spread[2]
        length = xp.hypot(first, second)
        return (first / length, second / length), length

    def noise_level(self, t):
        """Returns sigma_t in data units; 1e15 where the state does not depend on the data."""
        xp = jnp if isinstance(t, jax.Array) else np
        return 1 / xp.maximum(self.whitening(t)[1], _LEAST_ROOT)

    def time_at(self, sigma):
        """Returns the times at which the noise level is `sigma`: by bisection on the host, from a table if traced.

        Raises `InputError` for a level that is not positive and finite.
        """
        if isinstance(sigma, jax.Array):
            levels, times = self._table()
            return jnp.interp(jnp.log(sigma), jnp.asarray(levels, sigma.dtype), jnp.asarray(times, sigma.dtype))
        sigma = np.asarray(sigma, np.float64)
        if not (np.isfinite(sigma) & (sigma > 0)).all():
            raise input_error(
                "sigma", expected="positive finite noise levels", got=sigma.min(), fix="use 0.002 or more"
            )
        # In the logit of the time from the prior to the data, so that both ends are resolved.
        low, high = np.full_like(sigma, -38.0), np.full_like(sigma, 29.0)
        for _ in range(100):
            middle = (low + high) / 2
            above = self.noise_level(self._at(middle)) > sigma
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return self._at((low + high) / 2)

    def _at(self, logit):
        """Returns the time whose distances from the prior and from the data are in the ratio exp(logit)."""
        near, far = 1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(logit))
        return far * self.first + near * self.last

    def _table(self):
        times = self._at(np.linspace(-14.0, 12.0, _GRID))
        levels = np.log(self.noise_level(times))
        return levels[::-1], times[::-1]

    def perturb(self, x1: jax.Array, noise: jax.Array, t) -> jax.Array:
        """Returns states c x1 + L e `[..., k C]` of data `[..., C]` and standard normal `noise [..., k C]`."""
        c, spread = (tuple(beside(each, x1) for each in some) for some in (self.mean(t), self.factor(t)))
        if self.parts == 1:
            return c[0] * x1 + spread[0] * noise
        e_x, e_v = split(noise)
        return join(c[0] * x1 + spread[0] * e_x, c[1] * x1 + spread[1] * e_x + spread[2] * e_v)

    def prior(self, key, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        """Returns random states `[..., k C]` at the prior's time for data of `shape`; one key, or one a sample."""
        whole = (*shape[:-1], self.parts * shape[-1])
        key = as_keys(key, shape[0] if len(shape) > 1 else None)
        if key.ndim:
            noise = jax.vmap(lambda one: jax.random.normal(one, whole[1:], dtype))(key)
        else:
            noise = jax.random.normal(key, whole, dtype)
        spread = tuple(float(value) for value in self.factor(self.first))
        if self.parts == 1:
            return spread[0] * noise
        e_x, e_v = split(noise)
        return join(spread[0] * e_x, spread[1] * e_x + spread[2] * e_v)

    def observe(self, m: jax.Array, t) -> tuple[jax.Array, jax.Array]:
        """Returns (u, sigma_t): the noisy copy `[..., C]` of the data that a state amounts to, and its noise level."""
        xp = jnp if isinstance(t, jax.Array) else np
        (n, root), c, spread = self.whitening(t), self.mean(t), self.factor(t)
        sigma = 1 / xp.maximum(root, _LEAST_ROOT)
        if self.parts == 1:
            return beside(sigma / spread[0], m) * m, sigma
        y_v = n[1] / spread[2]
        y_x = (n[0] - spread[1] * y_v) / spread[0]
        # By their own sum rather than by sigma: the data enter with a factor of 1 to the last digit.
        whole = xp.maximum(y_x * c[0] + y_v * c[1], _LEAST_ROOT)
        x, v = split(m)
        return beside(y_x / whole, x) * x + beside(y_v / whole, v) * v, sigma

    def embed(self, u: jax.Array, t) -> jax.Array:
        """Returns the state of the copy u without any noise that says nothing: `observe` undone, `[..., k C]`."""
        n, root = self.whitening(t)
        spread = self.factor(t)
        if self.parts == 1:
            return beside(root * spread[0], u) * u
        along = (root * spread[0] * n[0], root * (spread[1] * n[0] + spread[2] * n[1]))
        return join(*(beside(each, u) * u for each in along))

    def field_of(self, denoise: Denoiser) -> Field:
        """Returns the probability flow dm/dt of a denoiser."""

        def field(m, t):
            return self.drift(m, denoise(*self.observe(m, t)), t)

        return field

    def drift(self, m: jax.Array, estimate: jax.Array, t) -> jax.Array:
        """Returns A m + b x1 at the state m `[..., k C]` for the data `estimate [..., C]`."""
        rows, b = self.flow(t)
        parts = split(m) if self.parts == 2 else (m,)
        moved = [
            sum((beside(a, part) * part for a, part in zip(row, parts, strict=True)), beside(own, estimate) * estimate)
            for row, own in zip(rows, b, strict=True)
        ]
        return moved[0] if self.parts == 1 else join(*moved)

    def denoiser_of(self, field: Field) -> Denoiser:
        """Returns the denoiser of a probability flow: `field_of` undone.

        For two parts the field is asked at the state of `embed`: the exact field gives the same at all states of the
        same copy.
        """

        def denoise(u, sigma):
            t = self.time_at(sigma)
            m = self.embed(u, t)
            rows, b = self.flow(t)
            parts, slope = (split(m), split(field(m, t))[1]) if self.parts == 2 else ((m,), field(m, t))
            own = sum(beside(a, part) * part for a, part in zip(rows[-1], parts, strict=True))
            return (slope - own) / beside(b[-1], u)

        return denoise


@dataclass(frozen=True)
class Flow(Process):
    """Straight paths x_t = (1 - t) e + t x1 of flow matching (Lipman et al., ICLR 2023), noise at 0 and data at 1.

    The velocity of the flow is E[x1 - e | x_t] = (E[x1 | x_t] - x_t) / (1 - t).
    """

    name: ClassVar[str] = "flow"
    parts: ClassVar[int] = 1
    first: ClassVar[float] = 0.0
    last: ClassVar[float] = 1.0

    def mean(self, t):
        return (t,)

    def factor(self, t):
        return (1 - t,)

    def flow(self, t):
        return ((-1 / (1 - t),),), (1 / (1 - t),)

    def time_at(self, sigma):
        return 1 / (1 + sigma)


@dataclass(frozen=True)
class EDM(Process):
    """Ordinary diffusion as Karras et al. (NeurIPS 2022) set it up: x = x1 + sigma e, and the time is sigma.

    Noise levels fall from `sigma_max`, where the prior is N(0, sigma_max^2), to 0.
    """

    sigma_max: float = 80.0

    name: ClassVar[str] = "edm"
    parts: ClassVar[int] = 1
    last: ClassVar[float] = 0.0

    def __post_init__(self):
        if not 0 < self.sigma_max < float("inf"):
            raise input_error("sigma_max", expected="a positive number", got=self.sigma_max, fix="published is 80")

    @property
    def first(self) -> float:
        """The noise level of the prior."""
        return self.sigma_max

    def mean(self, t):
        return (1.0 + 0 * t,)

    def factor(self, t):
        return (t,)

    def flow(self, t):
        return ((1 / t,),), (-1 / t,)

    def time_at(self, sigma):
        return sigma


# CLD, as published.
BETA, MASS, START = 4.0, 0.25, 0.04  # variance of v in the prior, and the fraction of it that v has at t = 0


@dataclass(frozen=True)
class CLD(Process):
    """Critically damped Langevin diffusion (Dockhorn et al., ICLR 2022): noise enters through a velocity.

    dx = 4 beta v dt, dv = -(beta x + 4 beta v) dt + sqrt(2 beta) dW, from data with v ~ N(0, 0.01) at t = 0 to x ~ N(0,
    1), v ~ N(0, 1/4) at t = 1, from where samples come. The numbers are the published ones; the prior forgets the data
    but for a few thousandths of them.
    """

    name: ClassVar[str] = "cld"
    parts: ClassVar[int] = 2
    first: ClassVar[float] = 1.0
    last: ClassVar[float] = 0.0

    def mean(self, t):
        xp = jnp if isinstance(t, jax.Array) else np
        b = BETA * t
        return xp.exp(-2 * b) * (1 + 2 * b), -b * xp.exp(-2 * b)

    def covariance(self, t):
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

    def factor(self, t):
        xp = jnp if isinstance(t, jax.Array) else np
        s_xx, s_xv, s_vv = self.covariance(t)
        root = xp.sqrt(s_xx)
        return root, s_xv / root, xp.sqrt(s_vv - (s_xv / root) ** 2)

    def flow(self, t):
        s_xx, s_xv, s_vv = self.covariance(t)
        c_x, c_v = self.mean(t)
        det = s_xx * s_vv - s_xv**2
        on_x, on_v = -BETA * s_xv / det, BETA * s_xx / det
        rows = (0 * t, BETA / MASS + 0 * t), (on_x - BETA, on_v - BETA / MASS)
        return rows, (0 * t, -(on_x * c_x + on_v * c_v))


def split(m):
    """Returns position and velocity `[..., C]` of a state `[..., 2C]`."""
    half = m.shape[-1] // 2
    return m[..., :half], m[..., half:]


def join(x, v) -> Any:
    """Returns the state `[..., 2C]` of position and velocity `[..., C]`."""
    xp = jnp if isinstance(x, jax.Array) or isinstance(v, jax.Array) else np
    return xp.concatenate([x, v], -1)


def beside(value, like):
    """Returns `value`, a scalar or one number a sample `[B]`, in the shape and type that multiply `like [B, ...]`."""
    if isinstance(like, jax.Array):
        value = jnp.asarray(value, like.dtype)
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if np.ndim(value) else value
