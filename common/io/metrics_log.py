"""The numbers of a run as they appear: `metrics.jsonl`, TensorBoard, preview pictures and one line of progress."""

import json
import math
import os
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from common.errors import input_error, shown
from common.io.files import read_json, write_atomically, write_json
from common.io.progress import duration
from common.io.results import NoResultError, save_png

METRICS = "metrics.jsonl"
WANDB = "wandb.json"


class Recorder:
    """Writes metrics and pictures of one run into `workdir`; a context manager.

    What an earlier attempt wrote after `resume_step` is forgotten first, so that a resumed run leaves the same lines as
    an uninterrupted one. A recorder that is not `enabled` (every host but the first) does nothing. `tracking="wandb"`
    also logs to Weights & Biases, with the plain values `config`; a run that is resumed continues its run there, whose
    name is kept in `wandb.json`. `InputError` where that is not installed.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        total_steps: int,
        resume_step: int = 0,
        enabled: bool = True,
        tracking: str = "",
        config: Mapping[str, Any] | None = None,
        stream: TextIO | None = None,
    ):
        self._workdir = Path(workdir)
        self._total = total_steps
        self._enabled = enabled
        self._stream = stream or sys.stderr
        self._bar = None
        self._tracker = None
        if not enabled:
            return
        if tracking == "wandb":
            self._tracker = _open_wandb(self._workdir, config or {})
        path = self._workdir / METRICS
        truncate(path, resume_step)
        self._lines = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._board = SummaryWriter(str(self._workdir / "tensorboard"), purge_step=resume_step + 1)
        if self._stream.isatty():
            self._bar = tqdm(total=total_steps, initial=resume_step, unit="step", file=self._stream, dynamic_ncols=True)
        self._mark = (resume_step, time.monotonic())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Records scalar `metrics` at `step` (steps taken so far); a number that is not finite becomes null in JSON."""
        if not self._enabled:
            return
        numbers = {name: _plain(value) for name, value in metrics.items()}
        line = {"step": int(step), **numbers, "time": round(time.time(), 3)}
        # One write per line: a kill leaves at most one line unfinished, and readers skip that one.
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        for name, value in numbers.items():
            if value is not None:
                self._board.add_scalar(name, value, step)
        if self._tracker is not None:
            self._tracker.log(numbers, step=step)
        self._show(step, numbers)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Records pictures `[H, W, C]` in [0, 1]: `previews/NAME-STEP.png`, and TensorBoard."""
        if not self._enabled:
            return
        directory = self._workdir / "previews"
        directory.mkdir(exist_ok=True)
        for name, image in images.items():
            save_png(directory / f"{name}-{step:08d}.png", image)
            self._board.add_image(name, np.clip(np.asarray(image), 0.0, 1.0), step, dataformats="HWC")

    def close(self) -> None:
        """Closes the files; nothing is recorded afterwards."""
        if self._enabled:
            self._enabled = False
            self._lines.close()
            self._board.close()
            if self._tracker is not None:
                self._tracker.finish()
        if self._bar is not None:
            self._bar.close()

    def _show(self, step: int, numbers: Mapping[str, Any]) -> None:
        before, since = self._mark
        now = time.monotonic()
        self._mark = (step, now)
        text = progress(numbers)
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        left = (self._total - step) * (now - since) / max(step - before, 1)
        ending = f", ETA {duration(left)}" if step < self._total else ""
        print(f"step {step}/{self._total}: {text}{ending}", file=self._stream, flush=True)


def check_tracking(tracking: str) -> None:
    """Raises `InputError` if `tracking` is "wandb" and that is not installed."""
    if tracking == "wandb":
        _import_wandb()


def _import_wandb():
    try:
        import wandb  # pyright: ignore[reportMissingImports]  # of the extra `tracking`
    except ImportError:
        raise input_error(
            "config.train.tracking",
            expected='"" or an installed wandb',
            got='"wandb", which is not installed',
            fix="pip install 'scorebridge[tracking]'",
        ) from None
    return wandb


def _open_wandb(workdir: Path, config: Mapping[str, Any]):
    path = workdir / WANDB
    expected, fix = "the id of a run", "remove it to begin another run of Weights & Biases"
    try:
        run_id = read_json(path, expected=expected, fix=fix).get("id")
    except FileNotFoundError:
        run_id = secrets.token_hex(8)
        write_json(path, {"id": run_id})
    if not isinstance(run_id, str):
        raise input_error(str(path), expected=expected, got=f"id {run_id!r}", fix=fix)
    return _import_wandb().init(
        project="scorebridge",
        name=workdir.resolve().name,
        dir=str(workdir),
        id=run_id,
        resume="allow",
        config=dict(config),
        allow_val_change=True,  # of a run that goes on with another length or learning rate
    )


def progress(numbers: Mapping[str, Any]) -> str:
    """Returns the part of the progress line that names loss, speed and the time spent waiting for data."""
    known = {name: value for name, value in numbers.items() if value is not None}
    parts = []
    if "loss" in numbers:
        parts.append(f"loss {known['loss']:.4g}" if "loss" in known else "loss not finite")
    if "held_out_loss" in numbers:
        value = known.get("held_out_loss")
        parts.append("held-out loss not finite" if value is None else f"held-out loss {value:.4g}")
    if "psnr" in known:
        parts.append(f"PSNR {known['psnr']:.2f} dB")
    if "examples_per_s" in known:
        parts.append(f"{known['examples_per_s']:.4g} examples/s")
    if "data_wait" in known:
        parts.append(f"{100 * known['data_wait']:.1f} % waiting for data")
    if known.get("skipped"):
        parts.append(f"{known['skipped']:.0f} skipped")
    return ", ".join(parts)


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the records of `workdir/metrics.jsonl` in order, without an unfinished last line; [] if there is none.

    Raises:
      InputError: a line before the last is not JSON.
    """
    return _parse(Path(workdir) / METRICS)


def read_training(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the records of `read_metrics`; raises `NoResultError` if none has a loss."""
    records = read_metrics(workdir)
    if not any("loss" in each for each in records):
        raise NoResultError(f"{Path(workdir) / METRICS}: expected training lines, got none; train first")
    return records


def truncate(path: Path, step: int) -> None:
    """Removes the lines of steps after `step`, and an unfinished last line, in one atomic step."""
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        return
    kept = [line for line in _parse(path) if line["step"] <= step]
    after = "".join(json.dumps(line) + "\n" for line in kept).encode()
    if after != before:
        write_atomically(path, after)


def _parse(path: Path) -> list[dict[str, Any]]:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError(None, "a pipe or a device")  # reading would block
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise input_error(str(path), expected="a readable log", got=error.strerror, fix="remove it") from None
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(_record(json.loads(line)))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            if number < len(lines):
                expected, fix = "a JSON object with `step`", "remove the line"
                raise input_error(f"{path}:{number}", expected=expected, got=shown(line.strip()), fix=fix) from None
    return records


def _record(values: Any) -> dict[str, Any]:
    """Returns a line's numbers (None where one was not finite); raises an error for anything else."""
    record = {"step": int(values["step"]), **values}
    for value in record.values():
        if value is not None:
            float(value)  # a text, a list, or an integer beyond the range of floats
            if isinstance(value, str):
                raise TypeError("a text")
    return record


def _plain(value: Any) -> int | float | None:
    if isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
