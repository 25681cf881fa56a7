"""The training objective: noise levels, noisy images and the squared error of the estimated noise."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.data.batches import example_keys
from common.errors import input_error
from common.method import Aux, Variables
from common.metrics.psnr import psnr
from gahb.networks import apply

RULES = ("quadratic", "linear")


def noise_level(u: jax.Array, *, sigma_min: float, sigma_max: float, rule: str = "quadratic") -> jax.Array:
    """Maps uniform numbers `u` in [0, 1) to noise standard deviations in [sigma_min, sigma_max], intensity units.

    "quadratic": (u (sqrt(sigma_max) - sqrt(sigma_min)) + sqrt(sigma_min))^2, which is u^2 for the paper's range from 0
    to 1; "linear": u (sigma_max - sigma_min) + sigma_min. Equal ends give that one level. Raises `InputError` for
    another rule.
    """
    if rule == "quadratic":
        return (u * (sigma_max**0.5 - sigma_min**0.5) + sigma_min**0.5) ** 2
    if rule == "linear":
        return u * (sigma_max - sigma_min) + sigma_min
    raise input_error("noise.rule", expected=" or ".join(RULES), got=repr(rule), fix='use "quadratic" for the paper\'s')


def add_noise(clean: jax.Array, sigma: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the noisy images and their noise sigma z; `clean` and standard normal `z [B, H, W, C]`, `sigma [B]`."""
    noise = sigma[:, None, None, None] * z
    return clean + noise, noise


def squared_error(
    network: nn.Module,
    variables: Variables,
    noisy: jax.Array,
    noise: jax.Array,
    *,
    train: bool = True,
    frozen: jax.Array | None = None,
) -> tuple[jax.Array, Aux]:
    """Returns mean over the batch of ||n(noisy) - noise||^2 (a sum over pixels and channels) and the PSNR, in dB.

    `noisy` and `noise` are `[B, H, W, C]`; `Aux.metrics["psnr"]` is the mean of 10 log10(1 / mse) of the denoised
    images.
    """
    residual, stats = apply(network, variables, noisy, train=train, frozen=frozen)
    error = jnp.square(residual - noise).sum((1, 2, 3))
    return error.mean(), Aux(stats, {"psnr": psnr(noise, residual).mean()})


def loss(
    network: nn.Module,
    variables: Variables,
    key: jax.Array,
    batch: Mapping[str, Any],
    *,
    sigma_min: float = 0.0,
    sigma_max: float = 1.0,
    rule: str = "quadratic",
    freeze_after: float = 1.0,
    train: bool = True,
) -> tuple[jax.Array, Aux]:
    """Draws a noise level and noise for each image of the batch and returns `squared_error` of the noisy batch.

    `batch` has `image [B, H, W, C]` in [0, 1], `position [B]` (keys the draws) and `progress []`; once that passes
    `freeze_after` the normalisation uses its running deviations, which then stay as they are.
    """

    def draw(key):
        level_key, noise_key = jax.random.split(key)
        level = noise_level(jax.random.uniform(level_key), sigma_min=sigma_min, sigma_max=sigma_max, rule=rule)
        return level, jax.random.normal(noise_key, clean.shape[1:], clean.dtype)

    clean = batch["image"]
    sigma, z = jax.vmap(draw)(example_keys(key, batch["position"]))
    noisy, noise = add_noise(clean, sigma.astype(clean.dtype), z)
    frozen = batch["progress"] >= freeze_after if train else None
    return squared_error(network, variables, noisy, noise, train=train, frozen=frozen)
