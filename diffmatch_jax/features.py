"""Features: images prepared for it, the VGG-16 pyramid, and the maps that the two stages take from a pyramid.

A pyramid is any function `images [B, H, W, 3] in [0, 1] -> five maps [B, H / 2^i, W / 2^i, C_i]`, i = 0..4; it
normalises the images as it needs. VGG-16 (Simonyan & Zisserman, ICLR 2015, configuration D) gives one: level 0 after
the first convolution, level i after the i-th pool. Map i of a pyramid made of padded convolutions and pools is a
half-pixel sample of the image, see `diffmatch_jax.resize`.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import lax

from common import imports
from common.data.augment import to_unit
from common.errors import input_error
from common.imports import archive
from common.imports.archive import shown
from common.imports.legacy_files import load_legacy_torch
from common.networks.convolution import convolve
from diffmatch_jax.resize import adaptive_mean, alignment_of, resize
from diffmatch_jax.smoothing import gaussian_matrix

Pyramid = Callable[[jax.Array], Sequence[jax.Array]]

CONTRAST = 0.16  # standard deviation of an image whose local contrast is normalised, of its range
FLAT = 0.004  # standard deviation, of the range, from which on a region is evidence for a match
NOISE = 0.016  # standard deviation, of the range, below which contrast counts as noise
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
WIDTHS = (64, 128, 256, 512)
PUBLISHED = {"vgg16-397923af.pth": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"}

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
_BEYOND = ("features.24.", "features.26.", "features.28.", "classifier.")  # layers after the fourth pool


class Prepared(NamedTuple):
    """The two sizes at which features are taken: `fine [B, 512, 512, 3]` and `coarse [B, 256, 256, 3]`, in [0, 1].

    mask: 1 where a fine pixel may be matched, else 0, `[B, 512, 512, 1]`; None where all may. texture: evidence for a
    match, min(v / v_0, 1) of the local variance v, likewise; None where it is not asked for.
    """

    fine: jax.Array
    coarse: jax.Array
    mask: jax.Array | None = None
    texture: jax.Array | None = None


def prepared(
    images: jax.Array, *, fine: int = 512, coarse: int = 256, contrast: float = 0.0, compat: str | None = None
) -> Prepared:
    """Returns images `[B, H, W, 1 or 3]` (bytes, or floating point in [0, 1]) at both sizes; proportions are not kept.

    Both are sampled half-pixel, with a low-pass filter where they shrink; with a `contrast` their local contrast is
    normalised over that fraction of a side (`local_contrast`). compat="released": the fine one without the filter, the
    coarse one by means over whole pixels. Raises `InputError` for images of another shape.
    """
    alignment_of(compat)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        fix = "give gray or RGB images, NHWC"
        raise input_error("images", expected="[B, H, W, 1 or 3]", got=list(images.shape), fix=fix)
    x = to_unit(images)
    x = jnp.broadcast_to(x, (*x.shape[:3], 3))
    if compat == "released":
        return Prepared(resize(x, (fine, fine)), adaptive_mean(x, (coarse, coarse)))
    both = Prepared(*(resize(x, (side, side), antialias=True) for side in (fine, coarse)))
    if not contrast:
        return both
    return Prepared(*(local_contrast(each, sigma=contrast * each.shape[1]) for each in both[:2]))


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
    """A function told apart by its settings, so that `Partial`s of the same settings share their programs."""

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


def load(
    path: str | os.PathLike, *, sha256: Collection[str] | None = tuple(PUBLISHED.values())
) -> dict[str, dict[str, np.ndarray]]:
    """Returns VGG-16's parameters from a local file, torchvision's `vgg16-397923af.pth` or one with its tensors.

    `sha256` lists the checksums that are accepted, None any. Nothing in the file is run and nothing is downloaded.
    Raises `InputError` for a file that is missing, of another checksum, or without the network's tensors.
    """
    path = archive.existing_file(path)
    if sha256 is not None:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found not in sha256:
            names = " or ".join(f"{name} ({digest})" for name, digest in PUBLISHED.items())
            published = set(sha256) == set(PUBLISHED.values())
            expected = f"torchvision's {names}" if published else f"sha256 {', '.join(sha256)}"
            raise input_error(
                str(path), expected=expected, got=f"sha256 {found}", fix="download it again and name that file"
            )
    # The published file is older than PyTorch's zip format, and is a pickle from its first byte on.
    legacy = archive.first_bytes(path, 2) == b"\x80\x02"
    return convert(load_legacy_torch(path) if legacy else imports.load(path), field=str(path))


def convert(tensors: Mapping[str, np.ndarray], *, field: str = "weights") -> dict[str, dict[str, np.ndarray]]:
    """Returns torchvision's tensors `features.0.weight [O, I, 3, 3]`, ... as the parameters of `pyramid`, float32.

    Widths may be any that fit each other; tensors of the layers after the fourth pool are left alone. Raises
    `InputError` for missing, unexpected, misshapen or non-finite tensors.
    """
    tensors = {name: each for name, each in tensors.items() if not name.startswith(_BEYOND)}
    slots, inputs = {}, 3
    for name, number in CONVS.items():
        weight = tensors.get(f"features.{number}.weight")
        outputs = len(weight) if weight is not None and weight.ndim == 4 else WIDTHS[int(name[4]) - 1]
        shape = (outputs, inputs, 3, 3)
        slots[f"{name}/kernel"] = imports.Slot(f"features.{number}.weight", shape, _to_hwio)
        slots[f"{name}/bias"] = imports.Slot(f"features.{number}.bias", (outputs,), _to_float32)
        inputs = outputs
    leaves = imports.assign(tensors, slots, field=field)
    for target, leaf in leaves.items():
        if not np.isfinite(leaf).all():
            name = shown(slots[target].source)
            raise input_error(
                f"{field}, tensor {name}", expected="finite numbers", got="others", fix="use another file"
            )
    return traverse_util.unflatten_dict(leaves, sep="/")


def _to_hwio(weight: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(_to_float32(weight).transpose(2, 3, 1, 0))


def _to_float32(weight: np.ndarray) -> np.ndarray:
    return np.array(weight, np.float32)
