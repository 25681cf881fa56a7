"""Features: images prepared for it, the VGG-16 pyramid, and the maps that the two stages take from a pyramid.

A pyramid is any function `images [B, H, W, 3] in [0, 1] -> five maps [B, H / 2^i, W / 2^i, C_i]`, i = 0..4; it
normalises the images as it needs. VGG-16 (Simonyan & Zisserman, ICLR 2015, configuration D) gives one: level 0 after
the first convolution, level i after the i-th pool. Map i of a pyramid made of padded convolutions and pools is a
half-pixel sample of the image, see `diffmatch_jax.model.resize`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from common.arrays import to_unit
from common.errors import input_error
from common.networks.convolution import convolve
from diffmatch_jax.model.resize import gaussian_matrix, resize

Pyramid = Callable[[jax.Array], Sequence[jax.Array]]

CONTRAST = 0.16  # standard deviation of an image whose local contrast is normalised, of its range
FLAT = 0.004  # standard deviation, of the range, from which on a region is evidence for a match
NOISE = 0.016  # standard deviation, of the range, below which contrast counts as noise
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
VGG_WIDTHS = (64, 128, 256, 512)

# Our names of the convolutions up to the fourth pool, and their numbers in torchvision's list of layers.
CONVS = {
    "conv1_1": 0,
    "conv1_2": 2,
    "conv2_1": 5,
    "conv2_2": 7,
    "conv3_1": 10,
    "conv3_2": 12,
    "conv3_3": 14,
    "conv4_1": 17,
    "conv4_2": 19,
    "conv4_3": 21,
}
_BLOCKS = tuple(tuple(name for name in CONVS if name.startswith(f"conv{block}_")) for block in (1, 2, 3, 4))


class Prepared(NamedTuple):
    """The two sizes at which features are taken: `fine [B, 512, 512, 3]` and `coarse [B, 256, 256, 3]`, in [0, 1].

    mask: 1 where a fine pixel may be matched, else 0, `[B, 512, 512, 1]`; None where all may. texture: evidence for a
    match, min(v / v_0, 1) of the local variance v, likewise; None where it is not asked for.
    """

    fine: jax.Array
    coarse: jax.Array
    mask: Any = None  # an array or None
    texture: Any = None  # an array or None


def prepared(images: jax.Array, *, fine: int = 512, coarse: int = 256, contrast: float = 0.0) -> Prepared:
    """Returns images `[B, H, W, 1 or 3]` (bytes, or floating point in [0, 1]) at both sizes; proportions are not kept.

    Both are sampled half-pixel, with a low-pass filter where they shrink; with a `contrast` their local contrast is
    normalised over that fraction of a side (`local_contrast`). Raises `InputError` for images of another shape.
    """
    x = as_rgb(images)
    both = Prepared(*(resize(x, (side, side), antialias=True) for side in (fine, coarse)))
    if not contrast:
        return both
    return Prepared(*(local_contrast(each, sigma=contrast * each.shape[1]) for each in both[:2]))


def as_rgb(images: jax.Array) -> jax.Array:
    """Returns images `[B, H, W, 1 or 3]` (bytes, or floating point in [0, 1]) as floats `[B, H, W, 3]` in [0, 1]."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        fix = "give gray or RGB images, NHWC"
        raise input_error("images", expected="[B, H, W, 1 or 3]", got=list(images.shape), fix=fix)
    x = to_unit(images)
    return jnp.broadcast_to(x, (*x.shape[:3], 3))


def texture(images: jax.Array) -> jax.Array:
    """Returns min(v / v_0, 1) `[B, H, W, 1]` of images `[B, H, W, C]` in [0, 1]: 0 where they are flat.

    v is the variance under a Gaussian window of 1/64 of a side, and sqrt(v_0) 0.004 of the range, a gray level of 255.
    """
    mean, square = (_blur(x, images.shape[1] / 64) for x in (images, images**2))
    variance = jnp.maximum((square - mean**2).mean(-1, keepdims=True), 0)
    return jnp.minimum(variance / FLAT**2, 1)


