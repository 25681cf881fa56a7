"""Discrete Gaussian diffusion of flow: schedules, respacing, DDIM with several hypotheses, and their summary.

Index i = 0 is the cleanest of T noise levels, x_i = sqrt(ab_i) x_0 + sqrt(1 - ab_i) eps; the network gets the time
1000 i / T and predicts x_0. Schedules and all coefficients are float64 on the host and cast once. The released models
use a cosine schedule with T = 5 (`Process.cosine(5)`), both to train and to sample.

Hypotheses are the second axis, `[B, n, h, w, 2]`. Keys are one a pair, so results do not depend on how pairs are
batched.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.errors import input_error
from diffmatch_jax.model.resize import gaussian_matrix

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]  # (x [B, n, h, w, 2], time [B, n]) -> x_0

TIME_SCALE = 1000.0
WIDEST = 128.0  # correlation of noise, cells


@dataclass(frozen=True)
class Process:
    """A diffusion process: `betas` from clean to noisy, and the `times` the network gets. Hashable.

    Raises `InputError` unless there is one time a level and 0 < beta < 1.
    """

    betas: tuple[float, ...]
    times: tuple[float, ...]

    def __post_init__(self):
        object.__setattr__(self, "betas", tuple(map(float, self.betas)))
        object.__setattr__(self, "times", tuple(map(float, self.times)))
        if not self.betas or len(self.times) != len(self.betas):
            got = f"{len(self.betas)} betas and {len(self.times)} times"
            raise input_error(
                "process", expected="one time for each of at least one beta", got=got, fix="use Process.cosine"
            )
        if not all(0 < beta < 1 for beta in self.betas):
            raise input_error(
                "process.betas", expected="numbers between 0 and 1", got=self.betas, fix="use Process.cosine"
            )

    @classmethod
    def cosine(cls, steps: int = 5) -> "Process":
        """Returns beta_i = min(1 - a((i + 1)/T) / a(i/T), 0.999), a(s) = cos^2((s + .008)/1.008 pi/2).

        Nichol & Dhariwal, ICML 2021, equation 17.
        """
        _check_steps(steps)
        curve = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
        return cls.of_betas(np.minimum(1 - curve[1:] / curve[:-1], 0.999))

    @classmethod
    def of_betas(cls, betas: np.ndarray) -> "Process":
        """Returns the process of betas at equally spaced times."""
        return cls(tuple(betas), tuple(np.arange(len(betas)) * (TIME_SCALE / len(betas))))

    def __len__(self) -> int:
        return len(self.betas)

    @property
    def alphas_bar(self) -> np.ndarray:
        """The products of 1 - beta up to each level, float64 `[T]`."""
        return np.cumprod(1 - np.asarray(self.betas, np.float64))

    @property
    def alphas_bar_before(self) -> np.ndarray:
        """Values at the next cleaner level, 1 for the cleanest, float64 `[T]`."""
        return np.append(1.0, self.alphas_bar[:-1])

    @property
    def noisiest(self) -> "Process":
        """The process of the noisiest level alone, as it is."""
        return Process((1 - self.alphas_bar[-1],), self.times[-1:])


@dataclass(frozen=True)
class Variable:
    """The diffused variable: (flow - initial flow) / scale, or flow / scale if not `residual`; hashable.

    `shrunk`: the network is shown sqrt(ab) x_t instead of x_t; `skip`, for those alone: and predicts what is to be
    added to it, in units of sqrt(1 - ab). Where conditions bring a `unit`, it multiplies the scale from place to place;
    `predict_variance`, with a skip: the network also predicts the deviation of x_0 around its prediction (a regression,
    which has no x_t, needs the skip in name only). `noise_correlation`, in cells: the noise is a smooth field (see
    `correlated_noise`), for an x_0 that is about as smooth, as errors of flow are; of 0 it is white.

    Normalised flow has a standard deviation of 0.1 to 0.2 only; a scale of that size gives the unit variance which the
    schedule expects. The released models diffuse the normalised flow itself, `Variable(1.0, residual=False)`. Raises
    `InputError` for a scale that is not positive, for a skip without the others, a variance without a skip, and
    more than 128 cells of correlation.
    """

    scale: float = 1.0
    residual: bool = False
    shrunk: bool = False
    skip: bool = False
    predict_variance: bool = False
    noise_correlation: float = 0.0

    def __post_init__(self):
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise input_error(
                "variable.scale", expected="a positive number", got=self.scale, fix="measure the flow's deviation"
            )

        if self.skip and not (self.shrunk and self.residual):
            fix = "set variable.shrunk and variable.residual"
            raise input_error("variable.skip", expected="False unless shrunk and residual", got="True", fix=fix)
        if self.predict_variance and not self.skip:
            raise input_error(
                "config.process.predict_variance", expected="False without a skip", got="True", fix="set variable.skip"
            )
        if not 0 <= self.noise_correlation <= WIDEST:
            fix = "use 0 for white noise, 3 for stage 1"
            raise input_error(
                "config.process.noise_correlation",
                expected=f"0 to {WIDEST:g} cells",
                got=self.noise_correlation,
                fix=fix,
            )

    def encode(self, flow: jax.Array, initial: jax.Array, unit: jax.Array | None = None) -> jax.Array:
        """Returns x_0 of a normalised flow; `initial` and `unit`, which multiplies the scale, broadcast against it."""
        return (flow - initial if self.residual else flow) / self._scale(unit)

    def decode(self, x0: jax.Array, initial: jax.Array, unit: jax.Array | None = None) -> jax.Array:
        """Returns the normalised flow of x_0, the inverse of `encode`."""
        away = x0 * self._scale(unit)
        return away + initial if self.residual else away

    def lengthened(self, deviation: jax.Array, unit: jax.Array | None = None) -> jax.Array:
        """Returns a deviation of x_0 as one of the normalised flow."""
        return deviation * self._scale(unit)

    def _scale(self, unit):
        return self.scale if unit is None else self.scale * unit


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise input_error("steps", expected="at least 1", got=steps, fix="the released models have 5")


def forward(process: Process, x0: jax.Array, noise: jax.Array, index: jax.Array) -> jax.Array:
    """Returns x_i = sqrt(ab_i) x_0 + sqrt(1 - ab_i) noise; `index` is a number or `[B, ...]`, the first axes of x."""
    bars = process.alphas_bar
    return _at(np.sqrt(bars), index, x0) * x0 + _at(np.sqrt(1 - bars), index, x0) * noise


def signal(process: Process, time: jax.Array) -> jax.Array:
    """Returns sqrt(ab) at the network's `time`, between levels by interpolation."""
    times, bars = (jnp.asarray(each, jnp.float32) for each in (process.times, np.sqrt(process.alphas_bar)))
    return jnp.interp(time, times, bars)


