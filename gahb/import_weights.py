"""The authors' released denoisers as variables and checkpoints of ours.

Names and layouts of their state dictionaries: convolutions `[out, in, kh, kw]`, transposed convolutions
`[in, out, 2, 2]` with out[o, 2i+a, 2j+b] = sum_c x[c, i, j] w[c, o, a, b], gains and deviations `[1, C, 1, 1]`.
"""

import os
import re
from collections.abc import Mapping
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
from gahb.networks import BFCNN, BFCNNRF, RECEPTIVE_FIELDS, UNet, kernel_sizes

_CONV = (2, 3, 1, 0)  # to [kh, kw, in, out]
_UPSAMPLE = (2, 3, 0, 1)
_FIRST = re.compile(r"(.*\.)?(encoder\.0\.0\.weight|conv_layers\.0\.weight)")


class _Place(NamedTuple):
    """A leaf of ours, the authors' tensor it comes from with its shape there, and the order of its axes here."""

    target: str  # "params/..." or "stats/..."
    source: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None  # None: a vector of channels


def convert(
    tensors: Mapping[str, np.ndarray], *, first_layer_linear: bool | None = None, field: str = "weights"
) -> tuple[nn.Module, Variables]:
    """Returns the network that the authors' `tensors` belong to, and its variables (float32 NumPy leaves).

    The names may share a prefix (`module.` of data-parallel training, `model.` of a nested checkpoint); tensors without
    it are left alone. `first_layer_linear` must be given for a BF_CNN, whose tensors do not show it. A BF_CNN_RF of 43
    pixels comes back as the BF_CNN with a linear first layer, which is the same function. `field` names the origin of
    the tensors in errors.

    Raises `InputError` for tensors of another network, or missing, unexpected, misshapen or non-finite ones.
    """
    tensors = _one_network(tensors, field)
    network = _infer(tensors, first_layer_linear, field)
    places = _places(network)
    slots = {place.target: imports.Slot(place.source, place.shape, _to_ours(place.axes)) for place in places}
    leaves = imports.assign(tensors, slots, field=field)
    for place in places:
        leaves[place.target] = _numbers(leaves[place.target], place, field)
    tree = traverse_util.unflatten_dict(leaves, sep="/")
    return network, Variables(tree["params"], tree.get("stats", {}))


def export(network: nn.Module, variables: Variables) -> dict[str, np.ndarray]:
    """Returns the variables under the authors' names and in their layouts; the inverse of `convert`."""
    leaves = traverse_util.flatten_dict({"params": variables.params, "stats": variables.stats}, sep="/")
    return {place.source: _to_theirs(place)(np.asarray(leaves[place.target])) for place in _places(network)}


def import_weights(
    path: str | os.PathLike, *, workdir: str | os.PathLike, config: ConfigDict, dry_run: bool = False
) -> list[str]:
    """Writes the denoiser in the file at `path` into `workdir` as an ordinary run at step 0; returns what it did.

    The file decides `config.model` and `config.data.channels`, but for `config.model.first_layer_linear`, which a
    BF_CNN takes from `config`. Raises `InputError`; then nothing was written.
    """
    config, network, variables = build(config, imports.load(path), field=str(path))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables.params))
    from gahb import method  # it imports the data sources, which `convert` does not need

    method.build(config)
    lines = [f"{path}: {_described(network)}, {count:,} parameters"]
    if isinstance(network, BFCNN):
        linear = network.first_layer_linear
        lines.append(f"model.first_layer_linear={linear} is taken from the config, since the file does not contain it")
    if not dry_run:
        from common.checkpoint import write_imported  # Orbax takes seconds to import

        write_imported(workdir, config, variables, file=path)
        lines.append(f"written: {workdir} (checkpoint of step 0)")
    return lines


def build(
    config: ConfigDict, tensors: Mapping[str, np.ndarray], *, field: str
) -> tuple[ConfigDict, nn.Module, Variables]:
    """Returns `config` with the model that the tensors belong to, its network and its variables."""
    network, variables = convert(tensors, first_layer_linear=config.model.first_layer_linear, field=field)
    settings = {"data.channels": network.channels, "model.num_kernels": network.num_kernels}
    match network:
        case UNet():
            settings |= {"model.network": "unet", "model.num_blocks": network.num_blocks}
        case BFCNN():
            settings |= {"model.network": "bf_cnn", "model.num_layers": network.num_layers}
        case BFCNNRF(conditional=False):
            settings |= {"model.network": "bf_cnn_rf", "model.receptive_field": network.receptive_field}
        case _:
            raise input_error(
                field,
                expected="a denoiser of images",
                got="one of detail bands given a low-pass band",
                fix="use it from Python by gahb.import_weights.convert",
            )
    return configs.from_dict(configs.to_dict(config), config, settings), network, variables


