"""The authors' checkpoints become runs of ours: same numbers back, both stages together, every misfit named."""

import re
import shlex
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
from common.networks.unets import ADMUNet
from configs.diffmatch_jax import paper, paper_stage2
from configs.diffmatch_jax.base import base
from diffmatch_jax import api, import_weights
from diffmatch_jax.__main__ import APP
from diffmatch_jax.model import backbone, features, weights

NETWORK = ADMUNet(
    2, channels=8, multipliers=(1, 2, 2), num_blocks=2, attention=(1,), heads=4, resampling="convolution", min_group=1
)


@pytest.fixture(scope="module")
def params():
    shown = jax.ShapeDtypeStruct((1, 4, 4, 85), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    made = jax.eval_shape(NETWORK.init, jax.random.key(0), *shown)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), made)


@pytest.fixture(scope="module")
def tensors(params):
    return import_weights.export(NETWORK, params)


@pytest.fixture(autouse=True)
def no_vgg(monkeypatch):
    monkeypatch.setattr(weights, "load_vgg", lambda path: backbone.init(jax.random.key(0), (2, 2, 2, 2)))


def equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_there_and_back(params, tensors):
    network, own = import_weights.convert({f"module.{name}": each for name, each in tensors.items()})
    assert network == NETWORK
    equal(own, params)


def test_names_and_layouts(params, tensors):
    """Those of improved diffusion: where blocks end, where attention is, how its rows are ordered."""
    assert tensors["input_blocks.0.0.weight"].shape == (8, 85, 3, 3)
    assert {"input_blocks.3.0.op.weight", "input_blocks.6.0.op.bias", "input_blocks.4.1.qkv.weight"} <= set(tensors)
    assert "input_blocks.1.1.qkv.weight" not in tensors and "middle_block.1.qkv.weight" in tensors
    # Up-sampling follows attention where that is: in the middle level, but not in the last.
    assert {"output_blocks.2.1.conv.weight", "output_blocks.5.2.conv.weight", "out.2.bias"} <= set(tensors)
    ours = params["middle_0"]["attention"]["qkv"]["kernel"][0, 0]  # [16, 3 x 4 heads x 4]
    theirs = tensors["middle_block.1.qkv.weight"]
    assert theirs.shape == (48, 16, 1)
    np.testing.assert_array_equal(theirs[12 * 2 + 4 + 3, :, 0], ours[:, 16 + 4 * 2 + 3])  # key, head 2, channel 3


def command(path, workdir, *words):
    return main(["import-weights", str(path), "--workdir", str(workdir), *words], APP)


def test_both_stages_from_the_command_line(params, tensors, tmp_path, capsys):
    save_file(tensors, tmp_path / "lr.safetensors")
    second = {name: each + 1 for name, each in tensors.items()}
    save_file(second, tmp_path / "sr.safetensors")
    first = tmp_path / "first"
    assert command(tmp_path / "lr.safetensors", first, "--config.features.pyramid=vgg16:x.pth") == 0
    assert "stage1, U-Net of 8, 16, 16 channels, 2 blocks a level" in capsys.readouterr().out
    words = ("--config.task=stage2", f"--config.stage2.stage1={first}")
    assert command(tmp_path / "sr.safetensors", tmp_path / "second", *words) == 0
    equal(restore_params(first).params, params)
    config = configs.read(tmp_path / "second", base())
    assert (config.features.compat, config.features.fine) == ("released", 512)
    model = api.load(tmp_path / "second")
    equal(jax.tree.map(np.asarray, model.weights.first), params)
    equal(jax.tree.map(np.asarray, model.weights.second), jax.tree.map(lambda x: x + 1, params))
    assert model.config.first.network == model.config.second.network == NETWORK
    assert model.config.first.clip == 1 and len(model.config.first.process) == 5
    # Stage 2 sees the features of stage 1, also where its own config does not name them.
    assert config.features.pyramid == "embedded"
    image = np.random.default_rng(1).random((1, 16, 16, 3), np.float32)
    (pyramid,) = model.weights.pyramid.args
    for got, want in zip(model.weights.pyramid(image), features.vgg(pyramid)(image), strict=True):
        np.testing.assert_array_equal(got, want)
    other = (*words, "--config.features.pyramid=random", "--dry-run")
    assert command(tmp_path / "sr.safetensors", tmp_path / "third", *other) == 2
    assert 'config.features.pyramid: expected stage 1\'s, "vgg16:x.pth", got "random"' in capsys.readouterr().err


def test_what_is_missing_besides_the_file(tensors, tmp_path, capsys):
    save_file(tensors, tmp_path / "lr.safetensors")
    assert command(tmp_path / "lr.safetensors", tmp_path / "run") == 2
    assert 'config.features.pyramid: expected "vgg16:FILE", got "embedded"' in capsys.readouterr().err
    assert command(tmp_path / "lr.safetensors", tmp_path / "run", "--config.task=stage2") == 2
    assert "config.stage2.stage1: expected the imported stage 1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def documented():
    """Returns the documented commands of the verb, those of a card in their order."""
    root = Path(__file__).parents[2]
    told = [paper.__doc__ + paper_stage2.__doc__, (root / "docs/how_to/import_weights.md").read_text(), *APP.examples]
    return [
        [shlex.split(line)[1:] for line in re.findall(r"(?:diffmatch_jax |^)(import-weights .*)", text, re.MULTILINE)]
        for text in told
    ]


def test_documented_commands_work(tensors, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = [each for each in documented() if each]
    assert [len(each) for each in commands] == [2, 1, 1]
    for number, (file, *words) in enumerate(each for part in commands for each in part):
        save_file(tensors, tmp_path / file)
        words = [str(Path(paper.__file__).parents[2] / word) if word[:8] == "configs/" else word for word in words]
        # The second one needs what the first one writes; of the others the checks are enough.
        assert main(["import-weights", file, *words, *(["--dry-run"] if number else [])], APP) == 0


def without(tensors, name):
    return {key: each for key, each in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: without(t, "middle_block.1.norm.bias"), "1 missing: middle_block.1.norm.bias"),
        (lambda t: {**t, "extra": t["out.2.bias"]}, "1 unexpected: extra"),
        (lambda t: {**t, "out.0.bias": np.zeros(9, np.float32)}, r"out.0.bias expected \[8\], got \[9\]"),
        (lambda t: {**t, "out.2.bias": np.full(2, np.nan, np.float32)}, "tensor out.2.bias: expected finite"),
        (lambda t: without(t, "input_blocks.0.0.weight"), "expected a U-Net with input_blocks.0.0.weight"),
        (lambda t: without(t, "input_blocks.3.0.op.weight"), "expected as many blocks in every level"),
        (
            lambda t: {**t, "input_blocks.0.0.weight": np.zeros((8, 149, 3, 3), np.float32)},
            "a first layer with 85 inputs, got 149 .the variant that sees features",
        ),
        (lambda t: {f"a.{k}": v for k, v in t.items()} | {"b.x": t["out.2.bias"]}, "names that begin with a."),
    ],
)
def test_misfits(tensors, change, words):
    with pytest.raises(InputError, match=words):
        import_weights.convert(change(tensors))
