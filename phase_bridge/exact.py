"""The posterior mean of a Gaussian mixture as the field of every process: how good a path is without a network.

A bridge state, a point of a straight path and a noisy point all are one noisy copy of the data (see
`phase_bridge.statistic`), so one denoiser serves them all.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from common.errors import input_error
from phase_bridge import bridge as bridges
from phase_bridge import statistic
from phase_bridge.baselines import cld
from phase_bridge.drawing import How


def posterior_mean(centres: jax.Array, std: float, precise: jax.Array, precision: jax.Array) -> jax.Array:
    """Returns E[x1 | u] `[B, C]` for equally likely Gaussians at `centres [K, C]` and u = x1 + precision^(-1/2) e.

    precise: `precision u [B, C]`, which stays finite when nothing is known (precision 0).
    """
    spread = 1 + precision * std**2
    logits = (precise @ centres.T - 0.5 * precision * jnp.square(centres).sum(-1)) / spread
    return (jax.nn.softmax(logits, -1) @ centres + std**2 * precise) / spread


def field(how: How, centres: np.ndarray, std: float) -> Partial:
    """Returns the exact field of a process for a mixture; raises `InputError` for a process that has none here."""
    made = {"bridge": _bridge, "edm": _edm, "flow": _flow, "cld": _cld}
    if how.process not in made:
        raise input_error("process", expected=f"one of {', '.join(made)}", got=how.process, fix="use bridge")
    return Partial(
        _Exact(made[how.process], how.bridge, how.kind, how.normaliser), jnp.asarray(centres), jnp.float32(std)
    )


class _Exact:
    """A rule with its settings, equal to another of the same, as `jit` wants of what it compiles."""

    def __init__(self, *parts):
        self._parts = parts

    def __call__(self, centres, std, state, t):
        rule, *settings = self._parts
        return rule(lambda precise, precision: posterior_mean(centres, std, precise, precision), state, t, *settings)

    def __eq__(self, other):
        return isinstance(other, _Exact) and self._parts == other._parts

    def __hash__(self):
        return hash(self._parts)


def _bridge(mean, m, t, b, kind, convention):
    root = statistic.root_precision(b, t)
    estimate = mean(root * statistic.statistic(b, m, t), root**2)
    z = bridges.normaliser(b, t, kind=kind, convention=convention)
    return bridges.force_from_data(b, m, estimate, t, kind=kind) / z


def _edm(mean, x, sigma, *_):
    return mean(x / sigma**2, 1 / sigma**2)


def _flow(mean, x, t, *_):
    s = jnp.maximum(1 - t, 1e-4)
    return (mean(t * x / s**2, (t / s) ** 2) - x) / s


def _cld(mean, m, t, *_):
    (c_x, c_v), (s_xx, s_xv, s_vv) = cld.mean_coefficients(t), cld.covariance(t)
    det = s_xx * s_vv - s_xv**2
    y_x, y_v = (c_x * s_vv - c_v * s_xv) / det, (c_v * s_xx - c_x * s_xv) / det
    x, v = bridges.split(m)
    return mean(y_x * x + y_v * v, y_x * c_x + y_v * c_v)
