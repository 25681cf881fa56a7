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

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from common.errors import input_error

_PANEL_NODES = 32
_TOLERANCE = 1e-13  # of the integral of the absolute value
_MOST_PANELS = 128


@functools.cache
def _legendre(count: int):
    return np.polynomial.legendre.leggauss(count)


def gauss_legendre(lower, upper, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes and weights `[..., count]` on the intervals from `lower` to `upper`, each `[...]`."""
    nodes, weights = _legendre(count)
    lower, upper = (np.asarray(end, np.float64)[..., None] for end in (lower, upper))
    return (upper + lower) / 2 + (upper - lower) / 2 * nodes, (upper - lower) / 2 * weights


def adaptive(function: Callable[[np.ndarray], np.ndarray], lower, upper) -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes and weights `[..., Q]` that integrate functions like `function` from `lower` to `upper` `[...]`.

    function: `[..., Q] -> [..., Q]` or `[..., Q, k]`, smooth except near single points. Gauss-Legendre on panels,
    which are bisected until none of its integrals changes by more than 1e-13 of the whole; all intervals are divided at
    the same fractions of their lengths.
    """
    lower, length = np.asarray(lower, np.float64)[..., None], np.subtract(upper, lower)[..., None]

    def rule(first, last):
        # Fractions of the interval, so that rounding of its ends does not look like an error of the rule.
        at, weights = gauss_legendre(first, last, _PANEL_NODES)
        return lower + length * at, length * weights

    def integral(first, last):
        at, weights = rule(first, last)
        values = function(at)
        values = (values if values.ndim > at.ndim else values[..., None]) * weights[..., None]
        return values.sum(-2), np.abs(values).sum(-2)

    whole, size = integral(0.0, 1.0)
    panels, pending = [], [(0.0, 1.0, whole)]
    while pending and len(panels) + len(pending) < _MOST_PANELS:
        following = []
        for first, last, whole in pending:
            middle = (first + last) / 2
            (left, left_size), (right, right_size) = integral(first, middle), integral(middle, last)
            if last - first == 1:
                size = np.maximum(size, left_size + right_size)
            settled = (np.abs(left + right - whole) <= _TOLERANCE * size).all()
            (panels if settled else following).extend([(first, middle, left), (middle, last, right)])
        pending = following
    found = [rule(first, last) for first, last, _ in sorted(panels + pending, key=lambda panel: panel[0])]
    nodes, weights = zip(*found, strict=True)
    return np.concatenate(nodes, -1), np.concatenate(weights, -1)


@functools.cache
def _tails():
    """Row i integrates the polynomial through values at the nodes of [-1, 1] from node i to 1."""
    nodes, _ = _legendre(_PANEL_NODES)
    at, weights = gauss_legendre(nodes, 1.0, _PANEL_NODES)
    return np.einsum("jiq,iq->ij", lagrange(nodes, at), weights)


def tails(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the integrals from each node of `adaptive` to the upper end, from values and weights at the nodes."""
    _, reference = _legendre(_PANEL_NODES)
    scaled = (values * weights).reshape(*values.shape[:-1], -1, _PANEL_NODES)
    within = (scaled / reference) @ _tails().T
    each = scaled.sum(-1)
    later = np.cumsum(each[..., ::-1], -1)[..., ::-1] - each
    return (within + later[..., None]).reshape(values.shape)


def lagrange(points: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Returns the polynomials that are 1 at one of the points and 0 at the others, at `at [...]`; `[points, ...]`."""
    basis = np.ones((len(points), *np.shape(at)))
    for j, point in enumerate(points):
        for other in np.delete(points, j):
            basis[j] *= (at - other) / (point - other)
    return basis


def weights(
    t: np.ndarray,
    nodes: np.ndarray,
    kernel: np.ndarray,
    *,
    order: int,
    corrector: bool = False,
    transition: Any = None,
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
