"""Weights of multistep rules for the tables of `common.solvers.linear`, in float64 on the host.

A step from t_n to t_(n+1) adds the integral of kernel(tau) q(tau) to the state, where q is known at evaluations only. A
predictor puts the polynomial through q_n, q_(n-1), ... in its place. A corrector waits for the next evaluation, at the
predicted state, and corrects the step with the polynomial that has also that value: one order more for no evaluation
more (cf. Zhao et al., NeurIPS 2023, UniPC; Xue et al., NeurIPS 2023, SA-Solver), and under noise the part of the change
of q that this very noise made. Since all is linear the corrected state need not exist: the correction is in the weights
of the following step.
"""

import numpy as np

from common.errors import input_error
from common.solvers.quadrature import lagrange


def weights(
    t: np.ndarray,
    nodes: np.ndarray,
    kernel: np.ndarray,
    *,
    order: int,
    corrector: bool = False,
    transition: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the weights `[N, q, k]` of q_n, q_(n-1), ...; q = order + 1, and one more with a corrector.

    t `[N]`: of the evaluations. nodes `[N, Q]`, kernel `[N, Q, k]`: quadrature nodes of each step, and the kernel there
    times their weights. Step n uses min(n, order) + 1 past values. transition `[N, k, k]`: of the state, for the
    corrector. Raises `InputError` for a negative order.
    """
    if order < 0 or order != int(order):
        raise input_error("order", expected="a whole number, 0 or more", got=order, fix="the published samplers use 2")
    if corrector and len(np.unique(t)) != len(t):
        raise input_error(
            "corrector", expected="no step of length zero", got="two equal times", fix="leave the corrector out"
        )
    order = int(order)
    found = np.zeros((len(t), order + 1 + corrector, kernel.shape[-1]))
    for n in range(len(t)):
        past = t[n - min(n, order) : n + 1][::-1]
        predicted = lagrange(past, nodes[n]) @ kernel[n]
        found[n, : len(past)] += predicted
        if corrector and n + 1 < len(t):
            corrected = lagrange(np.concatenate([t[n + 1 : n + 2], past]), nodes[n]) @ kernel[n]
            corrected[1:] -= predicted
            found[n + 1, : len(corrected)] += corrected @ transition[n + 1].T
    return found
