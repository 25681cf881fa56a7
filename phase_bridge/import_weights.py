"""The authors' released models as checkpoints of ours."""

import os
from collections.abc import Mapping

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from common import config as configs
from common import imports
from common.errors import input_error
from common.networks.unets import SongUNet
from phase_bridge.authors import Imported, convert
from phase_bridge.mlp import ResidualMLP


def import_weights(
    path: str | os.PathLike, *, workdir: str | os.PathLike, config: ConfigDict, dry_run: bool = False
) -> list[str]:
    """Writes the model in the file at `path` into `workdir` as an ordinary run at step 0; returns what it did.

    The file decides `config.model`, `config.data.size` and `config.data.channels`; heads and dropout are taken from
    `config`, since the file does not tell them, and so is the data. Without data of its own kind in `config`, a model
    of images gets the photographs that come with the package. The average, which samples are drawn with, becomes the
    run's. Raises `InputError`; then nothing was written.
    """
    given = config.data.source
    config, imported = build(config, imports.load(path), field=str(path))
    count = sum(leaf.size for leaf in traverse_util.flatten_dict(imported.variables.params, sep="/").values())
    from phase_bridge import method  # it imports the data sources, which `convert` does not need

    method.build(config)
    lines = [f"{path}: {_described(imported)}, {count:,} parameters"]
    if imported.average is None:
        lines.append("no running average of the parameters in the file: its parameters themselves are used")
    else:
        lines.append("samples use the running average of the parameters; --no-ema the parameters themselves")
    if isinstance(imported.network, ResidualMLP):
        lines.append(
            f"objective.kind={config.objective.kind} is taken from the config, since the file does not tell it"
        )
    if config.data.source != given:
        lines.append(f"data.source={config.data.source} in place of {given}; --config FILE names the model's own")
    if not dry_run:
        from common.checkpoint import write_imported  # Orbax takes seconds to import

        average = () if imported.average is None else imported.average
        write_imported(workdir, config, imported.variables, file=path, ema=average)
        lines.append(f"written: {workdir} (checkpoint of step 0)")
    return lines


def build(config: ConfigDict, tensors: Mapping[str, np.ndarray], *, field: str) -> tuple[ConfigDict, Imported]:
    """Returns `config` with the model that the tensors belong to, and that model."""
    model = config.model
    heads = model.heads or 1
    imported = convert(tensors, heads=heads, channels_per_head=model.channels_per_head, field=field)
    network = imported.network
    if isinstance(network, ResidualMLP):
        settings = {"network": "mlp", "width": network.width, "depth": network.depth, "time": "log"}
        others = {"objective.output": ""}
    else:
        song = isinstance(network, SongUNet)
        settings = {
            "network": "song_unet" if song else "adm_unet",
            "channels": network.channels,
            "multipliers": network.multipliers,
            "num_blocks": network.num_blocks,
            "attention": tuple(imported.size >> level for level in network.attention),
            "heads": network.heads,
            "channels_per_head": network.channels_per_head if not song else model.channels_per_head,
            "embedding": network.embedding,
            "num_classes": network.num_classes,
            "filter": tuple(float(tap) for tap in network.filter),
        }
        if song:
            settings |= {
                "noise_multiplier": network.noise_multiplier,
                "encoder": network.encoder,
                "decoder": network.decoder,
            }
        if network.embedding_multiplier != 4:
            got = f"{network.embedding_multiplier} times"
            fix = "use it from Python by phase_bridge.authors.convert"
            raise input_error(field, expected="an embedding 4 times as wide as the first level", got=got, fix=fix)
        others = {"objective.output": "preconditioned", "objective.kind": "ode", "data.size": imported.size}
        others |= {"data.channels": network.out_channels, "data.labels": network.num_classes > 0}
        if config.data.source.startswith("toy:"):
            others |= {"data.source": "photographs", "data.fit": "crop"}
    # As all of them were trained.
    others |= {"objective.name": "force", "objective.process": "bridge", "objective.weight": "", "objective.noise": ""}
    settings = {f"model.{name}": value for name, value in settings.items()} | others
    return configs.from_dict(configs.to_dict(config), config, settings), imported


def _described(imported: Imported) -> str:
    network = imported.network
    if isinstance(network, ResidualMLP):
        return f"residual perceptron of {network.depth} layers of {network.width}"
    kind = "SongUNet" if isinstance(network, SongUNet) else "ADM U-Net"
    levels = "-".join(str(network.channels * each) for each in network.multipliers)
    classes = f", {network.num_classes} classes" if network.num_classes else ""
    return f"{kind} for {imported.size}x{imported.size} pixels, {levels} channels{classes}"
