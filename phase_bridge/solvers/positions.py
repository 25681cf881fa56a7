"""Solvers of one-part states x = c x1 + l e (diffusion, flow matching) as tables for `common.solvers.linear`.

All work on the copy u = x / c of noise level sigma = l / c, where every such path is the same flow du/dsigma =
(u - E[x1 | u]) / sigma; float64 on the host. `times [N + 1]` go from the prior towards the data; N evaluations, at all
but the last. The field of every table is the data estimate.
"""

import numpy as np

from common.errors import input_error
from common.solvers.linear import Steps, check
from common.solvers.multistep import gauss_legendre, weights
from phase_bridge.processes.base import Process

_NODES = 64
_MOST = 1e4  # noise level that stands for an infinite one where estimates are interpolated

# Adams-Bashforth weights on equal steps, the newest first; iPNDM uses them whatever the steps are.
_ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def ddim(process: Process, times: np.ndarray) -> Steps:
    """Euler in sigma: u' = (sigma'/sigma) u + (1 - sigma'/sigma) D (Song et al., ICLR 2021, eta = 0); order 1."""
    return _of_estimates(process, times, np.zeros((len(times) - 1, 1)))


def dpmpp(process: Process, times: np.ndarray, *, degree: int) -> Steps:
    """DPM-Solver++ multistep in data prediction (Lu et al., 2022): 2M for degree 1, 3M for degree 2.

    Of order `degree` + 1. 2M with the authors' approximation of the second weight; 3M integrates the parabola through
    three values exactly (the authors' code has half of the second derivative's part).
    """
    if degree != 1:
        return data_multistep(process, times, degree=degree)
    sigma = _levels(process, times)
    log, found = -np.log(np.maximum(sigma, 1e-300)), np.zeros((len(times) - 1, 2))
    for n in range(1, len(found)):
        if sigma[n + 1] > 0:
            step = log[n + 1] - log[n]
            half = -np.expm1(-step) / 2 * step / (log[n] - log[n - 1])
            found[n] = half, -half
    return _of_estimates(process, times, found)


def data_multistep(process: Process, times: np.ndarray, *, degree: int, corrector: bool = False) -> Steps:
    """Extrapolates the data estimate by a polynomial of `degree` in ln sigma; exact for such estimates.

    The predictor of exponential integrators. With the corrector it is UniPC (Zhao et al., NeurIPS 2023) with its
    coefficients from the exact integrals. Of order `degree` + 1, and one more with the corrector.
    """
    sigma = _levels(process, times)
    log = -np.log(np.where(sigma > 0, sigma, 1.0))
    log[-1] = log[-1] if sigma[-1] > 0 else log[-2]  # the last step to sigma = 0 is the last estimate
    nodes, shares = gauss_legendre(log[:-1], log[1:], _NODES)
    kernel = (np.exp(nodes - log[1:, None]) * shares)[..., None]
    transition = (sigma[1:] / sigma[:-1])[:, None, None]
    options = {"corrector": corrector, "transition": transition, "full_start": True}
    return _of_estimates(process, times, weights(log[:-1], nodes, kernel, order=degree, **options)[..., 0])


def deis(process: Process, times: np.ndarray, *, degree: int) -> Steps:
    """Extrapolates the noise (u - D) / sigma by a polynomial of `degree` in sigma (Zhang & Chen, ICLR 2023, rho-AB).

    Of order `degree` + 1.
    """
    c, spread, sigma = _finite(process, times, "deis")
    nodes, shares = gauss_legendre(sigma[:-1], sigma[1:], _NODES)
    found = weights(
        sigma[:-1], nodes, shares[..., None], order=degree, transition=np.ones((len(c) - 1, 1, 1)), full_start=True
    )
    return _of_noise(times, c, spread, found[..., 0])


def ipndm(process: Process, times: np.ndarray, *, degree: int = 3) -> Steps:
    """Extrapolates the noise with the weights of equal steps in sigma, whatever the steps are (Zhang & Chen, 2023).

    The first steps are of lower degree: that is the method. Hence of order 1 where steps are unequal.
    """
    c, spread, sigma = _finite(process, times, "ipndm")
    found, size = np.zeros((len(c) - 1, min(degree, 3) + 1)), np.diff(sigma)
    for n in range(len(found)):
        known = _ADAMS[min(n, degree, 3)]
        found[n, : len(known)] = size[n] * np.asarray(known)
    return _of_noise(times, c, spread, found)


def ab(process: Process, times: np.ndarray, *, degree: int) -> Steps:
    """Adams-Bashforth: extrapolates dx/dt by a polynomial of `degree` in the path's own time; order `degree` + 1."""
    ((a,),), (b,) = process.flow(times[:-1])
    nodes, shares = gauss_legendre(times[:-1], times[1:], _NODES)
    one = np.ones((len(times) - 1, 1, 1))
    found = weights(times[:-1], nodes, shares[..., None], order=degree, transition=one, full_start=True)
    return _table(times, np.stack([b, a], -1), one, found)


def _levels(process, times):
    sigma = np.minimum(process.noise_level(times[:-1]), _MOST)
    return np.append(sigma, 0.0 if times[-1] == process.last else process.noise_level(times[-1]))


def _finite(process, times, solver):
    (c,), (spread,) = process.mean(times), process.factor(times)
    if c[0] == 0:
        fix = 'use schedule "levels"'
        raise input_error("times", expected=f'finite noise levels for solver "{solver}"', got=times[0], fix=fix)
    return c, spread, spread / c


def _of_estimates(process, times, found):
    """Returns the table of x' = (l'/l) x + c' sum_j w_j D_(n-j), exact for constant estimates by the newest weight."""
    (c,), (spread,) = process.mean(times), process.factor(times)
    ratio = spread[1:] / spread[:-1]
    scaled = np.array(found) * c[1:, None]
    scaled[:, 0] += c[1:] - ratio * c[:-1] - scaled.sum(1)
    one = np.broadcast_to([1.0, 0.0], (len(ratio), 2))
    return _table(times, one, ratio[:, None, None], scaled[..., None])


def _of_noise(times, c, spread, found):
    """Returns the table of u' = u + sum_j w_j (x - c D)_(n-j) / l_(n-j)."""
    history = np.stack([-c[:-1] / spread[:-1], 1 / spread[:-1]], -1)
    return _table(times, history, (c[1:] / c[:-1])[:, None, None], (found * c[1:, None])[..., None])


def _table(times, history, transition, found):
    one = np.broadcast_to([1.0, 0.0], (len(times) - 1, 2))
    return check(Steps(times[:-1], history, one, transition, found))