def _one_network(tensors: Mapping[str, np.ndarray], field: str) -> dict[str, np.ndarray]:
    """Returns the tensors of the one network among them, without the prefix of their names."""
    prefixes = [match[1] or "" for match in map(_FIRST.fullmatch, tensors) if match]
    if len(prefixes) != 1:
        got = f"{len(prefixes)} networks, under {', '.join(shown(each or '(no prefix)') for each in prefixes)}"
        if not prefixes:
            got = f"tensors such as {', '.join(shown(each) for each in list(tensors)[:3])}" if tensors else "no tensors"
        raise input_error(
            field,
            expected="one UNet (encoder.0.0.weight, ...) or BF_CNN (conv_layers.0.weight, ...)",
            got=got,
            fix="save the state dictionary of one denoiser alone",
        )
    return {name.removeprefix(prefixes[0]): each for name, each in tensors.items() if name.startswith(prefixes[0])}


def _infer(tensors: Mapping[str, np.ndarray], first_layer_linear: bool | None, field: str) -> nn.Module:
    """Returns the network that the names and shapes describe; tensors that do not fit it are refused later, by name."""
    if "encoder.0.0.weight" in tensors:
        num_kernels, channels, *_ = _kernel_shape(tensors, "encoder.0.0.weight", field)
        return UNet(num_kernels, num_blocks=_count(tensors, "encoder"), channels=channels)
    num_layers = _count(tensors, "conv_layers")
    num_kernels, inputs, *_ = _kernel_shape(tensors, "conv_layers.0.weight", field)
    names = {layer: f"conv_layers.{layer}.weight" for layer in range(num_layers)}
    sizes = {layer: _kernel_shape(tensors, name, field)[2] for layer, name in names.items() if name in tensors}
    outputs = _kernel_shape(tensors, names[num_layers - 1], field)[0]
    conditional = outputs % 3 == 0 and inputs == outputs + 1
    if set(sizes.values()) == {3} and not conditional:
        if first_layer_linear is None:
            raise input_error(
                field,
                expected="to know whether the BF_CNN has a rectifier after its first layer",
                got="weights, which are the same with and without",
                fix="set first_layer_linear",
            )
        return BFCNN(num_kernels, num_layers, inputs, first_layer_linear)
    for receptive_field in RECEPTIVE_FIELDS:
        wanted = kernel_sizes(receptive_field)
        if num_layers == len(wanted) and all(wanted[layer] == size for layer, size in sizes.items()):
            channels = outputs // 3 if conditional else inputs
            return BFCNNRF(num_kernels, receptive_field, channels, conditional)
    raise input_error(
        field,
        expected=f"the kernel sizes of a receptive field of {', '.join(map(str, RECEPTIVE_FIELDS))} pixels",
        got=list(sizes.values()),
        fix="use a released BF_CNN_RF",
    )


def _count(tensors: Mapping[str, np.ndarray], what: str) -> int:
    """Returns one more than the largest number in the names `what.N.(...)weight`; numbers above 999 do not count."""
    matches = (re.fullmatch(rf"{what}\.(\d{{1,3}})\.(.+\.)?weight", name) for name in tensors)
    return 1 + max(int(match[1]) for match in matches if match)


def _kernel_shape(tensors: Mapping[str, np.ndarray], name: str, field: str) -> tuple[int, ...]:
    shape = tensors[name].shape
    if len(shape) != 4 or 0 in shape:
        raise input_error(
            f"{field}, tensor {name}", expected="[out, in, k, k]", got=list(shape), fix="use another checkpoint"
        )
    return shape


