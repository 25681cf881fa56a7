"""Result files: a `.json` with numbers and where they came from, an `.npz` with arrays, a `.png` to look at."""

import datetime
import functools
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError, input_error
from common.io.files import write_atomically
from common.io.pictures import grid, png_bytes

_ROOT = Path(__file__).parents[2]  # of the checkout, or the directory of installed packages


def provenance(
    *,
    config_hash: str,
    seed: int,
    step: int | None,
    device: str,
    wall_s: float,
    nfe: int | None,
    config_changes: list[str] | None = None,
) -> dict[str, Any]:
    """Returns what every result carries: how it was made, on what, with which versions.

    `step` is that of the weights, None where there are none or several; `nfe` counts network evaluations per example;
    `config_changes` says how the config differs from the trained run's; `git` has the commit of the checkout that this
    code runs from and whether its files differ from it, None where it is installed.
    """
    return {
        "config_hash": config_hash,
        "config_changes": config_changes or [],
        "seed": seed,
        "step": step,
        "nfe": nfe,
        "wall_s": round(wall_s, 3),
        "device": device,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "flax", "numpy", "scorebridge")},
        },
        "git": git_state(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def version(distribution: str) -> str:
    """Returns the installed version of a distribution, "unknown" if it has none.

    Of a checkout of this code that is used in place, it is the version that its `setup.py` or `pyproject.toml` states.
    """
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return _stated_version() if distribution == "scorebridge" else "unknown"


def _stated_version() -> str:
    for name in ("pyproject.toml", "setup.py"):
        try:
            text = (_ROOT / name).read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        if match := re.search(r"""^\s*version\s*=\s*["']([^"']+)["']""", text, re.MULTILINE):
            return match[1]
    return "unknown"


@functools.cache
def git_state() -> dict[str, Any] | None:
    """Returns {"commit", "dirty"} of the checkout that holds this code, None where it is none or Git cannot tell."""
    if not (_ROOT / ".git").exists():
        return None
    command = ["git", "--no-optional-locks", "-C", str(_ROOT)]
    # Variables such as GIT_DIR would name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    said = []
    for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=30)
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
        if done.returncode:
            return None
        said.append(done.stdout.strip())
    return {"commit": said[0], "dirty": bool(said[1])}


def write(
    directory: Path,
    name: str,
    *,
    numbers: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    images: np.ndarray | None = None,
) -> list[Path]:
    """Writes `NAME.npz`, `NAME.png` (a grid of `images [N, H, W, C]` in [0, 1], if given) and, last, `NAME.json`.

    Returns the paths. A JSON file that exists therefore has its arrays beside it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    if arrays:
        stream = io.BytesIO()
        np.savez_compressed(stream, **{key: np.asarray(value) for key, value in arrays.items()})
        paths.append(directory / f"{name}.npz")
        write_atomically(paths[-1], stream.getvalue())
    if images is not None:
        small = images.shape[1] < 64
        paths.append(directory / f"{name}.png")
        write_atomically(paths[-1], png_bytes(grid(images, scale=2 if small else 1)))
    paths.append(directory / f"{name}.json")
    write_atomically(paths[-1], (json.dumps(plain(numbers), indent=2) + "\n").encode())
    return paths


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns `(numbers, arrays)` of the result whose `.json` is at `path`; raises `InputError` if it is damaged."""
    try:
        numbers = json.loads(path.read_text())
        beside = path.with_suffix(".npz")
        if not beside.exists():
            return numbers, {}
        with np.load(beside, allow_pickle=False) as stored:
            return numbers, dict(stored)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise input_error(str(path), expected="a readable result", got=error, fix="make it again") from None


def newest(directory: Path, prefix: str) -> Path | None:
    """Returns the `.json` in `directory` whose name begins with `prefix` and whose `step` is highest, or None."""
    found = [(read_step(path), path.stat().st_mtime, path) for path in directory.glob(f"{prefix}*.json")]
    return max(found)[-1] if found else None


def read_newest(
    directory: Path, prefix: str, *, verb: str, what: str = ""
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns `(numbers, arrays)` of `newest`; raises `InputError` that names the `verb` to run if there is none."""
    path = newest(directory, prefix)
    if path is None:
        what = what or f"the result of {verb}"
        raise InputError(f"{directory}: expected {what}, got none; run {verb} first")
    return read(path)


def read_step(path: Path) -> int:
    """Returns the training step of a result file; raises `InputError` if it is damaged."""
    try:
        return int(json.loads(path.read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise input_error(str(path), expected="a result with its step", got=error, fix="make it again") from None


def plain(value: Any) -> Any:
    """Returns JSON values for nested mappings, sequences, arrays and NumPy scalars; non-finite numbers become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "tolist"):
        return plain(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
