"""Stochastic coarse-to-fine sampling with a blind denoiser, from the prior or given a linear measurement.

Kadkhodaie, Guth, Simoncelli, Mallat, ICLR 2024, algorithm 1; Kadkhodaie & Simoncelli, NeurIPS 2021. Noise decreases
with the iteration t = 1, 2, ... Samples of a batch are independent of each other: each has its own key and its own end.

The bias of the published step. In a direction in which a Gaussian prior has variance v, the optimal denoiser is
x_hat = v y / (v + sigma^2), and a step of size h from noise sigma to sigma' leaves the variance

    v + sigma'^2 - h^2 sigma^2 v / (v + sigma^2),

for every beta: the last term is missing, and at a constant h these losses settle at the fraction h / 2 of v. The
published h grows to 0.5, so that 0.4 to 0.82 of the variance is left. The corrected step extrapolates the denoised
image by x_hat + (x_hat - x_hat_before) / 2 (Adams-Bashforth; DPM-Solver++(2M), Lu et al. 2022, algorithm 2), which
adds just that term. A start without the variance of the image, v instead of 0, is forgotten by the factor
(1 - h sigma_0^2 / (v + sigma_0^2))^2 an iteration, the error of its mean by the root of that: the corrected algorithm
stays at sigma_0 for `hold` iterations. More of them serve larger v, if the denoiser is right about them: a learned one
that hardly pulls at the brightness of an image lets it drift.
`gahb.sampler_settings` computes what is left of every v under any settings.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.tree_util import Partial

from common.arrays import as_numbers
from common.errors import InputError, input_error
from common.prng import as_key
from gahb.denoisers import Denoiser, as_denoiser, denoised
from gahb.operators import Operator
from gahb.sampler_settings import DEFAULT, SamplerSettings, changed, check, check_count, number_of

Noise = Callable[[jax.Array, jax.Array, Any], jax.Array]  # (keys [N], t, like [N, H, W, C]) -> standard normal draws

_GOING = -1  # beside the numbers of outcomes
PIXEL_VARIANCE = 0.25  # the largest of numbers in [0, 1]


def gaussian_noise(keys: jax.Array, t: jax.Array, like: Any) -> jax.Array:
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
    shape: tuple[int, ...],
    settings: SamplerSettings = DEFAULT,
    *,
    operator: Operator | None = None,
    measurement: Any = None,
    impose: bool = False,
    initial: jax.Array | None = None,
    first: int = 0,
    noise: Noise | None = None,
    store_every: int = 0,
    **changes: Any,
) -> tuple[jax.Array, dict[str, Any]]:
    """Draws samples of `shape [N, H, W, C]` by iterated partial denoising.

    With x_hat_t = denoise(y_t), n = y - x_hat and d(x_hat) = n - M M^T n + M (M^T y - m), both algorithms iterate

        y <- y - h d(x) + gamma z,  gamma = s sqrt((1 - beta h)^2 - (1 - h)^2),

    and return the denoised last iterate. The corrected one (default): h = `step`, x = x_hat_t + (x_hat_t - x_hat_t-1) /
    2, s the noise that is left of what was put in, s <- (1 - beta h) s from sigma_0 on, with beta = 0 in the first
    `hold` iterations; it ends when both s and ||d(x_hat)|| / sqrt(HWC) are at sigma_L. The published one (`h0`;
    Kadkhodaie & Simoncelli 2021, algorithm 2): h = h0 t / (1 + h0 (t - 1)), or h0 if `fixed_step`, x = x_hat_t,
    s = ||d|| / sqrt(HWC), which ends at sigma_L. Of a Gaussian prior the corrected algorithm keeps 0.97 of the variance
    or more in directions of variance 25 sigma_L^2 to 6 sigma_0^2, see `gahb.sampler_settings`.

    settings: or its fields by name, which take precedence. operator, measurement `[N or 1, ...]`: M and m = M^T x of a
    linear inverse problem; the last denoising moves samples slightly off m, and `impose` projects them onto it by x + M
    (m - M^T x), which the original does not. initial: `[N or 1, H, W, C]`, in place of the start mean + sigma_0 z; its
    residual says how much noise is in it. key: of `jax.random.key` or `PRNGKey`, or a seed. Sample i draws from
    fold_in(key, first + i), so a run may be split into batches; `noise` replaces the draws. The same key gives the same
    noise to any denoiser. Nothing but `max_steps`, `store_every`, `impose`, shapes and the function behind `denoise`
    compiles anew.

    A sample converges if its noise came down to sigma_L. It does not where the denoiser leaves in what was put in: of
    images in [0, 1], whose pixels have a variance of 1/4 at most, an optimal denoiser takes sigma^2 / (sigma^2 + 1/4)
    of the noise of a start and leaves a residual of sigma^2 / sqrt(sigma^2 + 1/4) or more; a third of the first, and a
    quarter of the second down to 5 sigma_L, are asked for. Noise above `divergence` times sigma_0, `max_steps`, and a
    residual that stays above sigma_L while s passes sigma_L / 4 end a sample too.

    Returns the samples and a dictionary of arrays: `converged [N]`, `outcome [N]` (its place in
    `gahb.sampler_settings.OUTCOMES`), `steps [N]` (iterations), `sigma [N]` (of what the last denoising removed),
    `nfe [N]` (calls of the denoiser), `sigmas`, `means [N, max_steps + 2]` (sigma and mean intensity: at the start, at
    each iteration, of the result; then NaN), and with `store_every` = k > 0 `trajectory [N, max_steps // k + 2, H, W,
    C]` (the start, the iterates before t = k, 2k, ...; then the result repeated). Raises `InputError` for impossible
    settings and shapes.

    >>> x, info = sample(lambda y: 0 * y, jax.random.key(0), (2, 8, 8, 1))
    >>> info["converged"].tolist(), float(abs(x).max())
    ([True, True], 0.0)
    """
    key, s = as_key(key), changed(settings, changes)
    shape = _check(s, shape, store_every, operator, measurement)
    if np.ndim(s.mean):
        s = s._replace(mean=_broadcastable(as_numbers(s.mean, "mean"), "mean", shape))
    if measurement is not None:
        if not jnp.iscomplexobj(measurement):
            measurement = as_numbers(measurement, "measurement")
        check_measurement(operator, measurement, shape)
    if initial is not None:
        initial = _initial(as_numbers(initial, "initial"), shape)
    elif _is_below(s.sigma_0, s.sigma_L):
        fix = "use a smaller one"
        raise input_error("sigma_L", expected=f"below sigma_0={s.sigma_0:g}", got=s.sigma_L, fix=fix)
    if impose and operator is None:
        raise input_error(
            "impose", expected="false where nothing is measured", got=impose, fix="give operator and measurement"
        )
    published = s.h0 is not None
    numbers = {"sigma_0": s.sigma_0, "sigma_L": s.sigma_L, "beta": s.beta, "mean": s.mean, "divergence": s.divergence}
    return _run(
        as_denoiser(denoise),
        # With a type of their own, so that 1 and 1.0 and a NumPy number compile the same program.
        {name: jnp.asarray(value, float) for name, value in (numbers | {"h": s.h0 if published else s.step}).items()},
        {
            "published": jnp.asarray(published),
            "fixed": jnp.asarray(s.fixed_step, bool),
            "hold": jnp.asarray(0 if initial is not None else s.hold, jnp.int32),
        },
        key,
        jnp.asarray(first, jnp.uint32),
        None if operator is None else Operator(*(_as_partial(function) for function in operator)),
        measurement,
        initial,
        Partial(gaussian_noise) if noise is None else _as_partial(noise),
        shape=shape,
        max_steps=int(s.max_steps),
        store_every=int(store_every),
        impose=bool(impose),
    )


@functools.partial(jax.jit, static_argnames=("shape", "max_steps", "store_every", "impose"))
def _run(
    denoise,
    numbers,
    how,
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
    published = how["published"]
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(shape[0], dtype=jnp.uint32))

    def clean(y):
        return checked_denoised(denoise, y).astype(dtype)

    def correction(y, x_hat):
        residual = y - x_hat
        if operator is None:
            return residual
        # n - M M^T n + M (M^T y - m), with y - n(y) = x_hat.
        return residual + operator.synthesize(operator.analyze(x_hat) - measurement)

    def log(table, t, active, values):
        return table.at[:, t].set(jnp.where(active, values, jnp.nan))

    def advance(state):
        y, x_hat, t, active, left = (state[name] for name in ("y", "x_hat", "t", "active", "left"))
        h = jnp.where(published & ~how["fixed"], s["h"] * t / (1 + s["h"] * (t - 1)), s["h"])
        beta = jnp.where(~published & (t <= how["hold"]), 0, s["beta"])
        sigma = rms(correction(y, x_hat))
        # No step before the first, where x_hat_before is x_hat.
        ahead = jnp.where(published, x_hat, x_hat + (x_hat - state["before"]) / 2)
        # (1 - beta h)^2 - (1 - h)^2 in factors: as a difference its rounding is noise of up to 1e-4 where beta = 1.
        gain = jnp.sqrt(h * (1 - beta) * (2 - h * (1 + beta)))
        gamma = gain * jnp.where(published, sigma, left)
        y_new = y - h * correction(y, ahead) + per_sample(gamma) * noise(keys, t, y)
        # Samples that have ended keep their last iterate while the others of the batch go on.
        moving = per_sample(active)
        y_new = jnp.where(moving, y_new, y)
        outcome = judge(sigma, left, t)
        state = state | {
            "y": y_new,
            "x_hat": jnp.where(moving, clean(y_new), x_hat),
            "before": jnp.where(moving, x_hat, state["before"]),
            # Exact where the denoiser removes all there is, and the least that there may be elsewhere.
            "left": jnp.where(active, jnp.hypot((1 - h) * left, gamma), left),
            "t": t + 1,
            "active": active & (outcome == _GOING),
            "steps": jnp.where(active, t, state["steps"]),
            "outcome": jnp.where(active, outcome, state["outcome"]),
            "idle": state["idle"] | (active & idle(rms(y - x_hat), left)),
            "sigmas": log(state["sigmas"], t, active, sigma),
            "means": log(state["means"], t, active, y_new.mean((1, 2, 3))),
        }
        if store_every:
            # Overwritten until t is a multiple of store_every, which leaves the iterate before that update.
            slot = (t + store_every - 1) // store_every
            state["trajectory"] = state["trajectory"].at[slot].set(y)
        return state

    def idle(residual, left):
        """Returns whether the denoiser leaves noise that it should remove, judged where noise is well above sigma_L."""
        least = left**2 / jnp.sqrt(left**2 + PIXEL_VARIANCE) / 4
        return (residual < least) & (left > 5 * s["sigma_L"])

    def judge(sigma, left, t):
        """Returns the number of the outcome for each sample, or that the sample goes on."""
        level = jnp.where(published, sigma, jnp.maximum(sigma, left))
        stuck = (t >= max_steps) | (~published & (left < s["sigma_L"] / 4))
        return jnp.select(
            [~jnp.isfinite(sigma), level <= s["sigma_L"], sigma > s["divergence"] * s["sigma_0"], stuck],
            [number_of(name) for name in ("not finite", "converged", "diverged", "unfinished")],
            _GOING,
        )

    y, z = _start(s, keys, operator, measurement, initial, noise, shape, dtype)
    x_hat = clean(y)
    sigma, everyone = rms(y - x_hat), jnp.ones(shape[0], bool)
    left = sigma if initial is not None else jnp.broadcast_to(s["sigma_0"], sigma.shape)
    outcome = judge(sigma, left, 0)
    # Divergence is judged from the first iteration on, as in the original.
    outcome = jnp.where(outcome == number_of("diverged"), _GOING, outcome)
    useless = idle(sigma, left)
    if initial is None:
        useless = useless | ~removes_noise(y, x_hat, z, s["sigma_0"])
    table = jnp.full((shape[0], max_steps + 2), jnp.nan, dtype)
    state = {
        "y": y,
        "x_hat": x_hat,
        "before": x_hat,
        "left": left,
        "t": jnp.int32(1),
        "active": outcome == _GOING,
        "steps": jnp.zeros(shape[0], jnp.int32),
        "outcome": outcome,
        "idle": useless,
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
    came_down = (state["outcome"] == number_of("converged")) | (state["outcome"] == number_of("unfinished"))
    outcome = jnp.where(state["idle"] & came_down, number_of("not a denoiser"), state["outcome"])
    end = (jnp.arange(shape[0]), steps + 1)
    info = {
        "converged": outcome == number_of("converged"),
        "outcome": outcome,
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
    """Returns the start and the noise in it, standard normal; that of `initial` is not known."""
    if initial is not None:
        return jnp.broadcast_to(initial, shape).astype(dtype), None
    mean = jnp.broadcast_to(s["mean"], shape)
    if operator is not None:
        mean = mean + operator.synthesize(measurement - operator.analyze(mean))
    z = noise(keys, jnp.int32(0), jax.ShapeDtypeStruct(shape, dtype))
    return mean + s["sigma_0"] * z, z


def rms(x: jax.Array) -> jax.Array:
    """Returns ||x|| / sqrt(number of pixels and channels) of each image, `[N, H, W, C] -> [N]`."""
    return jnp.sqrt(jnp.square(x).mean((1, 2, 3)))


def removes_noise(y: jax.Array, x_hat: jax.Array, z: Any, sigma: jax.Array) -> jax.Array:
    """Returns for each image whether x_hat lacks enough of the noise sigma z in y: <y - x_hat, sigma z> / ||sigma z||^2
    of at least a third of sigma^2 / (sigma^2 + 1/4), which an optimal denoiser of images in [0, 1] reaches."""
    removed = ((y - x_hat) * z).sum((1, 2, 3)) / sigma
    return removed >= sigma**2 / (sigma**2 + PIXEL_VARIANCE) / 3 * jnp.square(z).sum((1, 2, 3))


def checked_denoised(denoise: Denoiser, y: jax.Array) -> jax.Array:
    """Returns `denoise(y)` while a program is traced; raises `InputError` for a function of images of other shapes."""
    try:
        return denoised(denoise, y)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        got = str(error).strip().partition("\n")[0] or type(error).__name__
        fix = "call it on zeros of that shape"
        raise input_error("denoise", expected=f"a function of images {list(y.shape)}", got=got, fix=fix) from error


def per_sample(values: jax.Array) -> jax.Array:
    """Returns `values [N]` as `[N, 1, 1, 1]`."""
    return values[:, None, None, None]


def _as_partial(function):
    return function if isinstance(function, Partial) else Partial(function)


def _check(settings, shape, store_every, operator, measurement):
    shape = tuple(shape)
    if len(shape) != 4:
        raise input_error("shape", expected="[N, H, W, C]", got=shape, fix="give four numbers")
    if not all(isinstance(length, int | np.integer) and length >= 1 for length in shape):
        raise input_error("shape", expected="four whole numbers above 0", got=shape, fix="give [N, H, W, C]")
    check(settings)
    check_count("store_every", store_every, 0)
    if (operator is None) != (measurement is None):
        missing = "operator" if operator is None else "measurement"
        raise input_error(
            missing, expected="operator and measurement together", got="only one", fix="give both or neither"
        )
    return tuple(int(length) for length in shape)


def _is_below(sigma_0, sigma_L):  # noqa: N803
    traced = any(isinstance(value, Tracer) for value in (sigma_0, sigma_L))
    return not traced and sigma_0 <= sigma_L


def _broadcastable(values, name, shape):
    try:
        fits = np.broadcast_shapes(values.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        fix = "give one number, or one image [H, W, C]"
        raise input_error(name, expected=f"what broadcasts to {list(shape)}", got=list(values.shape), fix=fix)
    return values


def check_measurement(operator: Any, measurement: Any, shape: tuple[int, ...]) -> None:
    """Raises `InputError` unless `operator` measures images of `shape` and `measurement` is of such, or of one."""
    try:
        wanted = jax.eval_shape(operator.analyze, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
    except (TypeError, ValueError) as error:
        got = str(error).strip().partition("\n")[0].partition("; ")[0]
        fix = "make it for images of that size"
        raise input_error("operator", expected=f"one of images {list(shape)}", got=f"({got})", fix=fix) from error
    if measurement.shape not in (wanted, (1, *wanted[1:])):
        expected = f"{list(wanted)}, or one measurement {[1, *wanted[1:]]}"
        fix = "give operator.analyze of images [N, H, W, C]"
        raise input_error("measurement", expected=expected, got=list(measurement.shape), fix=fix)


def _initial(initial, shape):
    # Of any range: an iterate may have diverged, which the sampler reports.
    if initial.ndim != 4:
        fix = "add the missing axis"
        raise input_error("initial", expected="[N, H, W, C]", got=list(initial.shape), fix=fix)
    if initial.shape[0] not in (1, shape[0]) or initial.shape[1:] != tuple(shape[1:]):
        expected = f"{list(shape)}, or one image of it"
        raise input_error("initial", expected=expected, got=list(initial.shape), fix="give images of `shape`")
    return initial
