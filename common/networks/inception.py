"""Inception-v3 of 2015-12-05, whose 2048 pooled features the Frechet inception distance is defined on.

Szegedy et al., 2015, in the form of TensorFlow's first release and not of the paper: average pools leave their padding
out of the count, the last block pools by maximum, there are 1008 classes, and batch normalisation has epsilon 1e-3.
Weights are read from one of two files that others published, by checksum; nothing is downloaded.

Two ways of bringing images to 299x299 are in use, and their numbers differ: "tf1", that of the original graph and of
its TorchScript translation (so of EDM and StyleGAN), samples at j * size / 299 and takes (x - 128) / 128 of 0..255;
"half_pixel", that of pytorch-fid, samples at (j + 1/2) * size / 299 - 1/2 and takes 2 x - 1 of [0, 1].
"""

import functools
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from common.arrays import as_numbers
from common.errors import choice, input_error
from common.imports import Slot, archive, assign
from common.imports import load as load_tensors
from common.imports.torch_files import load_legacy_torch

SIZE = 299
RESIZES = ("tf1", "half_pixel")
PUBLISHED = {
    "pt_inception-2015-12-05-6726825d.pth": "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "inception-2015-12-05.pt": "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
}

_EPSILON = 1e-3
_CLASSIFIER = ("fc.weight", "fc.bias")
_SCRIPT_PARTS = {"bias": "beta", "running_mean": "mean", "running_var": "var"}
_LEGACY_START = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")


class Conv(NamedTuple):
    """A convolution with normalisation and rectifier: its `name`, channels `out`, kernel, stride and padding.

    `script` is its name in the TorchScript file, with every "." as "_".
    """

    name: str
    script: str
    out: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"


class Branch(NamedTuple):
    """Convolutions one after another behind a pool ("", "average" or "maximum"); `ends` run side by side after them."""

    convs: tuple[Conv, ...]
    ends: tuple[Conv, ...] = ()
    pool: str = ""
    pool_stride: int = 1


STEM = (
    Conv("Conv2d_1a_3x3", "conv", 32, (3, 3), 2, "VALID"),
    Conv("Conv2d_2a_3x3", "conv_1", 32, (3, 3), 1, "VALID"),
    Conv("Conv2d_2b_3x3", "conv_2", 64, (3, 3)),
    "pool",
    Conv("Conv2d_3b_1x1", "conv_3", 80),
    Conv("Conv2d_4a_3x3", "conv_4", 192, (3, 3), 1, "VALID"),
    "pool",
)


def _named(name: str, script: str) -> Callable[..., Conv]:
    """Returns what makes a convolution of a block from its own names, here and in the TorchScript file."""
    return lambda own, theirs, *how: Conv(f"{name}.{own}", f"{script}_{theirs}", *how)


def _block_35(name: str, script: str, pooled: int) -> tuple[Branch, ...]:
    conv = _named(name, script)
    return (
        Branch((conv("branch1x1", "conv", 64),)),
        Branch((conv("branch5x5_1", "tower_conv", 48), conv("branch5x5_2", "tower_conv_1", 64, (5, 5)))),
        Branch(
            (
                conv("branch3x3dbl_1", "tower_1_conv", 64),
                conv("branch3x3dbl_2", "tower_1_conv_1", 96, (3, 3)),
                conv("branch3x3dbl_3", "tower_1_conv_2", 96, (3, 3)),
            )
        ),
        Branch((conv("branch_pool", "tower_2_conv", pooled),), pool="average"),
    )


def _to_17(name: str, script: str) -> tuple[Branch, ...]:
    conv = _named(name, script)
    return (
        Branch((conv("branch3x3", "conv", 384, (3, 3), 2, "VALID"),)),
        Branch(
            (
                conv("branch3x3dbl_1", "tower_conv", 64),
                conv("branch3x3dbl_2", "tower_conv_1", 96, (3, 3)),
                conv("branch3x3dbl_3", "tower_conv_2", 96, (3, 3), 2, "VALID"),
            )
        ),
        Branch((), pool="maximum", pool_stride=2),
    )


