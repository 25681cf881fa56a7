"""The demonstration from end to end at a small size."""

import json

import pytest

from common.cli.dispatch import main
from diffmatch_jax.__main__ import APP

SMALL = {
    "data.size": 48,
    "features.pyramid": "random",
    "features.fine": 32,
    "model.channels": 8,
    "model.multipliers": "(1,)",
    "model.attention": "()",
    "model.heads": 1,
    "process.steps": 2,
    "pairs.size": 32,
    "pairs.photometric": 0.0,
    "stage2.size": 8,
    "train.steps": 100,
    "train.batch_size": 2,
    "checkpoint.every": 50,
    "sampler.hypotheses": 2,
    "evaluate.num": 2,
    "evaluate.batch_size": 2,
}


@pytest.mark.slow
def test_both_stages_are_trained_measured_and_drawn(tmp_path, capfd):
    changes = [f"--config.{key}={value}" for key, value in SMALL.items()]
    assert main(["demo", "--workdir", str(tmp_path), *changes], APP) == 0
    shown = capfd.readouterr().out
    numbers = json.loads((tmp_path / "results.json").read_text())["diffmatch_jax"]
    assert 50 <= numbers["interrupted_at_step"] < numbers["steps"] == 100
    one, both = (numbers[name]["table"][-1]["aepe"] for name in ("stage1", "both"))
    assert f"stage 1 {one:.2f}, both {both:.2f}" in shown and 0 < both < 32
    assert numbers["both"]["nfe"] == 1 + 1
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png;base64,") >= 4  # the pair and its hypotheses, matches, training
    assert "://" not in page
    assert shown.count("$ python -m diffmatch_jax train") == 3 and "$ python -m diffmatch_jax match" in shown
