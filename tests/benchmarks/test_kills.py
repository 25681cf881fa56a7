"""The comparison of what two runs leave, and the harness on work that loses what it has done."""

import json

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import kills
from common.checkpoint import Checkpoints
from common.training.step import TrainState

# Adds a line to a file until there are twenty; `fresh` begins anew when it is started again, and then has more.
WORK = """
import pathlib, sys, time
path = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1]) / "lines.jsonl"
path.parent.mkdir(exist_ok=True)
lines = path.read_text().splitlines() if path.exists() else []
if "fails" in sys.argv and lines:
    sys.exit("cannot go on")
start = 0 if "fresh" in sys.argv else len(lines)
for number in range(start, 20):
    with open(path, "a") as file:
        print('{"step": %d, "time": %f}' % (number, time.time()), file=file)
    time.sleep(0.02)
"""


def finished(folder, value=1.0, created="now"):
    state = TrainState(np.int32(1), {"w": np.full(3, value, np.float32)}, {}, (), ())
    with Checkpoints(folder, config={}, keep=1) as checkpoints:
        checkpoints.save(1, state, {"window": 2})
    (folder / "results").mkdir()
    np.savez(folder / "results" / "a.npz", x=np.float32([-0.0, value]))
    (folder / "results" / "a.json").write_text(json.dumps({"created": created, "rows": [{"wall_s": 1, "n": value}]}))
    (folder / "metrics.jsonl").write_text('{"step": 1, "time": 5.0, "loss": 2.0}\n')
    (folder / "picture.png").write_bytes(b"pixels")
    return folder


def test_files_are_compared_bit_for_bit_but_for_times(tmp_path):
    one, same = (kills.final_files(finished(tmp_path / name, created=name)) for name in ("one", "same"))
    assert sorted(one) == ["checkpoints/1", "metrics.jsonl", "picture.png", "results/a.json", "results/a.npz"]
    assert kills.differences(one, same) == []
    other = kills.final_files(finished(tmp_path / "other", value=2.0))
    assert kills.differences(one, other) == [
        f"{name}: differs" for name in ("checkpoints/1", "results/a.json", "results/a.npz")
    ]
    np.savez(tmp_path / "same" / "results" / "a.npz", x=np.float32([0.0, 1.0]))
    (tmp_path / "same" / "picture.png").unlink()
    (tmp_path / "same" / "more.png").write_bytes(b"")
    found = kills.differences(one, kills.final_files(tmp_path / "same"))
    assert found == ["more.png: left over", "picture.png: missing", "results/a.npz: differs"]


@pytest.mark.parametrize(("kind", "lost", "differing"), [("keeps", 0, 0), ("fresh", 0, 1), ("fails", 1, 0)])
def test_runs_that_are_lost_or_differ_are_counted(tmp_path, monkeypatch, kind, lost, differing):
    (tmp_path / "killed_work.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(kills, "WORKS", {"lines": lambda runner: kills.Work(["killed_work", kind], None)})
    report = kills.run(kills.Settings(count=2, what=("lines",), seed=3))
    (row,) = report.tables["kills"]
    assert (row["lost"] > 0, row["differing"] > 0) == (bool(lost), bool(differing))
    assert row["kills"] == 2 or lost
    assert bool(row["first fault"]) == bool(lost or differing)
    if kind == "fails":
        assert "cannot go on" in row["first fault"]
    (goal,) = report.goals
    assert goal.met == (kind == "keeps")


def test_wrong_options_are_one_line(capsys):
    for argv, message in (
        (
            ["kills", "--what", "trian"],
            'error: --what: expected one of "train", "sample", "study", "benchmark", got "trian"',
        ),
        (["kills", "--count", "0"], "error: --count: expected at least 1, got 0; use 1 or more"),
        (["unet", "--count", "3"], "error: --count: expected kills alone, got unet; leave it out"),
    ):
        assert command.main(argv) == 2
        assert capsys.readouterr().err.startswith(message)