def _block_17(name: str, script: str, inner: int) -> tuple[Branch, ...]:
    conv = _named(name, script)
    return (
        Branch((conv("branch1x1", "conv", 192),)),
        Branch(
            (
                conv("branch7x7_1", "tower_conv", inner),
                conv("branch7x7_2", "tower_conv_1", inner, (1, 7)),
                conv("branch7x7_3", "tower_conv_2", 192, (7, 1)),
            )
        ),
        Branch(
            (
                conv("branch7x7dbl_1", "tower_1_conv", inner),
                conv("branch7x7dbl_2", "tower_1_conv_1", inner, (7, 1)),
                conv("branch7x7dbl_3", "tower_1_conv_2", inner, (1, 7)),
                conv("branch7x7dbl_4", "tower_1_conv_3", inner, (7, 1)),
                conv("branch7x7dbl_5", "tower_1_conv_4", 192, (1, 7)),
            )
        ),
        Branch((conv("branch_pool", "tower_2_conv", 192),), pool="average"),
    )


def _to_8(name: str, script: str) -> tuple[Branch, ...]:
    conv = _named(name, script)
    return (
        Branch((conv("branch3x3_1", "tower_conv", 192), conv("branch3x3_2", "tower_conv_1", 320, (3, 3), 2, "VALID"))),
        Branch(
            (
                conv("branch7x7x3_1", "tower_1_conv", 192),
                conv("branch7x7x3_2", "tower_1_conv_1", 192, (1, 7)),
                conv("branch7x7x3_3", "tower_1_conv_2", 192, (7, 1)),
                conv("branch7x7x3_4", "tower_1_conv_3", 192, (3, 3), 2, "VALID"),
            )
        ),
        Branch((), pool="maximum", pool_stride=2),
    )


def _block_8(name: str, script: str, pool: str) -> tuple[Branch, ...]:
    conv = _named(name, script)
    return (
        Branch((conv("branch1x1", "conv", 320),)),
        Branch(
            (conv("branch3x3_1", "tower_conv", 384),),
            (
                conv("branch3x3_2a", "tower_mixed_conv", 384, (1, 3)),
                conv("branch3x3_2b", "tower_mixed_conv_1", 384, (3, 1)),
            ),
        ),
        Branch(
            (conv("branch3x3dbl_1", "tower_1_conv", 448), conv("branch3x3dbl_2", "tower_1_conv_1", 384, (3, 3))),
            (
                conv("branch3x3dbl_3a", "tower_1_mixed_conv", 384, (1, 3)),
                conv("branch3x3dbl_3b", "tower_1_mixed_conv_1", 384, (3, 1)),
            ),
        ),
        Branch((conv("branch_pool", "tower_2_conv", 192),), pool=pool),
    )


BLOCKS = (
    _block_35("Mixed_5b", "mixed", 32),
    _block_35("Mixed_5c", "mixed_1", 64),
    _block_35("Mixed_5d", "mixed_2", 64),
    _to_17("Mixed_6a", "mixed_3"),
    _block_17("Mixed_6b", "mixed_4", 128),
    _block_17("Mixed_6c", "mixed_5", 160),
    _block_17("Mixed_6d", "mixed_6", 160),
    _block_17("Mixed_6e", "mixed_7", 192),
    _to_8("Mixed_7a", "mixed_8"),
    _block_8("Mixed_7b", "mixed_9", "average"),
    _block_8("Mixed_7c", "mixed_10", "maximum"),
)


def convolutions() -> Iterator[tuple[Conv, int]]:
    """Yields every convolution of the network with its number of input channels."""
    channels = 3
    for conv in STEM:
        if conv != "pool":
            yield conv, channels
            channels = conv.out
    for block in BLOCKS:
        total = 0
        for branch in block:
            inner = channels
            for conv in branch.convs:
                yield conv, inner
                inner = conv.out
            for conv in branch.ends:
                yield conv, inner
            total += sum(conv.out for conv in branch.ends) if branch.ends else inner
        channels = total


