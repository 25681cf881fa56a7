"""Weights from files of other frameworks, without those frameworks and without running anything in the files.

tensors = load("model.pt")  # {"conv.weight": float32 [O, I, H, W], ...}
slots = {"conv/kernel": Slot("conv.weight", (8, 1, 3, 3), lambda weight: weight.transpose(2, 3, 1, 0))}
leaves = assign(tensors, slots, field="model.pt")  # {"conv/kernel": float32 [H, W, I, O]}
params = flax.traverse_util.unflatten_dict(leaves, sep="/")
"""

import os

import numpy as np

from common.imports import archive
from common.imports.matching import Slot, assign
from common.imports.safetensors_files import load_safetensors
from common.imports.torch_files import load_torch

__all__ = ["Slot", "assign", "load", "load_safetensors", "load_torch"]


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the tensors of a PyTorch or safetensors file; the content decides, and the ending where it is damaged."""
    path = archive.existing_file(path)
    start = archive.first_bytes(path, 9)
    if path.suffix == ".safetensors" or (start[8:9] == b"{" and not start.startswith(b"PK")):
        return load_safetensors(path)
    return load_torch(path)
