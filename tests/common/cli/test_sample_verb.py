"""`sample --num` on points, which are no images, and on methods that cannot draw one by one."""

import types

import jax
import numpy as np
import pytest

from common import config as configs
from common.cli.app import App
from common.cli.dispatch import main
from common.cli.verbs import trained
from common.cli.verbs.trained import Trained
from common.io import row_store
from common.io.results import read
from common.method import Sampler, Variables
from common.training import hosts
from configs.base import base


def draw(variables, keys, index):
    return {"samples": variables.params["scale"] * jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)}


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Returns `run(*argv, code=0, sampler=...) -> (out, err)`."""
    points = Sampler(draw, {"nfe": 5}, num=4, batch_size=300)

    def run(*argv, code=0, sampler=points):
        method = types.SimpleNamespace(name="demo", sampler=sampler)

        def load(app, request, purpose):
            variables = Variables({"scale": np.float32(3.0)}, {})
            provenance = lambda wall_s, nfe: {"step": 7, "nfe": nfe}  # noqa: E731
            return Trained(method, variables, jax.random.key(1), tmp_path, "step-7-seed-1", 7, 1, provenance)

        monkeypatch.setattr(trained, "load", load)
        assert (
            main(["sample", "--workdir", str(tmp_path), *argv], App("demo", "", None, None, None, None, dict)) == code
        )
        return capsys.readouterr()

    return run


def test_points(command, tmp_path):
    out, err = command("--num", "2000")
    (path,) = (tmp_path / "samples").glob("many-*.json")
    numbers, _ = read(path)
    samples = row_store.open_store(path.with_suffix("")).load("samples", 2000)
    key = jax.random.fold_in(jax.random.key(1), 1999)
    np.testing.assert_allclose(samples[1999], 3 * jax.random.normal(key, (2,)), rtol=1e-5)
    assert samples.std() == pytest.approx(3, rel=0.05)
    assert numbers["settings"]["type"] == "float32" and not {"type", "weights", "sampler"} & set(numbers)
    assert numbers["nfe"] == 5 and numbers["num_samples"] == 2000
    assert (
        numbers["samples_per_s"] > 0 and "samples/s" in err and f"wrote 2000 samples to {path.with_suffix('')}" in out
    )
    assert not list((tmp_path / "samples").glob("*.png"))
    out, err = command("--num", "2100")
    assert "1200 of 2100 are in" in out
    np.testing.assert_array_equal(row_store.open_store(path.with_suffix("")).load("samples", 2000), samples)


def test_a_stop_is_told(command, tmp_path, monkeypatch):
    polls = []
    monkeypatch.setattr(hosts.StopSignal, "should_stop", lambda self, step: polls.append(step) or len(polls) > 5)
    out, err = command("--num", "5000")
    assert "note: stopped; the samples in complete files are kept" in err
    assert out.splitlines()[-1].startswith("next: python -m demo sample --workdir") and "goes on" in out
    assert not list((tmp_path / "samples").glob("many-*.json"))
    monkeypatch.setattr(hosts.StopSignal, "should_stop", lambda self, step: False)
    out, _ = command("--num", "5000")
    assert "1200 of 5000 are in" in out and "wrote 5000 samples" in out


def test_a_method_without_a_sampler(command):
    out, err = command("--num", "5", code=2, sampler=None)
    assert "--num: expected a model that draws samples one by one, got demo" in err and out == ""


def test_settings_of_results_hold_no_key_that_changes_no_number():
    """What of the data a run may be resumed with is not in the settings either; the source is there by its name too."""
    free = {key for key in configs.RESUME_MAY_CHANGE if key.startswith("data.")} - {"data.source"}
    assert free <= set(trained.IRRELEVANT)
    named = {f"data.{name}" for name in trained.config_settings(base())["data"]}
    assert "data.source" in named and not named & free
