"""The networks by name, and what the published models make of one: time runs backwards, and output fades with it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.errors import bad, choice
from common.method import Variables
from common.networks.adm_unet import ADMUNet
from common.networks.mlp import ResidualMLP
from common.networks.song_unet import SongUNet

NAMES = ("mlp", "song_unet", "adm_unet")


def build(config, *, features: int) -> nn.Module:
    """Returns the network of `config.model`, with `features` channels in its output; raises `InputError`.

    All are called with `x [B, ..., C], time [] or [B], labels, keys`, the last two None where there are none.
    """
    model, size = config.model, config.data.size
    choice("config.model.network", model.network, NAMES)
    _check(model)
    dtype = jnp.bfloat16 if config.compute_dtype == "bfloat16" else None
    if model.network == "mlp":
        return ResidualMLP(
            features,
            width=model.width,
            depth=model.depth,
            embedding=model.time,
            num_frequencies=model.num_frequencies,
            highest=model.highest,
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
    if model.network == "adm_unet":
        return ADMUNet(features, channels_per_head=model.channels_per_head, **shared)
    return SongUNet(
        features, noise_multiplier=model.noise_multiplier, encoder=model.encoder, decoder=model.decoder, **shared
    )


def levels(size: int, count: int, sides: tuple[int, ...]) -> tuple[int, ...]:
    """Returns which of `count` levels, each half as wide as the one before, have images with one of these sides.

    Raises `InputError` for a size that cannot be halved so often, or a side that no level has.
    """
    multiple = 2 ** (count - 1)
    if size % multiple:
        fix = f"use {max(1, round(size / multiple)) * multiple} or fewer multipliers"
        raise bad("config.data.size", expected=f"a multiple of {multiple}", got=size, fix=fix)
    widths = [size >> level for level in range(count)]
    for side in sides:
        if side not in widths:
            listed = ", ".join(map(str, widths))
            raise bad("config.model.attention", expected=f"sides among {listed}", got=side, fix="or use () for none")
    return tuple(level for level, width in enumerate(widths) if width in sides)


def predict(
    network: nn.Module,
    variables: Variables,
    m: jax.Array,
    t: jax.Array,
    labels: jax.Array | None = None,
    *,
    precondition: bool = True,
) -> jax.Array:
    """Returns the force over its normaliser, F(m, t) = (1 - t) net(m, 1 - t), for states m `[B, ..., 2C]`.

    That is how the published networks are trained (Chen et al. 2024); their toy network has `precondition=False`, no
    factor. t is `[]` or `[B]`.
    """
    remaining = 1 - jnp.asarray(t)
    tree = {"params": variables.params, "stats": variables.stats}
    out = network.apply(tree, m, remaining, labels)
    if not precondition:
        return out
    return out * remaining.reshape(remaining.shape + (1,) * (out.ndim - remaining.ndim if remaining.ndim else 0))


def _check(model) -> None:
    for name, value, least in (
        ("channels", model.channels, 1),
        ("num_blocks", model.num_blocks, 1),
        ("num_classes", model.num_classes, 0),
        ("heads", model.heads, 0 if model.network == "adm_unet" else 1),
        ("channels_per_head", model.channels_per_head, 1),
        ("width", model.width, 1),
        ("depth", model.depth, 1),
    ):
        if value < least:
            raise bad(f"config.model.{name}", expected=f"at least {least}", got=value, fix=f"use {least} or more")
    if not 0 <= model.dropout < 1:
        fix = "the paper has 0.13 on CIFAR-10"
        raise bad("config.model.dropout", expected="a probability below 1", got=model.dropout, fix=fix)
