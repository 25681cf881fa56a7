"""Critically damped Langevin diffusion (Dockhorn et al., ICLR 2022): noise enters through a velocity, as in a bridge.

dx = 4 beta v dt, dv = -(beta x + 4 beta v) dt + sqrt(2 beta) dW, from data with v ~ N(0, 0.01) at t = 0 to x ~ N(0, 1),
v ~ N(0, 1/4) at t = 1, from where samples come.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from phase_bridge.processes.base import Process

BETA, MASS, START = 4.0, 0.25, 0.04  # variance of v in the prior, and the fraction of it that v has at t = 0


@dataclass(frozen=True)
class CLD(Process):
    """The published numbers; the prior forgets the data but for a few thousandths of them."""

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
