"""The NCSN++ of Karras et al. (2022) in PyTorch, rebuilt here to be timed beside `SongUNet`, whose parameters it takes.

Channels first, `group_norm`, `conv2d` and depthwise filters, as the original has them.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flax.traverse_util import flatten_dict
from torch.nn import functional

from common.networks.unets import SongUNet


def parameters(tree: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Returns the parameters of `SongUNet` in PyTorch's layouts, with gradients, by path."""
    found = {}
    for name, leaf in flatten_dict(tree, sep="/").items():
        array = np.array(leaf, np.float32)
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        found[name] = torch.tensor(np.ascontiguousarray(array), requires_grad=True)
    return found


def apply(network: SongUNet, params: Mapping[str, torch.Tensor], frequencies: Any, x, time) -> torch.Tensor:
    """Returns `network(x [B, C, H, W], time [B])`, without classes, dropout and skips of the output.

    frequencies: those of the embedding of time, or None for a positional one.
    """
    taps = torch.tensor(network.filter, dtype=torch.float32)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    pad, scale = (len(taps) - 1) // 2, math.sqrt(0.5)

    def norm(name, x):
        groups = min(32, x.shape[1] // 4)
        return functional.group_norm(x, groups, params[f"{name}/scale"], params[f"{name}/bias"], 1e-6)

    def conv(name, x, padding=1):
        return functional.conv2d(x, params[f"{name}/kernel"], params[f"{name}/bias"], padding=padding)

    def linear(name, x):
        return functional.linear(x, params[f"{name}/kernel"], params[f"{name}/bias"])

    def resampled(x, how, margin=pad):
        depthwise = kernel.expand(x.shape[1], 1, -1, -1)
        if how == "down":
            return functional.conv2d(x, depthwise, stride=2, padding=margin, groups=x.shape[1])
        return (
            functional.conv_transpose2d(x, 4 * depthwise, stride=2, padding=margin, groups=x.shape[1])
            if how == "up"
            else x
        )

    def attended(name, x):
        batch, channels, height, width = x.shape
        h = conv(f"{name}/qkv", norm(f"{name}/norm", x), 0)
        q, k, v = h.reshape(batch, 3, network.heads, channels // network.heads, -1).unbind(1)
        weights = torch.einsum("bhcq,bhck->bhqk", q, k / math.sqrt(q.shape[2])).softmax(-1)
        return conv(f"{name}/proj", torch.einsum("bhqk,bhck->bhcq", weights, v).reshape(x.shape), 0)

    def block(name, x, how="none"):
        h = conv(f"{name}/conv_0", resampled(functional.silu(norm(f"{name}/norm_0", x)), how))
        h = functional.silu(norm(f"{name}/norm_1", h + linear(f"{name}/affine", embedded)[:, :, None, None]))
        h = conv(f"{name}/conv_1", h)
        x = resampled(x, how)
        x = (h + (conv(f"{name}/skip", x, 0) if f"{name}/skip/kernel" in params else x)) * scale
        return (attended(f"{name}/attention", x) + x) * scale if f"{name}/attention/qkv/kernel" in params else x

    embedded = _waves(time, frequencies, network.channels * network.noise_multiplier)
    for name in ("map_0", "map_1"):
        embedded = functional.silu(linear(name, embedded))
    aux = x
    x = conv("stem", x)
    skips, levels = [x], len(network.multipliers)
    for level in range(levels):
        if level:
            x = block(f"encoder_{level}_down", x, "down")
            if network.encoder == "residual":
                name = f"encoder_{level}_aux"
                aux = functional.conv2d(aux, params[f"{name}/kernel"], padding=1 + pad)
                aux = resampled(aux, "down", 0) + params[f"{name}/bias"][:, None, None]
                x = aux = (x + aux) * scale
            skips.append(x)
        for i in range(network.num_blocks):
            x = block(f"encoder_{level}_{i}", x)
            skips.append(x)
    x = block("middle_1", block("middle_0", x))
    for level in reversed(range(levels)):
        if level < levels - 1:
            x = block(f"decoder_{level}_up", x, "up")
        for i in range(network.num_blocks + 1):
            x = block(f"decoder_{level}_{i}", torch.cat([x, skips.pop()], 1))
    return conv("out_conv", functional.silu(norm("out_norm", x)))


def _waves(time: torch.Tensor, frequencies: Any, features: int) -> torch.Tensor:
    if frequencies is None:
        half = features // 2
        phase = time[:, None] * 10_000.0 ** (-torch.arange(half, dtype=torch.float32) / (half - 1))
    else:
        phase = time[:, None] * (2 * math.pi * frequencies)
    return torch.cat([phase.sin(), phase.cos()], 1)
