"""The authors' released stage-1 and SR models as checkpoints of ours.
The released denoisers of DiffMatch (Nam et al., 2024): their tensors' names and layouts, and ours.

Both stages are U-Nets of improved diffusion (Nichol & Dhariwal, 2021) with numbered blocks, `input_blocks.0.0.weight`
to `out.2.bias`. Convolutions are `[out, in, kh, kw]`, those of the attention `[out, in, 1]`, linear layers `[out, in]`;
the rows of `qkv` are ordered by head, then query, key or value.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from common import config as configs
from common import imports
from common.errors import choice, input_error
from common.imports.archive import shown
from common.method import Variables
from common.networks.unets import ADMUNet

# As both of them were trained and are sampled.
RELEASED = {
    "features.fine": 512,
    "features.contrast": 0.0,
    "features.compat": "released",
    "conditioning.wide": 0,
    "conditioning.score": False,
    "conditioning.fit": 0.0,
    "conditioning.refine": 0,
    "process.steps": 5,
    "process.predict_variance": False,
    "process.noise_correlation": 0.0,
    "objective.kind": "diffusion",
    "objective.scale": 1.0,
    "objective.first_weight": 1.0,
    "sampler.hypotheses": 3,
    "sampler.estimate": "mean",
    "stage2.from_stage1": False,
    "stage2.size": 0,
}


class Imported(NamedTuple):
    """A network and its parameters, NumPy arrays of float32."""

    network: ADMUNet
    params: Any


def import_weights(
    path: str | os.PathLike, *, workdir: str | os.PathLike, config: ConfigDict, dry_run: bool = False
) -> list[str]:
    """Writes the model in the file at `path` into `workdir` as an ordinary run at step 0; returns what it did.

    Both stages have the same tensors, so `config.task` decides; the SR model is stage2, and
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
    count = sum(leaf.size for leaf in jax.tree.leaves(imported.params))
    network = imported.network
    widths = ", ".join(str(network.channels * each) for each in network.multipliers)
    lines = [
        f"{path}: {config.task}, U-Net of {widths} channels, {network.num_blocks} blocks a level, {count:,} parameters",
        f"model.heads={network.heads} are taken from the config, since the file does not contain them",
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
    }
    return configs.from_dict(configs.to_dict(config), config, RELEASED | settings), imported


CONDITIONS = 83  # channels beside the noisy flow: the initial flow, and 81 correlations
_FIRST = "input_blocks.0.0.weight"
_FEATURES = 64  # channels more of the variant that also sees features of the target
_MODULES = {  # within a block; the attention is a separate module in theirs
    "norm_0": "0.in_layers.0",
    "conv_0": "0.in_layers.2",
    "affine": "0.emb_layers.1",
    "norm_1": "0.out_layers.0",
    "conv_1": "0.out_layers.3",
    "skip": "0.skip_connection",
    "attention/norm": "1.norm",
    "attention/qkv": "1.qkv",
    "attention/proj": "1.proj_out",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def convert(tensors: Mapping[str, np.ndarray], *, heads: int = 4, field: str = "weights") -> Imported:
    """Returns the network that the authors' state dictionary belongs to, with its weights.

    Names may have one prefix (`module.`, ...). The tensors do not determine `heads`, of the attention. `field`
    names the origin of the tensors in errors. Raises `InputError` for tensors that are missing, unexpected, of another
    shape, or not finite.
    """
    own = _without_prefix(tensors, field)
    network = infer(own, heads=heads, field=field)
    return Imported(network, params_of(own, network, field=field))


def params_of(tensors: Mapping[str, np.ndarray], network: ADMUNet, *, field: str = "weights") -> dict[str, Any]:
    """Returns the authors' tensors as parameters of a network; raises `InputError` for any that does not fit."""
    slots = {}
    for path, leaf in _shapes(network, tensors[_FIRST].shape[1]).items():
        theirs, axes, rows = _layout(path, leaf.shape, network)
        slots[path] = imports.Slot(_source(path, network), theirs, lambda x, a=axes, r=rows: _ours(x, a, r))
    leaves = imports.assign(tensors, slots, field=field)
    for path, leaf in leaves.items():
        if leaf.dtype != np.float32 or not np.isfinite(leaf).all():
            name = f"{field}, tensor {shown(slots[path].source)}"
            raise input_error(
                name, expected="finite floating-point numbers", got="others", fix="use another checkpoint"
            )
    return traverse_util.unflatten_dict(leaves, sep="/")


def export(network: ADMUNet, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns parameters under the authors' names and in their layouts, the inverse of `params_of`."""
    tensors = {}
    leaves: Any = traverse_util.flatten_dict(params, sep="/")
    for path, leaf in leaves.items():
        theirs, axes, rows = _layout(path, leaf.shape, network)
        out = np.asarray(leaf).transpose(np.argsort(axes)).reshape(theirs)
        tensors[_source(path, network)] = np.ascontiguousarray(out[np.argsort(rows)])
    return tensors


def infer(own: Mapping[str, np.ndarray], *, heads: int = 4, field: str = "weights") -> ADMUNet:
    """Returns the network that names and shapes imply; tensors that do not fit are reported later, by name."""
    stem, channels = _shape(own, _FIRST, 4, field), _shape(own, "time_embed.0.weight", 2, field)[1]
    outputs = _shape(own, "out.2.weight", 4, field)[0]
    if stem[1] != outputs + CONDITIONS:
        sees = stem[1] == outputs + CONDITIONS + _FEATURES
        variant = " (the variant that sees features of the target)" if sees else ""
        expected = f"a first layer with {outputs + CONDITIONS} inputs"
        raise input_error(
            field, expected=expected, got=f"{stem[1]}{variant}", fix="use the released stage-1 or SR model"
        )
    numbers = [int(match[1]) for name in own if (match := re.match(r"input_blocks\.(\d{1,4})\.0\.", name))]
    count = 1 + max(numbers)
    downs = sorted(int(m[1]) for name in own if (m := re.fullmatch(r"input_blocks\.(\d{1,4})\.0\.op\.weight", name)))
    levels = len(downs) + 1
    blocks = (downs[0] if downs else count) - 1
    regular = [level * (blocks + 1) for level in range(1, levels)]
    if blocks < 1 or downs != regular or count != levels * (blocks + 1):
        fix = "use a model as the authors release it"
        raise input_error(
            field, expected="as many blocks in every level", got=f"{count} with stride 2 at {downs}", fix=fix
        )
    firsts = [1 + level * (blocks + 1) for level in range(levels)]
    widths = [_shape(own, f"input_blocks.{first}.0.in_layers.2.weight", 4, field)[0] for first in firsts]
    return ADMUNet(
        outputs,
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        num_blocks=blocks,
        attention=tuple(i for i, first in enumerate(firsts) if f"input_blocks.{first}.1.qkv.weight" in own),
        heads=heads,
        resampling="convolution",
        min_group=1,
    )


def _without_prefix(tensors: Mapping[str, np.ndarray], field: str) -> dict[str, np.ndarray]:
    found = [name.removesuffix(_FIRST) for name in tensors if name == _FIRST or name.endswith(f".{_FIRST}")]
    if len(found) != 1:
        got = f"{len(tensors)} tensors, {len(found)} of that name"
        raise input_error(field, expected=f"a U-Net with {_FIRST}", got=got, fix="use the released stage-1 or SR model")
    (prefix,) = found
    other = [name for name in tensors if not name.startswith(prefix)]
    if other:
        fix = "use a model as the authors release it"
        raise input_error(field, expected=f"names that begin with {shown(prefix)}", got=shown(other[0]), fix=fix)
    return {name.removeprefix(prefix): each for name, each in tensors.items()}


def _shapes(network: ADMUNet, inputs: int) -> dict[str, Any]:
    side = 2 ** (len(network.multipliers) - 1)
    x = jax.ShapeDtypeStruct((1, side, side, inputs), jnp.float32)
    made = jax.eval_shape(network.init, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), jnp.float32))
    return traverse_util.flatten_dict(made["params"], sep="/")


