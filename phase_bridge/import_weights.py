"""The models that the authors released (Chen et al., 2024) as checkpoints of ours: their tensors' names and layouts.

Their checkpoint is a dictionary: `net`, the state dictionary of a wrapper whose one child is `net`, hence names such as
`net.net.map_layer0.weight`; `ema`, with `shadow_params`, the averages of the parameters in the order in which `net` has
them, buffers left out; and the optimizer's state. Convolutions are `[out, in, kh, kw]`, linear layers `[out, in]`; the
rows of `qkv` are ordered by head, channel of the head, and query, key or value.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from common import config as configs
from common import imports
from common.errors import input_error
from common.imports.archive import shown
from common.method import Variables
from common.networks.unets import ADMUNet, SongUNet
from phase_bridge.mlp import ResidualMLP

_FIRST = re.compile(r"(.*\.)?(map_layer0|layers\.0)\.weight")
_AVERAGE = re.compile(r"(.*\.)?shadow_params\.(\d+)")
_BUFFER = re.compile(r"map_noise\.freqs|.*\.resample_filter")
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "frequencies": "freqs"}
_MODULES = {  # within a block
    "norm_0": "norm0",
    "conv_0": "conv0",
    "affine": "affine",
    "norm_1": "norm1",
    "conv_1": "conv1",
    "skip": "skip",
    "attention/norm": "norm2",
    "attention/qkv": "qkv",
    "attention/proj": "proj",
}


class Imported(NamedTuple):
    """A network, its own variables, the running average of its parameters (None if there is none), and its image side.

    Leaves are NumPy arrays of float32; `size` is None for a network of points.
    """

    network: nn.Module
    variables: Variables
    average: Any
    size: int | None


class _Names(NamedTuple):
    """The substitutions that turn our names into the authors'."""

    sides: tuple[int, ...]  # of the images, by level; () for a network of points
    aux: str  # what an encoder's second input is called
    own_output: bool  # the last layers have names of their own, not those of the decoder's first level


def convert(
    tensors: Mapping[str, np.ndarray], *, heads: int = 1, channels_per_head: int = 64, field: str = "weights"
) -> Imported:
    """Returns the network that the authors' `tensors` belong to, with its weights and their average.

    The tensors are those of a checkpoint, or of one state dictionary (with or without a prefix); everything beside
    network and average is left alone. They do not determine the attention's heads: `heads` of a SongUNet (the
    paper's 1), and the width of one in an ADM network (its 64). `field` names the origin of the tensors in errors.

    Raises `InputError` for tensors of another network, or missing, unexpected, misshapen or non-finite ones.
    """
    prefix = _prefix(tensors, field)
    own = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
    average = _average(tensors, own, field)
    network, names = _infer(own, heads, channels_per_head, field)
    variables = _variables(own, network, names, field)
    averaged = None
    if average is not None:
        averaged = _variables(average, network, names, f"{field}, running average").params
    return Imported(network, variables, averaged, names.sides[0] if names.sides else None)


def export(network: nn.Module, variables: Variables, *, size: int = 0) -> dict[str, np.ndarray]:
    """Returns the variables under the authors' names and in their layouts, for images of `size`; undoes `convert`.

    The filters, which their state dictionaries hold beside the weights, are left out.
    """
    leaves = traverse_util.flatten_dict({"params": variables.params, "stats": variables.stats}, sep="/")
    names = _names(network, size)
    leaves = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    return {_source(path, names): _layout(path, leaf.shape, network).to_theirs(leaf) for path, leaf in leaves.items()}


def _prefix(tensors: Mapping[str, np.ndarray], field: str) -> str:
    """Returns what the names of the one network among the tensors begin with."""
    prefixes = [match[1] or "" for match in map(_FIRST.fullmatch, tensors) if match]
    if len(prefixes) == 1:
        return prefixes[0]
    got = f"{len(prefixes)} networks, under {', '.join(shown(each or '(no prefix)') for each in prefixes)}"
    if not prefixes:
        got = f"tensors such as {', '.join(shown(each) for each in list(tensors)[:3])}" if tensors else "no tensors"
    raise input_error(
        field,
        expected="one U-Net (map_layer0.weight, ...) or residual perceptron (layers.0.weight, ...)",
        got=got,
        fix="save the checkpoint of one model alone",
    )


