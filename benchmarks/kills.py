"""Checks that work killed at any moment and started again ends as if nothing had happened, bit for bit.

Runs tiny `gahb train`, `gahb sample --num`, `gahb study` and `diffmatch_jax benchmark` in processes of their own, sends
SIGKILL at seeded random moments (some time after the start, or right after a file has changed), starts them again until
they are done, and compares every file they leave with those of a run that was left alone: arrays, checkpoints, metrics,
tables and pictures, without times. Goal: no run lost, none that differs.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness
from benchmarks.harness import Goal, Report, Seconds
from common.checkpoint import saved_steps
from common.errors import RunError, choice, input_error

ROOT = Path(__file__).resolve().parents[1]
# Duration and date of a run: all that may differ between two runs.
TIMES = {"time", "wall_s", "created", "examples_per_s", "samples_per_s", "data_wait", "seconds"}
# Show times too; all else in them is in `results/benchmark-*.json`.
WITH_TIMES = ("results/benchmark-*.md", "figures/accuracy-*.png")
KILLS_EACH = 4  # of one run, before it is left alone
SMALL = {"model.num_kernels": 4, "model.num_blocks": 1, "data.size": 12, "train.batch_size": 8, "data.flip": False}


class Settings(NamedTuple):
    """`count` kills of each of `what`, at moments that `seed` decides."""

    count: int = 50
    what: tuple[str, ...] = ("train", "sample", "study", "benchmark")
    seed: int = 0


FULL = Settings()
QUICK = Settings(count=1, what=("train",))


class Work(NamedTuple):
    """A command, without its `--workdir`, and the directory of which it starts with a copy (None: an empty one)."""

    command: list[str]
    start: Path | None


class Ending(NamedTuple):
    """The end of a run that was killed: how often it was killed and started again, and its differences."""

    kills: int
    restarts: int
    lost: str
    differing: list[str]


def run(settings: Settings) -> Report:
    """Kills and restarts each kind of work; returns a table with a row for each.

    Raises:
      InputError: no kill at all, or an unknown kind of work.
      RunError: a run that is left alone fails, or two of them differ.
    """
    if settings.count < 1:
        raise input_error("--count", expected="at least 1", got=settings.count, fix="use 1 or more")
    for name in settings.what:
        choice("--what", name, tuple(WORKS))
    samples, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in settings.what:
            runner = Runner(Path(folder), name)
            samples[f"{name}, left alone"] = [runner.whole()]
            chance, endings = random.Random(f"{settings.seed} {name}"), []
            # A run that fails at once is never killed; twice as many runs as kills are enough.
            while (left := settings.count - sum(each.kills for each in endings)) > 0 and len(
                endings
            ) < 2 * settings.count:
                endings.append(runner.trial(chance, kills=min(left, KILLS_EACH)))
                print(f"{name}: {settings.count - left + endings[-1].kills} of {settings.count} kills", flush=True)
            rows.append(
                {
                    "what": name,
                    "runs": len(endings),
                    "kills": sum(each.kills for each in endings),
                    "restarts": sum(each.restarts for each in endings),
                    "lost": sum(bool(each.lost) for each in endings),
                    "differing": sum(bool(each.differing) for each in endings),
                    "first fault": next(
                        (text for each in endings for text in (each.lost, *each.differing) if text), ""
                    ),
                }
            )
    goals = [Goal(f"{row['what']}: runs lost or differing", row["lost"] + row["differing"], 0) for row in rows]
    return Report(settings._asdict(), settings.seed, samples, {"kills": rows}, goals)


class Runner:
    """Runs one kind of work in directories below `folder`, with one cache of compiled programs for all."""

    def __init__(self, folder: Path, name: str):
        self._folder = folder / name
        self._folder.mkdir()
        # Figures carry no date, and one thread rounds like another.
        self._environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "SOURCE_DATE_EPOCH": "0",
        }
        self._work = WORKS[name](self)
        self._trials = 0
        self._expected: dict[str, Any] = {}
        self._seconds = 0.0

    @property
    def folder(self) -> Path:
        """Where inputs may be written."""
        return self._folder

    def whole(self) -> Seconds:
        """Runs the work without a kill, twice, to have its programs compiled; returns the time of the second run."""
        for number in range(2):
            workdir = self._workdir(f"whole-{number}")
            start = _now()
            self.finish(self._work.command, workdir)
            seconds = harness.since(start, _now())
        self._expected, self._seconds = final_files(workdir), seconds.wall
        if differing := differences(self._expected, final_files(self._folder / "whole-0")):
            raise RunError(f"two runs left alone differ: {differing[0]}")
        return seconds

    def trial(self, chance: random.Random, *, kills: int) -> Ending:
        """Kills a new run up to `kills` times, lets it end, and compares what it leaves."""
        self._trials += 1
        workdir = self._workdir(f"trial-{self._trials}")
        done = 0
        for attempt in range(3 * kills):
            process = self._start(self._work.command, workdir)
            _wait(process, workdir, chance, self._seconds)
            process.send_signal(signal.SIGKILL)
            output = process.communicate()[0]
            done += process.returncode == -signal.SIGKILL
            if process.returncode > 0:
                return Ending(done, attempt, _last(output), [])
            if process.returncode == 0 or done == kills:
                break
        try:
            self.finish(self._work.command, workdir)
        except RunError as error:
            return Ending(done, attempt + 1, str(error), [])
        found = differences(self._expected, final_files(workdir))
        shutil.rmtree(workdir)
        return Ending(done, attempt + 1, "", found)

    def finish(self, command: list[str], workdir: Path) -> None:
        """Runs a command to its end; raises `RunError` with the last line it prints if it fails."""
        process = self._start(command, workdir)
        output = process.communicate()[0]
        if process.returncode:
            raise RunError(f"{' '.join(command)}: {_last(output)}")

    def _start(self, command: list[str], workdir: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", *command, "--workdir", workdir],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _workdir(self, name: str) -> Path:
        path = self._folder / name
        if self._work.start is not None:
            shutil.copytree(self._work.start, path)
        return path


def final_files(workdir: Path) -> dict[str, Any]:
    """Returns what a finished run has left, by file name and without times, so that equal means bit for bit."""
    found: dict[str, Any] = {}
    for path in sorted(workdir.rglob("*")):
        name = path.relative_to(workdir).as_posix()
        if path.name == "checkpoints":
            for step in saved_steps(path.parent):
                manifest = json.loads((path / str(step) / "manifest" / "manifest.json").read_text())
                found[f"{name}/{step}"] = {key: manifest[key] for key in ("leaves", "extra", "config")}
        elif path.is_dir() or "checkpoints" in path.parts or "tensorboard" in path.parts:
            continue
        elif any(path.match(pattern) for pattern in WITH_TIMES):
            found[name] = "is there"
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                kept = {key: x for key, x in arrays.items() if key not in TIMES}
            found[name] = {key: (str(x.dtype), x.shape, x.tobytes()) for key, x in kept.items()}
        elif path.suffix in (".json", ".jsonl"):
            texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = [_without_times(json.loads(text), workdir) for text in texts]
        else:
            found[name] = path.read_bytes()
    return found


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Returns a line for each file that is missing, left over or different."""
    lines = [f"{name}: missing" for name in expected.keys() - found.keys()]
    lines += [f"{name}: left over" for name in found.keys() - expected.keys()]
    lines += [f"{name}: differs" for name in expected.keys() & found.keys() if expected[name] != found[name]]
    return sorted(lines)


