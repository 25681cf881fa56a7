"""Geometric C^alpha images: two regular backgrounds that meet along a regular contour.

Kadkhodaie et al. (ICLR 2024), appendix E and algorithm 2. Everything is a pure function of one image's random numbers,
and `jax.vmap` makes batches. alpha is nominal: white noise that is integrated alpha times has Sobolev regularity
alpha - 1/2 in one dimension (the contour, Hoelder exponent 1/2 at alpha = 1) and alpha - 1 in two (the backgrounds).
`low_pass` halves the resolution of an image with the filter of Daubechies' wavelet with two vanishing moments.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pywt

from common.arrays import as_numbers
from common.errors import input_error

BACKGROUNDS = ("isotropic", "separable", "constant")


class Draws(NamedTuple):
    """The random numbers of one image of N x N pixels."""

    contour: jax.Array  # [N] white, U(-1, 1)
    first: jax.Array  # [N, N] white, U(-1, 1)
    second: jax.Array  # [N, N] white, U(-1, 1)
    coin: jax.Array  # [] 0: the first background is the bright one, 1: the second
    bright_min: jax.Array  # [] U(0, 1): the bright background spans [bright_min, 1]
    dark_max: jax.Array  # [] U(0, 1): the dark one spans [0, dark_max]


def draw(key: jax.Array, size: int) -> Draws:
    """Returns the random numbers of one image of `size` x `size` pixels."""
    keys = jax.random.split(key, 6)
    return Draws(
        contour=jax.random.uniform(keys[0], (size,), minval=-1.0),
        first=jax.random.uniform(keys[1], (size, size), minval=-1.0),
        second=jax.random.uniform(keys[2], (size, size), minval=-1.0),
        coin=jax.random.bernoulli(keys[3]).astype(jnp.int32),
        bright_min=jax.random.uniform(keys[4]),
        dark_max=jax.random.uniform(keys[5]),
    )


def gain_1d(size: int) -> np.ndarray:
    """Returns 1 / |k| at the integer frequencies k in FFT order, float64 `[N]`; 1 at k = 0."""
    return 1 / np.maximum(np.abs(_frequencies(size)), 1)


def gain_2d(size: int, *, separable: bool = False) -> np.ndarray:
    """Returns 1 / sqrt(k1^2 + k2^2), or 1 / sqrt(|k1 k2|) if `separable`, in FFT order, float64 `[N, N]`.

    The gain is 1 at k = 0, so a mean is kept; in the separable one, a frequency of 0 counts as 1.
    """
    if separable:
        return np.sqrt(np.outer(gain_1d(size), gain_1d(size)))
    radius = np.hypot.outer(_frequencies(size), _frequencies(size))
    return 1 / np.where(radius > 0, radius, 1)


def _frequencies(size: int) -> np.ndarray:
    return np.fft.fftfreq(size, 1 / size)


def filtered(white: jax.Array, gain: np.ndarray) -> jax.Array:
    """Returns IFFT(FFT(white) * gain) over all axes; `gain` is real and even, so only half of it is needed."""
    half = jnp.asarray(gain[..., : white.shape[-1] // 2 + 1], white.dtype)
    axes = tuple(range(white.ndim))
    return jnp.fft.irfftn(jnp.fft.rfftn(white, axes=axes) * half, s=white.shape, axes=axes)


def contour_rows(contour: jax.Array) -> jax.Array:
    """Returns the row at which the contour `[N]` (in heights of the image, 0 = middle) meets each column, int32."""
    size = contour.shape[0]
    return jnp.round(size * contour).astype(jnp.int32) + size // 2


def mask(rows: jax.Array, *, wrap: bool = False) -> jax.Array:
    """Returns 1 from row `rows[j]` of column j downwards, 0 above, float32 `[N, N]`.

    A contour that leaves the image is cut off at its border. `wrap` is the original's behaviour: a row -r < 0 counts
    from the bottom, so the column is 0 down to the last r rows.
    """
    size = rows.shape[0]
    if wrap:
        rows = jnp.where(rows < 0, jnp.maximum(rows + size, 0), rows)
    return (jnp.arange(size)[:, None] >= rows[None, :]).astype(jnp.float32)


def box_blur(image: jax.Array, factor: tuple[int, int]) -> jax.Array:
    """Returns the average over `factor` (rows, columns) pixels around each pixel of `[N, N]`.

    Borders are reflected without repeating them. An even factor shifts the result half a pixel up or left.
    """
    for axis, count in enumerate(factor):
        widths = [(count // 2, count // 2) if each == axis else (0, 0) for each in range(2)]
        length = image.shape[axis]
        padded = jnp.pad(image, widths, mode="reflect")
        shifted = [jax.lax.slice_in_dim(padded, start, start + length, axis=axis) for start in range(count)]
        image = sum(shifted[1:], shifted[0]) / count
    return image


def backgrounds(draws: Draws, *, beta: float, kind: str = "isotropic") -> tuple[jax.Array, jax.Array]:
    """Returns the two backgrounds `[N, N]`: white noise filtered by gain^beta and mapped onto its range of grays.

    `kind`: "isotropic" or "separable" (see `gain_2d`), or "constant": the two grays are `bright_min` and `dark_max`.
    """
    if kind == "constant":
        grays = (draws.bright_min, draws.dark_max)
        first, second = (jnp.full(draws.first.shape, gray) for gray in grays)
    else:
        first, second = (rescale(field, low=low, high=high) for field, (low, high) in _fields(draws, beta, kind))
    return first, second


def amplitudes(draws: Draws, *, beta: float, kind: str = "isotropic") -> jax.Array:
    """Returns the factors a of the two backgrounds b = c + a F, F the filtered white noise, `[2]`.

    kind: "isotropic" or "separable". The power of F is `gain_2d(...)^(2 beta) / 3`, as the variance of U(-1, 1) is 1/3.
    """
    return jnp.stack([(high - low) / (field.max() - field.min()) for field, (low, high) in _fields(draws, beta, kind)])


def _fields(draws, beta, kind):
    """Returns for each background its filtered white noise `[N, N]` and the lowest and highest gray it is mapped to."""
    bright, dark = (draws.bright_min, jnp.ones(())), (jnp.zeros(()), draws.dark_max)
    swapped = draws.coin == 1
    gain = gain_2d(draws.first.shape[0], separable=kind == "separable") ** beta
    return [
        (filtered(white, gain), [jnp.where(swapped, other, one) for one, other in zip(*ranges, strict=True)])
        for white, ranges in ((draws.first, (bright, dark)), (draws.second, (dark, bright)))
    ]


def blurred_mask(
    draws: Draws, *, alpha: float, blur: tuple[int, int] = (2, 2), wrap: bool = False, antialias: int = 0
) -> jax.Array:
    """Returns the weight of the first background at each pixel, `[N, N]` in [0, 1]; see `render` for the settings."""
    levels = 2**antialias
    # A filtered contour of N white numbers has a variance of order 1 / N.
    contour = filtered(draws.contour, gain_1d(draws.contour.shape[0]) ** alpha) * math.sqrt(levels)
    return box_blur(mask(contour_rows(contour), wrap=wrap), tuple(count * levels for count in blur))


def render(
    draws: Draws,
    *,
    alpha: float,
    beta: float,
    blur: tuple[int, int] = (2, 2),
    background: str = "isotropic",
    wrap: bool = False,
    antialias: int = 0,
) -> jax.Array:
    """Returns one image `[N, N, 1]`, float32 in [0, 1]: below the contour the first background, above it the second.

    The contour has exponent `alpha`, the backgrounds `beta`; `blur` pixels (rows, columns) of the mask are averaged,
    and the mask alone. `antialias` a times the image, drawn from N x N numbers, is halved by a low-pass filter of gain
    1, each image by itself, and clipped; N / 2^a pixels remain, whose blur and contour keep their size.
    """
    first, second = backgrounds(draws, beta=beta, kind=background)
    below = blurred_mask(draws, alpha=alpha, blur=blur, wrap=wrap, antialias=antialias)
    image = (first * below + second * (1 - below))[..., None]
    for _ in range(antialias):
        # Columns continue on the other side, as contour and backgrounds do; rows do not.
        image = low_pass(image, extension=("symmetric", "periodic"))
    # Rounding passes 1 by a hair, the filter by its overshoot.
    return jnp.clip(image, 0.0, 1.0)


DB2 = np.array(pywt.Wavelet("db2").dec_lo)  # the taps sum to sqrt(2)

# How an axis continues beyond its ends, and by how many pixels: "periodic" and "symmetric" halve its length n to n / 2,
# "reflect" (without repeating the end) gives n / 2 + 1.
_EXTENSIONS = {"periodic": ("wrap", 1), "symmetric": ("symmetric", 1), "reflect": ("reflect", 2)}


def low_pass(image: jax.Array, *, extension: str | tuple[str, str] = "periodic", gain: float = 1.0) -> jax.Array:
    """Returns `image [H, W, C]` (H, W even) filtered and subsampled by 2 along rows and columns.

    `gain` is what a constant image is multiplied by: 1 keeps intensities, 2 is that of the orthonormal transform.
    `extension` is "periodic", "symmetric" or "reflect", or one for the rows and one for the columns.
    """
    extensions = (extension, extension) if isinstance(extension, str) else extension
    taps = DB2[::-1] * math.sqrt(gain / 2)
    for axis, name in enumerate(extensions):
        mode, width = _EXTENSIONS[name]
        widths = [(width, width) if each == axis else (0, 0) for each in range(image.ndim)]
        padded = jnp.pad(image, widths, mode=mode)
        last = padded.shape[axis] - len(taps)
        terms = [
            float(tap) * jax.lax.slice_in_dim(padded, start, start + last + 1, 2, axis)
            for start, tap in enumerate(taps)
        ]
        image = sum(terms[1:], terms[0])
    return image


def rescale(image: jax.Array, *, low: Any = 0.0, high: Any = 1.0) -> jax.Array:
    """Maps the whole array affinely to [low, high]; a constant one becomes `low`. Bytes count as in [0, 1]."""
    image = jnp.asarray(as_numbers(image, "image"))
    if not image.size:
        raise input_error(
            "image", expected="at least one number", got=f"shape {list(image.shape)}", fix="give an image"
        )
    least = image.min()
    span = image.max() - least
    return low + (high - low) * (image - least) / jnp.where(span > 0, span, 1)
