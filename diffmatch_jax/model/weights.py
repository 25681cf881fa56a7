"""Files of weights: those in `diffmatch_jax/weights`, each with a known checksum, and torchvision's VGG-16."""

import functools
import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from flax.traverse_util import unflatten_dict

from common import imports
from common.errors import input_error
from common.imports import archive
from common.imports.archive import shown
from common.imports.torch_files import load_legacy_torch
from common.io import packed
from diffmatch_jax.model.backbone import frozen
from diffmatch_jax.model.features import CONVS, VGG_WIDTHS, Pyramid

DIRECTORY = Path(__file__).parents[1] / "weights"
BACKBONE = DIRECTORY / "backbone.npz"
BACKBONE_SHA256 = "406e0e27557653f331ee7abbe2d0be4f6a4fc490f43d5e738325d3be58b40de0"
PUBLISHED = {"vgg16-397923af.pth": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"}

_BEYOND = ("features.24.", "features.26.", "features.28.", "classifier.")  # layers after the fourth pool


def embedded(*, compute_dtype: str = "float32") -> Pyramid:
    """Returns the pyramid with the weights that come with the package, without gradient; `InputError` without them."""
    return frozen(_shipped(), compute_dtype=compute_dtype)


@functools.cache
def _shipped():
    return packed.load(BACKBONE, sha256=BACKBONE_SHA256)


def load_vgg(
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
    return convert_vgg(load_legacy_torch(path) if legacy else imports.load(path), field=str(path))


def convert_vgg(tensors: Mapping[str, np.ndarray], *, field: str = "weights") -> dict[str, dict[str, np.ndarray]]:
    """Returns torchvision's tensors `features.0.weight [O, I, 3, 3]`, ... as the parameters of `pyramid`, float32.

    Widths may be any that fit each other; tensors of the layers after the fourth pool are left alone. Raises
    `InputError` for missing, unexpected, misshapen or non-finite tensors.
    """
    tensors = {name: each for name, each in tensors.items() if not name.startswith(_BEYOND)}
    slots, inputs = {}, 3
    for name, number in CONVS.items():
        weight = tensors.get(f"features.{number}.weight")
        outputs = len(weight) if weight is not None and weight.ndim == 4 else VGG_WIDTHS[int(name[4]) - 1]
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
    return unflatten_dict(leaves, sep="/")


def _to_hwio(weight: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(_to_float32(weight).transpose(2, 3, 1, 0))


def _to_float32(weight: np.ndarray) -> np.ndarray:
    return np.array(weight, np.float32)
