"""Result files: a `.json` with numbers and where they came from, an `.npz` with arrays, a `.png` to view.

Pictures are exact: an array in [0, 1] becomes bytes pixel by pixel.
"""

import datetime
import functools
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.errors import InputError, input_error
from common.io.files import read_json, write_atomically, write_json
from common.migrations import flat


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Returns values in [0, 1] as 0..255, rounded to nearest; what lies outside is clipped, what is no number is 0.

    Bytes stay as they are.
    """
    if np.asarray(image).dtype == np.uint8:
        return np.asarray(image)
    image = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def as_unit(image: np.ndarray) -> np.ndarray:
    """Returns float32 intensities: bytes are divided by 255, floats stay as they are."""
    image = np.asarray(image)
    return image / np.float32(255) if image.dtype == np.uint8 else image.astype(np.float32)


def png_bytes(image: np.ndarray) -> bytes:
    """Returns the PNG of an image `[H, W]`, `[H, W, 1]` or `[H, W, 3]`, in [0, 1] or bytes."""
    pixels = to_uint8(image)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        raise ValueError(f"image: expected [H, W], [H, W, 1] or [H, W, 3], got {pixels.shape}")
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def save_png(path: str | os.PathLike, image: np.ndarray) -> Path:
    """Writes `image` (`[H, W, C]` in [0, 1]) as a PNG, in one atomic step, and returns the path."""
    return write_atomically(path, png_bytes(image))


def grid(images: np.ndarray, *, columns: int | None = None, gap: int = 2, scale: int = 1) -> np.ndarray:
    """Returns images `[N, H, W, C]` in [0, 1] side by side in rows of `columns` (default: nearly square), on white.

    Bytes are brought to [0, 1].
    `gap` is the space between them in pixels; each pixel is repeated `scale` times in both directions first.
    """
    images = as_unit(images).repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = images.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), np.float32)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def strip(rows: Sequence[np.ndarray], *, gap: int = 2, scale: int = 1) -> np.ndarray:
    """Returns one grid with a row for each array `[N, H, W, C]` (all of one shape)."""
    return grid(np.concatenate(rows), columns=len(rows[0]), gap=gap, scale=scale)


_ROOT = Path(__file__).parents[2]  # of the checkout, or the directory of installed packages
_READABLE = "a readable result"
_AGAIN = "make it again with the command that made it"


class NoResultError(InputError):
    """There is no result of the kind asked for, as opposed to one that cannot be read."""


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
    `config_changes` lists the differences to the trained run's config; `git` has the commit of the checkout that this
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
    """Returns {"commit", "dirty"} of the checkout that holds this code, None where it is none or Git fails."""
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


def key_of(settings: Mapping[str, Any]) -> str:
    """Returns the 8 hexadecimal digits by which the names of results with different `settings` differ."""
    canonical = json.dumps(plain(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def name_of(name: str, settings: Mapping[str, Any]) -> str:
    """Returns `NAME-KEY`: the same settings give the same name, others another one."""
    return f"{name}-{key_of(settings)}"


def path_of(directory: Path, name: str, settings: Mapping[str, Any]) -> Path:
    """Returns the `.json` that `write` makes of a result with these settings."""
    return directory / f"{name_of(name, settings)}.json"


def write(
    directory: Path,
    name: str,
    *,
    numbers: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    images: np.ndarray | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Writes `NAME-KEY.npz`, `.png` (a grid of `images [N, H, W, C]` in [0, 1], if given) and, last, `.json`.

    `settings` (plain JSON values) is everything that decides the result: KEY is their hash and the `.json` holds them,
    so that results of different settings are separate files. Without them (a file of which a directory has only one)
    the name is NAME. Returns the paths. A JSON file that exists names its arrays file, which exists too.
    """
    numbers = dict(numbers)
    if settings is not None:
        name = name_of(name, settings)
        numbers["settings"] = settings
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    if arrays:
        whole = {key: np.asarray(value) for key, value in arrays.items()}
        numbers["arrays"] = {key: {"dtype": str(each.dtype), "shape": each.shape} for key, each in whole.items()}
        stream = io.BytesIO()
        np.savez_compressed(stream, **dict[str, Any](whole))
        paths.append(directory / f"{name}.npz")
        write_atomically(paths[-1], stream.getvalue())
    if images is not None:
        small = images.shape[1] < 64
        paths.append(directory / f"{name}.png")
        write_atomically(paths[-1], png_bytes(grid(images, scale=2 if small else 1)))
    paths.append(directory / f"{name}.json")
    write_json(paths[-1], plain(numbers))
    return paths


