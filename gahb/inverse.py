"""Linear inverse problems with a blind denoiser as the prior: what is missing is sampled, given what is measured.

Beside `gahb.sample` two published solvers serve as baselines, for any denoiser. Both go down a geometric sequence of
noise levels sigma_0 > ... > sigma_T = sigma_L of y = x + sigma z, in as many calls of the denoiser, from y = mean +
sigma_0 z; the result is the denoised last iterate. Their papers write the same steps for sqrt(a) y with a = 1 / (1 +
sigma^2). A blind denoiser reads sigma off y.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from common.arrays import as_images, as_numbers
from common.errors import at_least, choice, input_error
from common.metrics.psnr import WINDOW, ssim
from common.prng import as_key
from gahb import operators
from gahb.denoisers import Denoiser, as_denoiser
from gahb.operators import Operator
from gahb.sampler_settings import DEFAULT, changed, check_count, check_positive, number_of
from gahb.sampling import check_measurement, checked_denoised, gaussian_noise, per_sample, removes_noise, rms, sample

PROBLEMS = ("inpainting", "super_resolution", "random_pixels", "random_basis", "spectral")
OF_SAMPLES = (
    "restored",
    "psnr",
    "ssim",
    "mean_psnr",
    "mismatch",
    "steps",
    "sigma",
    "converged",
    "outcome",
)  # of `restore`
LARGEST_BASIS = 2**28  # numbers in the matrix of a random basis, 1 GiB


def problems(
    names: Sequence[str],
    key: jax.Array,
    shape: tuple[int, ...],
    *,
    hole: float = 0.25,
    scale: int = 4,
    fraction: float = 0.1,
) -> dict[str, Operator]:
    """Returns the operators of `names` (of `PROBLEMS`) for images of `shape (H, W, C)`.

    hole: side of the square in the middle that inpainting has to fill, as a fraction of each side. scale: of super-
    resolution. fraction: of pixels, basis vectors or frequencies that are kept by the others. What is random depends on
    `key` and on the problem, not on which others there are. Raises `InputError` for what cannot be measured.
    """
    key = as_key(key)
    check(names, shape, hole=hole, scale=scale, fraction=fraction)
    height, width = shape[:2]
    rows, columns = (_middle(length, int(hole * length)) for length in (height, width))
    make = {
        "inpainting": lambda key: operators.hole(shape, rows=rows, columns=columns),
        "super_resolution": lambda key: operators.super_resolution(scale),
        "random_pixels": lambda key: operators.random_pixels(key, shape, fraction=fraction),
        "random_basis": lambda key: operators.random_basis(key, shape, fraction=fraction),
        "spectral": lambda key: operators.spectral(shape, fraction=fraction),
    }
    return {name: make[name](jax.random.fold_in(key, PROBLEMS.index(name))) for name in names}


def _middle(length, size):
    start = (length - size) // 2
    return start, start + size


def check(
    names: Sequence[str], shape: tuple[int, ...], *, hole: float = 0.25, scale: int = 4, fraction: float = 0.1
) -> None:
    """Raises `InputError` unless `problems` can be made of these; computes nothing."""
    if not names:
        raise input_error("problems", expected=f"some of {', '.join(PROBLEMS)}", got="none", fix="name at least one")
    for name in names:
        choice("problems", name, PROBLEMS)
    height, width, channels = shape
    if not 0 < hole < 1 or min(int(hole * height), int(hole * width)) < 2:
        raise input_error(
            "hole", expected="a fraction of the side below 1, at least 2 pixels", got=hole, fix="use 0.25"
        )
    if "super_resolution" in names and (scale < 1 or height % scale or width % scale):
        fix = "use another scale or size"
        raise input_error("scale", expected=f"a number that divides {height} and {width}", got=scale, fix=fix)
    size = height * width * channels
    if not 0 < fraction <= 1 or int(fraction * size) < 1:
        raise input_error(
            "fraction", expected="a fraction in (0, 1] that keeps at least one number", got=fraction, fix="use 0.1"
        )
    if "random_basis" in names and size * int(fraction * size) > LARGEST_BASIS:
        expected = f"at most {int(LARGEST_BASIS / size)} basis vectors of {size} pixels"
        raise input_error(
            "fraction", expected=expected, got=fraction, fix="use smaller images, or leave out random_basis"
        )
    if "spectral" in names:
        operators.spectral_mask(shape, fraction=fraction)


def minimum_norm(operator: Operator, measurement: jax.Array, mean: float | jax.Array) -> jax.Array:
    """Returns e + M (m - M^T e): of all images that agree with `measurement` the one nearest to e = `mean`."""
    blank = operator.synthesize(measurement)
    mean = jnp.broadcast_to(jnp.asarray(mean, blank.dtype), blank.shape)
    return mean + operator.synthesize(measurement - operator.analyze(mean))


def restore(
    denoise: Denoiser,
    key: jax.Array,
    images: np.ndarray,
    operator: Operator,
    settings: Any = DEFAULT,
    *,
    solve: Callable[..., tuple[jax.Array, dict[str, Any]]] = sample,
    samples: int = 1,
    impose: bool = False,
    batch_size: int = 64,
    add: Callable[[int], object] = lambda count: None,
    **changes: Any,
) -> dict[str, np.ndarray]:
    """Measures `images [N, H, W, C]` and samples each of them `samples` = S times given its measurement.

    images: bytes, or floats in [0, 1]. solve: `gahb.sample`, or a function of `gahb.inverse`. settings: of
    that function, or their fields by name. impose: put the measurement back into the samples, as in `gahb.sample`.
    batch_size: samples at once, 64; the result does not depend on it. add: called with the number of samples after each
    batch.

    Returns arrays: `measured [N, H, W, C]` (M m), `minimum_norm [N, ...]`, `restored [N, S, ...]`; their PSNRs in dB
    `minimum_norm_psnr [N]`, `psnr [N, S]` and `mean_psnr [N]` (of the average of the S samples); the structural
    similarities `minimum_norm_ssim [N]` and `ssim [N, S]`, NaN for images smaller than its window; of each sample
    `mismatch [N, S]` (rms of M M^T x - M m), `steps`, `sigma`, `converged` and `outcome [N, S]`.
    """
    at_least({"samples": (samples, 1), "batch_size": (batch_size, 1)})
    settings = changed(settings, changes)
    images = as_images(images, "images")
    clean = jnp.asarray(images)
    measurement = operator.analyze(clean)
    count = len(images)
    repeated = jnp.repeat(measurement, samples, axis=0)
    size = min(batch_size, count * samples)
    parts = []
    for start in range(0, count * samples, size):
        # The last batch reaches back instead of being shorter, so that one program serves all.
        first = min(start, count * samples - size)
        part = repeated[first : first + size]
        x, info = solve(
            denoise, key, (size, *images.shape[1:]), settings, operator=operator, measurement=part, first=first
        )
        if impose:
            x = x + operator.synthesize(part - operator.analyze(x))
        ends = {name: info[name] for name in ("steps", "sigma", "converged", "outcome")}
        parts.append({name: np.asarray(value)[start - first :] for name, value in (ends | {"x": x}).items()})
        add(size - (start - first))
    info = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    found = jnp.asarray(info.pop("x"))
    simple = minimum_norm(operator, measurement, settings.mean)
    mismatch = rms(operators.project(operator, found) - operator.synthesize(repeated))
    restored = found.reshape(count, samples, *images.shape[1:])
    arrays = {
        "measured": operator.synthesize(measurement),
        "minimum_norm": simple,
        "restored": restored,
        "minimum_norm_psnr": _psnr(simple, clean),
        "psnr": _psnr(restored, clean[:, None]),
        "mean_psnr": _psnr(restored.mean(1), clean),
        "minimum_norm_ssim": _ssim(clean, simple),
        "ssim": _ssim(jnp.repeat(clean, samples, axis=0), found).reshape(count, samples),
        "mismatch": mismatch.reshape(count, samples),
        **{name: value.reshape(count, samples) for name, value in info.items()},
    }
    return {name: np.asarray(value) for name, value in arrays.items()}


def summary(
    name: str, arrays: dict[str, np.ndarray], other: dict[str, np.ndarray] | None = None
) -> dict[str, float | str | None]:
    """Returns a row of the table: mean PSNRs in dB over the images, and how the sampler did.

    other: arrays of another solver on the same images; `lead` and `ssim_lead` are the means of the differences to it.
    Keys that end in `error` are standard errors of the number before them over the images, None for one image.
    """
    per_image, similarity = arrays["psnr"].mean(1), arrays["ssim"].mean(1)
    gain = per_image - arrays["minimum_norm_psnr"]
    row = {
        "problem": name,
        "minimum_norm": float(arrays["minimum_norm_psnr"].mean()),
        "restored": float(per_image.mean()),
        "error": _standard_error(per_image),
        "mean_of_samples": float(arrays["mean_psnr"].mean()),
        "gain": float(gain.mean()),
        "gain_error": _standard_error(gain),
        "minimum_norm_ssim": _finite(arrays["minimum_norm_ssim"].mean()),
        "ssim": _finite(similarity.mean()),
        "ssim_error": _standard_error(similarity),
        "mismatch": float(arrays["mismatch"].mean()),
        "converged": f"{int(arrays['converged'].sum())}/{arrays['converged'].size}",
        "steps": float(arrays["steps"].mean()),
    }
    if other is not None:
        for key, difference in (
            ("lead", per_image - other["psnr"].mean(1)),
            ("ssim_lead", similarity - other["ssim"].mean(1)),
        ):
            row |= {key: _finite(difference.mean()), f"{key}_error": _standard_error(difference)}
    return row


def _standard_error(values):
    return _finite(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def _finite(value):
    return float(value) if np.isfinite(value) else None


def _psnr(x, clean):
    error = np.square(np.asarray(x, np.float64) - np.asarray(clean, np.float64)).mean((-3, -2, -1))
    with np.errstate(divide="ignore"):
        return -10 * np.log10(error)


def _ssim(clean, x):
    # Compiled, since a sample that diverged is no input error.
    return jax.jit(ssim)(clean, x) if min(clean.shape[1:3]) >= WINDOW else jnp.full(len(clean), jnp.nan)


class BaselineSettings(NamedTuple):
    """Settings of `dps` and `diffpir`.

    sigma_0, sigma_L: noise at the start and at the end, in intensity units, 1 and 0.02. steps: noise levels after the
    first, 80, so that a sample costs as many calls of the denoiser as one of `gahb.sample`. mean: intensity around
    which the start is drawn, 0.5. weight: zeta' of DPS, above 0, 0.3. renewal: zeta of DiffPIR, the fraction of the
    noise that is drawn anew, in (0, 1], 0.3. Both defaults are this package's: the weight is chosen on one Gaussian
    prior, the renewal is not tuned.
    """

    sigma_0: float = 1.0
    sigma_L: float = 0.02  # noqa: N815
    steps: int = 80
    mean: float | jax.Array = 0.5
    weight: float = 0.3
    renewal: float = 0.3


def check_baseline(settings: BaselineSettings) -> None:
    """Raises `InputError`, naming the field, for numbers that the solvers cannot run with."""
    for name in ("sigma_0", "sigma_L", "weight"):
        check_positive(name, getattr(settings, name))
    check_positive("renewal", settings.renewal, most=1)
    check_count("steps", settings.steps, 1)
    if settings.sigma_L >= settings.sigma_0:
        fix = "use a smaller one"
        raise input_error("sigma_L", expected=f"below sigma_0={settings.sigma_0:g}", got=settings.sigma_L, fix=fix)


class Baseline:
    """A solver that goes down the noise levels by one rule, called as `gahb.sample` is."""

    def __init__(self, step: Callable[..., jax.Array]):
        functools.update_wrapper(self, step)
        del self.__dict__["__wrapped__"]  # its arguments are other ones
        self._step = step

    def __call__(
        self,
        denoise: Denoiser,
        key: jax.Array,
        shape: tuple[int, ...],
        settings: BaselineSettings = BaselineSettings(),  # noqa: B008
        *,
        operator: Operator,
        measurement: jax.Array,
        first: int = 0,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Samples given a measurement; arguments and result: as of `gahb.sample`.

        `info` has `converged`, `outcome`, `steps`, `sigma`, `nfe [N]`. Raises `InputError` for impossible settings and
        shapes.
        """
        check_baseline(settings)
        shape = tuple(int(length) for length in shape)
        if not jnp.iscomplexobj(measurement):
            measurement = as_numbers(measurement, "measurement")
        check_measurement(operator, measurement, shape)
        sigmas = jnp.geomspace(settings.sigma_0, settings.sigma_L, int(settings.steps) + 1)
        numbers = {name: jnp.asarray(getattr(settings, name), float) for name in ("mean", "weight", "renewal")}
        given = (as_key(key), jnp.asarray(first, jnp.uint32), operator, measurement)
        return _run(self._step, as_denoiser(denoise), numbers, sigmas, *given, shape=shape)


