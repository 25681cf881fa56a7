"""Halving the resolution of an image with the low-pass filter of Daubechies' wavelet with two vanishing moments."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pywt

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
