"""Peak signal-to-noise ratio, in dB."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Real

from common.arrays import AnyArray, as_numbers
from common.errors import input_error


def mse(reference: Real[AnyArray, "n ..."], image: Real[AnyArray, "n ..."]) -> Float[Array, " n"]:
    """Returns the mean squared error of each image, `[N, ...] -> [N]`; bytes count as numbers in [0, 1].

    Raises `InputError` for other integers, for what is not finite, and for arrays of different shapes.
    """
    return _mse(*_pair(reference, image, (0.0, 1.0)))


def psnr(
    reference: Real[AnyArray, "n ..."], image: Real[AnyArray, "n ..."], *, peak: float = 1.0
) -> Float[Array, " n"]:
    """Returns 10 log10(peak^2 / mse) of each image, `[N, ...] -> [N]`, in dB; infinite for equal images.

    peak: the largest intensity there can be, in the unit of the floats that are given. Bytes are brought to [0, peak],
    so any peak gives their PSNR. Raises `InputError` for other integers, for what is not finite, for a reference or
    an image far beyond the peak, and for arrays of different shapes.
    """
    if not isinstance(peak, Tracer) and not peak > 0:
        raise input_error("peak", expected="a positive number", got=peak, fix="use 1 for images in [0, 1]")
    reference, image = _pair(reference, image, (0.0, peak))
    if not isinstance(peak, Tracer):
        _check_peak(reference, "reference", peak, signed=True)
        _check_peak(image, "image", peak, signed=False)
    return 10 * jnp.log10(peak**2 / _mse(reference, image))


def _check_peak(image, field, peak, *, signed):
    """Raises `InputError` for intensities far beyond the peak: in the mean, and without `signed` also all positive.

    Noise and what diverged is on both sides of 0, pictures in another unit are not.
    """
    if isinstance(image, Tracer) or not image.size:
        return
    with jax.ensure_compile_time_eval():
        mean, least, most = float(jnp.abs(image).mean()), float(image.min()), float(image.max())
    if mean > 4 * peak and (signed or least >= 0):
        top = 255 if most <= 1.5 * 255 else 65535 if most <= 65535 else most
        fix = f"divide both by {top:g}, or give peak={top:g}" if signed else f"divide it by {top:g}"
        raise input_error(field, expected=f"intensities up to peak={peak:g}", got=f"a mean of {mean:.4g}", fix=fix)


def _pair(reference, image, scale):
    pair = [jnp.asarray(as_numbers(x, name, scale=scale)) for x, name in ((reference, "reference"), (image, "image"))]
    if pair[0].ndim < 1:
        fix = "add the axis of images, reference[None]"
        raise input_error("reference", expected="a batch of images, [N, ...]", got="one number", fix=fix)
    if pair[0].shape != pair[1].shape:
        expected = f"the shape of reference, {list(pair[0].shape)}"
        raise input_error("image", expected=expected, got=list(pair[1].shape), fix="give two batches of one shape")
    return pair


def _mse(reference, image):
    return jnp.square(image - reference).mean(tuple(range(1, image.ndim)))


def sigma_to_psnr(sigma: np.ndarray | float, *, peak: float = 1.0) -> np.ndarray:
    """Returns the PSNR of an image with noise of standard deviation `sigma`, -20 log10(sigma / peak), in float64."""
    return -20 * np.log10(np.asarray(sigma, np.float64) / peak)
