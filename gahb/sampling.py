"""Stochastic coarse-to-fine sampling with a blind denoiser, from the prior or given a linear measurement.

Kadkhodaie, Guth, Simoncelli, Mallat, ICLR 2024, algorithm 1; Kadkhodaie & Simoncelli, NeurIPS 2021. Noise decreases
with the iteration t = 1, 2, ...; the denoiser's residual is both the direction of the step and the estimate of the
noise that is left. Samples of a batch are independent of each other: each has its own key and its own end.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from common.arrays import as_numbers
from common.errors import at_least, input_error
from common.prng import as_key
from gahb.denoisers import Denoiser, as_denoiser, denoised
from gahb.operators import Operator

Noise = Callable[[jax.Array, jax.Array, Any], jax.Array]  # (keys [N], t, like [N, H, W, C]) -> standard normal draws


def gaussian_noise(keys: jax.Array, t: jax.Array, like: jax.Array) -> jax.Array:
    """Draws the noise of iteration `t` (0: of the initial image) for every sample from its own key."""

    def draw(key):
        return jax.random.normal(jax.random.fold_in(key, t), like.shape[1:], like.dtype)

    return jax.vmap(draw)(keys)


def recorded_noise(draws: jax.Array) -> Partial:
    """Replays `draws [T + 1, N, H, W, C]`: that of the initial image, then one an iteration (the last repeats)."""
    return Partial(_replay, jnp.asarray(draws))


def _replay(draws, keys, t, like):
    return lax.dynamic_index_in_dim(draws, t, keepdims=False).astype(like.dtype)


def sample(
    denoise: Denoiser,
    key: jax.Array,
    shape: tuple[int, int, int, int],
    *,
    sigma_0: float = 1.0,
    sigma_L: float = 0.05,
    h0: float = 0.01,
    beta: float = 0.1,
    mean: float | jax.Array = 0.5,
    fixed_step: bool = False,
    max_steps: int = 2000,
    divergence: float = 2.0,
    operator: Operator | None = None,
    measurement: jax.Array | None = None,
    impose: bool = False,
    initial: jax.Array | None = None,
    first: int = 0,
    noise: Noise | None = None,
    store_every: int = 0,
) -> tuple[jax.Array, dict[str, Any]]:
    """Draws samples of `shape [N, H, W, C]` by iterated partial denoising.

    While sigma > sigma_L, with n(y) = y - denoise(y) and h = h0 t / (1 + h0 (t - 1)) (or h0 if `fixed_step`):
    d = n - M M^T n + M (M^T y - m), sigma = ||d|| / sqrt(HWC), y <- y - h d + gamma z,
    gamma = sigma sqrt((1 - beta h)^2 - (1 - h)^2). The result is the denoised last iterate.

    sigma_0, sigma_L: noise at the start and at the end, in intensity units. beta in (0, 1]: 1 injects no noise. mean:
    intensity (or image) around which the start is drawn, on all coordinates, unless `initial [N, H, W, C]` is given.
    operator, measurement `[N or 1, ...]`: M and m = M^T x of a linear inverse problem; the last denoising moves samples
    off m a little, and `impose` puts them back by x + M (m - M^T x), which the original does not. A sample that is not
    down at sigma_L after `max_steps`, or whose sigma passes `divergence` times sigma_0, ends there, not converged.

    key: of `jax.random.key` or `PRNGKey`, or a seed. Sample i draws from fold_in(key, first + i), so a run may be split
    into batches; `noise` replaces the draws. The same key gives the same noise to any denoiser. Nothing but
    `max_steps`, `store_every`, `impose`, shapes and the function behind `denoise` compiles anew.

    Returns the samples and a dictionary of arrays: `converged [N]`, `steps [N]` (iterations), `sigma [N]` (of what the
    last denoising removed), `nfe [N]` (calls of the denoiser), `sigmas`, `means [N, max_steps + 2]` (sigma and mean
    intensity: at the start, at each iteration, of the result; then NaN), and with `store_every` = k > 0 `trajectory
    [N, max_steps // k + 2, H, W, C]` (the start, the iterates before t = k, 2k, ...; then the result repeated).
    Raises `InputError` for impossible settings.
    """
    key = as_key(key)
    _check(shape, sigma_0, sigma_L, h0, beta, max_steps, divergence, store_every, operator, measurement)
    if np.ndim(mean):
        mean = as_numbers(mean, "mean")
    elif not isinstance(mean, jax.core.Tracer) and not abs(mean) <= 4:
        raise input_error("mean", expected="an intensity in [0, 1]", got=mean, fix="divide it by 255")
    if measurement is not None and not jnp.iscomplexobj(measurement):
        measurement = as_numbers(measurement, "measurement")
    if initial is not None:
        initial = _initial(as_numbers(initial, "initial"), shape)
    if impose and operator is None:
        raise input_error(
            "impose", expected="false where nothing is measured", got=impose, fix="give operator and measurement"
        )
    numbers = {"sigma_0": sigma_0, "sigma_L": sigma_L, "h0": h0, "beta": beta, "mean": mean, "divergence": divergence}
    return _run(
        as_denoiser(denoise),
        # With a type of their own, so that 1 and 1.0 and a NumPy number compile the same program.
        {name: jnp.asarray(value, float) for name, value in numbers.items()},
        jnp.asarray(fixed_step, bool),
        key,
        jnp.asarray(first, jnp.uint32),
        None if operator is None else Operator(*(_as_partial(function) for function in operator)),
        measurement,
        initial,
        Partial(gaussian_noise) if noise is None else _as_partial(noise),
        shape=tuple(int(length) for length in shape),
        max_steps=int(max_steps),
        store_every=int(store_every),
        impose=bool(impose),
    )


@functools.partial(jax.jit, static_argnames=("shape", "max_steps", "store_every", "impose"))
def _run(
    denoise,
    numbers,
    fixed_step,
    key,
    first,
    operator,
    measurement,
    initial,
    noise,
    *,
    shape,
    max_steps,
    store_every,
    impose,
):
    dtype = jnp.result_type(float) if initial is None else jnp.result_type(initial, jnp.float32)
    s = {name: value.astype(dtype) for name, value in numbers.items()}
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(shape[0], dtype=jnp.uint32))

    def clean(y):
        return denoised(denoise, y).astype(dtype)

    def correction(y, x_hat):
        residual = y - x_hat
        if operator is None:
            return residual
        # n - M M^T n + M (M^T y - m), with y - n(y) = x_hat.
        return residual + operator.synthesize(operator.analyze(x_hat) - measurement)

    def log(table, t, active, values):
        return table.at[:, t].set(jnp.where(active, values, jnp.nan))

    def advance(state):
        y, x_hat, t, active = state["y"], state["x_hat"], state["t"], state["active"]
        h = jnp.where(fixed_step, s["h0"], s["h0"] * t / (1 + s["h0"] * (t - 1)))
        d = correction(y, x_hat)
        sigma = rms(d)
        # (1 - beta h)^2 - (1 - h)^2 in factors: as a difference its rounding is noise of up to 1e-4 where beta = 1.
        gain = jnp.sqrt(h * (1 - s["beta"]) * (2 - h * (1 + s["beta"])))
        y_new = y - h * d + _per_sample(gain * sigma) * noise(keys, t, y)
        # Samples that have ended keep their last iterate while the others of the batch go on.
        moving = _per_sample(active)
        y_new = jnp.where(moving, y_new, y)
        state = state | {
            "y": y_new,
            "x_hat": jnp.where(moving, clean(y_new), x_hat),
            "t": t + 1,
            "active": active & (sigma > s["sigma_L"]) & (sigma <= s["divergence"] * s["sigma_0"]) & (t < max_steps),
            "steps": jnp.where(active, t, state["steps"]),
            "crossed": jnp.where(active, sigma <= s["sigma_L"], state["crossed"]),
            "sigmas": log(state["sigmas"], t, active, sigma),
            "means": log(state["means"], t, active, y_new.mean((1, 2, 3))),
        }
        if store_every:
            # Overwritten until t is a multiple of store_every, which leaves the iterate before that update.
            slot = (t + store_every - 1) // store_every
            state["trajectory"] = state["trajectory"].at[slot].set(y)
        return state

    y = _start(s, keys, operator, measurement, initial, noise, shape, dtype)
    x_hat = clean(y)
    sigma, everyone = rms(y - x_hat), jnp.ones(shape[0], bool)
    table = jnp.full((shape[0], max_steps + 2), jnp.nan, dtype)
    state = {
        "y": y,
        "x_hat": x_hat,
        "t": jnp.int32(1),
        "active": sigma > s["sigma_L"],
        "steps": jnp.zeros(shape[0], jnp.int32),
        "crossed": sigma <= s["sigma_L"],
        "sigmas": log(table, 0, everyone, sigma),
        "means": log(table, 0, everyone, y.mean((1, 2, 3))),
    }
    if store_every:
        slots = max_steps // store_every + 2
        state["trajectory"] = jnp.zeros((slots, *shape), dtype).at[0].set(y)
    state = lax.while_loop(lambda state: state["active"].any(), advance, state)

    samples, steps = state["x_hat"], state["steps"]
    sigma = rms(state["y"] - samples)
    if impose:
        samples = samples + operator.synthesize(measurement - operator.analyze(samples))
    end = (jnp.arange(shape[0]), steps + 1)
    info = {
        "converged": state["crossed"],
        "steps": steps,
        "sigma": sigma,
        "nfe": steps + 1,
        "sigmas": state["sigmas"].at[end].set(sigma),
        "means": state["means"].at[end].set(samples.mean((1, 2, 3))),
    }
    if store_every:
        stored = jnp.arange(slots)[:, None] <= steps // store_every
        trajectory = jnp.where(stored[..., None, None, None], state["trajectory"], samples)
        info["trajectory"] = jnp.moveaxis(trajectory, 0, 1)
    return samples, info


def _start(s, keys, operator, measurement, initial, noise, shape, dtype):
    if initial is not None:
        return jnp.broadcast_to(initial, shape).astype(dtype)
    mean = jnp.broadcast_to(s["mean"], shape)
    if operator is not None:
        mean = mean + operator.synthesize(measurement - operator.analyze(mean))
    return mean + s["sigma_0"] * noise(keys, jnp.int32(0), jax.ShapeDtypeStruct(shape, dtype))


def rms(x: jax.Array) -> jax.Array:
    """Returns ||x|| / sqrt(number of pixels and channels) of each image, `[N, H, W, C] -> [N]`."""
    return jnp.sqrt(jnp.square(x).mean((1, 2, 3)))


def _per_sample(values):
    return values[:, None, None, None]


def _as_partial(function):
    return function if isinstance(function, Partial) else Partial(function)


def _check(shape, sigma_0, sigma_L, h0, beta, max_steps, divergence, store_every, operator, measurement):
    if len(shape) != 4:
        raise input_error("shape", expected="[N, H, W, C]", got=tuple(shape), fix="give four numbers")
    above_zero = {"sigma_0": sigma_0, "sigma_L": sigma_L, "h0": h0, "beta": beta, "divergence": divergence}
    for name, value in above_zero.items():
        # What is traced or one value per device has been checked by whoever made it.
        if not isinstance(value, (int, float)):
            continue
        most = 1 if name in ("h0", "beta") else math.inf
        if not 0 < value <= most:
            expected = "a number in (0, 1]" if most == 1 else "a positive number"
            raise input_error(
                name, expected=expected, got=value, fix="see the docstring of gahb.sample for the paper's values"
            )
    at_least({"max_steps": (max_steps, 1), "store_every": (store_every, 0)})
    if (operator is None) != (measurement is None):
        missing = "operator" if operator is None else "measurement"
        raise input_error(
            missing, expected="operator and measurement together", got="only one", fix="give both or neither"
        )


def _initial(initial, shape):
    # Of any range: an iterate may have been sent astray, and the sampler says so.
    if initial.ndim != 4:
        fix = "add the missing axis"
        raise input_error("initial", expected="[N, H, W, C]", got=list(initial.shape), fix=fix)
    if initial.shape[0] not in (1, shape[0]) or initial.shape[1:] != tuple(shape[1:]):
        expected = f"{list(shape)}, or one image of it"
        raise input_error("initial", expected=expected, got=list(initial.shape), fix="give images of `shape`")
    return initial