def _average(tensors: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray], field: str):
    """Returns the averaged parameters under their names, with the network's buffers; None if the file has none."""
    found = {int(match[2]): name for name in tensors if (match := _AVERAGE.fullmatch(name))}
    if not found:
        return None
    trained = [name for name in own if not _BUFFER.fullmatch(name)]
    if sorted(found) != list(range(len(trained))):
        raise input_error(
            f"{field}, running average",
            expected=f"{len(trained)} tensors, one for each parameter",
            got=f"{len(found)} numbered up to {max(found)}",
            fix="use a complete checkpoint",
        )
    averaged = {name: tensors[found[i]] for i, name in enumerate(trained)}
    for name, each in averaged.items():
        if each.shape != own[name].shape:
            raise input_error(
                f"{field}, running average of {shown(name)}",
                expected=list(own[name].shape),
                got=list(each.shape),
                fix="use a checkpoint as the authors write it, parameters in the order of the network's",
            )
    return dict(own) | averaged


def _infer(own, heads: int, channels_per_head: int, field: str) -> tuple[nn.Module, _Names]:
    """Returns the network that names and shapes imply; tensors that do not fit are reported later, by name."""
    if "layers.0.weight" in own:
        return _infer_mlp(own, field), _Names((), "", False)
    sides = sorted({int(match[1]) for name in own if (match := re.match(r"enc\.(\d{1,5})x\1_", name))}, reverse=True)
    if not sides or sides != [sides[0] >> level for level in range(len(sides))]:
        fix = "use a model as the authors release it"
        raise input_error(field, expected="an encoder at sides that halve", got=sides, fix=fix)
    side = sides[0]
    stem = _shape(own, f"enc.{side}x{side}_conv.weight", 4, field)
    width, features = _shape(own, "map_layer0.weight", 2, field)
    num_blocks = _count(own, rf"enc\.{side}x{side}_block(\d{{1,3}})\.conv0\.weight")
    wide = [_shape(own, f"enc.{each}x{each}_block0.conv0.weight", 4, field)[0] for each in sides]
    adm = "out_conv.weight" in own
    channels = features if adm else stem[0]
    shared = {
        "channels": channels,
        "multipliers": tuple(each // channels for each in wide),
        "num_blocks": num_blocks,
        "attention": tuple(level for level, each in enumerate(sides) if f"enc.{each}x{each}_block0.qkv.weight" in own),
        "embedding": "fourier" if "map_noise.freqs" in own else "positional",
        "embedding_multiplier": width // channels,
        "num_classes": _shape(own, "map_label.weight", 2, field)[1] if "map_label.weight" in own else 0,
        "filter": _filter(own, field) or ((1, 1) if adm else (1, 3, 3, 1)),
    }
    if adm:
        outputs = _shape(own, "out_conv.weight", 4, field)[0]
        network = ADMUNet(outputs, heads=0, channels_per_head=channels_per_head, **shared)
    else:
        outputs = _shape(own, f"dec.{side}x{side}_aux_conv.weight", 4, field)[0]
        encoders = {"residual": "aux_residual", "skip": "aux_skip"}
        encoder = (kind for kind, name in encoders.items() if any(f"_{name}." in each for each in own))
        last = f"dec.{sides[-1]}x{sides[-1]}_aux_conv.weight"
        decoder = "skip" if len(sides) > 1 and last in own else "standard"
        network = SongUNet(
            outputs,
            heads=heads,
            noise_multiplier=features // channels,
            encoder=next(encoder, "standard"),
            decoder=decoder,
            **shared,
        )
    return network, _names(network, side)


def _infer_mlp(own, field: str) -> ResidualMLP:
    depth = _count(own, r"layers\.(\d{1,3})\.weight") - 2
    width = _shape(own, "layers.0.weight", 2, field)[0]
    return ResidualMLP(_shape(own, f"layers.{depth + 1}.weight", 2, field)[0], width=width, depth=depth)


def _names(network: nn.Module, size: int) -> _Names:
    if isinstance(network, ResidualMLP):
        return _Names((), "", False)
    sides = tuple(size >> level for level in range(len(network.multipliers)))
    adm = isinstance(network, ADMUNet)
    return _Names(sides, "aux_skip" if not adm and network.encoder == "skip" else "aux_residual", adm)


def _shape(own, name: str, dimensions: int, field: str) -> tuple[int, ...]:
    shape = own[name].shape if name in own else None
    if shape is None or len(shape) != dimensions or 0 in shape:
        got = "no such tensor" if shape is None else list(shape)
        fix = "use a model as the authors release it"
        raise input_error(f"{field}, tensor {name}", expected=f"{dimensions} dimensions", got=got, fix=fix)
    return shape


def _count(own, pattern: str) -> int:
    """Returns one more than the largest number that the pattern finds in a name."""
    return 1 + max((int(match[1]) for name in own if (match := re.fullmatch(pattern, name))), default=0)


def _filter(own, field: str) -> tuple[float, ...] | None:
    """Returns the taps of the one filter among the buffers, as multiples of the smallest."""
    filters = {name: each for name, each in own.items() if name.endswith(".resample_filter")}
    if not filters:
        return None
    name, first = next(iter(filters.items()))
    taps = first.reshape(first.shape[-2:]).sum(0) if first.ndim == 4 else np.zeros(1)
    same = all(each.shape == first.shape and np.array_equal(each, first) for each in filters.values())
    outer = same and taps.sum() > 0 and taps.min() > 0
    if outer:
        taps = taps / taps.sum()
        outer = first.shape == (1, 1, len(taps), len(taps)) and np.allclose(first[0, 0], np.outer(taps, taps))
    if not outer or len(taps) % 2:
        fix = "use a model as the authors release it"
        expected = "one separable filter of sum 1 and even length in all layers"
        raise input_error(f"{field}, tensor {shown(name)}", expected=expected, got=list(first.shape), fix=fix)
    return tuple(round(float(tap), 4) for tap in taps / taps.min())


def _variables(own, network: nn.Module, names: _Names, field: str) -> Variables:
    """Returns the tensors as variables of the network; raises `InputError` for any that does not fit."""
    x: tuple[int, ...] = (1, names.sides[0], names.sides[0]) if names.sides else (1,)
    first = f"enc.{names.sides[0]}x{names.sides[0]}_conv.weight" if names.sides else "layers.0.weight"
    x = (*x, own[first].shape[1] - (not names.sides))
    inputs = [jax.ShapeDtypeStruct(x, jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)]
    if getattr(network, "num_classes", 0):
        inputs.append(jax.ShapeDtypeStruct((1,), jnp.int32))
    shapes: Any = traverse_util.flatten_dict(dict(jax.eval_shape(network.init, jax.random.key(0), *inputs)), sep="/")
    slots = {}
    for path, leaf in shapes.items():
        layout = _layout(path, leaf.shape, network)
        slots[path] = imports.Slot(_source(path, names), layout.shape, layout.to_ours)
    weights = {name: each for name, each in own.items() if not name.endswith(".resample_filter")}
    leaves = imports.assign(weights, slots, field=field)
    for path, leaf in leaves.items():
        leaves[path] = _numbers(leaf, f"{field}, tensor {slots[path].source}")
    tree = traverse_util.unflatten_dict(leaves, sep="/")
    return Variables(tree["params"], tree.get("stats", {}))


def _numbers(array: np.ndarray, field: str) -> np.ndarray:
    """Returns the leaf as a float32 copy; raises `InputError` for what is no weight."""
    if jnp.issubdtype(array.dtype, jnp.floating):
        leaf = np.array(array, np.float32, order="C")
        if np.isfinite(leaf).all():
            return leaf
    got = f"{array.dtype} from {array.min()} to {array.max()}"
    raise input_error(field, expected="finite floating-point numbers", got=got, fix="use another checkpoint")


def _source(path: str, names: _Names) -> str:
    """Returns the authors' name of our leaf."""
    _, *modules, leaf = path.split("/")
    module, inner = modules[0], "/".join(modules[1:])
    family, *place = module.split("_")
    at = [f"{side}x{side}" for side in names.sides]
    match family, place:
        case "layer", [number]:
            outer = f"layers.{number}"
        case "map", ["0" | "1" as number]:
            outer = f"map_layer{number}"
        case "stem", []:
            outer = f"enc.{at[0]}_conv"
        case "encoder", [level, kind]:
            theirs = {"down": "down", "aux": names.aux}
            outer = f"enc.{at[int(level)]}_{theirs.get(kind, f'block{kind}')}"
        case "middle", [number]:
            outer = f"dec.{at[-1]}_in{number}"
        case "decoder", [level, kind]:
            outer = f"dec.{at[int(level)]}_{'up' if kind == 'up' else f'block{kind}'}"
        case "out", [kind, *level] if not names.own_output:
            outer = f"dec.{at[int(level[0]) if level else 0]}_aux_{kind}"
        case _:
            outer = module
    return ".".join(part for part in (outer, _MODULES[inner] if inner else "", _LEAVES[leaf]) if part)


class _Layout(NamedTuple):
    """A tensor's shape in the authors' layout, and the changes of layout from theirs and to theirs."""

    shape: tuple[int, ...]
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


def _layout(path: str, shape: tuple[int, ...], network: nn.Module) -> _Layout:
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(shape)]  # outputs first
    back = tuple(np.argsort(axes))
    theirs = tuple(shape[axis] for axis in axes)
    rows = np.arange(theirs[0])
    if "/qkv/" in path:
        channels = theirs[0] // 3
        heads = network.heads or channels // network.channels_per_head
        # Row number of theirs for each of ours, which has query, key or value first, then head, then channel.
        rows = rows.reshape(heads, channels // heads, 3).transpose(2, 0, 1).reshape(-1)
    return _Layout(
        theirs,
        lambda array: array[rows].transpose(back),
        lambda array: np.ascontiguousarray(array.transpose(axes)[np.argsort(rows)]),
    )


def import_weights(
    path: str | os.PathLike, *, workdir: str | os.PathLike, config: ConfigDict, dry_run: bool = False
) -> list[str]:
    """Writes the model in the file at `path` into `workdir` as an ordinary run at step 0; returns what it did.

    The file decides `config.model`, `config.data.size` and `config.data.channels`; heads and dropout are taken from
    `config`, since the file does not hold them, and so is the data. Without data of its own kind in `config`, a model
    of images gets the photographs that come with the package. The average, which samples are drawn with, becomes the
    run's. Raises `InputError`; then nothing was written.
    """
    given = config.data.source
    config, imported = build(config, imports.load(path), field=str(path))
    count = sum(leaf.size for leaf in jax.tree.leaves(imported.variables.params))
    from phase_bridge import method  # it imports the data sources, which `convert` does not need

    method.build(config)
    lines = [f"{path}: {_described(imported)}, {count:,} parameters"]
    if imported.average is None:
        lines.append("no running average of the parameters in the file: its parameters themselves are used")
    else:
        lines.append("samples use the running average of the parameters; --no-ema the parameters themselves")
    if isinstance(imported.network, ResidualMLP):
        lines.append(
            f"objective.kind={config.objective.kind} is taken from the config, since the file does not contain it"
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
            fix = "use it from Python by phase_bridge.import_weights.convert"
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
