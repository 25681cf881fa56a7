"""`--init-from` with packed weights: those that come with each package start a run of their experiment."""

import hashlib
import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from common.cli import init_from
from common.cli.dispatch import main
from common.errors import InputError
from common.io import packed
from common.training.step import TrainState

ROOT = Path(__file__).parents[2]


def app_of(method):
    return importlib.import_module(f"{method}.__main__").APP


@pytest.fixture
def images(tmp_path):
    for channels in (1, 3):
        values = np.random.default_rng(0).random((16, 64, 64, channels), np.float32)
        np.savez(tmp_path / f"{channels}.npz", train=values, test=values)
    return tmp_path


@pytest.mark.parametrize(
    ("experiment", "weights", "channels", "other"),
    [
        ("gahb/photographs64", "gahb/weights/photographs.npz", 1, "model.num_kernels=8"),
        ("phase_bridge/faces32", "phase_bridge/weights/faces32.npz", 1, "model.channels=8"),
        ("diffmatch_jax/bsds", "diffmatch_jax/weights/stage1.npz", 3, "model.channels=8"),
    ],
)
def test_the_weights_of_the_package_start_a_run(images, capsys, experiment, weights, channels, other):
    method = experiment.partition("/")[0]
    argv = ["train", "--config", experiment, "--workdir", images / "run", "--init-from", ROOT / weights, "--dry-run"]
    argv = [*map(str, argv), f"--config.data.source=npz:{images}/{channels}.npz", "--config.train.preview_every=0"]
    assert main(argv, app_of(method)) == 0, capsys.readouterr().err
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("starts from "))
    words = line.split()
    assert words[-4] == words[-2] and "random" not in line  # N of N arrays
    assert main([*argv, f"--config.{other}"], app_of(method)) == 2
    error = capsys.readouterr().err
    assert f"error: --init-from {ROOT / weights}: expected the arrays of this run, got" in error
    assert "params/" in error and f"{weights}:partial" in error


def test_a_matcher_starts_with_what_is_frozen_and_a_backbone_with_its_pyramid(tmp_path):
    app, folder = app_of("diffmatch_jax"), ROOT / "diffmatch_jax" / "weights"
    first, second, backbone = (
        init_from.load(app, None, str(folder / f"{name}.npz")) for name in ("stage1", "stage2", "backbone")
    )
    assert set(first.variables.stats) == {"pyramid"} and set(second.variables.stats) == {"pyramid", "stage1"}
    jax.tree.map(np.testing.assert_array_equal, second.variables.stats["stage1"], first.variables.params)
    jax.tree.map(np.testing.assert_array_equal, first.variables.stats["pyramid"], backbone.variables.params["pyramid"])
    assert not backbone.variables.stats and first.record["step"] is None


def test_parameters_average_and_statistics_are_those_of_the_file():
    path = ROOT / "gahb" / "weights" / "photographs.npz"
    source = init_from.load(app_of("gahb"), None, str(path))
    stored = json.loads(path.with_suffix(".json").read_text())
    exact = packed.load(path, sha256=stored["sha256"])
    empty = jax.tree.map(np.zeros_like, exact)
    state = TrainState(np.zeros((), np.int32), empty["params"], empty["stats"], empty["params"], opt_state=())
    start = init_from.fit(source, state)
    begun = start.apply(state)
    for got, want in ((begun.params, "params"), (begun.ema_params, "params"), (begun.stats, "stats")):
        jax.tree.map(np.testing.assert_array_equal, got, exact[want])
        assert np.abs(jax.tree.leaves(got)[0]).max() > 0
    assert start.record["step"] == stored["step"] and start.record["path"] == str(path)
    assert len(start.record["weights"]) >= 8 and not start.record["partial"]


@pytest.mark.parametrize(
    ("method", "file", "words"),
    [
        (
            "gahb",
            "phase_bridge/weights/faces32.npz",
            "faces32.json: expected weights of gahb, got some of phase",
        ),
        ("phase_bridge", "gahb/weights/photographs.npz", "expected weights of phase_bridge, got some of gahb"),
        ("gahb", "{}/1.npz", "1.json: expected config and checksum of 1.npz, got none; write it again by export"),
        ("diffmatch_jax", "{}/1.npz", "expected"),
        ("diffmatch_jax", "{}/damaged.npz", "damaged.npz: expected a file of weights, got a damaged one or another"),
        ("diffmatch_jax", "{}/nan.npz", "nan.npz: a: expected finite numbers, got others"),
        ("diffmatch_jax", "{}/both.npz", "both.npz: a: expected one array, got also a/b"),
        ("gahb", "{}/keys.npz", "keys.npz: expected params and stats, got other, stats; write it again"),
        ("gahb", "{}/step.npz", "step.json: expected a step, got 'x'; write it again"),
        ("diffmatch_jax", "{}/words.npz", "words.npz: name: expected floating-point numbers, got str"),
    ],
)
def test_other_files_are_refused_in_one_line(images, method, file, words):
    (images / "damaged.npz").write_bytes((images / "1.npz").read_bytes()[:1000])
    np.savez(images / "words.npz", name="x")
    np.savez(images / "nan.npz", a=[np.nan])
    np.savez(images / "both.npz", **{"a": [1.0], "a/b": [1.0]})
    config = json.loads((ROOT / "gahb/weights/photographs.json").read_text())["config"]
    for name, arrays, step in (("keys", {"other/a": [1.0]}, 1), ("step", {"params/a": [1.0]}, "x")):
        np.savez(images / f"{name}.npz", **arrays)
        checksum = hashlib.sha256((images / f"{name}.npz").read_bytes()).hexdigest()
        described = {"config": config, "step": step, "sha256": checksum}
        (images / f"{name}.json").write_text(json.dumps(described))
    path = file.format(images) if file.startswith("{}") else str(ROOT / file)
    if words == "expected":  # images are read as a backbone without any array of one
        source = init_from.load(app_of(method), None, path)
        state = TrainState(0, {"pyramid": {"a": np.zeros(2)}}, {}, (), ())
        with pytest.raises(InputError, match="expected the arrays of this run, got 3 that differ"):
            init_from.fit(source, state)
        return
    with pytest.raises(InputError, match=words):
        init_from.load(app_of(method), None, path)
