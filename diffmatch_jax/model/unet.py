"""The denoiser of both stages: a U-Net of the noisy flow, the initial flow and correlations.

x_0 = encode(F_init) + U-Net([x_t, F_init, evidence], t): with the released variable, the normalised flow itself, its
output is what is added to the initial flow; with a residual variable the initial flow is 0. Where the variable has a
learned scale s, a third output is its logarithm: the deviation of x_0 around that sum when nothing else is known of it.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.errors import input_error, within
from common.networks.unets import ADMUNet
from diffmatch_jax.model.conditioning import Conditions
from diffmatch_jax.model.diffusion import Variable

LARGEST_LOG = 3.0  # of the learned s, both ways: errors are between 1/20 of their unit and 20 times it


def build(
    *,
    cells: int,
    channels: int,
    multipliers: tuple[int, ...],
    num_blocks: int,
    attention: tuple[int, ...],
    heads: int,
    min_group: int = 8,
    predict_variance: bool = False,
    fused_attention: bool = True,
    compute_dtype: str = "float32",
    remat: bool = False,
) -> ADMUNet:
    """Returns the network for a grid of `cells` a side; raises `InputError` for what cannot work.

    With the paper's numbers and 85 input channels it has 121,153,794 parameters.
    """
    for name, value in (("channels", channels), ("num_blocks", num_blocks), ("heads", heads)):
        within(f"config.model.{name}", value, 1)
        within(f"config.model.{name}", value, 1, 1000 if name == "num_blocks" else 2**16)
    if not multipliers or min(multipliers) < 1:
        raise input_error(
            "config.model.multipliers", expected="numbers from 1 on", got=multipliers, fix="use (1, 2, 3)"
        )
    last = len(multipliers) - 1
    if cells % 2**last:
        got, fix = f"{cells} cells a side", "use fewer multipliers or other features.fine"
        raise input_error("config.model.multipliers", expected=f"a grid divisible by {2**last}", got=got, fix=fix)
    if not set(attention) <= set(range(last + 1)):
        got = attention
        raise input_error("config.model.attention", expected=f"levels from 0 to {last}", got=got, fix="use () for none")
    for level in range(last + 1):
        width = channels * multipliers[level]
        # The middle attends anyway, at the width of the last level.
        if (level in attention or level == last) and width % heads:
            fix = "change it or channels"
            raise input_error("config.model.heads", expected=f"a divisor of {width} channels", got=heads, fix=fix)
    widths = [channels * each for each in multipliers]
    joined = {a + b for a, b in zip([0, *widths, *widths], [widths[0], *widths, *widths[1:]], strict=False)}
    for width in sorted({*widths, *joined}):
        if width % min(32, max(width // min_group, 1)):
            got, fix = f"a norm of {width}", "use multiples of 32"
            raise input_error("config.model.channels", expected="norms of equal groups", got=got, fix=fix)
    return ADMUNet(
        3 if predict_variance else 2,
        channels=channels,
        multipliers=multipliers,
        num_blocks=num_blocks,
        attention=attention,
        heads=heads,
        resampling="convolution",
        min_group=min_group,
        dtype=jnp.bfloat16 if compute_dtype == "bfloat16" else None,
        fused_attention=fused_attention,
        remat=remat,
    )


def inputs(x: jax.Array, conditions: Conditions, variable: Variable, signal: jax.Array | None = None) -> jax.Array:
    """Returns the input of the U-Net, `[N, h, w, 4 + K]`; the initial flow is in the variable's `scale`.

    With `signal [N]`, sqrt(ab), it sees sqrt(ab) x_t, the best linear guess of an x_0 of unit variance: at the noisiest
    level that is nothing, and no noise must be learned to be ignored.
    """
    shown = x if signal is None else x * signal[:, None, None, None]
    return jnp.concatenate([shown, conditions.flow / variable.scale, conditions.evidence], -1)


class Prediction(NamedTuple):
    """Predicted x_0 `[N, h, w, 2]`, and the deviation around it `[N, h, w, 1]`, None if that is not learned."""

    x0: jax.Array
    deviation: Any  # an array or None


def predict(
    network: nn.Module,
    params: Any,
    x: jax.Array,
    time: jax.Array,
    conditions: Conditions,
    variable: Variable,
    *,
    signal: jax.Array | None = None,
    keys: jax.Array | None = None,
) -> Prediction:
    """Returns what is predicted of x_0 from noisy `x [N, h, w, 2]` at `time [N]`; `keys [N]` switch dropout on.

    `signal` is as in `inputs`. With a skip x_0 is g x_t + sqrt(1 - ab) U-Net, and g what `gaussian_posterior` gives for
    the learned s, or for s = 1 (g is the c_skip of Karras et al., NeurIPS 2022, table 1); without `signal` x_0 is the
    U-Net's alone and all of s is left.
    """
    out: Any = network.apply({"params": params}, inputs(x, conditions, variable, signal), time, keys=keys)
    deviation: Any = jnp.exp(_limited(out[..., 2:])) if variable.predict_variance else 1.0
    out = out[..., :2]
    if variable.skip and signal is not None:
        signal = signal[:, None, None, None]
        kept, deviation = gaussian_posterior(signal, deviation)
        out = kept * x + jnp.sqrt(1 - signal**2) * out
    x0 = variable.encode(conditions.flow, conditions.flow, conditions.unit) + out
    return Prediction(x0, deviation if variable.predict_variance else None)


def gaussian_posterior(signal: jax.Array, scale: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """Returns the posterior of a Gaussian x_0 of deviation s given x_t: g with E[x_0 | x_t] = g x_t, and its deviation.

    g = a s^2 / (a^2 s^2 + b^2) and s b / sqrt(a^2 s^2 + b^2), with a = sqrt(ab) = `signal` and b = sqrt(1 - ab).
    """
    noise = 1 - signal**2
    total = (signal * scale) ** 2 + noise
    return signal * scale**2 / total, scale * jnp.sqrt(noise / total)


def _limited(log: jax.Array) -> jax.Array:
    """Returns it within its limits; its derivative is 1 beyond them too, so that training can lead back."""
    return log + jax.lax.stop_gradient(jnp.clip(log, -LARGEST_LOG, LARGEST_LOG) - log)
