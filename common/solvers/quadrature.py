"""Quadrature and interpolation for the coefficients of multistep rules, in float64 on the host."""

import functools

import numpy as np


@functools.cache
def _legendre(count: int):
    return np.polynomial.legendre.leggauss(count)


def gauss_legendre(lower, upper, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes and weights `[..., count]` on the intervals from `lower` to `upper`, each `[...]`."""
    nodes, weights = _legendre(count)
    lower, upper = (np.asarray(end, np.float64)[..., None] for end in (lower, upper))
    return (upper + lower) / 2 + (upper - lower) / 2 * nodes, (upper - lower) / 2 * weights


def lagrange(points: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Returns the polynomials that are 1 at one of the points and 0 at the others, at `at [...]`; `[points, ...]`."""
    basis = np.ones((len(points), *np.shape(at)))
    for j, point in enumerate(points):
        for other in np.delete(points, j):
            basis[j] *= (at - other) / (point - other)
    return basis