def _places(network: nn.Module) -> list[_Place]:
    """Returns every leaf of the network, with the authors' name for it."""
    if isinstance(network, UNet):
        return _unet_places(network)
    if isinstance(network, BFCNN):
        sizes, inputs, outputs = (3,) * network.num_layers, network.channels, network.channels
    else:
        sizes, inputs, outputs = kernel_sizes(network.receptive_field), network.channels, network.channels
        if network.conditional:
            inputs, outputs = 3 * network.channels + 1, 3 * network.channels
    last = len(sizes) - 1
    places = []
    for layer, size in enumerate(sizes):
        shape = (outputs if layer == last else network.num_kernels, inputs if layer == 0 else network.num_kernels)
        places.append(_kernel(f"conv_{layer}", f"conv_layers.{layer}", (*shape, size, size)))
        if 0 < layer < last:
            places += _norm(f"norm_{layer}", f"BN_layers.{layer - 1}", network.num_kernels)
    return places


def _unet_places(network: UNet) -> list[_Place]:
    width = [network.num_kernels << level for level in range(network.num_blocks + 1)]
    # (ours, theirs, channels before and after each convolution, places of the convolutions and norms in theirs)
    inner = ((0, 3), (1, 4))
    blocks: list[Any] = [("encoder_0", "encoder.0", (network.channels, width[0], width[0]), ((0, 2), (None, 3)))]
    for b in range(1, network.num_blocks):
        blocks.append((f"encoder_{b}", f"encoder.{b}", (width[b - 1], width[b], width[b]), inner))
    blocks.append(("mid", "mid_block", (width[-2], width[-1], width[-1]), inner))
    for b in range(network.num_blocks - 1, 0, -1):
        blocks.append((f"decoder_{b}", f"decoder.{b}", (width[b + 1], width[b], width[b]), inner))
    blocks.append(("decoder_0", "decoder.0", (width[1], width[0], network.channels), ((0, 3), (1, None))))
    places = []
    for ours, theirs, channels, (convs, norms) in blocks:
        for i in range(2):
            places.append(_kernel(f"{ours}/conv_{i}", f"{theirs}.{convs[i]}", (channels[i + 1], channels[i], 3, 3)))
            if norms[i] is not None:
                places += _norm(f"{ours}/norm_{i}", f"{theirs}.{norms[i]}", channels[i + 1])
    for b in range(network.num_blocks - 1, -1, -1):
        shape = (width[b + 1], width[b], 2, 2)
        places.append(_Place(f"params/upsample_{b}/kernel", f"upsample.{b}.weight", shape, _UPSAMPLE))
    return places


def _kernel(ours: str, theirs: str, shape: tuple[int, ...]) -> _Place:
    return _Place(f"params/{ours}/kernel", f"{theirs}.weight", shape, _CONV)


def _norm(ours: str, theirs: str, channels: int) -> list[_Place]:
    shape = (1, channels, 1, 1)
    return [
        _Place(f"params/{ours}/gain", f"{theirs}.gammas", shape, None),
        _Place(f"stats/{ours}/running_sd", f"{theirs}.running_sd", shape, None),
    ]


def _numbers(array: np.ndarray, place: _Place, field: str) -> np.ndarray:
    """Returns the leaf as a float32 copy; raises `InputError` for values that no denoiser can have."""
    deviation = place.target.endswith("running_sd")
    if jnp.issubdtype(array.dtype, jnp.floating):
        leaf = np.array(array, np.float32, order="C")
        if np.isfinite(leaf).all() and not (deviation and leaf.min() <= 0):
            return leaf
    raise input_error(
        f"{field}, tensor {place.source}",
        expected=f"{'positive ' if deviation else ''}finite floating-point numbers",
        got=f"{array.dtype} from {array.min()} to {array.max()}",
        fix="use another checkpoint",
    )


def _to_ours(axes: tuple[int, ...] | None):
    return lambda array: array.reshape(-1) if axes is None else array.transpose(axes)


def _to_theirs(place: _Place):
    def transform(array: np.ndarray) -> np.ndarray:
        moved = array.reshape(place.shape) if place.axes is None else array.transpose(np.argsort(place.axes))
        return np.ascontiguousarray(moved)

    return transform


def _described(network: nn.Module) -> str:
    match network:
        case UNet():
            kind = f"UNet of {network.num_blocks} blocks"
        case BFCNN():
            kind = f"BF_CNN of {network.num_layers} layers"
        case _:
            kind = f"BF_CNN_RF of {network.receptive_field} pixels"
    return f"{kind}, {network.num_kernels} kernels, {network.channels} channel{'s' if network.channels > 1 else ''}"
