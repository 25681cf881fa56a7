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
from gahb.network import apply

RULES = ("quadratic", "linear")


def noise_level(u: jax.Array, *, low: float, high: float, rule: str = "quadratic") -> jax.Array:
    """Maps uniform draws `u` in [0, 1) to noise standard deviations in intensity units (images in [0, 1]).

    `low` and `high` are in 1/255. "quadratic": (u (sqrt(high) - sqrt(low)) + sqrt(low))^2 / 255, which over (0, 255)
    is u^2; "linear": (u (high - low) + low) / 255. Equal ends give that one level. Another rule raises `InputError`.
    """
    if rule == "quadratic":
        return (u * (high**0.5 - low**0.5) + low**0.5) ** 2 / 255
    if rule == "linear":
        return (u * (high - low) + low) / 255
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
    low: float = 0.0,
    high: float = 255.0,
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
        level = noise_level(jax.random.uniform(level_key), low=low, high=high, rule=rule)
        return level, jax.random.normal(noise_key, clean.shape[1:], clean.dtype)

    clean = batch["image"]
    sigma, z = jax.vmap(draw)(example_keys(key, batch["position"]))
    noisy, noise = add_noise(clean, sigma.astype(clean.dtype), z)
    frozen = batch["progress"] >= freeze_after if train else None
    return squared_error(network, variables, noisy, noise, train=train, frozen=frozen)
