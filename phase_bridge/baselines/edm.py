"""Diffusion as Karras et al. (2022, "EDM") set it up: x_sigma = x1 + sigma z, a preconditioned denoiser.

The time of this objective is the noise level sigma; the field it gives is the data estimate.
"""

import math

import jax
import jax.numpy as jnp

from common.networks import preconditioning
from phase_bridge.objective import Objective, beside


def objective(
    *,
    sigma_data: float = 0.5,
    mean: float = -1.2,
    std: float = 1.2,
    times: str = "log_normal",
    least: float = 0.004,
    most: float = 160.0,
) -> Objective:
    """Returns the objective; the weight makes the network's target one of unit variance at every noise level.

    times: "log_normal": ln(sigma) ~ N(mean, std^2) for data of standard deviation 0.5, scaled to `sigma_data`;
    "log_uniform": uniform logarithms from `least` to `most` times `sigma_data`.
    """
    scale = math.log(sigma_data / 0.5)

    def draw(key):
        if times == "log_normal":
            return preconditioning.log_normal(key, mean=mean + scale, std=std)
        ends = math.log(least * sigma_data), math.log(most * sigma_data)
        return jnp.exp(jax.random.uniform(key, minval=ends[0], maxval=ends[1]))

    def scalings(sigma, like):
        return preconditioning.Scalings(
            *(beside(each, like) for each in preconditioning.edm(sigma, sigma_data=sigma_data))
        )

    def target(x1, z, sigma):
        # (x1 - skip (x1 + sigma z)) / out, without the difference of near numbers.
        total = beside(jnp.hypot(sigma, sigma_data), x1)
        return beside(sigma, x1) / (sigma_data * total) * x1 - sigma_data / total * z

    def read(output, x, sigma):
        c = scalings(sigma, x)
        return c.skip * x + c.out * output

    return Objective(
        name="edm",
        parts=1,
        times=draw,
        perturb=lambda x1, z, sigma: x1 + beside(sigma, x1) * z,
        inputs=lambda x, sigma: scalings(sigma, x).input * x,
        label=lambda sigma: jnp.log(sigma) / 4,
        target=target,
        weight=jnp.ones_like,
        read=read,
    )