def _blur(images: jax.Array, sigma: float) -> jax.Array:
    rows, columns = (
        jnp.asarray(gaussian_matrix(length, sigma, reach=3 * sigma), images.dtype) for length in images.shape[1:3]
    )
    return jnp.einsum("yh,xw,bhwc->byxc", rows, columns, images, precision="highest")


def local_contrast(images: jax.Array, *, sigma: float) -> jax.Array:
    """Returns `1/2 + a (x - m) / (s + b)`, clipped to [0, 1]: brightness and contrast no longer depend on exposure.

    m is the mean of each channel and s the standard deviation of all channels under a Gaussian window.

    Args:
      images: `[B, H, W, C]` in [0, 1].
      sigma: standard deviation of the window, pixels.
    """
    centred = images - _blur(images, sigma)
    deviation = jnp.sqrt(_blur((centred**2).mean(-1, keepdims=True), sigma))
    return jnp.clip(0.5 + CONTRAST * centred / (deviation + NOISE), 0, 1)


def normalise(images: jax.Array) -> jax.Array:
    """Returns (images - mean) / standard deviation of ImageNet's channels; images `[..., 3]` in [0, 1]."""
    return (images - jnp.asarray(MEAN, images.dtype)) / jnp.asarray(STD, images.dtype)


def pyramid(params: Mapping[str, Mapping[str, jax.Array]], x: jax.Array, *, last: int = 4) -> tuple[jax.Array, ...]:
    """Returns the levels 0..`last` of VGG-16 for normalised images `x [B, H, W, 3]`; a level i is `[B, H/2^i, ...]`.

    `params` are `{"conv1_1": {"kernel" [3, 3, I, O], "bias" [O]}, ...}` and decide the widths; only the levels asked
    for need theirs. Computes in the type of `x`. Raises `InputError` if the sides are no multiples of 2^last.
    """
    if any(length % 2**last or length == 0 for length in x.shape[1:3]):
        got = f"{x.shape[1]} x {x.shape[2]}"
        raise input_error(
            "images", expected=f"sides that are multiples of {2**last}", got=got, fix="use features.prepared"
        )
    levels = []
    for block in _BLOCKS[: max(last, 1)]:
        for name in block:
            own = params[name]
            x = jax.nn.relu(convolve(x, own["kernel"].astype(x.dtype)) + own["bias"].astype(x.dtype))
            if name == "conv1_1":
                levels.append(x)
                if last == 0:
                    return tuple(levels)
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        levels.append(x)
    return tuple(levels)


def vgg(params: Mapping[str, Mapping[str, jax.Array]], *, compute_dtype: str = "float32") -> Pyramid:
    """Returns VGG-16 as a pyramid, a `jax.tree_util.Partial` whose leaves are the weights: frozen, so without gradient.

    `Partial` is a pytree: jitted functions take it as an argument and serve every set of weights with one program.
    """
    return jax.tree_util.Partial(_Levels(compute_dtype), params)


class _Levels(NamedTuple):
    """A function identified by its settings, so that `Partial`s of the same settings share their programs."""

    compute_dtype: str

    def __call__(self, params, images):
        params = jax.tree.map(lax.stop_gradient, params)
        x = normalise(images).astype(self.compute_dtype)
        return tuple(level.astype(jnp.float32) for level in pyramid(params, x))


def stage1_maps(pyramid_of: Pyramid, images: Prepared) -> tuple[jax.Array, ...]:
    """Returns the four maps of the first stage, from fine to coarse in cells of the image.

    Levels 2 and 3 of the fine image (strides 4 and 8 of 512) and levels 3 and 4 of the coarse one (8 and 16 of 256).
    """
    fine, coarse = pyramid_of(images.fine), pyramid_of(images.coarse)
    return fine[2], fine[3], coarse[3], coarse[4]


def stage2_map(pyramid_of: Pyramid, images: Prepared) -> jax.Array:
    """Returns the map of the second stage: level 1 of the fine image, `[B, 256, 256, C]`."""
    return pyramid_of(images.fine)[1]


def both_stages(pyramid_of: Pyramid, images: Prepared) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Returns `stage1_maps` and `stage2_map` at the cost of the former."""
    fine, coarse = pyramid_of(images.fine), pyramid_of(images.coarse)
    return (fine[2], fine[3], coarse[3], coarse[4]), fine[1]