def implied_noise(process: Process, x: jax.Array, x0: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the noise with which x_0 becomes x at a level: (x / sqrt(ab) - x_0) / sqrt(1 / ab - 1)."""
    bars = process.alphas_bar
    return (_at(np.sqrt(1 / bars), index, x) * x - x0) / _at(np.sqrt(1 / bars - 1), index, x)


class Posterior(NamedTuple):
    """q(x_{i-1} | x_i, x_0) of every level, float64 `[T]`: mean = on_x0 x_0 + on_x x_i, and its variance.

    `log_variance` is the logarithm with that of the cleanest level, which is 0, replaced by the next one's.
    """

    on_x0: np.ndarray
    on_x: np.ndarray
    variance: np.ndarray
    log_variance: np.ndarray


def posterior(process: Process) -> Posterior:
    """Returns the Gaussian of the next cleaner level (Ho et al., 2020, equations 6 and 7)."""
    betas, bars, before = np.asarray(process.betas), process.alphas_bar, process.alphas_bar_before
    variance = betas * (1 - before) / (1 - bars)
    positive = np.append(variance[1] if len(process) > 1 else betas[0], variance[1:])
    on_x0 = betas * np.sqrt(before) / (1 - bars)
    return Posterior(on_x0, (1 - before) * np.sqrt(1 - betas) / (1 - bars), variance, np.log(positive))


def posterior_mean(process: Process, x0: jax.Array, x: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the mean of q(x_{i-1} | x_i = x, x_0)."""
    q = posterior(process)
    return _at(q.on_x0, index, x) * x0 + _at(q.on_x, index, x) * x


def ddim_step(
    process: Process, x: jax.Array, x0: jax.Array, index: jax.Array, *, eta: float = 0.0, noise: jax.Array | None = None
) -> jax.Array:
    """Returns x_{i-1} from x_i and the predicted x_0 (Song et al., ICLR 2021, equations 12 and 16).

    sqrt(ab') x_0 + sqrt(1 - ab' - s^2) eps + s noise, s = eta sqrt((1 - ab') / (1 - ab)) sqrt(1 - ab / ab'), where ab'
    is that of level i - 1; s is 0 at the cleanest. `noise` is needed where eta > 0.
    """
    bars, before = process.alphas_bar, process.alphas_bar_before
    sigma = eta * np.sqrt((1 - before) / (1 - bars)) * np.sqrt(1 - bars / before)
    eps = implied_noise(process, x, x0, index)
    cleaner = _at(np.sqrt(before), index, x) * x0 + _at(np.sqrt(np.maximum(1 - before - sigma**2, 0)), index, x) * eps
    if eta == 0:
        return cleaner
    if noise is None:
        raise ValueError("noise: expected an array where eta > 0, got None")
    return cleaner + _at(sigma, index, x) * noise


def _at(values: np.ndarray, index: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the values at `index` as an array that broadcasts against the first axes of `x`."""
    picked = jnp.asarray(values, x.dtype)[index]
    return picked.reshape(*picked.shape, *(1,) * (x.ndim - picked.ndim))


class Sampled(NamedTuple):
    """Hypotheses `x0 [B, n, h, w, 2]`, the evaluations each took, and what happened on the way if asked for.

    `trace` has x, x0 and next `[T, B, n, h, w, 2]` and `time [T, B, n]` of every step, in the order of the steps; `aux`
    what the denoiser returned beside x_0, `[T, ...]` likewise.
    """

    x0: jax.Array
    nfe: int
    trace: Any  # dict[str, jax.Array] or None
    aux: Any = None


def correlated_noise(key: jax.Array, shape: tuple[int, ...], noise_correlation: float) -> jax.Array:
    """Returns Gaussian noise `[h, w, C]` of variance 1 everywhere, correlated over cells.

    Cells at a distance d have, away from the border, a correlation of exp(-d^2 / (4 c^2)), c = `noise_correlation`
    (0: white noise): white noise blurred by a Gaussian of that deviation, which mirrors it at the border.
    """
    white = jax.random.normal(key, shape)
    if not noise_correlation:
        return white
    rows, columns = (gaussian_matrix(length, noise_correlation, reach=4 * noise_correlation) for length in shape[:2])
    rows, columns = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (rows, columns))
    return jnp.einsum("yh,xw,hwc->yxc", rows, columns, white, precision="highest")


def initial_noise(
    keys: jax.Array, hypotheses: int, shape: tuple[int, ...], *, noise_correlation: float = 0.0
) -> jax.Array:
    """Returns Gaussian noise `[B, n, *shape]` of variance 1; hypothesis j of a pair does not depend on B and n.

    `noise_correlation` is that of `correlated_noise`.
    """
    return _noise(keys, hypotheses, shape, 0, noise_correlation)


def folded(keys: jax.Array, number: int) -> jax.Array:
    """Returns the keys `[B]` with a number folded into each."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _noise(keys, hypotheses, shape, draw, noise_correlation):
    def one(key, j):
        return correlated_noise(jax.random.fold_in(jax.random.fold_in(key, draw), j), shape, noise_correlation)

    return jax.vmap(lambda key: jax.vmap(lambda j: one(key, j))(jnp.arange(hypotheses)))(keys)


def sample(
    denoise: Denoiser,
    noise: jax.Array,
    *,
    process: Process,
    eta: float = 0.0,
    noise_correlation: float = 0.0,
    keys: jax.Array | None = None,
    clip: float | None = None,
    trace: bool = False,
    has_aux: bool = False,
) -> Sampled:
    """Runs DDIM from `noise [B, n, h, w, 2]` through all levels; the hypotheses are the last predictions of x_0.

    `keys [B]`, needed where eta > 0, give the noise of the steps, as correlated as `initial_noise`; `clip` limits |x_0|
    in every step (the released setting has none). With the last step's sigma = 0, the prediction is the sample.
    `has_aux`: the denoiser returns x_0 and something else. Raises `InputError` for eta outside 0..1 or without keys.
    """
    if not 0 <= eta <= 1:
        raise input_error("eta", expected="0 (deterministic) to 1 (ancestral)", got=eta, fix="use 0")
    if eta > 0 and keys is None:
        raise input_error(
            "keys", expected="one a pair where eta > 0", got="None", fix="give jax.random.split(key, pairs)"
        )
    times = jnp.asarray(process.times, jnp.float32)

    def body(carry, i):
        x, _ = carry
        time = jnp.broadcast_to(times[i], x.shape[:2])
        x0, aux = denoise(x, time) if has_aux else (denoise(x, time), None)
        if clip is not None:
            x0 = jnp.clip(x0, -clip, clip)
        extra = _noise(keys, x.shape[1], x.shape[2:], i + 1, noise_correlation).astype(x.dtype) if eta > 0 else None
        cleaner = ddim_step(process, x, x0, i, eta=eta, noise=extra)
        return (cleaner, x0), ({"x": x, "x0": x0, "next": cleaner, "time": time} if trace else None, aux)

    levels = jnp.arange(len(process) - 1, -1, -1)
    (_, x0), (steps, aux) = jax.lax.scan(body, (noise, jnp.zeros_like(noise)), levels)
    return Sampled(x0, len(process), steps, aux)


def per_hypothesis(network: Callable[[jax.Array, jax.Array, Any], Any], condition: Any) -> Callable:
    """Returns a denoiser of `[B, n, ...]` from `network(x [N, h, w, 2], time [N], condition) -> x_0`.

    `condition` is a tree of arrays `[B, ...]`, each repeated for the hypotheses of its pair; x_0 may be one too.
    """

    def denoise(x, time):
        pairs, n = x.shape[:2]
        repeated = jax.tree.map(lambda each: jnp.repeat(each, n, axis=0), condition)
        found = network(x.reshape(pairs * n, *x.shape[2:]), time.reshape(pairs * n), repeated)
        return jax.tree.map(lambda each: each.reshape(pairs, n, *each.shape[1:]), found)

    return denoise


class Summary(NamedTuple):
    """`mean [B, h, w, 2]` and `covariance [B, h, w, 2, 2]` of several hypotheses."""

    mean: jax.Array
    covariance: jax.Array


def summary(hypotheses: jax.Array, count: jax.Array | None = None) -> Summary:
    """Returns the summary of the first `count` (None: all) of hypotheses `[B, n, h, w, 2]`.

    The covariance is the unbiased one, 0 for a count of 1.
    """
    mean = mean_of(hypotheses, count)
    n = hypotheses.shape[1] if count is None else jnp.minimum(count, hypotheses.shape[1])
    away = _first(hypotheses - mean[:, None], count)
    covariance = jnp.einsum("bnhwi,bnhwj->bhwij", away, away, precision="highest") / jnp.maximum(n - 1, 1)
    return Summary(mean, covariance)


def mean_of(samples: jax.Array, count: jax.Array | None = None) -> jax.Array:
    """Returns the mean of the first `count` (None: all) of `samples [B, n, ...]`; of a single one, of that."""
    if count is None or samples.shape[1] == 1:
        return samples.mean(1)
    return _first(samples, count).sum(1) / count


def _first(samples: jax.Array, count: jax.Array | None) -> jax.Array:
    """Returns samples with 0 in the place of those after the first `count`."""
    if count is None or samples.shape[1] == 1:
        return samples
    within = jnp.arange(samples.shape[1]) < count
    return jnp.where(within.reshape(1, -1, *(1,) * (samples.ndim - 2)), samples, 0)


def std(covariance: jax.Array) -> jax.Array:
    """Returns the standard deviation of a flow in all directions, sqrt(trace), `[..., 2, 2] -> [...]`."""
    variance = jnp.trace(covariance, axis1=-2, axis2=-1)
    return jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
