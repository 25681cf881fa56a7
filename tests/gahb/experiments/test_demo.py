"""The demonstration from end to end at a small size, and what it refuses to overwrite."""

import json

import pytest

from common.cli import demo
from common.cli.dispatch import main
from common.errors import InputError
from gahb.__main__ import APP

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = {
    "model.num_kernels": 4,
    "model.num_blocks": 1,
    "train.steps": 400,
    "data.size": 16,
    "train.log_every": 10,
    "train.preview_every": 0,
    "evaluate.curve_db": "(30, 20, 10)",
    "evaluate.num_images": 8,
    "evaluate.wiener_images": 64,
    "evaluate.panel_size": 16,
    "evaluate.panel_images": 1,
    "sampler.num": 2,
    "sampler.max_steps": 20,
}


def test_it_is_interrupted_resumed_measured_and_drawn(tmp_path, capfd):
    changes = [f"--config.{key}={value}" for key, value in SMALL.items()]
    assert main(["demo", "--workdir", str(tmp_path), *changes], APP) == 0
    shown = capfd.readouterr().out
    numbers = json.loads((tmp_path / "results.json").read_text())["gahb"]
    assert 200 <= numbers["interrupted_at_step"] < numbers["steps"] == 400
    assert [255 * row["sigma"] for row in numbers["evaluate"]["table"]] == pytest.approx([10, 25, 50, 100])
    for row in numbers["evaluate"]["table"]:
        assert row["gain"] == pytest.approx(row["denoised"] - row["wiener"], abs=1e-5)
    assert numbers["sample"]["num_samples"] == 2
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 4  # curve, panel, samples, training
    assert "://" not in page
    assert str(tmp_path / "index.html") in shown
    assert "$ python -m gahb evaluate" in shown


def test_an_earlier_demo_is_replaced_but_nothing_else(tmp_path):
    folder = demo.prepare(tmp_path, "gahb")
    (folder / "result").touch()
    assert not (demo.prepare(tmp_path, "gahb") / "result").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis").touch()
    with pytest.raises(InputError, match="mine: expected none or an earlier demo"):
        demo.prepare(tmp_path, "mine")
    assert (mine / "thesis").exists()
