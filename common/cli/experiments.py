"""Experiments by name: those that are installed with the package, wherever a command is run."""

import difflib
from pathlib import Path

import configs
from common.errors import input_error


def find(text: str, method: str) -> Path:
    """Returns the file of an experiment as given after `--config`: the path of a file, or the name of a shipped one.

    `photographs`, `gahb/photographs` and `configs/gahb/photographs.py` name a shipped experiment where no file has that
    path; of a name that several methods have, that of `method` is taken.

    Raises:
      InputError: there is no such file and no such name, or several methods have it.
    """
    if Path(text).is_file():
        return Path(text)
    known = shipped()
    name = _name(text)
    found = [each for each in known if name in (each, each.rpartition("/")[2])]
    own = [each for each in found if each.startswith(f"{method}/")] or found
    if len(own) == 1:
        return known[own[0]]
    expected, got = "a Python file", "a directory" if Path(text).is_dir() else "no such file"
    if len(own) > 1:
        expected, got = "the name of one experiment", f"that of {len(own)}"
        close = own
    else:
        close = _close(text, name, known, method)
    own_names = [each.rpartition("/")[2] for each in known if each.startswith(f"{method}/")]
    fix = f"did you mean {' or '.join(close)}?" if close else f"name a file, or one of {', '.join(own_names or known)}"
    raise input_error(f"config file {text}", expected=expected, got=got, fix=fix)


def shipped() -> dict[str, Path]:
    """Returns the files of all installed experiments by name, `METHOD/EXPERIMENT`."""
    root = Path(configs.__file__).parent
    files = (path for path in sorted(root.glob("*/*.py")) if "def get_config(" in path.read_text(encoding="utf-8"))
    return {f"{path.parent.name}/{path.stem}": path for path in files}


def _name(text: str) -> str | None:
    """Returns the name of a shipped experiment that a text may stand for; None for other paths."""
    parts = Path(text.removesuffix(".py")).parts
    if parts[:1] == ("configs",):
        parts = parts[1:]
    return "/".join(parts) if 1 <= len(parts) <= 2 and ".." not in parts and not Path(text).is_absolute() else None


def _close(text: str, name: str | None, known: dict[str, Path], method: str) -> list[str]:
    """Returns what is spelled like a text, in the form in which that was given: paths for a path, otherwise names."""
    path = Path(text)
    beside = [each for each in path.parent.glob("*.py") if each.stem not in ("__init__", "base", "model", "migrations")]
    near = difflib.get_close_matches(path.stem, [each.stem for each in beside])
    if near or name is None:
        return [f"{path.with_name(each)}.py" for each in near]
    if "/" in name:
        # Names of one method have their beginning in common, which says nothing about the rest.
        folder, stem = name.split("/")
        stems = [each.partition("/")[2] for each in known if each.startswith(f"{folder}/")]
        near = [f"{folder}/{each}" for each in difflib.get_close_matches(stem, stems)]
        near = near or difflib.get_close_matches(name, known, cutoff=0.8)
    else:
        # Those of the method at hand come first.
        stems = {each.rpartition("/")[2]: each for each in sorted(known, key=lambda each: each.startswith(method))}
        near = [stems[each] for each in difflib.get_close_matches(name, stems)]
    return [f"configs/{each}.py" for each in near] if text.endswith(".py") else near
