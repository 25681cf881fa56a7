"""The `fidelity` verb on a model that draws known images: what it compares, keeps, and refuses."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.cli.app import App
from common.cli.dispatch import main
from common.cli.verbs import trained
from common.cli.verbs.fidelity import FIDELITY
from common.cli.verbs.trained import Trained
from common.data.source import ArraySource
from common.io.results import newest, read
from common.method import Sampler, Variables
from common.metrics import distances, features

VARIABLES = Variables({"shift": np.float32(0.0)}, {})


def draw(variables, keys, index):
    noise = jax.vmap(lambda key: jax.random.uniform(key, (4, 4, 1)))(keys)
    return {"samples": 2 * noise - 1 + variables.params["shift"]}


def images(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 1), np.uint8)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Returns `run(*argv, code=0, **changes) -> (numbers or None, out, err)` on a model that needs no training."""
    sources = {"train": ArraySource({"image": images(300, 0)}), "test": ArraySource({"image": images(200, 1)})}
    sampler = Sampler(draw, {"nfe": 3}, num=4, batch_size=16, to_unit=lambda x: (x + 1) / 2)

    def run(*argv, code=0, shift=0.0, sampler=sampler):
        method = types.SimpleNamespace(name="demo", sampler=sampler, sources=lambda: sources)

        def load(app, request, purpose):
            variables = Variables({"shift": np.float32(shift)}, {})
            provenance = lambda wall_s, nfe: {"step": 7, "nfe": nfe}  # noqa: E731
            return Trained(method, variables, jax.random.key(0), tmp_path, "step-7-seed-0", 7, 0, provenance)

        monkeypatch.setattr(trained, "load", load)
        app = App("demo", "Demo.", None, None, None, None, dict, extra_verbs=[FIDELITY])
        assert main(["fidelity", "--workdir", str(tmp_path), *map(str, argv)], app) == code
        found = newest(tmp_path / "results", "fidelity") if code == 0 else None
        return (read(found)[0] if found else None, *capsys.readouterr())

    return run


def test_numbers_are_those_of_the_parts(command, tmp_path):
    found, out, _ = command("--num", 250, "--features", "pixels", "--reference", "test")
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(250))
    samples = np.round(np.asarray(draw(VARIABLES, keys, None)["samples"] + 1) / 2 * 255) / 255
    want = distances.frechet_distance(samples.reshape(250, -1), images(200, 1).reshape(200, -1) / 255)
    assert found["frechet"] == pytest.approx(want, rel=1e-2)
    assert found["num_samples"] == 250 and found["num_reference"] == 200 and found["num_compared"] == [250, 200]
    assert found["nfe"] == 3 and found["features"] == {"features": "pixels"} and found["reference"] == "test"
    # Uniform noise against uniform noise: nothing to find.
    assert abs(found["kernel"]) < 0.05 and found["precision"] > 0.5 and found["recall"] > 0.5
    assert "frechet" in out and "precision" in out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("chunk-*.npz")}
    again, out, _ = command("--num", 250, "--features", "pixels", "--reference", "test")
    assert again["frechet"] == found["frechet"] and again["samples_per_s"] is None
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("chunk-*.npz")}


def test_worse_samples_are_farther(command):
    near, *_ = command("--num", 100, "--features", "random")
    far, *_ = command("--num", 100, "--features", "random", shift=0.5)
    assert far["frechet"] > 5 * near["frechet"]
    assert far["kernel"] > near["kernel"] and far["precision"] < near["precision"]


def test_statistics_from_a_file(command, tmp_path):
    path = distances.write_statistics(
        tmp_path / "reference.npz", features.extract(features.pixels(), ArraySource({"image": images(300, 0)}))
    )
    from_file, *_ = command("--num", 60, "--features", "pixels", "--reference", path)
    from_split, *_ = command("--num", 60, "--features", "pixels", "--reference", "train")
    assert from_file["frechet"] == pytest.approx(from_split["frechet"], rel=1e-9)
    assert "precision" not in from_file and "precision" in from_split


def test_stopped_and_given_again(command, tmp_path, monkeypatch):
    whole, *_ = command("--num", 40, "--features", "pixels")
    for path in tmp_path.rglob("chunk-*.npz"):
        path.unlink()
    from common.training import hosts

    polls = []
    monkeypatch.setattr(hosts.StopSignal, "should_stop", lambda self, step: polls.append(step) or len(polls) > 2)
    _, out, err = command("--num", 40, "--features", "pixels")
    assert "note: stopped" in err and "goes on" in out
    assert len(list(tmp_path.rglob("chunk-*.npz"))) < 3
    monkeypatch.setattr(hosts.StopSignal, "should_stop", lambda self, step: False)
    again, *_ = command("--num", 40, "--features", "pixels")
    assert again["frechet"] == whole["frechet"] and again["precision"] == whole["precision"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num", 0], "--num: expected at least 2, got 0; use 2 or more"),
        (["--features", "vgg"], '--features: expected one of "inception", "random", "pixels", got "vgg"'),
        ([], "--weights: expected the file of Inception-v3, got none; add --weights FILE"),
        (["--features", "random", "--weights", "x"], "--weights: expected none with --features random, got x"),
        (["--weights", "nowhere.pth"], "nowhere.pth: expected a checkpoint file, got nothing there"),
        (["--features", "pixels", "--reference", "x.npz"], "--reference: expected train, test or an .npz with mu and"),
        (["--weights", "x", "--resize", "cubic"], '--resize: expected one of "tf1", "half_pixel", got "cubic"'),
    ],
)
def test_wrong_use(command, argv, message):
    _, out, err = command(*argv, code=2)
    assert message in err and out == ""


def test_models_of_points_are_refused(command):
    points = Sampler(draw, {"nfe": 3}, num=4, batch_size=4)
    for sampler in (points, None):
        _, _, err = command("--features", "pixels", code=2, sampler=sampler)
        assert "fidelity: expected a model that draws images, got demo; use evaluate" in err
