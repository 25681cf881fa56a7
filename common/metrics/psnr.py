"""Peak signal-to-noise ratio, in dB, and structural similarity."""

import functools

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


WINDOW, WINDOW_STD = 11, 1.5  # of `ssim`, pixels


def ssim(reference: jax.Array, image: jax.Array) -> jax.Array:
    """Returns the mean structural similarity of each image, `[N, H, W, C] -> [N]`, at most 1, which equal images have.

    Wang, Bovik, Sheikh, Simoncelli, IEEE Transactions on Image Processing 2004, eq. 13: the mean over channels and
    over all places where a Gaussian window of 11x11 pixels and deviation 1.5 lies inside of

        (2 m_x m_y + c_1) (2 s_xy + c_2) / ((m_x^2 + m_y^2 + c_1) (s_x^2 + s_y^2 + c_2)),

    with the windows' means m, variances s^2 and covariance s_xy, c_1 = 0.01^2 and c_2 = 0.03^2, for intensities in
    [0, 1]. Bytes count as numbers in [0, 1]. Raises `InputError` as `mse` does, and for images smaller than the window.
    """
    x, y = _pair(reference, image, (0.0, 1.0))
    if x.ndim != 4 or min(x.shape[1:3]) < WINDOW:
        fix = "use larger images"
        expected = f"[N, H, W, C] with height and width of at least {WINDOW}"
        raise input_error("reference", expected=expected, got=list(x.shape), fix=fix)
    x, y = (each.astype(jnp.promote_types(each.dtype, jnp.float32)) for each in (x, y))
    # Moments around a common intensity, so that the variances of bright images keep their digits.
    centre = x.mean((1, 2), keepdims=True)
    a, b = x - centre, y - centre
    mean_a, mean_b, aa, bb, ab = (_windowed(each) for each in (a, b, a * a, b * b, a * b))
    mean_x, mean_y = mean_a + centre, mean_b + centre
    c_1, c_2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c_1) / (mean_x**2 + mean_y**2 + c_1)
    structure = (2 * (ab - mean_a * mean_b) + c_2) / (aa - mean_a**2 + bb - mean_b**2 + c_2)
    return (luminance * structure).mean((1, 2, 3))


def _windowed(x):
    """Averages `[N, H, W, C]` under the Gaussian window wherever it lies inside the image."""
    weights = np.exp(-np.square(np.arange(WINDOW) - WINDOW // 2) / (2 * WINDOW_STD**2))
    for axis in (1, 2):
        length = x.shape[axis] - WINDOW + 1
        parts = [w * jax.lax.slice_in_dim(x, i, i + length, axis=axis) for i, w in enumerate(weights / weights.sum())]
        x = functools.reduce(jnp.add, parts)
    return x


def sigma_to_psnr(sigma: np.ndarray | float, *, peak: float = 1.0) -> np.ndarray:
    """Returns the PSNR of an image with noise of standard deviation `sigma`, -20 log10(sigma / peak), in float64."""
    return -20 * np.log10(np.asarray(sigma, np.float64) / peak)
