"""Exact fields for data whose distribution is known: what a perfectly trained network would say."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from phase_bridge import bridge as bridges
from phase_bridge.bridge import Bridge


def mixture_estimate(bridge: Bridge, means, weights, std, m, t):
    """Returns E[x1 | m] for data from a mixture of isotropic Gaussians in C dimensions; m `[..., 2C]` -> `[..., C]`.

    means `[K, C]`, weights `[K]` (summing to 1), std of every component, t a scalar. With S = Sigma_t + std^2 c c^T and
    the deviations d_i of m from c mu_i: responsibilities softmax(log w_i - sum over coordinates d_i^T S^-1 d_i / 2),
    means mu_i + std^2 c^T S^-1 d_i.
    """
    c_x, c_v = bridges.mean_coefficients(bridge, t)
    xx, xv, vv = bridges.covariance(bridge, t)
    l_xx, _, l_vv = bridges.cholesky(bridge, t)
    # det S as a sum of what is not negative: det Sigma + std^2 c^T adj(Sigma) c.
    det = (l_xx * l_vv) ** 2 + std**2 * (c_x**2 * vv - 2 * c_x * c_v * xv + c_v**2 * xx)
    k_xx, k_xv, k_vv = xx + std**2 * c_x**2, xv + std**2 * c_x * c_v, vv + std**2 * c_v**2
    x, v = (part[..., None, :] for part in bridges.split(m))
    d_x, d_v = x - c_x * means, v - c_v * means
    on_x, on_v = (k_vv * d_x - k_xv * d_v) / det, (k_xx * d_v - k_xv * d_x) / det
    each = jnp.log(weights) - jnp.sum(d_x * on_x + d_v * on_v, -1) / 2
    share = jax.nn.softmax(each, -1)[..., None]
    return jnp.sum(share * (means + std**2 * (c_x * on_x + c_v * on_v)), -2)


def field_of_estimate(bridge: Bridge, estimate, *, kind: str, normaliser: str = "released") -> Partial:
    """Returns the field of a data estimate `(m, t) -> x1_hat`: the force to x1_hat over the normaliser."""
    inner = estimate if isinstance(estimate, Partial) else Partial(estimate)
    return Partial(_OfEstimate(bridge, kind, normaliser), inner)


def mixture_field(bridge: Bridge, means, weights, std, *, kind: str, normaliser: str = "released") -> Partial:
    """Returns the field of data from a mixture of isotropic Gaussians, whose numbers travel as arguments."""
    means, weights, std = (jnp.asarray(each, jnp.result_type(float)) for each in (means, weights, std))
    estimate = Partial(_Mixture(bridge), means, weights / weights.sum(), std)
    return field_of_estimate(bridge, estimate, kind=kind, normaliser=normaliser)


# Compared by their numbers, so that equal fields share a compiled program.
@dataclass(frozen=True)
class _OfEstimate:
    bridge: Bridge
    kind: str
    normaliser: str

    def __call__(self, estimate, m, t):
        f = bridges.force_from_data(self.bridge, m, estimate(m, t), t, kind=self.kind)
        return f / bridges.normaliser(self.bridge, t, kind=self.kind, convention=self.normaliser)


@dataclass(frozen=True)
class _Mixture:
    bridge: Bridge

    def __call__(self, means, weights, std, m, t):
        return mixture_estimate(self.bridge, means, weights, std, m, t)
