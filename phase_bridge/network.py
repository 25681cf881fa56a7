"""The networks by name, from the section `model` of a config."""

import flax.linen as nn
import jax.numpy as jnp

from common.errors import at_least, choice, input_error, within
from common.networks import layers
from common.networks.layers import KINDS
from common.networks.unets import ENCODERS, ADMUNet, Patched, SongUNet
from phase_bridge.mlp import EMBEDDINGS, ResidualMLP

NAMES = ("mlp", "song_unet", "adm_unet")


def build(config, *, features: int) -> nn.Module:
    """Returns the network of `config.model`, with `features` channels in its output; raises `InputError`.

    All are called with `x [B, ..., C], time [] or [B], labels, keys`, the last two None where there are none.
    """
    model = config.model
    choice("config.model.network", model.network, NAMES)
    size = _cells(config)
    _check(model, size)
    dtype = jnp.bfloat16 if config.compute_dtype == "bfloat16" else None
    if model.network == "mlp":
        return ResidualMLP(
            features,
            width=model.width,
            depth=model.depth,
            embedding=model.time,
            num_frequencies=model.num_frequencies,
            highest=model.highest,
            num_classes=model.num_classes,
            dtype=dtype,
        )
    shared = {
        "channels": model.channels,
        "multipliers": tuple(model.multipliers),
        "num_blocks": model.num_blocks,
        "attention": levels(size, len(model.multipliers), model.attention),
        "heads": model.heads,
        "embedding": model.embedding,
        "num_classes": model.num_classes,
        "filter": tuple(float(tap) for tap in model.filter),
        "dropout": model.dropout,
        "dtype": dtype,
        "fused_attention": model.fused_attention,
        "remat": config.train.remat,
    }
    made = features * model.patch**2
    if model.network == "adm_unet":
        network = ADMUNet(made, channels_per_head=model.channels_per_head, **shared)
    else:
        own = {name: model[name] for name in ("noise_multiplier", "encoder", "decoder")}
        network = SongUNet(made, **own, **shared)
    return network if model.patch == 1 else Patched(network, model.patch)


def levels(size: int, count: int, sides: tuple[int, ...]) -> tuple[int, ...]:
    """Returns which of `count` levels, each half as wide as the one before, have images with one of these sides.

    Raises `InputError` for a size that cannot be halved so often, or a side that no level has.
    """
    multiple = 2 ** (count - 1)
    if size % multiple:
        fix = f"use {max(1, round(size / multiple)) * multiple} or fewer multipliers"
        raise input_error("config.data.size", expected=f"a multiple of {multiple}", got=size, fix=fix)
    widths = [size >> level for level in range(count)]
    for side in sides:
        if side not in widths:
            listed = ", ".join(map(str, widths))
            raise input_error(
                "config.model.attention", expected=f"sides among {listed}", got=side, fix="or use () for none"
            )
    return tuple(level for level, width in enumerate(widths) if width in sides)


def _cells(config) -> int:
    """Returns the side of the images that a U-Net computes on: pixels, or cells of `config.model.patch` pixels."""
    patch, size = config.model.patch, config.data.size
    within("config.model.patch", patch, 1, 16)
    if config.model.network != "mlp" and size % patch:
        fix = "use 1, 2 or another divisor"
        raise input_error("config.model.patch", expected=f"a divisor of config.data.size={size}", got=patch, fix=fix)
    return size // patch


def _check(model, size: int) -> None:
    least = {"channels": 1, "num_blocks": 1, "num_classes": 0, "channels_per_head": 1, "width": 1, "depth": 1}
    least["heads"] = 0 if model.network == "adm_unet" else 1
    at_least({f"config.model.{name}": (model[name], value) for name, value in least.items()})
    for name, value in least.items():
        most = 1000 if name in ("num_blocks", "depth") else 2**16
        within(f"config.model.{name}", model[name], value, most)
    if not 0 <= model.dropout < 1:
        fix = "the paper has 0.13 on CIFAR-10"
        raise input_error("config.model.dropout", expected="a probability below 1", got=model.dropout, fix=fix)
    if model.network == "mlp":
        choice("config.model.time", model.time, EMBEDDINGS)
        return
    choice("config.model.embedding", model.embedding, KINDS)
    choice("config.model.encoder", model.encoder, ENCODERS)
    choice("config.model.decoder", model.decoder, ENCODERS)
    layers.filter_margin(tuple(model.filter), "config.model.filter")
    if not model.multipliers or min(model.multipliers) < 1:
        got = tuple(model.multipliers)
        fix = "the paper has (2, 2, 2) on CIFAR-10"
        raise input_error("config.model.multipliers", expected="numbers from 1 on", got=got, fix=fix)
    last = len(model.multipliers) - 1  # which attends in the middle anyway
    for level in {*levels(size, last + 1, model.attention), last}:
        width = model.channels * model.multipliers[level]
        divisor, name = (model.heads, "heads") if model.heads else (model.channels_per_head, "channels_per_head")
        if width % divisor:
            fix = "change it or channels"
            raise input_error(f"config.model.{name}", expected=f"a divisor of {width} channels", got=divisor, fix=fix)