@Baseline
def dps(clean, y, sigma, s, z, operator, measurement, numbers):
    """Diffusion posterior sampling (Chung et al., ICLR 2023, algorithm 1).

    With x_hat = denoise(y), an ancestral step from sigma to s and one down the gradient of the misfit,

        y <- x_hat + (s / sigma)^2 (y - x_hat) + (s / sigma) sqrt(sigma^2 - s^2) z
             - zeta sqrt((1 + sigma^2) (1 + s^2)) grad_y ||m - M^T x_hat(y)||^2,  zeta = zeta' / ||m - M^T x_hat||,

    the square root because the paper's variable is y / sqrt(1 + sigma^2). Each step also costs a product with the
    transposed Jacobian of the denoiser.
    """

    def misfit(y):
        x_hat = clean(y)
        off = measurement - operator.analyze(x_hat)
        # Of each sample; their gradients do not mix, since no denoised image depends on another.
        squared = jnp.square(jnp.abs(off)).reshape(len(y), -1).sum(1)
        return squared.sum(), (x_hat, squared)

    gradient, (x_hat, squared) = jax.grad(misfit, has_aux=True)(y)
    ancestral = x_hat + (s / sigma) ** 2 * (y - x_hat) + (s / sigma) * jnp.sqrt(sigma**2 - s**2) * z
    # Where the misfit is zero, so is its gradient.
    zeta = numbers["weight"] / jnp.sqrt(jnp.maximum(squared, jnp.finfo(y.dtype).tiny))
    return ancestral - per_sample(zeta) * jnp.sqrt((1 + sigma**2) * (1 + s**2)) * gradient


