"""Denoisers that come with the package: large arrays in half precision, a config and a checksum beside them."""

import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from common import config as configs
from common.errors import input_error
from common.io import packed
from common.io.files import read_json, write_json
from common.method import Variables
from configs.gahb.base import base

DIRECTORY = Path(__file__).with_name("weights")
# Gains, deviations, first and last kernel: rounding these makes nine tenths of the error.
SMALL = 2000


def names() -> list[str]:
    """Returns the names of the denoisers that come with the package, sorted."""
    return sorted(path.stem for path in DIRECTORY.glob("*.npz"))


def find(place: str | os.PathLike) -> Path | None:
    """Returns the file of weights that `place` names: a denoiser of the package, or a file; None for a directory.

    A directory with a run in it goes before a denoiser of that name. Raises `InputError` for a name that is neither.
    """
    path = Path(place)
    if (path / configs.FILE_NAME).exists():
        return None
    if str(place) in names():
        return DIRECTORY / f"{place}.npz"
    if path.suffix == ".npz":
        return path
    if len(path.parts) == 1 and not path.exists():
        known = ", ".join(f'"{name}"' for name in names()) or "none in this installation"
        expected = f"the directory of a run, or a denoiser of the package ({known})"
        raise input_error("workdir", expected=expected, got=repr(str(place)), fix="give one of them")
    return None


def write(path: str | os.PathLike, config: ConfigDict, variables: Variables, *, step: int) -> str:
    """Writes weights to `path` (`.npz`) and config, step and checksum beside it (`.json`); returns the checksum.

    The config names no directory of the machine where it was trained. Equal weights give equal bytes. Raises
    `InputError` for another ending, and for weights that half precision cannot hold.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise input_error("weights", expected="a name that ends in .npz", got=str(path), fix="add the ending")
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = packed.save(path, variables._asdict(), small=SMALL)
    write_json(path.with_suffix(".json"), {"sha256": digest, "step": step, "config": _portable(config)})
    return digest


def read(path: str | os.PathLike) -> tuple[ConfigDict, Variables]:
    """Returns config and variables (float32) that `write` stored; raises `InputError` for missing or damaged files."""
    described = Path(path).with_suffix(".json")
    how = {"expected": f"config and checksum of {Path(path).name}", "fix": "write it again by export --weights"}
    stored = read_json(described, **how) if described.exists() else {}
    if not {"config", "sha256"} <= set(stored):
        raise input_error(str(described), got="others" if stored else "none", **how)
    config = configs.from_stored(stored["config"], base(), described)
    return config, Variables(**{"stats": {}, **packed.load(path, sha256=stored["sha256"])})


def _portable(config: ConfigDict) -> dict[str, Any]:
    values = configs.to_dict(config)
    kind, _, where = values["data"]["source"].partition(":")
    values["data"] |= {"source": f"{kind}:{Path(where).name}" if where else kind, "directory": ""}
    return values
