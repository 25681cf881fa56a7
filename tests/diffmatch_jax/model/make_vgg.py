"""Writes data/vgg_legacy.pth in the format of torchvision's published file; run once where PyTorch is installed."""

import collections
from pathlib import Path

import torch

NUMBERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)

if __name__ == "__main__":
    tensors = collections.OrderedDict()
    for number in NUMBERS:
        inputs = 3 if number == 0 else 1
        weight = torch.arange(9 * inputs, dtype=torch.float32).reshape(1, inputs, 3, 3) + number
        tensors[f"features.{number}.weight"] = weight
        tensors[f"features.{number}.bias"] = torch.full((1,), -float(number))
    tensors["classifier.0.weight"] = torch.zeros(1, 1)
    path = Path(__file__).parent / "data" / "vgg_legacy.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
