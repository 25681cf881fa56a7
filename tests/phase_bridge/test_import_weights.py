"""The authors' checkpoints become runs of ours: averages chosen, same numbers out, and every misfit named."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from common import config as configs
from common.checkpoint import restore_params
from common.cli.dispatch import main
from common.errors import InputError
from common.imports import load_torch
from common.networks.layers import initialise
from configs.phase_bridge.base import base
from phase_bridge import method
from phase_bridge.__main__ import APP
from phase_bridge.import_weights import convert, export, import_weights
from phase_bridge.mlp import ResidualMLP
from tests.phase_bridge.small_checkpoint import NETWORK, SIZE, small

FILE = Path(__file__).parent / "data" / "authors.pt"


def equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_checkpoint_of_pytorch():
    parameters, averages, buffers = small()
    network, variables, average, size = convert(load_torch(FILE))
    assert (network, size) == (NETWORK, SIZE)
    own = convert(parameters | buffers)
    assert own.average is None
    equal(variables, own.variables)
    equal(average, convert(averages | buffers).variables.params)
    frequencies = variables.stats["map_noise"]["frequencies"]
    np.testing.assert_array_equal(frequencies, buffers["map_noise.freqs"])
    back = export(network, variables, size=size)
    assert set(back) == {*parameters, "map_noise.freqs"}
    for name, array in parameters.items():
        np.testing.assert_array_equal(back[name], array)


def run(apply_of, workdir, arrays, **choice):
    variables = restore_params(workdir, **choice)
    x = jnp.asarray(arrays["x"].transpose(0, 2, 3, 1))
    labels = jnp.asarray(arrays["class_labels"]) if "class_labels" in arrays else None
    return apply_of(variables._asdict(), x, jnp.asarray(arrays["noise_labels"]), labels).transpose(0, 3, 1, 2)


def command(*words):
    return main(["import-weights", *map(str, words)], APP)


def imported(path, run_dir, arrays, capsys):
    """Imports a file that has the golden network as its average, and holds the run to the golden output."""
    assert command(path, "--workdir", run_dir) == 0
    told = capsys.readouterr().out
    assert f"{int(arrays['n_params']):,} parameters" in told and "samples use the running average" in told
    model, _ = method.load_setup(run_dir)
    apply = jax.jit(model.network.apply, compiler_options={"xla_backend_optimization_level": 0})
    np.testing.assert_allclose(run(apply, run_dir, arrays), arrays["out"], rtol=0, atol=1e-4)
    assert np.abs(run(apply, run_dir, arrays, ema=False) - arrays["out"]).max() > 0.1
    return configs.read(run_dir, base())


@pytest.fixture
def authors(golden):
    """Golden arrays, and parameters, averages and buffers of a checkpoint with the golden network as its average."""
    arrays = golden("phase_bridge", "songunet_1")
    tensors = {name.removeprefix("param/"): each for name, each in arrays.items() if name.startswith("param/")}
    buffers = {name: each for name, each in tensors.items() if name.endswith((".freqs", ".resample_filter"))}
    averages = {name: each for name, each in tensors.items() if name not in buffers}
    draw = np.random.default_rng(0)
    parameters = {name: each + draw.standard_normal(each.shape).astype(np.float32) for name, each in averages.items()}
    return arrays, parameters, averages, buffers


def test_the_command_without_pytorch(authors, tmp_path, capsys):
    arrays, parameters, averages, buffers = authors
    tensors = {f"net.net.{name}": each for name, each in (parameters | buffers).items()}
    # safetensors sorts by name, so the averages are numbered in that order.
    order = sorted(parameters)
    tensors |= {f"ema.shadow_params.{i}": averages[name] for i, name in enumerate(order)}
    save_file({name: np.ascontiguousarray(each) for name, each in tensors.items()}, tmp_path / "authors.safetensors")
    names = [name for name in load_names(tmp_path / "authors.safetensors") if name.startswith("net.")]
    assert [name.removeprefix("net.net.") for name in names if name.removeprefix("net.net.") in parameters] == order
    config = imported(tmp_path / "authors.safetensors", tmp_path / "run", arrays, capsys)
    assert config.model.network == "song_unet" and config.model.num_classes == int(arrays["cfg_cond_dim"])
    assert list(config.model.attention) == list(arrays["cfg_attn_resolutions"])
    assert config.objective.output == "preconditioned" and config.data.source == "photographs"
    assert config.data.labels  # without which a model of classes is not built


def load_names(path):
    from common.imports import load_safetensors

    return list(load_safetensors(path))


def test_the_command_with_pytorch(authors, tmp_path, capsys):
    pytest.importorskip("torch")
    from tests.phase_bridge.make_checkpoint import save

    arrays, *tensors = authors
    save(tmp_path / "authors.pt", *tensors)
    imported(tmp_path / "authors.pt", tmp_path / "run", arrays, capsys)


def test_perceptrons(golden, tmp_path, capsys):
    arrays = golden("phase_bridge", "resnet_mlp")
    tensors = {name.removeprefix("param/"): each for name, each in arrays.items() if name.startswith("param/")}
    network, variables, average, size = convert(tensors)
    depth, width = int(arrays["cfg_n_hidden_layers"]), int(arrays["cfg_hidden_dim"])
    assert (network, average, size) == (ResidualMLP(2, width=width, depth=depth), None, None)
    out = network.apply({"params": variables.params}, jnp.asarray(arrays["m"]), jnp.asarray(arrays["t_net"]))
    np.testing.assert_allclose(out, arrays["out"], rtol=0, atol=2e-5)
    for name, each in export(network, variables).items():
        np.testing.assert_array_equal(each, tensors[name])

    save_file(tensors, tmp_path / "toy.safetensors")
    assert command(tmp_path / "toy.safetensors", "--workdir", tmp_path / "run", "--config.objective.kind=sde") == 0
    told = capsys.readouterr().out
    assert f"residual perceptron of {depth} layers of {width}" in told
    assert "objective.kind=sde is taken from the config" in told
    model, stored = method.load_setup(tmp_path / "run")
    assert model.network == network
    equal(stored.params, variables.params)


def tensors_of():
    return load_torch(FILE)


WITHOUT = "net.net.dec.4x4_up.conv1.weight"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda t: {},
            "expected one U-Net (map_layer0.weight, ...) or residual perceptron (layers.0.weight, ...), got no",
        ),
        (lambda t: {"a.weight": np.ones(2)}, "got tensors such as a.weight"),
        (lambda t: t | {"other.map_layer0.weight": np.ones(2)}, "got 2 networks, under net.net., other."),
        (
            lambda t: {name: each for name, each in t.items() if name != "ema.shadow_params.0"},
            "running average: expected 146 tensors, one for each parameter, got 145 numbered up to 145",
        ),
        (
            lambda t: {name: each for name, each in t.items() if name != WITHOUT and not name.startswith("ema.")},
            "1 missing: dec.4x4_up.conv1.weight",
        ),
        (lambda t: t | {"ema.shadow_params.3": np.ones(2)}, "running average of map_layer0.bias"),
        (
            lambda t: t | {"net.net.enc.4x4_conv.bias": np.full(4, np.nan, np.float32)},
            "tensor enc.4x4_conv.bias: expected finite floating-point numbers, got float32 from nan to nan",
        ),
        (
            lambda t: t | {"net.net.enc.4x4_block0.conv1.weight": np.ones((4, 4, 3), np.float32)},
            "running average of enc.4x4_block0.conv1.weight",
        ),
        (
            lambda t: (
                {name: each for name, each in t.items() if not name.startswith("ema.")}
                | {"net.net.enc.4x4_conv.weight": np.ones(4)}
            ),
            "tensor enc.4x4_conv.weight: expected 4 dimensions, got [4]",
        ),
        (
            lambda t: t | {"net.net.dec.4x4_up.conv0.resample_filter": np.ones((1, 1, 4, 4))},
            "expected one separable filter",
        ),
        (
            lambda t: {name.replace("enc.2x2", "enc.3x3"): each for name, each in t.items()},
            "sides that halve, got [4, 3]",
        ),
    ],
)
def test_what_does_not_fit(change, reason):
    with pytest.raises(InputError) as error:
        convert(change(tensors_of()), field="model.pt")
    assert str(error.value).startswith("model.pt") and reason in str(error.value)


def test_an_embedding_that_no_config_describes(tmp_path):
    network = NETWORK.clone(embedding_multiplier=2, num_classes=0)
    inputs = jnp.zeros((1, SIZE, SIZE, 6)), jnp.zeros(1)
    tensors = export(network, initialise(network, jax.random.key(0), *inputs), size=SIZE)
    assert convert(tensors).network == network
    save_file({name: np.asarray(each) for name, each in tensors.items()}, tmp_path / "narrow.safetensors")
    with pytest.raises(InputError, match="expected an embedding 4 times as wide as the first level, got 2 times"):
        import_weights(tmp_path / "narrow.safetensors", workdir=tmp_path / "run", config=base())
    assert not (tmp_path / "run").exists()


def test_a_dry_run_writes_nothing_and_a_used_directory_is_refused(tmp_path, capsys):
    assert command(FILE, "--workdir", tmp_path / "run", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "SongUNet for 4x4 pixels, 4-8 channels, 3 classes" in told
    assert not (tmp_path / "run" / "config.json").exists()
    assert command(FILE, "--workdir", tmp_path / "run") == 0
    assert command(FILE, "--workdir", tmp_path / "run") == 2
    assert "got one that holds a run" in capsys.readouterr().err
