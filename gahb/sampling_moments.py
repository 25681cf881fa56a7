"""Moments of the sampler's result for a Gaussian prior, in closed form, under any settings."""

from typing import NamedTuple

import numpy as np

from gahb.sampler_settings import DEFAULT, SamplerSettings, check


class Moments(NamedTuple):
    """variance_fraction `[...]`: variance of the samples over that of the prior. mean_factor `[...]`: error of the
    samples' mean over that of `settings.mean`. nfe: calls of the denoiser."""

    variance_fraction: np.ndarray
    mean_factor: np.ndarray
    nfe: int


def gaussian_moments(variance: np.ndarray, settings: SamplerSettings = DEFAULT) -> Moments:
    """Returns what `gahb.sample` leaves of a Gaussian prior along eigenvectors of its covariance.

    variance: `[...]`, positive eigenvalues v. The denoiser is the optimal one, x_hat = v y / (v + sigma^2), and most
    directions have no variance, so that ||d|| / sqrt(HWC) = sigma. With the error e of the mean of y and the covariance
    of (y, x_hat_before), each iteration is linear, y <- (1 - h) y + h x + gamma z, x = x_hat + (x_hat - x_hat_before) /
    2 or x_hat (see `gahb.sampling`). Raises `InputError` for impossible settings.

    >>> gaussian_moments(np.array([0.05, 1.0, 16.0])).variance_fraction.round(2).tolist()
    [1.0, 1.0, 0.99]
    """
    check(settings)
    v = np.asarray(variance, np.float64)
    published, sigma = settings.h0 is not None, float(settings.sigma_0)
    state = np.zeros((*v.shape, 2, 2))
    state[..., 0, 0] = sigma**2
    mean = np.ones((*v.shape, 2))
    t, going = 1, sigma > settings.sigma_L
    while going and t <= settings.max_steps:
        h, beta = settings.step, settings.beta if t > settings.hold else 0.0
        if published:
            h, beta = (
                settings.h0 if settings.fixed_step else settings.h0 * t / (1 + settings.h0 * (t - 1)),
                settings.beta,
            )
        ahead = 0.0 if published or t == 1 else 0.5
        gain = v / (v + sigma**2)
        step = np.zeros_like(state)
        step[..., 0, 0] = 1 - h + h * (1 + ahead) * gain
        step[..., 0, 1] = -h * ahead
        step[..., 1, 0] = gain
        state = step @ state @ np.swapaxes(step, -1, -2)
        state[..., 0, 0] += sigma**2 * h * (1 - beta) * (2 - h * (1 + beta))
        mean = (step @ mean[..., None])[..., 0]
        # The iteration at which sigma_L is reached is the last one.
        going, sigma, t = sigma > settings.sigma_L, sigma * (1 - beta * h), t + 1
    gain = v / (v + sigma**2)
    return Moments(gain**2 * state[..., 0, 0] / v, gain * mean[..., 0], t)