def _shape(own, name: str, dimensions: int, field: str) -> tuple[int, ...]:
    shape = own[name].shape if name in own else None
    if shape is None or len(shape) != dimensions or 0 in shape:
        got = "no such tensor" if shape is None else list(shape)
        fix = "use a model as the authors release it"
        raise input_error(f"{field}, tensor {name}", expected=f"{dimensions} dimensions", got=got, fix=fix)
    return shape


def _source(path: str, network: ADMUNet) -> str:
    """Returns the authors' name of our leaf."""
    *modules, leaf = path.split("/")
    module, inner = modules[0], "/".join(modules[1:])
    family, *place = module.split("_")
    blocks, levels = network.num_blocks, len(network.multipliers)
    match family, place:
        case "map", [number]:
            outer = f"time_embed.{2 * int(number)}"
        case "stem", []:
            outer = "input_blocks.0.0"
        case "encoder", [level, "down"]:
            outer = f"input_blocks.{int(level) * (blocks + 1)}.0.op"
        case "encoder", [level, i]:
            outer = f"input_blocks.{1 + int(level) * (blocks + 1) + int(i)}"
        case "middle", ["0"] if inner.startswith("attention"):
            # Their attention is the middle's second module, ours is part of the first.
            return f"middle_block.{_MODULES[inner]}.{_LEAVES[leaf]}"
        case "middle", [number]:
            return f"middle_block.{2 * int(number)}.{_MODULES[inner].removeprefix('0.')}.{_LEAVES[leaf]}"
        case "decoder", [level, "up"]:
            # The last module of the level below: third where that attends, else second.
            below = int(level) + 1
            number = (levels - 1 - below) * (blocks + 1) + blocks
            outer = f"output_blocks.{number}.{2 if below in network.attention else 1}.conv"
        case "decoder", [level, i]:
            outer = f"output_blocks.{(levels - 1 - int(level)) * (blocks + 1) + int(i)}"
        case "out", [kind]:
            outer = {"norm": "out.0", "conv": "out.2"}[kind]
    return ".".join(part for part in (outer, _MODULES[inner] if inner else "", _LEAVES[leaf]) if part)


def _layout(path: str, shape: tuple[int, ...], network: ADMUNet) -> tuple[tuple[int, ...], tuple[int, ...], np.ndarray]:
    """Returns a leaf's shape in the authors' layout, the axes from theirs to ours, and the order of their rows."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[len(shape)]
    theirs = tuple(shape[axis] for axis in np.argsort(axes))
    rows = np.arange(theirs[0])
    if "/qkv/" in path:
        # Ours have query, key or value first, then head, then channel.
        rows = rows.reshape(network.heads, 3, -1).swapaxes(0, 1).reshape(-1)
    if "/attention/" in path and len(theirs) == 4:
        theirs = theirs[:3]
    return theirs, axes, rows


def _ours(array: np.ndarray, axes: tuple[int, ...], rows: np.ndarray) -> np.ndarray:
    whole = array[rows].astype(np.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array[rows]
    whole = whole[..., None] if len(axes) == 4 and whole.ndim == 3 else whole
    return np.ascontiguousarray(whole.transpose(axes))
