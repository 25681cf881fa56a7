"""Denoisers that PyTorch wrote become ours: same numbers in, same numbers out, and every misfit is named."""

import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import gahb
from common import config as configs
from common.cli.dispatch import main
from common.errors import InputError
from common.imports import load_torch
from configs.gahb.base import base
from gahb.__main__ import APP
from gahb.import_weights import convert, export, import_weights
from gahb.networks import BFCNN, BFCNNRF, UNet, apply, init

DATA = Path(__file__).parents[1] / "common" / "imports" / "data"
NETWORKS = {
    "unet": UNet(num_kernels=4, num_blocks=2, channels=1),
    "bf_cnn": BFCNN(num_kernels=4, num_layers=5, channels=3, first_layer_linear=False),
    "bf_cnn_linear": BFCNN(num_kernels=3, num_layers=4, channels=1, first_layer_linear=True),
    "bf_cnn_rf": BFCNNRF(num_kernels=4, receptive_field=23, channels=1),
}
GOLDENS = {
    "unetA": UNet(num_kernels=8, num_blocks=2),
    "unetB": UNet(num_kernels=8, num_blocks=3),
    "bfcnnA": BFCNN(num_kernels=8, num_layers=6, first_layer_linear=False),
    "bfcnnB": BFCNN(num_kernels=8, num_layers=21, first_layer_linear=True),
    "bfcnnRF": BFCNNRF(num_kernels=8, receptive_field=13),
    "bfcnnRF_fine": BFCNNRF(num_kernels=8, receptive_field=5, conditional=True),
}


def nhwc(array):
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def assert_close(got, want, tolerance):
    want = np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(np.asarray(got) - want).max() <= tolerance * np.abs(want).max()


def linear(network):
    return getattr(network, "first_layer_linear", None)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_follows_from_names_and_shapes(name):
    network, variables = convert(load_torch(DATA / f"{name}.pt"), first_layer_linear=linear(NETWORKS[name]))
    assert network == NETWORKS[name]
    drawn = jax.eval_shape(lambda: init(network, jax.random.key(0), jnp.zeros((1, 8, 8, network.channels))))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), drawn
    )


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens_convert_and_export_back(name, golden):
    arrays = golden("gahb", name)
    tensors = {key.removeprefix("sd."): array for key, array in arrays.items() if key.startswith("sd.")}
    network, variables = convert(tensors, first_layer_linear=linear(GOLDENS[name]))
    assert network == GOLDENS[name]
    residual, _ = apply(network, variables, nhwc(arrays["x_eval"]))
    assert_close(residual, nhwc(arrays["y_eval"]), 1e-4)
    back = export(network, variables)
    assert set(back) == set(tensors)
    for key, array in tensors.items():
        assert back[key].dtype == array.dtype
        np.testing.assert_array_equal(back[key], array)


def tensors_of(name):
    return {key.removeprefix("module."): array for key, array in load_torch(DATA / f"{name}.pt").items()}


def test_prefixes_and_what_lies_beside_the_network():
    tensors = tensors_of("unet")
    nested = {f"checkpoint.model.{key}": array for key, array in tensors.items()} | {"optimizer.step": np.ones(1)}
    network, variables = convert(nested)
    assert network == NETWORKS["unet"]
    assert set(export(network, variables)) == set(tensors)
    half = {key: array.astype(np.float64) for key, array in tensors.items()}
    assert convert(half)[1].params["mid"]["conv_0"]["kernel"].dtype == np.float32


def renamed(tensors, old, new):
    return {key.replace(old, new): array for key, array in tensors.items()}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: {}, "expected one UNet (encoder.0.0.weight, ...) or BF_CNN (conv_layers.0.weight, ...), got no"),
        (lambda t: {"a.weight": np.ones(2)}, "got tensors such as a.weight"),
        (
            lambda t: {f"{prefix}.{key}": array for prefix in ("model", "ema") for key, array in t.items()},
            "got 2 networks, under model., ema.",
        ),
        (
            lambda t: {key: array for key, array in t.items() if key != "encoder.1.4.running_sd"},
            "1 missing: encoder.1.4.running_sd",
        ),
        (
            lambda t: renamed(t, "encoder.0.3.gammas", "encoder.0.3.gamma"),
            "1 missing: encoder.0.3.gammas (nearest: encoder.0.3.gamma); "
            "1 unexpected: encoder.0.3.gamma (nearest: encoder.0.3.gammas)",
        ),
        (lambda t: t | {"decoder.0.3.bias": np.ones(1)}, "1 unexpected: decoder.0.3.bias"),
        (
            lambda t: t | {"mid_block.0.weight": np.ones((16, 4, 3, 3))},
            "1 of another shape: mid_block.0.weight expected [16, 8, 3, 3], got [16, 4, 3, 3]",
        ),
        (lambda t: t | {"encoder.0.0.weight": np.ones(4)}, "encoder.0.0.weight: expected [out, in, k, k], got [4]"),
        (
            lambda t: t | {"encoder.0.0.weight": np.full((4, 1, 3, 3), np.nan)},
            "tensor encoder.0.0.weight: expected finite floating-point numbers, got float64 from nan to nan",
        ),
        (
            lambda t: t | {"mid_block.1.running_sd": np.zeros((1, 16, 1, 1))},
            "mid_block.1.running_sd: expected positive finite floating-point numbers, got float64 from 0.0 to 0.0",
        ),
        (
            lambda t: t | {"mid_block.1.gammas": np.ones((1, 16, 1, 1), np.int64)},
            "tensor mid_block.1.gammas: expected finite floating-point numbers, got int64 from 1 to 1",
        ),
        (lambda t: t | {"encoder.999.0.weight": np.ones((1, 1, 3, 3))}, "missing: encoder.2.0.weight"),
    ],
)
def test_unets_that_do_not_fit(change, reason):
    with pytest.raises(InputError) as error:
        convert(change(tensors_of("unet")), field="model.pt")
    assert reason in str(error.value)


