"""Halving and doubling of images by a short separable filter; what lies outside an image counts as zero.

The filters have an even number of taps, are scaled to sum 1, and are applied along both axes: (1, 1) is the box,
(1, 3, 3, 1) is the one of StyleGAN2 (Karras et al. 2020) that NCSN++ uses.
"""

import jax
import jax.numpy as jnp
from jax import lax

from common.errors import input_error


def margin(taps: tuple[float, ...], field: str = "filter") -> int:
    """Returns how many pixels the filter reaches beyond an image on each side; raises `InputError` for odd lengths."""
    if len(taps) % 2 or not sum(taps):
        fix = "use (1, 1) or (1, 3, 3, 1)"
        raise input_error(field, expected="an even number of taps with a sum other than 0", got=list(taps), fix=fix)
    return (len(taps) - 1) // 2


def down(x: jax.Array, taps: tuple[float, ...], *, margin: int | None = None) -> jax.Array:
    """Filters `x [B, H, W, C]` and keeps every second pixel: `[B, H/2, W/2, C]`; `margin` zeros on each side."""
    own = _margin(taps)
    weights, pad = _normal(taps), own if margin is None else margin
    for axis in (1, 2):
        x = _padded(x, axis, pad, pad)
        length = (x.shape[axis] - len(taps)) // 2 + 1
        parts = (lax.slice_in_dim(x, k, k + 2 * length - 1, 2, axis) for k in range(len(taps)))
        x = _sum(weights, parts)
    return x


def up(x: jax.Array, taps: tuple[float, ...]) -> jax.Array:
    """Puts zeros between the pixels of `x [B, H, W, C]`, filters, and keeps the mean: `[B, 2H, 2W, C]`.

    The transpose of `down` times 4.
    """
    pad = _margin(taps)
    weights = [2 * each for each in _normal(taps)]
    reach = len(taps) // 2
    for axis in (1, 2):
        length = x.shape[axis]
        padded = _padded(x, axis, reach, reach)
        phases = []
        for phase in (0, 1):
            # Pixel i, with i = m + (phase + pad - k) / 2, reaches pixel 2m + phase of the result through tap k.
            used = [k for k in range(len(taps)) if (phase + pad - k) % 2 == 0]
            starts = [reach + (phase + pad - k) // 2 for k in used]
            parts = (lax.slice_in_dim(padded, start, start + length, 1, axis) for start in starts)
            phases.append(_sum([weights[k] for k in used], parts))
        shape = (*x.shape[:axis], 2 * length, *x.shape[axis + 1 :])
        x = jnp.stack(phases, axis + 1).reshape(shape)
    return x


_margin = margin


def _normal(taps: tuple[float, ...]) -> list[float]:
    return [each / sum(taps) for each in taps]


def _padded(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths)


def _sum(weights, parts) -> jax.Array:
    terms = [weight * part for weight, part in zip(weights, parts, strict=True)]
    return sum(terms[1:], terms[0])
