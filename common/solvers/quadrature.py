"""Quadrature and interpolation for the coefficients of multistep rules, in float64 on the host."""

import functools
from collections.abc import Callable

import numpy as np

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
    return tuple(np.concatenate(each, -1) for each in zip(*found, strict=True))


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
