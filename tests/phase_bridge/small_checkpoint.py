"""What `data/authors.pt` holds."""

import jax
import jax.numpy as jnp
import numpy as np

from common.networks.layers import initialise
from common.networks.unets import SongUNet
from phase_bridge.import_weights import export

SIZE = 4
NETWORK = SongUNet(3, channels=4, multipliers=(1, 2), num_blocks=1, attention=(1,), num_classes=3)


_FILTERED = ("enc.2x2_down.conv0", "enc.2x2_down.skip", "enc.2x2_aux_residual", "dec.4x4_up.conv0", "dec.4x4_up.skip")


def small():
    """Returns parameters, averages and buffers under the authors' names."""
    inputs = (
        jax.ShapeDtypeStruct((1, SIZE, SIZE, 6), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    tensors = export(NETWORK, initialise(NETWORK, jax.random.key(0), *inputs), size=SIZE)
    shapes = {name: tensors[name].shape for name in sorted(tensors, key=_registration)}

    def draw(seed):
        generator = np.random.default_rng(seed)
        return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    parameters, averages = draw(1), draw(2)
    buffers = {"map_noise.freqs": parameters.pop("map_noise.freqs")}
    averages.pop("map_noise.freqs")
    taps = np.array([1, 3, 3, 1], np.float32) / 8
    filters = {f"{name}.resample_filter": np.outer(taps, taps)[None, None] for name in _FILTERED}
    return parameters, averages, buffers | filters


def _registration(name):
    """The order in which the authors' modules are made."""
    first = ("map_noise", "map_label", "map_layer0", "map_layer1", "enc", "dec")
    outer = ("conv", "in0", "in1", "down", "up", "aux_residual", "block0", "block1", "aux_norm", "aux_conv")
    inner = ("norm0", "conv0", "affine", "norm1", "conv1", "skip", "norm2", "qkv", "proj")
    section, *middle, leaf = name.split(".")
    side, kind = middle[0].split("_", 1) if middle else ("0x0", "conv")
    height = int(side.split("x")[0]) * (1 if section == "dec" else -1)
    return (first.index(section), height, outer.index(kind), *map(inner.index, middle[1:]), leaf == "bias")