class Fields(dict):
    """Fields of a result file at `path`; one that is missing is an `InputError` that names file and field."""

    def __init__(self, values: Mapping[str, Any], path: Path):
        super().__init__(values)
        self.path = path

    def __missing__(self, key):
        got = ", ".join(map(str, self)) or "none"
        raise input_error(str(self.path), expected=f'"{key}"', got=f"only {got}" if self else got, fix=_AGAIN)


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns `(numbers, arrays)` of the result whose `.json` is at `path`.

    Raises:
      InputError: a file is damaged or missing, or the arrays are not those that the `.json` lists. Also later, when a
        field or an array is asked for that is not there.
    """
    numbers = read_numbers(path)
    beside = path.with_suffix(".npz")
    listed = numbers.get("arrays", {})
    try:
        arrays = Fields(read_arrays(beside), beside) if beside.exists() or listed else Fields({}, beside)
    except ValueError as error:
        raise input_error(str(path), expected=_READABLE, got=f"{beside.name}: {error}", fix=_AGAIN) from None
    for name, expected in listed.items() if isinstance(listed, dict) else [("arrays", listed)]:
        got = {"dtype": str(arrays[name].dtype), "shape": list(arrays[name].shape)}
        if got != expected:
            raise input_error(f"{beside}: {name}", expected=expected, got=got, fix=_AGAIN)
    return numbers, arrays


def read_numbers(path: Path) -> dict[str, Any]:
    """Returns the numbers of the result whose `.json` is at `path`; raises `InputError` if there is none."""
    try:
        return read_json(path, expected=_READABLE, fix=_AGAIN, object_hook=lambda values: Fields(values, path))
    except FileNotFoundError:
        raise input_error(str(path), expected=_READABLE, got="no such file", fix=_AGAIN) from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an `.npz` file; raises `ValueError` with a reason if it is damaged or holds objects."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}
    except FileNotFoundError:
        raise ValueError("no such file") from None
    # NumPy and zipfile raise a dozen types on damaged bytes: SyntaxError and TokenError among them.
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from None


def newest(directory: Path, kind: str) -> Path | None:
    """Returns the `.json` in `directory` whose name begins with `kind`, of the highest step, then the latest; or None.

    Raises `InputError` if one of them is damaged.
    """
    found = all_of(directory, kind)
    return found[0] if found else None


def all_of(directory: Path, kind: str) -> list[Path]:
    """Returns every `.json` in `directory` whose name begins with `kind`: highest step first, then the latest."""
    return sorted(directory.glob(f"{kind}*.json"), key=_age, reverse=True)


def latest_of_each(directory: Path, kind: str) -> list[Path]:
    """Returns for each name that begins with `kind`, without its key, the `.json` made last; in order of the names."""
    groups: dict[str, list[Path]] = {}
    for path in all_of(directory, kind):
        groups.setdefault(re.sub(r"-[0-9a-f]{8}$", "", path.stem), []).append(path)
    return [max(groups[name], key=lambda path: _age(path)[1:]) for name in sorted(groups)]


def read_newest(
    directory: Path, kind: str, *, verb: str, what: str = ""
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns `(numbers, arrays)` of `newest`; raises `NoResultError` that names the `verb` to run if there is none."""
    path = newest(directory, kind)
    if path is None:
        raise NoResultError(f"{directory}: expected {what or f'the result of {verb}'}, got none; run {verb} first")
    return read(path)


def read_step(path: Path) -> int | None:
    """Returns the training step of a result file, None if it has several; raises `InputError` if it is damaged."""
    return _with_step(path)[1]


def differences(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns of each of several settings the dotted keys, with values, in which they are not all alike."""
    keyed = [dict(flat(each)) for each in settings]
    names = dict.fromkeys(name for each in keyed for name in each)
    differ = [name for name in names if any(each.get(name) != keyed[0].get(name) for each in keyed)]
    return [{name: each.get(name) for name in differ} for each in keyed]


def _with_step(path: Path) -> tuple[dict[str, Any], int | None]:
    got: object
    try:
        numbers = read_numbers(path)
        step = numbers["step"]
        if step is None or (isinstance(step, int) and not isinstance(step, bool)):
            return numbers, step
        got = repr(step)
    except InputError as error:
        got = str(error).removeprefix(f"{path}: ").partition(", got ")[2].removesuffix(f"; {_AGAIN}")
    raise input_error(str(path), expected="a result with its step", got=got, fix=_AGAIN)


def _age(path: Path) -> tuple[int, str, int, str]:
    """Returns what results are ordered by: step, time of making by the file's own words, then by the file system."""
    numbers, step = _with_step(path)
    return -1 if step is None else step, str(numbers.get("created", "")), path.stat().st_mtime_ns, path.name


def _array(content: bytes) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


def plain(value: Any) -> Any:
    """Returns JSON values for nested mappings, sequences, arrays and NumPy scalars; non-finite numbers become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "tolist"):
        return plain(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
