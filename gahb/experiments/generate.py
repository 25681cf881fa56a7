"""`python -m gahb generate`: the images of an experiment, written once as arrays that any program can read."""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common import config as configs
from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.cli.verbs.trained import IRRELEVANT
from common.data.source import Source
from common.errors import RunError, choice, input_error, listed
from common.io import results
from common.io.files import read_json, write_atomically, write_json
from common.io.results import png_bytes, strip

NAME = "images"
TYPES = ("float32", "uint8")

_BLOCK = 512  # images in memory at once
_SHOWN = 12  # images of each split on the contact sheet
_FREE = tuple(key for key in IRRELEVANT if key != "seed")  # keys of the config that decide no image


def run(app: App, request: Request) -> None:
    """Writes `DIR/images.npz` (arrays `train` and `test`), `.png` and `.json`, unless they are already there.

    Raises:
      InputError: the directory holds other images.
      RunError: there is not enough room.
    """
    workdir = workdirs.required(request, "workdir")
    kind = choice("--type", request.flags.type, TYPES)
    config = workdirs.to_describe(app, request)
    workdirs.check_writable(workdir)
    from common.training import parallel

    sources = {split: each.fixed() for split, each in app.build(config).sources().items()}
    content = {
        "type": kind,
        "sources": {split: {"num": len(each), "fingerprint": each.fingerprint} for split, each in sources.items()},
    }
    described = configs.to_dict(config)
    settings = {"data": described["data"], "synthetic": described["synthetic"]}
    path = workdir / f"{NAME}.npz"
    advice = f"--config.data.source=npz:{path} --config.data.fit=none"
    if _is_there(workdir, content, {"seed": config.seed, **settings}):
        print_lines(f"already there: {path}", f"use: {advice}")
        return
    shape, itemsize = sources["train"][0]["image"].shape, np.dtype(kind).itemsize
    workdir.mkdir(parents=True, exist_ok=True)
    # Twice, since each array is a separate file until all are joined.
    _check_room(workdir, 2 * sum(map(len, sources.values())) * int(np.prod(shape)) * itemsize)
    start = time.perf_counter()
    statistics = write_arrays(path, sources, kind)
    rows = [
        _converted(each.read(range(min(_SHOWN, *map(len, sources.values())))), "float32") for each in sources.values()
    ]
    write_atomically(workdir / f"{NAME}.png", png_bytes(strip(rows, scale=2 if shape[0] < 64 else 1)))
    numbers = {
        **results.provenance(
            config_hash=configs.digest(config),
            seed=config.seed,
            step=0,
            device=parallel.device_name(),
            wall_s=time.perf_counter() - start,
            nfe=None,
        ),
        **content,
        "shape": list(shape),
        "statistics": statistics,
        **settings,
    }
    written = write_json(workdir / f"{NAME}.json", results.plain(numbers))
    counts = " and ".join(f"{len(each)} {split}" for split, each in sources.items())
    print_lines(
        f"wrote {path}, {NAME}.png and {written.name}: {counts} images of {'x'.join(map(str, shape))}", f"use: {advice}"
    )


def write_arrays(path: Path, sources: Mapping[str, Source], kind: str) -> dict[str, dict[str, float]]:
    """Writes the images of each source as one array `[N, H, W, C]` of an `.npz`, in one atomic step.

    `kind` is "float32" (in [0, 1]) or "uint8". The arrays are first files of their own in a temporary directory beside
    `path`, so that only a few images are in memory at once. The same images give the same bytes. Returns the least, the
    greatest and the mean intensity of each array.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        arrays, statistics = {}, {}
        for name, source in sources.items():
            arrays[name], statistics[name] = _stored(Path(folder) / f"{name}.npy", source, kind)
        np.savez(Path(folder) / path.name, **arrays)
        os.replace(Path(folder) / path.name, path)
    return statistics


def _stored(path: Path, source: Source, kind: str) -> tuple[np.ndarray, dict[str, float]]:
    """Writes the images of a source to a `.npy` file; returns the array, which stays on disk, and its statistics."""
    shape = (len(source), *source[0]["image"].shape)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
    least, greatest, total = np.inf, -np.inf, 0.0
    for start in range(0, len(source), _BLOCK):
        images = _converted(source.read(range(start, min(start + _BLOCK, len(source)))), kind)
        array[start : start + len(images)] = images
        unit = images / (255 if kind == "uint8" else 1)
        least, greatest = min(least, float(unit.min())), max(greatest, float(unit.max()))
        total += float(unit.sum(dtype=np.float64)) / unit[0].size
    return array, {"min": least, "max": greatest, "mean": total / len(source)}


def _converted(examples: Mapping[str, np.ndarray], kind: str) -> np.ndarray:
    images = examples["image"]
    if images.dtype == np.dtype(kind):
        return images
    if kind == "float32":
        return images.astype(np.float32) / np.float32(255 if images.dtype == np.uint8 else 1)
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)


def _is_there(workdir: Path, content: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Returns whether the directory holds the images of `content`; raises `InputError` if it holds others.

    The error names what differs of `settings`, from which they follow.
    """
    arrays, numbers = (workdir / f"{NAME}.{ending}" for ending in ("npz", "json"))
    if not numbers.exists():
        if arrays.exists():
            raise input_error(
                f"workdir {workdir}",
                expected=f"{arrays.name} with its {numbers.name}, or neither",
                got="only the arrays",
                fix="remove the file, or choose another --workdir",
            )
        return False
    try:
        stored = read_json(numbers, expected="the description of images", fix="remove the file")
        held, made_by = ({name: stored[name] for name in names} for names in (content, settings))
    except KeyError as error:
        raise input_error(
            str(numbers), expected="the description of images", got=error, fix="remove the file"
        ) from None
    if held != content:
        parts = [{"type": each["type"], **more} for each, more in ((held, made_by), (content, settings))]
        # The fingerprints alone say little, but are all there is where the files of a data set have changed.
        changes = configs.diff(*parts, ignore=_FREE) or configs.diff(held, content)
        raise input_error(
            f"workdir {workdir}",
            expected="no images, or those of this experiment",
            got=f"others (there -> now): {listed(changes)}",
            fix="choose another --workdir",
        )
    return arrays.exists()


def _check_room(workdir: Path, needed: int) -> None:
    free = shutil.disk_usage(workdir).free
    if needed > free:
        raise RunError(f"{workdir}: {needed} bytes needed for the images, {free} free; use fewer, or --type uint8")
