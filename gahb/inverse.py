"""Linear inverse problems with a blind denoiser as the prior: what is missing is sampled, given what is measured."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import as_images
from common.errors import at_least, choice, input_error
from common.prng import as_key
from gahb import operators
from gahb.denoisers import Denoiser
from gahb.operators import Operator
from gahb.sampler_settings import DEFAULT, changed
from gahb.sampling import rms, sample

PROBLEMS = ("inpainting", "super_resolution", "random_pixels", "random_basis", "spectral")
OF_SAMPLES = ("restored", "psnr", "mean_psnr", "mismatch", "steps", "sigma", "converged", "outcome")  # of `restore`
LARGEST_BASIS = 2**28  # numbers in the matrix of a random basis, 1 GiB


def problems(
    names: Sequence[str],
    key: jax.Array,
    shape: tuple[int, int, int],
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
    names: Sequence[str], shape: tuple[int, int, int], *, hole: float = 0.25, scale: int = 4, fraction: float = 0.1
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
    settings: NamedTuple = DEFAULT,
    *,
    solve: Callable[..., tuple[jax.Array, dict[str, Any]]] = sample,
    samples: int = 1,
    impose: bool = False,
    batch_size: int = 64,
    add: Callable[[int], object] = lambda count: None,
    **changes: Any,
) -> dict[str, np.ndarray]:
    """Measures `images [N, H, W, C]` and samples each of them `samples` = S times given its measurement.

    images: bytes, or floats in [0, 1]. solve: `gahb.sample`, or a function of `gahb.inverse_baselines`. settings: of
    that function, or their fields by name. impose: put the measurement back into the samples, as in `gahb.sample`.
    batch_size: samples at once, 64; the result does not depend on it. add: called with the number of samples after each
    batch.

    Returns arrays: `measured [N, H, W, C]` (M m), `minimum_norm [N, ...]`, `restored [N, S, ...]`; their PSNRs in dB
    `minimum_norm_psnr [N]`, `psnr [N, S]` and `mean_psnr [N]` (of the average of the S samples); of each sample
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
        "mismatch": mismatch.reshape(count, samples),
        **{name: value.reshape(count, samples) for name, value in info.items()},
    }
    return {name: np.asarray(value) for name, value in arrays.items()}


def summary(name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns a row of the table: mean PSNRs in dB over the images, and how the sampler did.

    error, gain_error: standard errors of `restored` and `gain` over the images, None for one image.
    """
    per_image = arrays["psnr"].mean(1)
    gain = per_image - arrays["minimum_norm_psnr"]
    return {
        "problem": name,
        "minimum_norm": float(arrays["minimum_norm_psnr"].mean()),
        "restored": float(per_image.mean()),
        "error": _standard_error(per_image),
        "mean_of_samples": float(arrays["mean_psnr"].mean()),
        "gain": float(gain.mean()),
        "gain_error": _standard_error(gain),
        "mismatch": float(arrays["mismatch"].mean()),
        "converged": f"{int(arrays['converged'].sum())}/{arrays['converged'].size}",
        "steps": float(arrays["steps"].mean()),
    }


def _standard_error(values):
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def _psnr(x, clean):
    error = np.square(np.asarray(x, np.float64) - np.asarray(clean, np.float64)).mean((-3, -2, -1))
    with np.errstate(divide="ignore"):
        return -10 * np.log10(error)
