"""Weights of multistep rules for the tables of `common.solvers.linear`, in float64 on the host.

A step from t_n to t_(n+1) adds the integral of kernel(tau) q(tau) to the state, where q is known at evaluations only. A
predictor puts the polynomial through q_n, q_(n-1), ... in its place. A corrector waits for the next evaluation, at the
predicted state, and corrects the step with the polynomial that has also that value: one order more for no evaluation
more (cf. Zhao et al., NeurIPS 2023, UniPC; Xue et al., NeurIPS 2023, SA-Solver), and under noise the part of the change
of q that this very noise made. Since all is linear the corrected state need not exist: the correction is in the weights
of the following step.

The first steps have few past values, so that a rule of order 3 or more is of order 2 unless its grid begins with short
steps. With `full_start` each of the first steps integrates again from the beginning, with the best of the values known
by then, and the weights hold the difference from what the steps before had added: the full order at no cost.
"""

import math

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
    full_start: bool = False,
) -> np.ndarray:
    """Returns the weights `[N, q, k]` of q_n, q_(n-1), ...; q is at least order + 1, and one more with a corrector.

    t `[N]`: of the evaluations. nodes `[N, Q]`, kernel `[N, Q, k]`: quadrature nodes of each step, and the kernel there
    times their weights. Step n uses min(n, order) + 1 past values. transition `[N, k, k]`: of the state, for the
    corrector and for `full_start`. Raises `InputError` for a negative order, and for two equal times where values at
    both would be interpolated by a corrector.
    """
    if order < 0 or order != int(order):
        raise input_error("order", expected="a whole number, 0 or more", got=order, fix="the published samplers use 2")
    if corrector and len(np.unique(t)) != len(t):
        raise input_error(
            "corrector", expected="no step of length zero", got="two equal times", fix="leave the corrector out"
        )
    order, count = int(order), len(t)
    stencils = start_stencils(order, corrector=corrector, count=count) if full_start else []
    oldest = max((n - each[0] + 1 for n, each in enumerate(stencils)), default=0)
    found = np.zeros((count, max(order + 1 + corrector, oldest), kernel.shape[-1]))
    added = np.zeros((count, kernel.shape[-1]))  # by the steps before, of each value
    for n, stencil in enumerate(stencils):
        whole = np.zeros_like(added)
        for i in range(n + 1):
            whole = whole @ transition[i].T
            whole[stencil] += lagrange(t[stencil], nodes[i]) @ kernel[i]
        change = whole - added @ transition[n].T
        found[n, : n + 1] = change[n::-1]
        added = whole
    for n in range(len(stencils), count):
        past = t[n - min(n, order) : n + 1][::-1]
        predicted = lagrange(past, nodes[n]) @ kernel[n]
        found[n, : len(past)] += predicted
        if corrector and n + 1 < count:
            corrected = lagrange(np.concatenate([t[n + 1 : n + 2], past]), nodes[n]) @ kernel[n]
            corrected[1:] -= predicted
            found[n + 1, : len(corrected)] += corrected @ transition[n + 1].T
    return found


def start_stencils(order: int, *, corrector: bool, count: int) -> list[list[int]]:
    """Returns for each of the first steps the evaluations through which the polynomial from the beginning on goes.

    The value of evaluation j is known to O(h^e_j), with e_0 infinite and e_1 = 2. A polynomial through a set S leaves
    an error of O(h^min(|S| + 1, 1 + least e in S)) after its step: each step takes the set with the highest order,
    of several the largest, until steps of the full order can follow. Rules of order 2, and those of order 3 by a
    corrector, need no such steps.
    """
    full = order + 1 + corrector
    if order < 2:
        return []
    known, found = [math.inf], []
    for n in range(count):
        usual = known[max(0, n - order) :]
        if n >= order and known[n] >= full and min(usual) >= full - 1:
            break
        sets = [[j for j, each in enumerate(known) if each >= least] for least in sorted(set(known))]
        reached = [min(len(each) + 1, 1 + min(known[j] for j in each), full) for each in sets]
        best = reached.index(max(reached))  # the first is the largest
        found.append(sets[best])
        known.append(reached[best])
    return found
