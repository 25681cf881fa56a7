"""The embedded pyramid: VGG-16's layout up to the fourth pool at a quarter of the width, trained here on warps.

It needs no labels and no download: `diffmatch_jax.training.pretraining` makes its weights from photographs alone, and
`weights/backbone.npz` holds those of configs/diffmatch_jax/backbone.py. Each image is brought to mean 0 and deviation 1
first, so that a fixed loss of contrast changes nothing but rounding.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from diffmatch_jax.model.features import CONVS, Pyramid, pyramid

WIDTHS = (16, 32, 64, 128)

_SMALLEST = 2e-3  # deviation of an image that is taken for rounding, about half a step of a byte


def random(key: jax.Array, *, widths: Sequence[int] = WIDTHS, compute_dtype: str = "float32") -> Pyramid:
    """Returns the same pyramid untrained, for comparison."""
    return frozen(_init(key, tuple(widths)), compute_dtype=compute_dtype)


def frozen(params: Mapping[str, Mapping[str, jax.Array]], *, compute_dtype: str = "float32") -> Pyramid:
    """Returns a pyramid of weights, a `jax.tree_util.Partial` whose leaves they are, without gradient for them."""
    return jax.tree_util.Partial(_Frozen(compute_dtype), params)


class _Frozen(NamedTuple):
    """Identified by its settings, so that `Partial`s of the same settings share their programs."""

    compute_dtype: str

    def __call__(self, params, images):
        return levels(jax.tree.map(lax.stop_gradient, params), images, compute_dtype=self.compute_dtype)


def init(key: jax.Array, widths: Sequence[int] = WIDTHS) -> dict[str, dict[str, jax.Array]]:
    """Returns random weights, N(0, 2 / fan in) (He et al., ICCV 2015, equation 10), and zero biases."""
    params, inputs = {}, 3
    for each, name in zip(jax.random.split(key, len(CONVS)), CONVS, strict=True):
        outputs = widths[int(name[4]) - 1]
        kernel = jax.random.normal(each, (3, 3, inputs, outputs)) * (2 / (9 * inputs)) ** 0.5
        params[name] = {"kernel": kernel, "bias": jnp.zeros(outputs)}
        inputs = outputs
    return params


# One program for all layers.
_init = functools.partial(jax.jit, static_argnames="widths")(init)


def levels(
    params: Mapping[str, Mapping[str, jax.Array]],
    images: jax.Array,
    *,
    compute_dtype: str = "float32",
) -> tuple[jax.Array, ...]:
    """Returns the five levels of images `[B, H, W, 3]` in [0, 1], float32 `[B, H / 2^i, W / 2^i, C_i]`."""
    x = standardised(images).astype(compute_dtype)
    return tuple(level.astype(jnp.float32) for level in pyramid(params, x))


def standardised(images: jax.Array) -> jax.Array:
    """Returns images `[B, H, W, C]` less each channel's mean, divided by the deviation of all their channels."""
    away = images - images.mean((1, 2), keepdims=True)
    return away / jnp.sqrt((away**2).mean((1, 2, 3), keepdims=True) + _SMALLEST**2)


def patches(images: jax.Array, *, side: int = 8) -> tuple[jax.Array, ...]:
    """Returns a pyramid without weights: colours of `side` x `side` samples around each cell, less their mean.

    From level 2 on a cell has 4 x 4 samples; the levels below have one or four.
    """
    found = []
    for level in range(5):
        step = 2 ** max(level - 2, 0)
        x = lax.reduce_window(images, 0.0, lax.add, (1, step, step, 1), (1, step, step, 1), "VALID") / step**2
        stride = 2 ** min(level, 2)
        edge = (side - stride) // 2
        x = jnp.pad(x, ((0, 0), (edge, side - stride - edge), (edge, side - stride - edge), (0, 0)), mode="edge")
        x = lax.conv_general_dilated_patches(
            x, (side, side), (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        found.append(x - x.mean(-1, keepdims=True))
    return tuple(found)
