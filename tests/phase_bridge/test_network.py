"""Networks by name: what each key of a config does, and what is said of wrong ones."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as configs
from common.errors import InputError
from common.networks.unets import ADMUNet, SongUNet
from configs.phase_bridge.base import base
from phase_bridge.mlp import ResidualMLP
from phase_bridge.network import build, levels


def config_of(**changes):
    return configs.from_dict({}, base(), {"data.size": 8, "model.attention": "(4,)"} | changes)


@pytest.mark.parametrize(
    ("experiment", "count", "kind"),
    [("cifar10", 56_405_891, SongUNet), ("afhqv2", 62_765_699, SongUNet), ("imagenet64", 295_136_451, ADMUNet)],
)
def test_the_papers_networks(experiment, count, kind):
    config = importlib.import_module(f"configs.phase_bridge.{experiment}").get_config()
    network = build(config, features=config.data.channels)
    assert type(network) is kind
    x = jax.ShapeDtypeStruct((1, config.data.size, config.data.size, 2 * config.data.channels), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), jnp.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


def test_levels():
    assert levels(64, 4, (16,)) == (2,)
    assert levels(64, 4, (8, 32)) == (1, 3)
    assert levels(32, 3, ()) == ()
    with pytest.raises(InputError, match=r"config.data.size: expected a multiple of 8, got 30; use 32 or fewer"):
        levels(30, 4, ())
    with pytest.raises(InputError, match="config.model.attention: expected sides among 64, 32, got 16"):
        levels(64, 2, (16,))


CHANGES = {
    "patch": "2",
    "channels": "16",
    "multipliers": "(1, 1, 2)",
    "num_blocks": "1",
    "attention": "(4, 2)",
    "heads": "2",
    "embedding": "positional",
    "num_classes": "5",
    "filter": "(1.0, 1.0)",
    "dropout": "0.5",
    "fused_attention": "false",
    "noise_multiplier": "1",
    "encoder": "skip",
    "decoder": "skip",
    "channels_per_head": "8",
    "width": "7",
    "depth": "4",
    "time": "raw",
    "num_frequencies": "3",
    "highest": "2.0",
}
OF = {
    "mlp": ("width", "depth", "time", "num_frequencies", "highest"),
    "song_unet": tuple(CHANGES)[:14],
    "adm_unet": (*tuple(CHANGES)[:11], "channels_per_head"),
}


@pytest.mark.parametrize("name", OF)
def test_every_key_reaches_its_network(name):
    plain = build(config_of(**{"model.network": name}), features=3)
    assert type(plain) is {"mlp": ResidualMLP, "song_unet": SongUNet, "adm_unet": ADMUNet}[name]
    changed = {
        key
        for key, value in CHANGES.items()
        # Refused instead, see test_classes.py.
        if (name, key) != ("mlp", "num_classes")
        and build(config_of(**{"model.network": name, f"model.{key}": value}), features=3) != plain
    }
    assert changed == set(OF[name])
    assert build(config_of(**{"model.network": name, "compute_dtype": "bfloat16"}), features=3).dtype == jnp.bfloat16
    if name != "mlp":
        assert build(config_of(**{"model.network": name, "train.remat": "true"}), features=3).remat


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("network", "unet", 'config.model.network: expected one of "mlp", "song_unet", "adm_unet", got "unet"'),
        ("patch", "0", "config.model.patch: expected"),
        ("patch", "3", "config.model.patch: expected a divisor of config.data.size=8, got 3; use 1, 2 or another"),
        ("channels", "0", "config.model.channels: expected at least 1, got 0"),
        ("num_blocks", "0", "config.model.num_blocks: expected at least 1, got 0"),
        ("num_classes", "-1", "config.model.num_classes: expected at least 0, got -1"),
        ("heads", "0", "config.model.heads: expected at least 1, got 0"),
        ("dropout", "1.0", "config.model.dropout: expected a probability below 1, got 1.0"),
        ("attention", "(3,)", "config.model.attention: expected sides among 8, 4, 2, got 3"),
        ("encoder", "none", 'config.model.encoder: expected one of "standard", "skip", "residual", got "none"'),
        ("decoder", "none", "config.model.decoder: expected one of"),
        ("embedding", "none", 'config.model.embedding: expected one of "fourier", "positional", got "none"'),
        ("filter", "(1.0, 2.0, 1.0)", "config.model.filter: expected an even number of taps"),
        ("heads", "3", "config.model.heads: expected a divisor of 256 channels, got 3"),
        ("multipliers", "(0, 1)", r"config.model.multipliers: expected numbers from 1 on, got \(0, 1\)"),
    ],
)
def test_wrong_keys(key, value, reason):
    with pytest.raises(InputError, match=reason):
        build(config_of(**{f"model.{key}": value}), features=3)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", ["song_unet", "adm_unet"])
def test_patches(name):
    """The network on cells computes what the plain one does with four times the channels, at their resolution."""
    changes = {"model.network": name, "model.channels": "8", "model.multipliers": "(1, 2)", "model.num_blocks": "1"}
    changes |= {"model.channels_per_head": "8"}
    patched = build(config_of(**changes, **{"model.patch": "2"}), features=1)
    plain = build(config_of(**changes, **{"data.size": "4"}), features=4)
    x, time = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.ones(2)
    rng, shapes = np.random.default_rng(1), jax.eval_shape(patched.init, jax.random.key(1), x, time)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.3, leaf.shape), leaf.dtype), shapes)
    inner = {kind: tree["network"] for kind, tree in variables.items()}
    got = jax.jit(patched.apply)(variables, x, time)
    out = jax.jit(plain.apply)(inner, jnp.stack([x[:, a::2, b::2, 0] for a in (0, 1) for b in (0, 1)], -1), time)
    for i, (a, b) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        np.testing.assert_array_equal(got[:, a::2, b::2, 0], out[..., i])
