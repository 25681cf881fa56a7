"""Metrics files that survive interruptions, and the progress line."""

import io
import json
import os
import sys
import types

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto import event_pb2

from common.errors import InputError
from common.io.metrics_log import METRICS, Recorder, duration, progress, read_metrics, truncate


def record(workdir, steps, *, resume_step=0):
    stream = io.StringIO()
    with Recorder(workdir, total_steps=10, resume_step=resume_step, stream=stream) as recorder:
        for step in steps:
            recorder.write(
                step, {"loss": np.float32(step) / 2, "examples_per_s": 8.0, "data_wait": 0.125, "skipped": 0}
            )
    return stream.getvalue()


def events(workdir):
    """Yields every TensorBoard event, in the order of the files."""
    for path in sorted((workdir / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            yield event_pb2.Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]


def test_lines(tmp_path):
    text = record(tmp_path, [2, 4, 10])
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 10]
    assert [line["loss"] for line in lines] == [1.0, 2.0, 5.0]
    first, _, last = text.splitlines()
    assert first.startswith("step 2/10: loss 1, 8 examples/s, 12.5 % waiting for data, ETA ")
    assert last == "step 10/10: loss 5, 8 examples/s, 12.5 % waiting for data"
    scalars = {(each.step, v.tag): v.simple_value for each in events(tmp_path) for v in each.summary.value}
    assert scalars[4, "loss"] == 2.0


def test_resumed_file_equals_uninterrupted_one(tmp_path):
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    record(tmp_path / "whole", range(1, 9))
    record(tmp_path / "resumed", range(1, 7))
    with open(tmp_path / "resumed" / METRICS, "a") as file:
        file.write('{"step": 7, "lo')
    record(tmp_path / "resumed", range(5, 9), resume_step=4)
    whole, resumed = (read_metrics(tmp_path / name) for name in ("whole", "resumed"))
    assert [{**line, "time": 0} for line in whole] == [{**line, "time": 0} for line in resumed]


def test_a_fresh_start_forgets_lines_of_an_attempt_without_checkpoint(tmp_path):
    record(tmp_path, [1, 2, 3])
    record(tmp_path, [2])
    assert [line["step"] for line in read_metrics(tmp_path)] == [2]


def test_not_finite_is_null(tmp_path):
    with Recorder(tmp_path, total_steps=1, stream=(stream := io.StringIO())) as recorder:
        recorder.write(1, {"loss": float("nan"), "psnr": 20.0, "skipped": 3})
    assert read_metrics(tmp_path)[0]["loss"] is None
    assert stream.getvalue() == "step 1/1: loss not finite, PSNR 20.00 dB, 3 skipped\n"


def test_half_written_last_line_is_skipped_and_a_broken_line_before_it_named(tmp_path):
    path = tmp_path / METRICS
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl:2: expected a JSON object with `step`"):
        read_metrics(tmp_path)
    assert read_metrics(tmp_path / "elsewhere") == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(InputError, match="expected a readable log, got a pipe or a device"):
        read_metrics(tmp_path)


def test_truncate_leaves_a_good_file_untouched(tmp_path):
    path = tmp_path / METRICS
    path.write_text('{"step": 1}\n{"step": 2}\n')
    before = path.stat()
    truncate(path, 2)
    assert path.stat().st_ino == before.st_ino
    truncate(path, 1)
    assert path.read_text() == '{"step": 1}\n'


def test_disabled_recorder_writes_nothing(tmp_path):
    with Recorder(tmp_path, total_steps=3, enabled=False) as recorder:
        recorder.write(1, {"loss": 1.0})
        recorder.images(1, {"x": np.zeros((2, 2, 1))})
    assert list(tmp_path.iterdir()) == []


def test_images(tmp_path):
    image = np.linspace(-0.5, 1.5, 5, dtype=np.float32).reshape(1, 5, 1)
    with Recorder(tmp_path, total_steps=3, stream=io.StringIO()) as recorder:
        recorder.images(2, {"denoised": image})
    stored = np.asarray(Image.open(tmp_path / "previews" / "denoised-00000002.png"))
    np.testing.assert_array_equal(stored, [[0, 0, 128, 255, 255]])
    tags = [(each.step, v.tag, v.image.width) for each in events(tmp_path) for v in each.summary.value]
    assert (2, "denoised", 5) in tags


def test_terminal_gets_one_line_that_is_redrawn(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    with Recorder(tmp_path, total_steps=4, stream=(stream := Terminal())) as recorder:
        recorder.write(2, {"loss": 0.25})
        recorder.write(4, {"loss": 0.125})
    text = stream.getvalue()
    assert text.count("\n") == 1 and "4/4" in text and "loss 0.125" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (-3, "0 s")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_progress_of_nothing():
    assert progress({}) == ""


def test_tracking_logs_the_same_numbers_and_says_when_it_cannot(tmp_path, monkeypatch):
    logged = []
    tracker = types.SimpleNamespace(
        log=lambda numbers, step: logged.append((step, numbers)), finish=lambda: logged.append("finished")
    )
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **names: tracker))
    with Recorder(tmp_path, total_steps=2, tracking="wandb", stream=io.StringIO()) as recorder:
        recorder.write(1, {"loss": 0.5})
    assert logged == [(1, {"loss": 0.5}), "finished"]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"config.train.tracking: expected .* pip install 'scorebridge\[tracking\]'"):
        Recorder(tmp_path, total_steps=2, tracking="wandb", stream=io.StringIO())


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ("{", "Expecting"),
        ("[]", "a JSON list"),
        ("{}", "id None"),
        ('{"id": 3}', "id 3"),
        ("[" * 100_000, "JSON that is"),
    ],
    ids=range(5),
)
def test_a_damaged_id_of_a_tracked_run_is_named(tmp_path, content, got):
    (tmp_path / "wandb.json").write_text(content)
    with pytest.raises(InputError) as error:
        Recorder(tmp_path, total_steps=2, tracking="wandb", stream=io.StringIO())
    assert f"{tmp_path / 'wandb.json'}: expected the id of a run, got {got}" in str(error.value)