def _without_times(value: Any, workdir: Path) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each, workdir) for key, each in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [_without_times(each, workdir) for each in value]
    return value.replace(str(workdir), "WORKDIR") if isinstance(value, str) else value


def _now() -> Seconds:
    times = os.times()
    return Seconds(time.perf_counter(), times.children_user + times.children_system)


def _wait(process: subprocess.Popen, workdir: Path, chance: random.Random, seconds: float) -> None:
    """Returns at a random moment: one time in four whenever, else just after one of the changes of a file."""
    end = time.perf_counter() + chance.uniform(0, seconds)
    if chance.random() > 0.25:
        end = time.perf_counter() + 10 * seconds
        for _ in range(chance.randrange(1, 8)):
            before = _state(workdir)
            while process.poll() is None and time.perf_counter() < end and _state(workdir) == before:
                time.sleep(0.001)
        end = time.perf_counter() + chance.uniform(0, 0.03)
    while process.poll() is None and time.perf_counter() < end:
        time.sleep(0.001)


def _state(workdir: Path) -> list[tuple[str, int]]:
    found = []
    for folder, _, names in os.walk(workdir):
        for name in names:
            try:
                found.append((os.path.join(folder, name), os.stat(os.path.join(folder, name)).st_size))
            except FileNotFoundError:
                continue
    return sorted(found)


def _last(output: str) -> str:
    return (output.strip().splitlines() or ["no output"])[-1]


def _overrides(values: Mapping[str, Any]) -> list[str]:
    return [f"--config.{key}={value}" for key, value in values.items()]


def _train_command(steps: int) -> list[str]:
    # Saves are not at multiples of the logging interval, so that each holds part of a line of metrics.
    changes = {"train.steps": steps, "train.log_every": 5, "checkpoint.every": 7, "ema.decay": 0.9, "data.fit": "crop"}
    config = "configs/gahb/photographs.py"
    return ["gahb", "train", "--config", config, *_overrides({**SMALL, **changes})]


def _sample(runner: Runner) -> Work:
    trained = runner.folder / "trained"
    runner.finish(_train_command(10), trained)
    changes = {"sampler.batch_size": 256, "sampler.max_steps": 20, "sampler.sigma_L": 0.05}
    # Kept in files of 1,024 samples.
    return Work(["gahb", "sample", "--num", "3500", *_overrides(changes)], trained)


def _study(runner: Runner) -> Work:
    squares = np.random.default_rng(0).random((20, 4, 4, 1), np.float32).repeat(3, axis=1).repeat(3, axis=2)
    path = runner.folder / "images.npz"
    np.savez(path, train=squares[:12], test=squares[10:])
    changes = {
        "data.source": f"npz:{path}", "data.fit": "none", "train.log_every": 10, "checkpoint.every": 9,
        "evaluate.curve_db": "(20.0, 0.0)", "evaluate.batch_size": 4,
        "sampler.num": 4, "sampler.batch_size": 4, "sampler.sigma_L": 0.2, "sampler.max_steps": 30,
        "study.sizes": "(1, 2)", "study.steps": "(40,)", "study.control_steps": 0, "study.num_images": 6,
        "study.bootstrap": 20, "study.patch": 4, "study.trajectories": 2, "study.trajectory_every": 8,
        "study.checkpoint_samples": 2, "study.machine_images": 0,
    }  # fmt: skip
    config = "configs/gahb/study_faces20.py"
    return Work(["gahb", "study", "--config", config, *_overrides({**SMALL, **changes})], None)


def _benchmark(runner: Runner) -> Work:
    options = {"methods": "still,wta", "data": "stereo,warps", "count": 20, "side": 64, "size": 48}
    return Work(["diffmatch_jax", "benchmark", *(f"--{key}={value}" for key, value in options.items())], None)


WORKS: Mapping[str, Callable[[Runner], Work]] = {
    "train": lambda runner: Work(_train_command(120), None),
    "sample": _sample,
    "study": _study,
    "benchmark": _benchmark,
}