def test_plain_networks_that_do_not_fit():
    with pytest.raises(InputError, match="set first_layer_linear"):
        convert(tensors_of("bf_cnn"))
    tensors = tensors_of("bf_cnn_rf")
    with pytest.raises(InputError, match=r"receptive field of 5, 9, 13, 23, 43 pixels, got \[3, 3, 3, 1, 3"):
        convert(tensors | {"conv_layers.1.weight": np.ones((4, 4, 3, 3))})
    del tensors["conv_layers.1.weight"]
    with pytest.raises(InputError, match=r"1 missing: conv_layers\.1\.weight"):
        convert(tensors)


@pytest.mark.parametrize("name", NETWORKS)
def test_imported_runs_are_ordinary(name, tmp_path):
    config = configs.from_dict({}, base(), {"model.first_layer_linear": bool(linear(NETWORKS[name]))})
    told = import_weights(DATA / f"{name}.pt", workdir=tmp_path / "run", config=config)
    assert "4 kernels" in told[0] or "3 kernels" in told[0]
    assert any("first_layer_linear" in line for line in told) == (name in ("bf_cnn", "bf_cnn_linear"))
    stored = configs.read(tmp_path / "run", base())
    assert stored.model.network == {"bf_cnn_linear": "bf_cnn"}.get(name, name)
    assert stored.data.channels == NETWORKS[name].channels
    with np.load(DATA / "denoisers.npz") as arrays:
        y = nhwc(arrays[f"{name}.input"])
        assert_close(gahb.load_denoiser(tmp_path / "run")(y), y - nhwc(arrays[f"{name}.output"]), 1e-5)


def command(*words):
    return main(["import-weights", *map(str, words)], APP)


def test_the_command_tells_a_linear_first_layer_from_the_config(tmp_path, capsys):
    path, run = DATA / "bf_cnn_linear.pt", tmp_path / "run"
    assert command(path, "--workdir", run, "--config.model.first_layer_linear=true") == 0
    assert "model.first_layer_linear=True is taken from the config" in capsys.readouterr().out
    with np.load(DATA / "denoisers.npz") as arrays:
        y = nhwc(arrays["bf_cnn_linear.input"])
        assert_close(gahb.load_denoiser(run)(y), y - nhwc(arrays["bf_cnn_linear.output"]), 1e-5)


def test_the_command_refuses_hostile_files(tmp_path, capsys):
    marker = tmp_path / "it-ran"
    with zipfile.ZipFile(tmp_path / "hostile.pt", "w") as archive:
        archive.writestr("model/data.pkl", b"cos\nsystem\n(Vtouch " + str(marker).encode() + b"\ntR.")
    assert command(tmp_path / "hostile.pt", "--workdir", tmp_path / "run") == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {tmp_path / 'hostile.pt'}, data.pkl: ") and told.count("\n") == 1
    assert "os.system (nothing of it was run)" in told
    assert not marker.exists() and not (tmp_path / "run").exists()


def test_images_must_suit_the_network(tmp_path):
    config = configs.from_dict({}, base(), {"data.size": 30})
    with pytest.raises(InputError, match="config.data.size: expected a multiple of 4, got 30"):
        import_weights(DATA / "unet.pt", workdir=tmp_path / "run", config=config)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_writes_nothing_and_a_used_directory_is_refused(tmp_path):
    config = configs.from_dict({}, base())
    told = import_weights(DATA / "unet.pt", workdir=tmp_path / "run", config=config, dry_run=True)
    assert told == [f"{DATA / 'unet.pt'}: UNet of 2 blocks, 4 kernels, 1 channel, 7,264 parameters"]
    assert not (tmp_path / "run").exists()
    import_weights(DATA / "unet.pt", workdir=tmp_path / "run", config=config)
    with pytest.raises(InputError, match="expected no checkpoints, got step 0"):
        import_weights(DATA / "unet.pt", workdir=tmp_path / "run", config=config)


def test_networks_of_detail_bands_are_for_python_only(tmp_path, golden):
    arrays = golden("gahb", "bfcnnRF_fine")
    tensors = {key.removeprefix("sd."): array for key, array in arrays.items() if key.startswith("sd.")}
    save_file(tensors, tmp_path / "fine.safetensors")
    with pytest.raises(InputError, match="got one of detail bands given a low-pass band"):
        import_weights(tmp_path / "fine.safetensors", workdir=tmp_path / "run", config=configs.from_dict({}, base()))
    assert not (tmp_path / "run").exists()
