"""The network of PyTorch that SongUNet is timed beside is the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.networks.layers import initialise
from common.networks.unets import SongUNet

torch = pytest.importorskip("torch")
from benchmarks import torch_song_unet  # noqa: E402

STYLES = {
    "published": {},
    "plain": {"embedding": "positional", "encoder": "standard", "filter": (1, 1), "noise_multiplier": 1},
}


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("style", STYLES)
def test_both_compute_the_same(style):
    network = SongUNet(3, channels=8, multipliers=(1, 2), num_blocks=1, attention=(1,), **STYLES[style])
    x, time = np.random.default_rng(0).standard_normal((2, 8, 8, 6)).astype(np.float32), np.array([0.3, 0.8], "f")
    params, stats = initialise(network, jax.random.key(0), jnp.asarray(x), jnp.asarray(time))
    params = jax.tree.map(lambda leaf: leaf + 0.05, params)  # the last layers start almost at zero
    got = network.apply({"params": params, "stats": stats}, x, time)
    frequencies = torch.tensor(np.asarray(stats["map_noise"]["frequencies"])) if stats else None
    with torch.no_grad():
        inputs = torch.tensor(x.transpose(0, 3, 1, 2).copy()), torch.tensor(time)
        want = torch_song_unet.apply(network, torch_song_unet.parameters(params), frequencies, *inputs).numpy()
    np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), atol=1e-4 * np.abs(want).max())
