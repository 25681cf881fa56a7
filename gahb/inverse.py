"""Linear inverse problems with a blind denoiser as the prior: what is missing is sampled, given what is measured."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import as_images
from common.errors import choice, input_error, within
from common.prng import as_key
from gahb import operators
from gahb.denoisers import Denoiser
from gahb.operators import Operator
from gahb.sampling import rms, sample

PROBLEMS = ("inpainting", "super_resolution", "random_pixels", "random_basis", "spectral")
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
    box = (height // 2, width // 2, int(hole * height), int(hole * width))
    make = {
        "inpainting": lambda key: operators.inpainting(shape, box=box),
        "super_resolution": lambda key: operators.super_resolution(scale),
        "random_pixels": lambda key: operators.random_pixels(key, shape, fraction=fraction),
        "random_basis": lambda key: operators.random_basis(key, shape, fraction=fraction),
        "spectral": lambda key: operators.spectral(shape, fraction=fraction),
    }
    return {name: make[name](jax.random.fold_in(key, PROBLEMS.index(name))) for name in names}


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
    if scale < 1 or height % scale or width % scale:
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
    *,
    samples: int = 1,
    mean: float = 0.5,
    **settings: Any,
) -> dict[str, np.ndarray]:
    """Measures `images [N, H, W, C]` and samples each of them `samples` = S times given its measurement.

    images: bytes, or floats in [0, 1]. mean and settings: as of `gahb.sample`, `impose` among them. Returns arrays:
    `measured [N, H, W, C]` (M m), `minimum_norm [N, ...]`, `restored [N, S, ...]`; their PSNRs in dB `minimum_norm_psnr
    [N]`, `psnr [N, S]` and `mean_psnr [N]` (of the average of the S samples); of each sample `mismatch [N, S]` (rms of
    M M^T x - M m), `steps`, `sigma` and `converged [N, S]`.
    """
    within("samples", samples, 1)
    images = as_images(images, "images")
    clean = jnp.asarray(images)
    measurement = operator.analyze(clean)
    count = len(images)
    repeated = jnp.repeat(measurement, samples, axis=0)
    shape = (count * samples, *images.shape[1:])
    found, info = sample(denoise, key, shape, operator=operator, measurement=repeated, mean=mean, **settings)
    simple = minimum_norm(operator, measurement, mean)
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
        **{name: info[name].reshape(count, samples) for name in ("steps", "sigma", "converged")},
    }
    return {name: np.asarray(value) for name, value in arrays.items()}


def summary(name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns a row of the table: mean PSNRs in dB over the images, and how the sampler did."""
    return {
        "problem": name,
        "minimum_norm": float(arrays["minimum_norm_psnr"].mean()),
        "restored": float(arrays["psnr"].mean()),
        "mean_of_samples": float(arrays["mean_psnr"].mean()),
        "gain": float(arrays["psnr"].mean() - arrays["minimum_norm_psnr"].mean()),
        "mismatch": float(arrays["mismatch"].mean()),
        "converged": f"{int(arrays['converged'].sum())}/{arrays['converged'].size}",
        "steps": float(arrays["steps"].mean()),
    }


def _psnr(x, clean):
    error = np.square(np.asarray(x, np.float64) - np.asarray(clean, np.float64)).mean((-3, -2, -1))
    with np.errstate(divide="ignore"):
        return -10 * np.log10(error)
