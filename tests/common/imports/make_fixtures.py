"""Writes the checkpoints in `data/` with PyTorch itself, and beside them what PyTorch says they hold.

Run once where PyTorch is installed (it is no dependency of the project): python tests/common/imports/make_fixtures.py
"""

import argparse
import pathlib

import numpy as np
import torch
from torch import nn

DATA = pathlib.Path(__file__).parent / "data"
NUMPY_INTEGER = {1: torch.uint8, 2: torch.uint16}


def save_arrays(name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Writes `name.npz`; a type that NumPy lacks goes as integers of its width under the name "name|type"."""
    arrays = {}
    for key, tensor in tensors.items():
        tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
        if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
            kind = str(tensor.dtype).removeprefix("torch.")
            arrays[f"{key}|{kind}"] = tensor.view(NUMPY_INTEGER[tensor.itemsize]).numpy()
        else:
            arrays[key] = tensor.numpy()
    np.savez_compressed(DATA / f"{name}.npz", **arrays)


def kinds() -> None:
    """Every type and every way of lying in a storage."""
    values = torch.randn(24, dtype=torch.float64) * 10
    types = {
        str(dtype).removeprefix("torch."): values.to(dtype)
        for dtype in (
            *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64),
            *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2),
        )
    }
    types |= {"bool": values > 0, "complex64": torch.complex(values[:5], values[5:10]).to(torch.complex64)}
    types["complex128"] = torch.complex(values[:5], values[5:10])
    base = torch.arange(60.0).reshape(3, 4, 5)
    views = {
        "whole": base,
        "transposed": base.permute(2, 0, 1),
        "sliced": base[1:, ::2, 3:],
        "element": base[2, 1, 4],
        "expanded": torch.tensor([1.5, -2.5]).reshape(2, 1).expand(2, 3),
        "overlapping": torch.arange(6.0).as_strided((4, 3), (1, 1)),
        "empty": torch.empty(0, 3),
        "empty_slice": base[:, 2:2],
        "scalar": torch.tensor(7, dtype=torch.int32),
        "bfloat16_column": torch.arange(12.0).bfloat16().reshape(3, 4)[:, 1],
        "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "conjugate": torch.complex(values[:5], values[5:10]).conj(),
        "negative": torch.complex(values[:5], values[5:10]).conj().imag,
        "parameter": nn.Parameter(torch.randn(2, 3)),
        "buffer": nn.Buffer(torch.ones(2)),
    }
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    torch.save(
        {
            "types": types,
            "views": views,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "list": [torch.ones(1), (torch.zeros(2), "text")],
            "epoch": 3,
            "loss": 0.25,
            "names": {"a", "b"},
            "options": argparse.Namespace(rate=1e-3),
            "size": torch.Size([1, 2]),
            "type": torch.float32,
            "device": torch.device("cpu"),
            "array": np.arange(3),
            "number": np.float64(2.0),
            "random": torch.get_rng_state()[:8],
            "storage": torch.arange(3.0).untyped_storage(),
        },
        DATA / "kinds.pt",
    )
    state = {
        f"optimizer.state.{i}.{k}": v for i, each in optimizer.state_dict()["state"].items() for k, v in each.items()
    }
    save_arrays(
        "kinds",
        {f"types.{name}": tensor for name, tensor in types.items()}
        | {f"views.{name}": tensor for name, tensor in views.items()}
        | {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        | state
        | {"list.0": torch.ones(1), "list.1.0": torch.zeros(2), "random": torch.get_rng_state()[:8]},
    )


class Scripted(nn.Module):
    """A module with a submodule, a buffer and a constant tensor in its code."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 3)
        self.register_buffer("scale", torch.tensor([0.5, 2.0, -1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies it."""
        return self.inner(x) * self.scale + torch.tensor([1.0, 2.0, 4.0])


def other_formats() -> None:
    """One small file of each further format, and of each kind that has to be refused."""
    traced = torch.jit.trace(Scripted().eval(), torch.ones(1, 2))
    torch.jit.save(traced, DATA / "script.pt")
    save_arrays("script", dict(traced.state_dict()) | {"CONSTANTS.c0": torch.tensor([1.0, 2.0, 4.0])})
    tensors = {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(3)}
    torch.save(tensors, DATA / "protocol4.pt", pickle_protocol=4)
    save_arrays("protocol4", tensors)
    torch.save(torch.arange(4.0), DATA / "bare.pt")
    torch.save(tensors, DATA / "legacy.pt", _use_new_zipfile_serialization=False)
    base = torch.arange(24.0).reshape(4, 6)
    views = {"turned": base.T, "part": base[1:3, ::2], "one": torch.ones(2).bfloat16(), "none": torch.zeros(0, 3)}
    torch.save(views, DATA / "legacy_views.pt", _use_new_zipfile_serialization=False)
    torch.save(nn.Linear(2, 1), DATA / "module.pt")
    torch.save({"table": torch.eye(3).to_sparse()}, DATA / "sparse.pt")
    torch.save({"kernel": torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8)}, DATA / "quantised.pt")
    torch.save({"absent": torch.empty(2, device="meta")}, DATA / "meta.pt")
    torch.save({"half": torch.ones(2, dtype=torch.complex32)}, DATA / "complex32.pt")


class Norm(nn.Module):
    """The bias-free normalisation in evaluation mode."""

    def __init__(self, channels: int):
        super().__init__()
        self.gammas = nn.Parameter(torch.randn(1, channels, 1, 1))
        self.register_buffer("running_sd", torch.rand(1, channels, 1, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Divides by the running deviation and multiplies by the gain."""
        return x / self.running_sd * self.gammas


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    """A convolution without bias that keeps height and width."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two units of convolution, normalisation and rectifier."""
    return nn.Sequential(
        *(conv(inputs, outputs), Norm(outputs), nn.ReLU(), conv(outputs, outputs), Norm(outputs), nn.ReLU())
    )


class UNet(nn.Module):
    """The bias-free U-Net under the names of the authors' state dictionaries."""

    def __init__(self, channels: int, kernels: int, blocks: int):
        super().__init__()
        width = [kernels * 2**b for b in range(blocks + 1)]
        first = nn.Sequential(conv(channels, kernels), nn.ReLU(), conv(kernels, kernels), Norm(kernels), nn.ReLU())
        last = nn.Sequential(conv(2 * kernels, kernels), Norm(kernels), nn.ReLU(), conv(kernels, channels))
        self.encoder = nn.ModuleDict({"0": first} | {str(b): double(width[b - 1], width[b]) for b in range(1, blocks)})
        self.mid_block = double(width[-2], width[-1])
        self.decoder = nn.ModuleDict(
            {str(b): double(width[b + 1], width[b]) for b in range(blocks - 1, 0, -1)} | {"0": last}
        )
        self.upsample = nn.ModuleDict(
            {str(b): nn.ConvTranspose2d(width[b + 1], width[b], 2, 2, bias=False) for b in range(blocks - 1, -1, -1)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Estimates the noise."""
        skips = []
        for block in self.encoder.values():
            skips.append(block(x))
            x = nn.functional.avg_pool2d(skips[-1], 2)
        x = self.mid_block(x)
        for name, block in self.decoder.items():
            x = block(torch.cat([self.upsample[name](x), skips.pop()], dim=1))
        return x


class PlainCNN(nn.Module):
    """The bias-free plain network; `sizes` are the widths of its kernels."""

    def __init__(self, channels: int, kernels: int, sizes: list[int], first_layer_linear: bool):
        super().__init__()
        width = [channels, *[kernels] * (len(sizes) - 1), channels]
        self.first_layer_linear = first_layer_linear
        self.conv_layers = nn.ModuleList(
            conv(*pair, size) for *pair, size in zip(width[:-1], width[1:], sizes, strict=True)
        )
        self.BN_layers = nn.ModuleList(Norm(kernels) for _ in sizes[2:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Estimates the noise."""
        x = self.conv_layers[0](x)
        x = x if self.first_layer_linear else x.relu()
        for layer, norm in zip(self.conv_layers[1:-1], self.BN_layers, strict=True):
            x = norm(layer(x)).relu()
        return self.conv_layers[-1](x)


@torch.no_grad()
def denoisers() -> None:
    """Small networks of each kind, as the authors save them, with an input and PyTorch's own output."""
    sizes = [3 if layer % 2 == 0 else 1 for layer in range(21)]
    networks = {
        "unet": UNet(channels=1, kernels=4, blocks=2),
        "bf_cnn": PlainCNN(channels=3, kernels=4, sizes=[3] * 5, first_layer_linear=False),
        "bf_cnn_linear": PlainCNN(channels=1, kernels=3, sizes=[3] * 4, first_layer_linear=True),
        "bf_cnn_rf": PlainCNN(channels=1, kernels=4, sizes=sizes, first_layer_linear=True),
    }
    arrays = {}
    for name, network in networks.items():
        channels = 3 if name == "bf_cnn" else 1
        arrays[f"{name}.input"] = torch.randn(2, channels, 8, 8)
        arrays[f"{name}.output"] = network.eval()(arrays[f"{name}.input"])
        whole = nn.DataParallel(network) if name == "unet" else network
        torch.save(whole.state_dict(), DATA / f"{name}.pt")
    save_arrays("denoisers", arrays)


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    torch.manual_seed(0)
    kinds()
    other_formats()
    denoisers()