@Baseline
def diffpir(clean, y, sigma, s, z, operator, measurement, numbers):
    """DiffPIR (Zhu et al., CVPR workshops 2023, eq. 12 and 13) from a measurement without noise.

    With x_hat = denoise(y) (12a), the nearest image that agrees with m, x = x_hat + M (m - M^T x_hat) (12b; its closed
    form for M^T M = 1, which 13 approximates), and the noise e = (y - x) / sigma that y would then hold, it goes from
    sigma to s by y <- x + s (sqrt(1 - zeta) e + sqrt(zeta) z).
    """
    x_hat = clean(y)
    x = x_hat + operator.synthesize(measurement - operator.analyze(x_hat))
    kept, renewed = jnp.sqrt(1 - numbers["renewal"]), jnp.sqrt(numbers["renewal"])
    return x + s * (kept * (y - x) / sigma + renewed * z)


BASELINES: Mapping[str, Baseline] = {"dps": dps, "diffpir": diffpir}


@functools.partial(jax.jit, static_argnames=("step", "shape"))
def _run(step, denoise, numbers, sigmas, key, first, operator, measurement, *, shape):
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(shape[0], dtype=jnp.uint32))
    clean = Partial(checked_denoised, denoise)
    z = gaussian_noise(keys, jnp.int32(0), jax.ShapeDtypeStruct(shape, jnp.result_type(float)))
    start = numbers["mean"] + sigmas[0] * z

    def advance(y, levels):
        sigma, s, t = levels
        y = step(clean, y, sigma, s, gaussian_noise(keys, t, y), operator, measurement, numbers)
        return y, None

    times = jnp.arange(1, len(sigmas))
    y, _ = lax.scan(advance, start, (sigmas[:-1], sigmas[1:], times))
    samples = clean(y)
    sigma = rms(y - samples)
    outcome = jnp.select(
        [~jnp.isfinite(sigma), ~removes_noise(start, clean(start), z, sigmas[0]), sigma > 2 * sigmas[-1]],
        [number_of(name) for name in ("not finite", "not a denoiser", "unfinished")],
        number_of("converged"),
    )
    steps = jnp.full(shape[0], len(sigmas) - 1, jnp.int32)
    converged = outcome == number_of("converged")
    return samples, {"converged": converged, "outcome": outcome, "steps": steps, "sigma": sigma, "nfe": steps + 1}
