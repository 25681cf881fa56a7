"""The wait for the first training step: `python -m gahb train` on configs/gahb/photographs.py.

Wall seconds from the start of the process to the end of its first step, as its own record gives it, with an empty cache
of compiled programs (cold) and with the cache which that start has filled (warm). Goal: warm / cold of at most 0.5.
`--dry-run`, which checks everything and compiles nothing, is reported beside them.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks import harness
from benchmarks.harness import Goal, Report, Seconds
from common import config as configs
from common.errors import RunError
from common.io.metrics_log import read_metrics
from configs.gahb.base import base

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/gahb/photographs.py"
PATIENCE_S = 600.0
POLL_S = 0.01


class Settings(NamedTuple):
    """`rounds` pairs of a cold and a warm start, with overrides of the config."""

    rounds: int = 5
    overrides: Mapping[str, str] = {}


FULL = Settings()
TINY = {"model.num_kernels": "4", "model.num_blocks": "1", "data.size": "16", "train.batch_size": "4"}
QUICK = Settings(rounds=1, overrides=TINY)


def run(settings: Settings) -> Report:
    """Starts training again and again and returns the times."""
    cold, warm, checks = [], [], []
    # The first start reads the libraries from the disk; it is not counted.
    for number in range(-1, settings.rounds):
        with tempfile.TemporaryDirectory() as cache:
            times = [first_step(cache=Path(cache), overrides=settings.overrides) for _ in range(2)]
        if number >= 0:
            cold.append(times[0])
            warm.append(times[1])
            checks.append(dry_run(overrides=settings.overrides))
    samples = {"cold start": cold, "warm start": warm, "dry run": checks}
    ratio = harness.compare("warm / cold start", warm, cold)
    config = configs.load(ROOT / CONFIG, settings.overrides, base())
    return Report(
        configs.to_dict(config),
        config.seed,
        samples,
        {"ratios (wall, with the spread over pairs; cpu)": [ratio]},
        [Goal("warm / cold start", ratio["wall"], 0.5)],
    )


def first_step(*, cache: Path, overrides: Mapping[str, str]) -> Seconds:
    """Trains in a new process until the first step is recorded; returns the time until then (CPU: until its end).

    Raises:
      RunError: it ends before, or takes more than ten minutes.
    """
    with tempfile.TemporaryDirectory() as workdir, tempfile.TemporaryFile() as output:
        # Only when a step is recorded changes: the compiled programs stay those of the experiment.
        command = _command(workdir, {**overrides, "train.log_every": "1"})
        used = os.times()
        began = time.time()
        process = subprocess.Popen(command, cwd=ROOT, env=_environment(cache), stdout=output, stderr=output)
        try:
            while not (records := read_metrics(workdir)):
                if process.poll() is not None or time.time() - began > PATIENCE_S:
                    output.seek(0)
                    raise RunError(f"no first step: {output.read().decode(errors='replace')[-2000:]}")
                time.sleep(POLL_S)
        finally:
            _end(process)
        after = os.times()
    cpu = after.children_user + after.children_system - used.children_user - used.children_system
    return Seconds(records[0]["time"] - began, cpu)


def dry_run(*, overrides: Mapping[str, str]) -> Seconds:
    """Returns the time of the same command with `--dry-run`, from start to end."""
    with tempfile.TemporaryDirectory() as workdir:
        used, began = os.times(), time.perf_counter()
        command = [*_command(workdir, overrides), "--dry-run"]
        subprocess.run(command, cwd=ROOT, env=_environment(Path(workdir)), check=True, capture_output=True)
        wall, after = time.perf_counter() - began, os.times()
    return Seconds(wall, after.children_user + after.children_system - used.children_user - used.children_system)


def _command(workdir: str, overrides: Mapping[str, str]) -> list[str]:
    keys = [f"--config.{key}={value}" for key, value in overrides.items()]
    return [sys.executable, "-m", "gahb", "train", "--config", CONFIG, "--workdir", workdir, *keys]


def _environment(cache: Path) -> dict[str, str]:
    # On an accelerator this process holds most of the memory unless the other one takes only what it needs.
    shared = {} if jax.default_backend() == "cpu" else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return {**os.environ, **shared, "JAX_COMPILATION_CACHE_DIR": str(cache)}


def _end(process: subprocess.Popen) -> None:
    """Asks the run to stop and waits; one that does not is killed."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