def features(params: Mapping[str, Mapping[str, jax.Array]], images: jax.Array, *, resize: str = "tf1") -> jax.Array:
    """Returns the pooled features of images, `[B, H, W, C] -> [B, 2048]`, float32 at the highest precision.

    images: uint8, or float in [0, 1]; one channel counts as gray. `params` are those of `load`.
    Raises `InputError` for an unknown `resize` or images of other shapes.
    """
    return _features(params, prepared(images, resize=resize))


@functools.partial(jax.jit, static_argnames="resize")
def prepared(images: jax.Array, *, resize: str = "tf1") -> jax.Array:
    """Returns images as the network takes them, `[B, H, W, 1 or 3] -> [B, 299, 299, 3]` in about [-1, 1]."""
    choice("resize", resize, RESIZES)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        fix = "give gray or RGB images, NHWC"
        raise input_error("images", expected="[B, H, W, 1 or 3]", got=list(images.shape), fix=fix)
    x = images.astype(jnp.float32) if images.dtype == jnp.uint8 else 255 * as_numbers(images, "images")
    x = resized(jnp.broadcast_to(x, (*x.shape[:3], 3)), resize=resize)
    return (x - 128) / 128 if resize == "tf1" else x / 127.5 - 1


@jax.jit
def _features(params, x: jax.Array) -> jax.Array:
    for conv in STEM:
        x = _pool(x, "maximum", 2) if conv == "pool" else _conv(params, conv, x)
    for block in BLOCKS:
        x = jnp.concatenate([part for branch in block for part in _branch(params, branch, x)], -1)
    return x.mean((1, 2))


def resized(images: jax.Array, *, resize: str) -> jax.Array:
    """Returns `images [B, H, W, C]` at 299x299 by bilinear interpolation without low-pass filter."""
    rows, columns = (_interpolation(length, resize) for length in images.shape[1:3])
    x = jnp.einsum("yh,bhwc->bywc", rows, images, precision="highest")
    return jnp.einsum("xw,bywc->byxc", columns, x, precision="highest")


def _interpolation(length: int, resize: str) -> np.ndarray:
    """Returns the matrix `[299, length]` of one axis."""
    out = np.arange(SIZE)
    place = out * (length / SIZE) if resize == "tf1" else np.maximum((out + 0.5) * (length / SIZE) - 0.5, 0)
    below = np.minimum(place.astype(int), length - 1)
    above = np.minimum(below + 1, length - 1)
    matrix = np.zeros((SIZE, length))
    matrix[out, below] = 1 - (place - below)
    matrix[out, above] += place - below
    return matrix.astype(np.float32)


def _branch(params, branch: Branch, x: jax.Array) -> list[jax.Array]:
    if branch.pool:
        x = _pool(x, branch.pool, branch.pool_stride)
    for conv in branch.convs:
        x = _conv(params, conv, x)
    return [_conv(params, conv, x) for conv in branch.ends] or [x]


def _conv(params, conv: Conv, x: jax.Array) -> jax.Array:
    own = params[conv.name]
    strides, layout = (conv.stride, conv.stride), ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(
        x, own["kernel"], strides, conv.padding, dimension_numbers=layout, precision=lax.Precision.HIGHEST
    )
    return jax.nn.relu(x + own["bias"])


def _pool(x: jax.Array, kind: str, stride: int) -> jax.Array:
    """Pools 3x3; with stride 1 at the borders too, where only what is inside the image counts."""
    window, strides, padding = (1, 3, 3, 1), (1, stride, stride, 1), "SAME" if stride == 1 else "VALID"
    if kind == "maximum":
        return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
    count = lax.reduce_window(jnp.ones((1, *x.shape[1:3], 1)), 0.0, lax.add, window, strides, padding)
    return lax.reduce_window(x, 0.0, lax.add, window, strides, padding) / count


