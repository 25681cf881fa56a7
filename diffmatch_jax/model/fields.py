"""The diffusion as an ordinary differential equation, for the rules of `common.solvers`.

With y = x / sqrt(ab) and sigma = sqrt(1 / ab - 1) the probability flow is dy/dsigma = (y - x_0(y, sigma)) / sigma
(Karras et al., NeurIPS 2022, equation 1), and DDIM is its Euler rule over the levels of the process. Other rules and
grids ask for x_0 between the levels: the network is told a time interpolated in log sigma, which a network that was
trained on few levels has not seen.
"""

import jax
import jax.numpy as jnp
import numpy as np

from common.errors import input_error
from common.solvers.runge_kutta import EULER, Tableau, integrate
from diffmatch_jax.model.diffusion import Denoiser, Process, Sampled


def noise_levels(process: Process) -> np.ndarray:
    """Returns sigma = sqrt(1 / ab - 1) of every level from noisy to clean, float64 `[T]`."""
    return np.sqrt(1 / process.alphas_bar - 1)[::-1]


def network_time(process: Process, sigma: jax.Array) -> jax.Array:
    """Returns the time the network is told at sigma: linear in log sigma between levels, constant beyond them."""
    levels = np.log(noise_levels(process)[::-1])
    return jnp.interp(jnp.log(sigma), jnp.asarray(levels, jnp.float32), jnp.asarray(process.times, jnp.float32))


def probability_flow(denoise: Denoiser, process: Process):
    """Returns `field(y [B, n, h, w, 2], sigma []) -> dy/dsigma`."""

    def field(y, sigma):
        return (y - _predict(denoise, process, y, sigma)) / sigma

    return field


def _predict(denoise, process, y, sigma):
    time = network_time(process, sigma)
    return denoise(y / jnp.sqrt(1 + sigma**2), jnp.broadcast_to(time, y.shape[:2]))


def sample(
    denoise: Denoiser,
    noise: jax.Array,
    *,
    process: Process,
    rule: Tableau = EULER,
    sigmas: np.ndarray | None = None,
    has_aux: bool = False,
) -> Sampled:
    """Returns hypotheses from `noise [B, n, h, w, 2]` by any rule over falling `sigmas`, by default the levels.

    The last step, from the smallest sigma to 0, is the prediction of x_0 itself. `has_aux`: the denoiser returns x_0
    and something else; that of the last prediction is `aux [1, ...]`. Raises `InputError` unless sigmas fall, are
    positive and two or more.
    """
    sigmas = noise_levels(process) if sigmas is None else np.asarray(sigmas, np.float64)
    if sigmas.ndim != 1 or len(sigmas) < 2 or not (np.diff(sigmas) < 0).all() or not sigmas[-1] > 0:
        fix = "use fields.noise_levels or common.solvers.grids.power"
        raise input_error("sigmas", expected="two or more falling positive numbers", got=sigmas.tolist(), fix=fix)
    start = noise * np.sqrt(1 + sigmas[0] ** 2).astype(np.float32)
    alone = (lambda x, time: denoise(x, time)[0]) if has_aux else denoise
    y, _ = integrate(probability_flow(alone, process), start, sigmas, rule=rule)
    found = _predict(denoise, process, y, jnp.asarray(sigmas[-1], y.dtype))
    x0, aux = found if has_aux else (found, None)
    nfe = (len(sigmas) - 1) * len(rule.b) + 1
    return Sampled(x0, nfe, None, jax.tree.map(lambda each: each[None], aux))
