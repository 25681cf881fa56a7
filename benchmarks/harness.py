"""Timing two or more things in turn, judging their ratio, and keeping a record of it.

Speeds of a machine drift and jump, so times are compared only with times taken right before and after, and a ratio
comes with the spread of the ratios of single pairs. A *block* is a function that does its work and returns how long a
unit of it took.
"""

import datetime
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from common.errors import input_error
from common.io.files import write_atomically
from common.io.results import plain, version
from common.plots.report import text_table
from common.training.parallel import device_name

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "grain", "orbax-checkpoint", "scorebridge")
# Settings of a user that change speed.
ENVIRONMENT = ("JAX_PLATFORMS", "XLA_FLAGS", "OMP_NUM_THREADS", "JAX_DEFAULT_MATMUL_PRECISION")


class Seconds(NamedTuple):
    """A point in time, or how long something took: `wall`, and `cpu` over all threads of this process."""

    wall: float
    cpu: float


class Goal(NamedTuple):
    """A number that should be at most (or, if `at_least`, at least) `limit`."""

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class Report(NamedTuple):
    """The result of a benchmark: `rows` of its tables by title, `samples` by name, `goals`, and what it ran."""

    config: Mapping[str, Any]
    seed: int
    samples: Mapping[str, Sequence[Seconds]]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    goals: Sequence[Goal]


def now() -> Seconds:
    """Reads both clocks."""
    return Seconds(time.perf_counter(), time.process_time())


def since(start: Seconds, end: Seconds, *, per: int = 1) -> Seconds:
    """Returns the time from `start` to `end` of each of `per` units."""
    return Seconds((end.wall - start.wall) / per, (end.cpu - start.cpu) / per)


def timed(
    work: Callable[[], Any],
    *,
    before: Callable[[], Any] = lambda: None,
    per: int = 1,
    clock: Callable[[], Seconds] = now,
) -> Callable[[], Seconds]:
    """Returns a block: `before`, untimed, then `work`, which does `per` units; each is waited for."""

    def block() -> Seconds:
        jax.block_until_ready(before())
        start = clock()
        jax.block_until_ready(work())
        return since(start, clock(), per=per)

    return block


def alternate(blocks: Mapping[str, Callable[[], Seconds]], *, rounds: int, warmup: int = 1) -> dict[str, list[Seconds]]:
    """Runs every block once a round, each round beginning with another one; the first `warmup` rounds do not count."""
    names = list(blocks)
    samples: dict[str, list[Seconds]] = {name: [] for name in names}
    for number in range(-warmup, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            taken = blocks[name]()
            if number >= 0:
                samples[name].append(taken)
    return samples


def median(samples: Sequence[Seconds]) -> Seconds:
    """Returns the medians of wall and of CPU time."""
    return Seconds(statistics.median(s.wall for s in samples), statistics.median(s.cpu for s in samples))


def compare(what: str, numerator: Sequence[Seconds], denominator: Sequence[Seconds]) -> dict[str, Any]:
    """Returns the ratio of medians, and median, quartiles and extremes of the wall ratios of samples of one round.

    Raises:
      ValueError: not as many samples on both sides.
    """
    pairs = sorted(a.wall / b.wall for a, b in zip(numerator, denominator, strict=True))
    quarter = (len(pairs) - 1) / 4
    above, below = median(numerator), median(denominator)
    return {
        "ratio of": what,
        "wall": above.wall / below.wall,
        "cpu": above.cpu / below.cpu if below.cpu else None,
        "pairs median": statistics.median(pairs),
        "quartile 1": _between(pairs, quarter),
        "quartile 3": _between(pairs, 3 * quarter),
        "min": pairs[0],
        "max": pairs[-1],
    }


def summary(samples: Sequence[Seconds]) -> dict[str, Any]:
    """Returns number, median, minimum and maximum of wall and CPU seconds."""
    return {
        "count": len(samples),
        **{
            f"{field}_s": {"median": statistics.median(values), "min": min(values), "max": max(values)}
            for field, values in (("wall", [s.wall for s in samples]), ("cpu", [s.cpu for s in samples]))
        },
    }


def calibrate(seconds_at: Callable[[int], float], *, start: int, least: float, most: int) -> int:
    """Returns the first of start, 2 start, 4 start, ... up to `most` whose work takes `least` seconds; else `most`."""
    size = start
    while size < most and seconds_at(size) < least:
        size = min(2 * size, most)
    return size


def machine() -> dict[str, Any]:
    """Returns processor, usable cores, memory, and JAX's platform and devices."""
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": jax.default_backend(),
        "device": device_name(),
    }


