"""Models that come with the package: what `export` stores is what `load` opens, by file and by name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import phase_bridge
from common import config as configs
from common.checkpoint.shelf import Shelf
from common.cli.dispatch import main
from common.errors import InputError
from configs.phase_bridge.base import base
from phase_bridge import method
from phase_bridge.__main__ import APP

CHANGES = {
    "data.source": "toy:moons", "model.network": "mlp", "model.width": 8, "model.depth": 1, "train.steps": 2,
    "train.batch_size": 8, "train.log_every": 1, "checkpoint.every": 2, "objective.name": "denoiser",
    "optimizer.warmup": 1, "ema.decay": 0.5,
}  # fmt: skip


@pytest.fixture
def shelf(monkeypatch, tmp_path):
    own = Shelf(tmp_path / "weights", base)
    monkeypatch.setattr(method, "SHELF", own)
    return own


@pytest.mark.usefixtures("quick_compilation")
def test_a_run_becomes_a_model_of_the_package(shelf, tmp_path, capsys):
    run, path = tmp_path / "run", shelf.directory / "moons.npz"
    argv = ["--config", "configs/phase_bridge/moons.py", *(f"--config.{k}={v}" for k, v in CHANGES.items())]
    assert main(["train", *argv, "--workdir", str(run)], APP) == 0
    assert main(["export", "--workdir", str(run), "--weights", str(path)], APP) == 0
    stored = json.loads(path.with_suffix(".json").read_text())
    assert stored["sha256"] in capsys.readouterr().out and stored["step"] == 2

    u = jnp.asarray([[0.3, -0.2], [1.0, 2.0]])
    trained, by_name, by_file = (phase_bridge.load(place) for place in (run, "moons", path))
    assert by_name.process == trained.process and by_name.sampler == trained.sampler and by_name.shape == (2,)
    for leaf, exact in zip(jax.tree.leaves(by_name.weights), jax.tree.leaves(trained.weights), strict=True):
        np.testing.assert_array_equal(leaf, np.asarray(exact, np.float32 if exact.size < 2000 else np.float16))
    np.testing.assert_allclose(by_name.denoise(u, 0.7), trained.denoise(u, 0.7), atol=1e-2)
    np.testing.assert_array_equal(by_name.denoise(u, 0.7), by_file.denoise(u, 0.7))


def test_what_is_not_there_is_named(shelf, tmp_path):
    config = configs.from_dict(configs.to_dict(base()), base(), CHANGES | {"data.source": "prepared:/home/me/a/1.0.0"})
    variables = method.Variables({"a": np.ones(2)}, {})
    shelf.write(shelf.directory / "two.npz", config, variables, step=7)
    stored = json.loads((shelf.directory / "two.json").read_text())
    assert stored["config"]["data"]["source"] == "prepared:a/1.0.0"
    with pytest.raises(InputError, match=r'workdir: .* a model of the package \("two"\), got \'other\''):
        phase_bridge.load("other")
    with pytest.raises(InputError, match="step: expected None for packed weights, of one step, got 3"):
        phase_bridge.load("two", step=3)
    with pytest.raises(InputError, match="weights: expected a name that ends in .npz"):
        shelf.write(tmp_path / "x", config, variables, step=0)
    path = shelf.directory / "two.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"two.npz: expected sha256"):
        phase_bridge.load("two")
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"two.json: expected config and checksum of two.npz, got none"):
        phase_bridge.load("two")
