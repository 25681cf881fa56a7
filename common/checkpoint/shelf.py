"""Models that come with a package: weights in half precision, and beside them a config with their checksum."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from common import config as configs
from common.errors import input_error, shown
from common.io import packed
from common.io.files import read_json, write_json
from common.method import Variables

SMALL = 2000  # arrays of fewer numbers stay exact: rounding gains and first and last kernels makes most of the error


class Packed(NamedTuple):
    """A packed model: config, step, and variables in float32, with averaged parameters if the run had them."""

    config: ConfigDict
    variables: Variables
    step: int | None


class Shelf(NamedTuple):
    """The models of one package: `directory` holds NAME.npz and NAME.json, `base()` is every key of its configs."""

    directory: Path
    base: Callable[[], ConfigDict]

    def names(self) -> list[str]:
        """Returns the names of the models that come with the package, sorted."""
        return sorted(path.stem for path in self.directory.glob("*.npz"))

    def find(self, place: str | os.PathLike) -> Path | None:
        """Returns the file of weights that `place` names: a model of the package, or a file; None for a directory.

        A directory with a run in it goes before a model of that name. Raises `InputError` for a name that is neither.
        """
        path, names = Path(place), self.names()
        if (path / configs.FILE_NAME).exists():
            return None
        if str(place) in names:
            return self.directory / f"{place}.npz"
        if path.suffix == ".npz":
            return path
        if len(path.parts) == 1 and not path.exists():
            known = ", ".join(f'"{name}"' for name in names) or "none in this installation"
            expected = f"the directory of a run, or a model of the package ({known})"
            raise input_error("workdir", expected=expected, got=repr(str(place)), fix="give one of them")
        return None

    def opened(self, place: str | os.PathLike, *, step: int | None = None) -> Packed | None:
        """Returns the model of the weights that `place` names, as in `find`; None for a directory.

        step: of the checkpoint, None for packed weights. Raises `InputError` for others, and as `find` and `read` do.
        """
        path = self.find(place)
        if path is not None and step is not None:
            raise input_error("step", expected="None for packed weights, of one step", got=step, fix="leave it out")
        return None if path is None else self.read(path)

    def write(self, path: str | os.PathLike, config: ConfigDict, variables: Variables, *, step: int) -> str:
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

    def read(self, path: str | os.PathLike) -> Packed:
        """Returns what `write` stored; `InputError` for files that are missing, damaged or of another method."""
        described = Path(path).with_suffix(".json")
        expected = f"config and checksum of {Path(path).name}"
        how: dict[str, Any] = {"expected": expected, "fix": "write it again by export --weights"}
        stored = read_json(described, **how) if described.exists() else {}
        if not {"config", "sha256"} <= set(stored):
            raise input_error(str(described), got="others" if stored else "none", **how)
        own, values = self.base(), stored["config"]
        method = values.get("method") if isinstance(values, dict) else None
        if method != own.method:
            raise input_error(
                str(described), expected=f"weights of {own.method}", got=f"some of {method}", fix="name another file"
            )
        config = configs.from_stored(stored["config"], own, described)
        found, step = {"stats": {}, **packed.load(path, sha256=stored["sha256"])}, stored.get("step")
        if set(found) != set(Variables._fields):
            raise input_error(str(path), expected="params and stats", got=", ".join(sorted(found)), fix=how["fix"])
        if step is not None and (type(step) is not int or not 0 <= step < 2**63):
            raise input_error(str(described), expected="a step", got=shown(step), fix=how["fix"])
        return Packed(config, Variables(**found), step)


def _portable(config: ConfigDict) -> dict[str, Any]:
    values = configs.to_dict(config)
    kind, _, where = values["data"]["source"].partition(":")
    # A prepared directory is NAME/VERSION, of which both say what the data are.
    kept = "/".join(Path(where).parts[-2:] if kind == "prepared" else Path(where).parts[-1:])
    values["data"] |= {"source": f"{kind}:{kept}" if where else kind, "directory": ""}
    return values
