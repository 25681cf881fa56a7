"""Arrays that users give to public functions: bytes become floats, and what cannot be an image is refused.

NumPy and JAX arrays stay what they are, hence `Any`. What is traced by `jit` has no values yet: then type and shape
alone are checked. Every refusal says how to convert the very array that was given, where a conversion is unambiguous.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from common.errors import input_error

AnyArray: TypeAlias = jax.Array | np.ndarray  # for the shapes of public functions: `Real[AnyArray, "..."]`

UNIT, SIGNED = (0.0, 1.0), (-1.0, 1.0)  # the ranges that images have here
_MANY = 16  # pixels: the mean of fewer is no evidence
_BRIGHT = 4.0  # no mean of an image is that far from 0, noisy or not


def as_numbers(values: Any, field: str, *, scale: tuple[float, float] = UNIT) -> Any:
    """Returns an array of floats of at least 32 bits, with bytes on the range `scale`.

    For images, features and measurements of any shape and size; no range is asked of floats. Raises `InputError` for
    integers of other widths, booleans, what is no array of numbers, NaN and infinity.
    """
    values = as_array(values, field, fix="stack images of one size")
    if values.dtype == np.uint8:
        return _from_bytes(values, scale)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        expected = f"bytes (uint8) or floats in {_interval(scale)}"
        with jax.ensure_compile_time_eval():
            raise input_error(field, expected=expected, got=_described(values), fix=_fix(field, values, scale))
    if not isinstance(values, Tracer):
        # A constant of a function that is being traced has values too.
        with jax.ensure_compile_time_eval():
            _check_finite(values, field)
    if values.dtype.itemsize in (4, 8):
        return values
    return values.astype(np.float32 if values.dtype.itemsize < 4 else np.float64)


def to_unit(image: jax.Array) -> jax.Array:
    """Returns float32 intensities in [0, 1]: bytes are divided by 255, floating point stays as it is."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255
    return image.astype(jnp.float32)


def as_mask(values: Any, field: str) -> Any:
    """Returns an array of zeros and ones, or of booleans, as it is; raises `InputError` for everything else."""
    values = as_array(values, field, fix="give one entry a pixel")
    if not _real(values):
        fix = "compare with a threshold, which gives booleans"
        raise input_error(field, expected="zeros and ones", got=f"{values.dtype} {list(values.shape)}", fix=fix)
    if not isinstance(values, Tracer):
        with jax.ensure_compile_time_eval():
            fits = bool(((values == 0) | (values == 1)).all())
        if not fits:
            got, fix = f"numbers from {values.min()} to {values.max()}", f"compare with a threshold, {field} > 0"
            raise input_error(field, expected="zeros and ones", got=got, fix=fix)
    return values


def as_array(values: Any, field: str, *, fix: str) -> Any:
    """Returns an array of any type; `fix` is for a list whose rows differ in length.

    Raises `InputError` for that, and for a `numpy.ma` array with hidden numbers, which would count like all others.
    """
    if not isinstance(values, np.ndarray | jax.Array):
        try:
            values = np.asarray(values)
        except ValueError as error:
            raise input_error(field, expected="an array", got=str(error).partition(".")[0], fix=fix) from None
    if not isinstance(values, np.ma.MaskedArray):
        return values
    if hidden := int(np.ma.count_masked(values)):
        got, fix = f"{hidden} of {values.size} masked", f"fill them, {field}.filled(value), or leave them out"
        raise input_error(field, expected="an array without a mask", got=got, fix=fix)
    return values.data


def as_images(
    images: Any,
    field: str,
    *,
    scale: tuple[float, float] = UNIT,
    noisy: bool = False,
    shape: Sequence[int | None] = (None, None, None),
    batch: bool = True,
    beyond: float = 1.0,
) -> Any:
    """Returns images `[N, H, W, C]` (without `batch`: one image) as floats on the range `scale`.

    shape: height, width and channels of one image, None where any will do. noisy: whether the values may lie outside
    the range, as noise carries them; refused is then only what is no image on that range under any noise, such as
    floats from 0 to 255. beyond: how far images without noise may reach out of the range, as denoised ones do. Raises
    `InputError` for these, for other shapes, and as `as_numbers`.
    """
    images = as_numbers(images, field, scale=scale)
    number = [] if not batch else ["B"] if noisy else ["N"]
    _check_shape(images, field, tuple(shape), number)
    if not isinstance(images, Tracer):
        with jax.ensure_compile_time_eval():
            _check_range(images, field, scale, noisy, beyond)
    return images


