"""A run that was stopped or killed, at any moment and any number of times, ends as if nothing had happened."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = pathlib.Path(__file__).with_name("tiny.py")
STEPS = 240
CHANGES = [
    f"--config.train.steps={STEPS}",
    "--config.checkpoint.every=17",  # not a multiple of the logging interval: a window is open at every save
    "--config.train.log_every=5",
    "--config.noise.freeze_after=0.6",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    process = start(workdir, cache)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return ending(workdir)


def start(workdir, cache):
    return subprocess.Popen(
        [sys.executable, "-m", "gahb", "train", "--config", CONFIG, "--workdir", workdir, *CHANGES],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ending(workdir):
    """Returns the checksums of everything in the last checkpoint, and the metrics but for the times."""
    manifest = json.loads((workdir / "checkpoints" / str(STEPS) / "manifest" / "manifest.json").read_text())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timing = ("time", "examples_per_s", "data_wait")
    metrics = [{name: value for name, value in line.items() if name not in timing} for line in lines]
    return {"leaves": manifest["leaves"], "metrics": metrics}


def logged_steps(workdir):
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return 5 * len(lines)


def stop_at_random(process, workdir, number, chance):
    """Sends the signal some milliseconds after a random step, or (one time in four) at any moment of the start."""
    if chance.random() < 0.25:
        time.sleep(chance.uniform(0, 8))
    else:
        wanted = logged_steps(workdir) + chance.randrange(5, 80)
        while process.poll() is None and logged_steps(workdir) < min(wanted, STEPS - 10):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
    process.send_signal(number)
    output = process.communicate()[0]
    return process.returncode, output


def interrupt(workdir, cache, number, times, chance):
    """Starts the run again and again, sends the signal each time, then lets it end; returns the exit codes."""
    codes = []
    for _ in range(times):
        code, output = stop_at_random(start(workdir, cache), workdir, number, chance)
        assert "Traceback" not in output, output
        codes.append(code)
    process = start(workdir, cache)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return codes


def test_terminated_then_killed(tmp_path, cache, uninterrupted):
    """SIGTERM saves and exits cleanly, SIGKILL loses what was not saved; the run then ends as the uninterrupted one."""
    process = start(tmp_path, cache)
    while process.poll() is None and logged_steps(tmp_path) < 60:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "interrupted at step" in output
    saved = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert 60 <= saved < STEPS
    assert saved % 17, "the last save was one that was due anyway"
    assert interrupt(tmp_path, cache, signal.SIGKILL, 1, random.Random(0)) == [-signal.SIGKILL]
    assert ending(tmp_path) == uninterrupted


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(5))
def test_killed_twenty_times_in_all(tmp_path, cache, uninterrupted, seed):
    codes = interrupt(tmp_path, cache, signal.SIGKILL, 5, random.Random(100 + seed))
    assert -signal.SIGKILL in codes
    assert ending(tmp_path) == uninterrupted
