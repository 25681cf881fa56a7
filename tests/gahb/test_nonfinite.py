"""Steps with an infinite loss: named, limited by a budget, and never in a checkpoint."""

import json

import jax
import numpy as np
import pytest

from common.checkpoint import restore_params
from common.cli.dispatch import main
from common.io.metrics_log import read_metrics
from gahb.__main__ import APP

pytestmark = pytest.mark.usefixtures("quick_compilation")

BAD = 3  # the record that makes the loss of its batch infinite


@pytest.fixture
def train(tmp_path):
    """Returns `train(*changes) -> exit code` of a run of six steps in which one record makes the loss infinite."""
    images = np.random.default_rng(0).random((8, 8, 8, 1), np.float32)
    np.savez(tmp_path / "images.npz", train=images, test=images[:2])
    changes = {
        "data.source": f"npz:{tmp_path}/images.npz", "data.fit": "none", "data.size": 8, "train.batch_size": 2,
        "train.steps": 6, "checkpoint.every": 1, "checkpoint.keep": 9, "optimizer.schedule": "constant",
    }  # fmt: skip
    fixed = ["--config", "tests/gahb/tiny.py", "--workdir", str(tmp_path / "run")]
    fixed += [f"--config.{key}={value}" for key, value in changes.items()]
    return lambda *more: main(["train", *fixed, *more], APP)


@pytest.fixture
def overflowing(monkeypatch):
    """Makes the loss infinite for batches with the bad record."""
    from gahb import objective

    honest = objective.loss

    def loss(network, variables, key, batch, **how):
        value, aux = honest(network, variables, key, batch, **how)
        return value * jax.numpy.where((batch["index"] == BAD).any(), jax.numpy.inf, 1.0), aux

    monkeypatch.setattr(objective, "loss", loss)


def dumped(workdir):
    return [json.loads(line) for line in (workdir / "nonfinite.jsonl").read_text().splitlines()]


def steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def test_the_run_stops_and_the_step_is_not_saved(train, overflowing, tmp_path, capsys):
    assert train() == 1
    message = capsys.readouterr().err.splitlines()[-1]
    (record,) = dumped(tmp_path / "run")
    assert BAD in record["indices"] and len(record["indices"]) == 2
    assert message.startswith(f"error: step {record['step']}: loss inf")
    # Eight records in batches of two: the bad one is in exactly one of the first four steps, 0 to 3.
    assert steps(tmp_path / "run") == list(range(1, record["step"] + 1))
    for step in steps(tmp_path / "run"):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restore_params(tmp_path / "run", step=step)))


def test_a_larger_budget_lets_the_stopped_run_go_on(train, overflowing, tmp_path, capsys):
    assert train() == 1
    stopped = dumped(tmp_path / "run")[0]["step"]
    assert train("--config.train.skip_nonfinite=2") == 0
    records = read_metrics(tmp_path / "run")
    assert records[-1]["step"] == 6 and 1 <= records[-1]["skipped"] <= 2
    assert dumped(tmp_path / "run")[0] == dumped(tmp_path / "run")[1]
    assert stopped > 0
    # The skipped step left everything as it was.
    before, after = (restore_params(tmp_path / "run", step=step) for step in (stopped, stopped + 1))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_one_more_than_the_budget_stops_the_run(train, overflowing, tmp_path):
    """Twelve steps see the bad record three times."""
    more = ("--config.train.steps=12", "--config.train.skip_nonfinite=2")
    assert train(*more) == 1
    assert len(dumped(tmp_path / "run")) == 3
    assert all(BAD in record["indices"] for record in dumped(tmp_path / "run"))
