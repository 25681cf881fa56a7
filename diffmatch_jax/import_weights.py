"""The authors' released stage-1 and SR models as checkpoints of ours."""

import os
from pathlib import Path

from flax import traverse_util
from ml_collections import ConfigDict

from common import config as configs
from common import imports
from common.errors import choice, input_error
from common.method import Variables
from diffmatch_jax.authors import Imported, convert

# As both of them were trained and are sampled.
RELEASED = {
    "features.fine": 512,
    "features.coarse": 256,
    "features.compat": "released",
    "conditions.radius": 4,
    "conditions.wide": 0,
    "conditions.score": False,
    "conditions.soft": 0.0,
    "conditions.median": 0,
    "conditions.fit": 0.0,
    "conditions.refine": 0,
    "conditions.gain": 0.0,
    "process.schedule": "cosine",
    "process.steps": 5,
    "process.keep": "",
    "variable.scale": 1.0,
    "variable.residual": False,
    "variable.shrunk": False,
    "variable.skip": False,
    "variable.learned_scale": False,
    "variable.coherence": 0.0,
    "objective.kind": "diffusion",
    "objective.penalty": "squared",
    "objective.scale": 1.0,
    "objective.first_share": 0.0,
    "objective.first_weight": 1.0,
    "objective.pooled": True,
    "objective.likelihood": 0.0,
    "sampler.hypotheses": 3,
    "sampler.rounds": 1,
    "sampler.rule": "ddim",
    "sampler.estimate": "mean",
    "sampler.eta": 0.0,
    "stage2.from_stage1": False,
    "stage2.size": 0,
}


def import_weights(
    path: str | os.PathLike, *, workdir: str | os.PathLike, config: ConfigDict, dry_run: bool = False
) -> list[str]:
    """Writes the model in the file at `path` into `workdir` as an ordinary run at step 0; returns what it did.

    Both stages have the same tensors, so `config.task` says which it is; the SR model is stage2, and
    `config.stage2.stage1` the directory into which stage 1 was imported before. The features are ImageNet's, so
    `config.features.pyramid` names a local file of VGG-16. The file decides `config.model` but for its heads. Raises
    `InputError`; then nothing was written.
    """
    choice("config.task", config.task, ("stage1", "stage2"))
    if config.task == "stage1" and not config.features.pyramid.startswith("vgg16:"):
        got, fix = f'"{config.features.pyramid}"', "add --config.features.pyramid=vgg16:vgg16-397923af.pth"
        raise input_error("config.features.pyramid", expected='"vgg16:FILE"', got=got, fix=fix)
    if config.task == "stage2" and not config.stage2.stage1:
        fix = "import stage 1 first, and add --config.stage2.stage1=DIR"
        raise input_error("config.stage2.stage1", expected="the imported stage 1", got='""', fix=fix)
    config, imported = build(config, imports.load(path), field=str(path))
    from diffmatch_jax import method  # it imports the data sources, which `convert` does not need

    config = method.complete(config, Path(workdir))
    method.build(config)
    count = sum(leaf.size for leaf in traverse_util.flatten_dict(imported.params, sep="/").values())
    network = imported.network
    widths = ", ".join(str(network.channels * each) for each in network.multipliers)
    lines = [
        f"{path}: {config.task}, U-Net of {widths} channels, {network.num_blocks} blocks a level, {count:,} parameters",
        f"model.heads={network.heads} are taken from the config, since the file does not tell them",
    ]
    if not dry_run:
        from common.checkpoint import write_imported  # Orbax takes seconds to import

        stats = {name: each for name, each in method.build_frozen(config)._asdict().items() if each is not None}
        write_imported(workdir, config, Variables(imported.params, stats), file=path)
        lines.append(f"written: {workdir} (checkpoint of step 0)")
    return lines


def build(config: ConfigDict, tensors, *, field: str) -> tuple[ConfigDict, Imported]:
    """Returns `config` with the model that the tensors belong to and the released settings, and that model."""
    imported = convert(tensors, heads=config.model.heads, field=field)
    network = imported.network
    settings = {
        "model.channels": network.channels,
        "model.multipliers": network.multipliers,
        "model.num_blocks": network.num_blocks,
        "model.attention": network.attention,
        "model.min_group": network.min_group,
        "model.dropout": 0.0,
    }
    return configs.from_dict(configs.to_dict(config), config, RELEASED | settings), imported
