"""Both stages, gone on with from a checkpoint in the middle: bit for bit as if nothing had happened."""

import json
import pathlib
import shutil

import pytest

from common.cli.dispatch import main
from common.io.metrics_log import read_metrics
from diffmatch_jax.__main__ import APP

CONFIG = str(pathlib.Path(__file__).with_name("tiny.py"))
STEPS, SAVED = 5, 3


def train(workdir, first=None):
    second = () if first is None else ("--config.task=stage2", f"--config.stage2.stage1={first}")
    assert main(["train", "--config", CONFIG, "--workdir", str(workdir), *second], APP) == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the work directories of both stages, trained without interruption."""
    root = tmp_path_factory.mktemp("whole")
    train(root / "stage1")
    train(root / "stage2", root / "stage1")
    return root


def ending(workdir):
    """Returns the checksums of everything in the last checkpoint, and the metrics but for the times."""
    manifest = json.loads((workdir / "checkpoints" / str(STEPS) / "manifest" / "manifest.json").read_text())
    timing = ("time", "examples_per_s", "data_wait")
    return manifest["leaves"], [
        {name: value for name, value in line.items() if name not in timing} for line in read_metrics(workdir)
    ]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_interrupted_is_uninterrupted(tmp_path, whole, stage):
    workdir = shutil.copytree(whole / stage, tmp_path / stage)
    leaves, metrics = ending(workdir)
    # As it was when it was killed after the first save, with a line of a step that nobody remembers.
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    assert [path.name for path in (workdir / "checkpoints").glob("[0-9]*")] == [str(SAVED)]
    train(workdir, whole / "stage1" if stage == "stage2" else None)
    again = ending(workdir)
    assert again == (leaves, metrics)
    assert [line["step"] for line in metrics] == [2, 4, 5] and len(leaves) > 10
    saved = json.loads((workdir / "checkpoints" / str(SAVED) / "manifest" / "manifest.json").read_text())
    assert saved["leaves"] != leaves
