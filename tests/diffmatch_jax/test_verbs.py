"""`sample`, `evaluate`, `figures` and `describe` of one tiny run: what their files hold."""

import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from common.checkpoint import restore_params
from common.cli.dispatch import main
from diffmatch_jax.__main__ import APP
from diffmatch_jax.model.flow import warp

CONFIG = str(pathlib.Path(__file__).with_name("tiny.py"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the work directory of a trained stage 1, evaluated."""
    workdir = tmp_path_factory.mktemp("run")
    assert main(["train", "--config", CONFIG, "--workdir", str(workdir)], APP) == 0
    assert main(["evaluate", "--workdir", str(workdir)], APP) == 0
    return workdir


def test_sample(run):
    assert main(["sample", "--workdir", str(run)], APP) == 0
    (path,) = (run / "samples").glob("step-5-seed-0-*.npz")
    with np.load(path) as file:
        arrays = dict(file)
    told = json.loads(path.with_suffix(".json").read_text())
    assert (told["num_samples"], told["hypotheses"], told["nfe"]) == (3, 2, 2 * 2)
    (evaluated,) = (run / "results").glob("evaluate-step-5-seed-0-*.json")
    data = json.loads(evaluated.read_text())["settings"]["data"]
    assert told["settings"]["data"] == {"test": data["test"]} and len(data["test"]) == 32
    assert {name: each.shape for name, each in arrays.items() if name != "config"} == {
        **dict.fromkeys(("source", "target"), (3, 32, 32, 3)),
        **dict.fromkeys(("flow", "predicted", "wta_flow"), (3, 32, 32, 2)),
        **dict.fromkeys(("mask", "confidence", "std"), (3, 32, 32)),
    }
    # The truth is true: where it is valid, it brings source to target.
    mask = arrays["mask"]
    away = np.abs(np.asarray(warp(arrays["source"], arrays["flow"])) - arrays["target"]).max(-1)
    assert mask.mean() > 0.3 and away[mask].mean() < 0.05
    assert np.abs(arrays["flow"][mask]).max() > 1
    assert np.isfinite(arrays["predicted"]).all() and np.abs(arrays["predicted"]).max() < 3 * 32
    assert (arrays["std"] > 0).all() and (arrays["confidence"] > 0).all() and (arrays["confidence"] < 1).all()
    # Unsure is what is spread out, or flat: confidence is that of the spread times the texture, at most 1.
    config = json.loads((run / "config.json").read_text())
    std = arrays["std"] / 32 * config["features"]["fine"]
    evidence = arrays["confidence"] * (1 + (std / config["sampler"]["confidence"]) ** 2)
    assert evidence.min() > 0 and evidence.max() < 1.02
    assert evidence.max() > 0.9
    # The winner leads from a cell to a cell.
    landed = arrays["wta_flow"] + np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1)
    assert landed.min() > -8 and landed.max() < 32 + 8
    picture = np.asarray(Image.open(path.with_suffix(".png")))
    assert picture.std() > 10


def test_figures(run):
    assert main(["figures", "--workdir", str(run)], APP) == 0
    drawn = {path.name: np.asarray(Image.open(path).convert("L")) for path in (run / "figures").glob("*.png")}
    assert {"training.png", "match-0.png", "match-1.png"} <= set(drawn)
    assert all(picture.std() > 5 for picture in drawn.values())
    page = (run / "index.html").read_text()
    rows = json.loads(next((run / "results").glob("evaluate-step-5-seed-0-*.json")).read_text())["table"]
    assert all(row["method"] in page for row in rows)
    assert page.count("data:image/png;base64,") >= 3 and "://" not in page


def test_describe(run, capsys):
    assert main(["describe", "--workdir", str(run)], APP) == 0
    told = capsys.readouterr().out
    count = sum(leaf.size for leaf in jax.tree.leaves(restore_params(run).params))
    assert f"{count:,}" in told
    (arithmetic,) = (line for line in told.splitlines() if line.startswith("arithmetic per example: forward "))
    assert arithmetic.count("FLOP") == 2
    (parameters,) = (line.split()[-1] for line in told.splitlines() if line.startswith("parameters"))
    assert float(parameters) == pytest.approx(4 * count / 2**20, abs=0.01)