def _check_shape(images, field, shape, number):
    names = [name if length is None else str(length) for name, length in zip("HWC", shape, strict=True)]
    expected = f"[{', '.join([*number, *names])}]"
    size, channels = images.shape, shape[-1]
    wanted = (None,) * len(number) + shape
    fits = len(size) == len(wanted) and all(want in (None, have) for want, have in zip(wanted, size, strict=True))
    first, last = (size[-3], size[-1]) if len(size) >= 3 else (0, 0)
    moved = len(size) == len(wanted) and first in (1, 3) and channels in (None, first) and last >= 8
    if fits and not moved and 0 not in size:
        return
    fix = f"give images of that shape as {field}"
    if moved:
        fix = f"move the channels last, np.moveaxis({field}, -3, -1)"
    elif len(size) == len(wanted) - 1 and number and last in (1, 3):
        fix = f"add the axis of images, {field}[None]"
    elif len(size) == len(wanted) - 1:
        fix = f"add the axis of channels, {field}[..., None]"
    elif 0 in size:
        fix = "give at least one image"
    raise input_error(field, expected=expected, got=list(size), fix=fix)


def _check_range(images, field, scale, noisy, beyond):
    low, high, mean = _extremes(images)
    bytes_like = high > 1.01 and mean > _BRIGHT / 255 and low >= 0 and _whole(images)
    if noisy:
        # Noise has mean zero: what a mean of so many numbers may be off by it is allowed for.
        slack = 4 * (high - low) / np.sqrt(images.size)
        # Noise that moves a mean so far takes some numbers below 0, too.
        slack = slack if low < 0 else 0
        wrong = (images.size >= _MANY and abs(mean) > _BRIGHT + slack) or (bytes_like and high > _BRIGHT)
    else:
        wrong = low < scale[0] - beyond or high > scale[1] + beyond or bytes_like
        # On [-1, 1]; noise-free images that leave [0, 1] at both ends, as Gaussian ones do, are no such thing.
        wrong = wrong or (scale == UNIT and -1.01 <= low < -0.5 and high <= 1.01)
    if wrong:
        got = f"{images.dtype} from {low:.4g} to {high:.4g}"
        expected = f"floats in {_interval(scale)}" + (", with noise" if noisy else "")
        raise input_error(field, expected=expected, got=got, fix=_fix(field, images, scale, noisy=noisy))


def _from_bytes(values, scale):
    low, high = scale
    return values.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)


def _check_finite(values, field):
    finite = jnp.isfinite(values) if isinstance(values, jax.Array) else np.isfinite(values)
    if not bool(finite.all()):
        got = f"{int((~finite).sum())} of {values.size} that are NaN or infinite"
        raise input_error(field, expected="finite numbers", got=got, fix="find where they come from, or leave them out")


def _extremes(values):
    if not values.size:
        return 0.0, 0.0, 0.0
    wide = values.astype(np.float32) if values.dtype.itemsize < 4 else values
    return float(wide.min()), float(wide.max()), float(wide.mean())


def _whole(values):
    """Returns whether all values are whole numbers; the first image is checked first, since few images pass it."""
    flat = np.asarray(values[:1], np.float64).reshape(-1)
    return bool((flat == np.round(flat)).all()) and bool((values == values.round()).all())


def _described(values):
    if isinstance(values, Tracer) or not values.size or not _real(values):
        return f"{values.dtype} {list(values.shape)}"
    return f"{values.dtype} from {values.min()} to {values.max()}"


def _real(values):
    return values.dtype == bool or jnp.issubdtype(values.dtype, np.number) and not np.iscomplexobj(values)


def _interval(scale):
    return f"[{scale[0]:g}, {scale[1]:g}]"


def _fix(field, values, scale, *, noisy=False):
    """Returns how to bring the very values that were given to the range."""
    if not _real(values):
        return "give real numbers"
    whole = not jnp.issubdtype(values.dtype, jnp.floating)
    if isinstance(values, Tracer) or not values.size:
        return "convert it to float32 and divide it by its largest possible value"
    low, high, _ = _extremes(values)
    name = f"{field}.astype(np.float32)" if whole else field
    if scale not in (UNIT, SIGNED):  # of a unit that the caller chose, in which the numbers may be already
        inside = scale[0] <= low and high <= scale[1]
        return f"use {name}" if inside else f"give floats in {_interval(scale)}"
    if low >= -0.01 and high <= 1.01:
        return f"use {name}" if scale == UNIT else f"use 2 * {name} - 1"
    if scale == UNIT and not whole and low >= -1.01 and high <= 1.01:
        return f"use ({field} + 1) / 2"
    # Noise may take both ends half a range further.
    beyond = 0.5 if noisy and not whole else 0.01
    for top in (255, 65535):
        if (0 if whole else -beyond * top) <= low and _BRIGHT < high <= (1 + beyond) * top:
            return f"divide by {top}: {name} / {top}" if scale == UNIT else f"use {name} / {top / 2:g} - 1"
    if whole:
        return "map it to that range by the smallest and largest value that its source can have"
    return f"map {field} to that range, or leave out what is no image"
