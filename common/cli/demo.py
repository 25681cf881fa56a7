"""A method shown from end to end as a user would run it: train, interrupt, resume, evaluate, sample, draw."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError, RunError
from common.io.files import write_atomically, write_json
from common.io.metrics_log import read_metrics
from common.plots import report

MARK = ".demo"
_PART, _NUMBERS = "part.html", "demo.json"


def prepare(root: Path, name: str) -> Path:
    """Returns the empty directory `root/name`; an earlier demonstration there is removed, anything else refused."""
    folder = root / name
    if folder.exists() and not (folder / MARK).exists():
        raise InputError(f"workdir {folder}: expected none or an earlier demo, got something else; choose another root")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    return folder


def run(program: str, *words: str) -> float:
    """Runs `python -m program words...`, shown as a user would type it; returns its seconds.

    Raises:
      RunError: it ended with another exit code than 0.
    """
    start = time.perf_counter()
    process = _start(program, words)
    _expect_success(process.wait(), program, words)
    return time.perf_counter() - start


def run_interrupted(program: str, *words: str, workdir: Path, at_step: int) -> tuple[float, int]:
    """Runs a training command and sends SIGTERM once `at_step` is logged; returns its seconds and the step it saved.

    Raises:
      RunError: it did not save and exit with code 0.
    """
    start = time.perf_counter()
    process = _start(program, words)
    while process.poll() is None and _last_step(workdir) < at_step:
        time.sleep(0.05)
    print(f"-- SIGTERM after step {_last_step(workdir)}", flush=True)
    process.send_signal(signal.SIGTERM)
    _expect_success(process.wait(), program, words)
    saved = max((int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()), default=0)
    return time.perf_counter() - start, saved


def finish(
    folder: Path, *, sections: Mapping[str, Sequence[report.Block]], numbers: Mapping[str, Any], title: str
) -> tuple[Path, Path]:
    """Adds this method's part to the page and the numbers of all methods shown under `folder.parent`.

    Returns the paths of `index.html` and `results.json`.
    """
    root = folder.parent
    write_atomically(folder / _PART, report.render(sections).encode())
    write_json(folder / _NUMBERS, numbers)
    names = sorted(path.parent.name for path in root.glob(f"*/{_PART}"))
    page = report.write_page(
        root / "index.html",
        title,
        [(root / name / _PART).read_text(encoding="utf-8") for name in names],
        lead="Every number and picture on this page was just computed on this machine.",
    )
    together = {name: json.loads((root / name / _NUMBERS).read_text(encoding="utf-8")) for name in names}
    return page, write_json(root / "results.json", together)


def _start(program: str, words: Sequence[str]) -> subprocess.Popen:
    print(f"\n$ python -m {program} {shlex.join(words)}", flush=True)
    return subprocess.Popen([sys.executable, "-m", program, *words])


def _expect_success(code: int, program: str, words: Sequence[str]) -> None:
    if code != 0:
        raise RunError(f"python -m {program} {words[0]}: expected exit code 0, got {code}; its message is above")


def _last_step(workdir: Path) -> int:
    return max((record["step"] for record in read_metrics(workdir)), default=0)