def commit(directory: Path) -> str | None:
    """Returns the Git commit of a checkout, with "+changes" if files differ from it; None if that cannot be known."""
    try:
        head, changes = (
            subprocess.run(["git", "-C", directory, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + "+changes" * bool(changes)


def make_record(name: str, report: Report, *, load_average: Sequence[float], quick: bool) -> dict[str, Any]:
    """Returns what is kept of one run of a benchmark, as plain JSON values."""
    return plain(
        {
            "benchmark": name,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "quick": quick,
            "hardware": machine(),
            "load_average_before": list(load_average),
            "environment": {key: os.environ[key] for key in ENVIRONMENT if key in os.environ},
            "versions": {"python": platform.python_version(), **{each: version(each) for each in LIBRARIES}},
            "commit": commit(Path(__file__).parent),
            "seed": report.seed,
            "config": report.config,
            "samples": {key: summary(samples) for key, samples in report.samples.items()},
            "tables": report.tables,
            "goals": [{**goal._asdict(), "met": goal.met} for goal in report.goals],
        }
    )


def append(record: Mapping[str, Any], directory: Path) -> Path:
    """Adds a record to the list in `directory/BENCHMARK.json`, whole or not at all, and returns the path.

    Raises:
      InputError: the file is there but holds no list of records.
    """
    path = directory / f"{record['benchmark']}.json"
    records = []
    if path.exists():
        try:
            records = json.loads(path.read_text())
        except ValueError:
            records = None
        if not isinstance(records, list):
            raise input_error(str(path), expected="a list of records", got="something else", fix="move it away")
    directory.mkdir(parents=True, exist_ok=True)
    return write_atomically(path, (json.dumps([*records, record], indent=1) + "\n").encode())


def lines(record: Mapping[str, Any]) -> list[str]:
    """Returns a record as text for a terminal."""
    hardware, load = record["hardware"], ", ".join(f"{each:.2f}" for each in record["load_average_before"])
    out = [
        f"{record['benchmark']}: {hardware['cpu']}, {hardware['cores']} cores; {hardware['device']}; load {load}",
        "",
        *text_table([_sample_row(name, each) for name, each in record["samples"].items()]),
    ]
    for title, rows in record["tables"].items():
        out += ["", title, *text_table([{name: _text(value) for name, value in row.items()} for row in rows])]
    if record["goals"]:
        out += ["", "goals", *text_table([_goal_row(goal) for goal in record["goals"]])]
    return out


def _sample_row(name: str, each: Mapping[str, Any]) -> dict[str, Any]:
    wall, cpu = each["wall_s"], each["cpu_s"]
    return {
        "what": name,
        "count": each["count"],
        "wall ms": 1e3 * wall["median"],
        "min": 1e3 * wall["min"],
        "max": 1e3 * wall["max"],
        "CPU ms": 1e3 * cpu["median"],
    }


def _goal_row(goal: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "what": goal["what"],
        "value": _text(goal["value"]),
        "goal": f"{'at least' if goal['at_least'] else 'at most'} {goal['limit']:g}",
        "": "met" if goal["met"] else "MISSED",
    }


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def _between(ordered: Sequence[float], place: float) -> float:
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _processor() -> str:
    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        rows = []
    names = [row.partition(":")[2].strip() for row in rows if row.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
