"""The demonstration from end to end at a small size."""

import json

import pytest

from common.cli.dispatch import main
from phase_bridge.__main__ import APP

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = {
    "model.width": 8,
    "model.depth": 1,
    "train.steps": 400,
    "train.batch_size": 16,
    "train.log_every": 10,
    "checkpoint.every": 200,
    "optimizer.warmup": 10,
    "evaluate.num": 200,
    "sampler.num": 64,
    "sampler.batch_size": 64,
    "compare.nfe": "(3,)",
    "compare.models": "('denoiser/agm-ode', 'velocity/flow')",
}


def test_it_is_interrupted_resumed_compared_and_drawn(tmp_path, capfd):
    changes = [f"--config.{key}={value}" for key, value in SMALL.items()]
    assert main(["demo", "--workdir", str(tmp_path), *changes], APP) == 0
    shown = capfd.readouterr().out
    numbers = json.loads((tmp_path / "results.json").read_text())["phase_bridge"]
    assert 200 <= numbers["interrupted_at_step"] < numbers["steps"] == 400
    assert set(numbers["lines"]) == {"denoiser, bridge's levels; AGM-ODE", "velocity; flow"}
    assert numbers["lines"]["velocity; flow"]["3"]["w2"] > numbers["floor"]["w2"] > 0
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 6  # comparison, clouds, samples, trajectories, estimates, training
    assert "://" not in page
    assert shown.count("$ python -m phase_bridge train") == 2  # the comparison does not train it again
    assert "training denoiser/0" in shown