def load(path: str | os.PathLike, *, sha256: Collection[str] = tuple(PUBLISHED.values())) -> dict[str, dict]:
    """Returns `{name: {"kernel" [H, W, I, O], "bias" [O]}}` of a published file, normalisation folded in.

    The file is pytorch-fid's `pt_inception-2015-12-05-6726825d.pth` (torch-fidelity has the same one) or NVIDIA's
    TorchScript `inception-2015-12-05.pt`. `sha256` lists the checksums that are accepted.
    Raises `InputError` for a file that is missing, of another checksum, or without the network's tensors.
    """
    path = archive.existing_file(path)
    found = _checksum(path)
    if found not in sha256:
        names = " or ".join(f"{name} ({digest})" for name, digest in PUBLISHED.items())
        expected = f"the published {names}" if set(sha256) == set(PUBLISHED.values()) else f"sha256 {', '.join(sha256)}"
        raise input_error(
            str(path), expected=expected, got=f"sha256 {found}", fix="download it again and name that file"
        )
    is_legacy = archive.first_bytes(path, len(_LEGACY_START)) == _LEGACY_START
    tensors = load_legacy_torch(path) if is_legacy else load_tensors(path)
    script = any(name.startswith("layers.") for name in tensors)
    return fold(_from_script(tensors, str(path)) if script else _from_state_dict(tensors, str(path)))


def fold(raw: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Returns the parameters of `features` from `NAME/{kernel,gamma,beta,mean,var}`: x w g / s + (b - m g / s)."""
    params = {}
    for conv, _ in convolutions():
        kernel, gamma, beta, mean, var = (
            raw[f"{conv.name}/{part}"].astype(np.float64) for part in ("kernel", "gamma", "beta", "mean", "var")
        )
        scale = gamma / np.sqrt(var + _EPSILON)
        folded = {"kernel": kernel * scale, "bias": beta - mean * scale}
        params[conv.name] = {name: array.astype(np.float32) for name, array in folded.items()}
    return params


def _from_state_dict(tensors: Mapping[str, np.ndarray], field: str) -> dict[str, np.ndarray]:
    """Reads the names of torchvision's Inception-v3, which pytorch-fid uses."""
    slots = {}
    for conv, inner in convolutions():
        shape = (conv.out, inner, *conv.kernel)
        slots[f"{conv.name}/kernel"] = Slot(f"{conv.name}.conv.weight", shape, _hwio)
        for part, theirs in (("gamma", "weight"), ("beta", "bias"), ("mean", "running_mean"), ("var", "running_var")):
            slots[f"{conv.name}/{part}"] = Slot(f"{conv.name}.bn.{theirs}", (conv.out,), np.asarray)
    # The classifier is not needed, and counters are no weights.
    own = {name: each for name, each in tensors.items() if not name.endswith(("num_batches_tracked", *_CLASSIFIER))}
    return assign(own, slots, field=field)


def _from_script(tensors: Mapping[str, np.ndarray], field: str) -> dict[str, np.ndarray]:
    """Reads the names of the TorchScript translation, `layers.mixed_9.tower.mixed.conv.weight` and so on.

    Its normalisation has no gamma. How a module is divided into others plays no role: "." and "_" count as the same.
    What is not below `layers` (the classifier, constants of the code) is not needed.
    """
    own = {}
    for name, array in tensors.items():
        if name.startswith("layers."):
            module, _, part = name.removeprefix("layers.").rpartition(".")
            own[f"{module}.{_SCRIPT_PARTS.get(part, part)}".replace(".", "_")] = array
    slots, gammas = {}, {}
    for conv, inner in convolutions():
        slots[f"{conv.name}/kernel"] = Slot(f"{conv.script}_weight", (conv.out, inner, *conv.kernel), _hwio)
        gammas[f"{conv.name}/gamma"] = np.ones(conv.out, np.float32)
        for part in ("beta", "mean", "var"):
            slots[f"{conv.name}/{part}"] = Slot(f"{conv.script}_{part}", (conv.out,), np.asarray)
    return assign(own, slots, field=field) | gammas


def _hwio(weight: np.ndarray) -> np.ndarray:
    return weight.transpose(2, 3, 1, 0)


def _checksum(path: os.PathLike) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
