"""Checks of a run's directory before anything expensive, and the config a command works with, by path or by name."""

import difflib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from common import config as configs
from common.cli.app import App, Request
from common.errors import input_error


def find_experiment(text: str, method: str) -> Path:
    """Returns the file of an experiment as given after `--config`: the path of a file, or the name of a shipped one.

    `photographs`, `gahb/photographs` and `configs/gahb/photographs.py` name a shipped experiment where no file has that
    path; of a name that several methods have, that of `method` is taken.

    Raises:
      InputError: there is no such file and no such name, or several methods have it.
    """
    if Path(text).is_file():
        return Path(text)
    known = _shipped()
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


def _shipped() -> dict[str, Path]:
    """Returns the files of all installed experiments by name, `METHOD/EXPERIMENT`."""
    root = Path(__file__).parents[2] / "configs"
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
        # Names of one method begin alike, so the beginning is no evidence for the rest.
        folder, stem = name.split("/")
        stems = [each.partition("/")[2] for each in known if each.startswith(f"{folder}/")]
        near = [f"{folder}/{each}" for each in difflib.get_close_matches(stem, stems)]
        near = near or difflib.get_close_matches(name, known, cutoff=0.8)
    else:
        # Those of the method at hand come first.
        stems = {each.rpartition("/")[2]: each for each in sorted(known, key=lambda each: each.startswith(method))}
        near = [stems[each] for each in difflib.get_close_matches(name, stems)]
    return [f"configs/{each}.py" for each in near] if text.endswith(".py") else near


# Keys that a command after training may change: the meaning of the trained weights does not depend on them.
TRAINED_MAY_CHANGE = (*configs.RESUME_MAY_CHANGE, "seed", "compute_dtype", "data.*", "train.*", "optimizer.*", "ema.*")
TRAINED_MUST_AGREE = "data.channels"

_FOLDERS = ("checkpoints", "samples", "results", "figures")  # in a work directory

PARTIAL = ":partial"  # at the end of --init-from: what does not fit may stay random


class Resolved(NamedTuple):
    """The config of a command on a trained run, its work directory, and how it differs from what was trained."""

    config: ConfigDict
    workdir: Path
    changes: list[str]


def required(request: Request, flag: str) -> Path:
    """Returns the path given as `--flag`; raises `InputError` if there is none."""
    value = getattr(request.flags, flag)
    if not value:
        example = {"workdir": "runs/x", "config": "configs/METHOD/EXPERIMENT.py"}[flag]
        raise input_error(f"--{flag}", expected="a path", got="none", fix=f"add --{flag} {example}")
    return Path(value)


def experiment(app: App, request: Request) -> ConfigDict:
    """Returns the config that `--config` and `--config.KEY=VALUE` name; raises `InputError` if there is none."""
    path = find_experiment(str(required(request, "config")), app.name)
    return configs.load(path, request.overrides, app.base())


def split_init(spec: str) -> tuple[Path, bool]:
    """Returns the absolute path of `--init-from`, and whether it may fit in part only; raises `InputError` for none."""
    path = spec.removesuffix(PARTIAL)
    if not path:
        raise input_error("--init-from", expected="a path", got=f'"{spec}"', fix="name a run or a file of weights")
    return Path(path).absolute(), spec.endswith(PARTIAL)


def run_of(path: Path) -> tuple[Path, int | None]:
    """Returns the run that a path stands for, RUN or RUN/checkpoints/STEP, and the step, None without."""
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        return path.parent.parent, int(path.name)
    return path, None


def read_stored(app: App, workdir: Path) -> ConfigDict | None:
    """Returns the config of the run in `workdir`, None if there is none; raises `InputError` if it is damaged."""
    path = workdir / configs.FILE_NAME
    return configs.read(workdir, app.base(), training=True) if path.exists() or path.is_symlink() else None


def to_train(app: App, request: Request, may_change: Sequence[str] = ()) -> tuple[ConfigDict, Path]:
    """Returns config and work directory of a training command; what the directory already holds must agree with it.

    `may_change`: keys of the command itself in which they may differ, beside those of any run that is resumed.

    Raises:
      InputError: the directory cannot be written, or holds the run of another config.
    """
    workdir = required(request, "workdir")
    stored = read_stored(app, workdir)
    source = _init_workdir(request)
    if request.flags.config or (stored is None and source is None):
        config = experiment(app, request)
    else:
        own = workdir if source is None or stored is not None else source
        config = configs.read(own, app.base(), request.overrides, training=True)
    check_writable(workdir)
    config = app.complete(config, workdir)
    if stored is not None and (changes := configs.diff(stored, config, (*may_continue(request), *may_change))):
        changes = _of_another_run(stored, config, workdir, changes)
    else:
        changes = []
    if changes:
        names = [each.partition(":")[0] for each in changes]
        fix = "choose a new --workdir, or keep these keys as they were"
        if all(configs.matches(each, configs.CONTINUE_MAY_CHANGE) for each in names):
            said = " ".join(f"--config.{each}={_value(config, each)}" for each in names)
            fix = f"choose a new --workdir, or add {said} to go on with that"
        raise input_error(
            f"workdir {workdir}",
            expected="the experiment it already holds",
            got="another: " + ", ".join(changes),
            fix=fix,
        )
    return config, workdir


def _init_workdir(request: Request) -> Path | None:
    """Returns the directory of the run that `--init-from` names, None without; a new run may take its config."""
    spec = getattr(request.flags, "init_from", None)
    run = run_of(split_init(spec)[0])[0] if spec is not None else None
    return run if run is not None and (run / configs.FILE_NAME).exists() else None


def may_continue(request: Request) -> tuple[str, ...]:
    """Returns the keys in which a command may differ from the run it resumes: those that it sets explicitly."""
    said = (key for key in request.overrides if configs.matches(key, configs.CONTINUE_MAY_CHANGE))
    return (*configs.RESUME_MAY_CHANGE, *said)


def _of_another_run(stored: ConfigDict, config: ConfigDict, workdir: Path, changes: list[str]) -> list[str]:
    """Returns those of `changes` that make another run of the one in `workdir`: fewer where it is not trained yet."""
    from common.checkpoint import holds_weights_only  # takes seconds to import

    if not holds_weights_only(workdir):
        return changes
    refused = configs.diff(stored, config, TRAINED_MAY_CHANGE)
    return refused + [each for each in changes if each.startswith(TRAINED_MUST_AGREE)]


def _value(config: ConfigDict, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config


def of_trained(app: App, request: Request) -> Resolved:
    """Returns the config for a command on a trained run: the run's own, or `--config FILE` for the same model."""
    workdir = required(request, "workdir")
    stored = configs.read(workdir, app.base())
    if request.flags.config:
        config = experiment(app, request)
    else:
        config = configs.read(workdir, app.base(), request.overrides)
    config = app.complete(config, workdir)
    changes = configs.diff(stored, config)
    refused = configs.diff(stored, config, TRAINED_MAY_CHANGE)
    refused += [each for each in changes if each.startswith(TRAINED_MUST_AGREE)]
    if refused:
        raise input_error(
            f"workdir {workdir}",
            expected="the config of its model",
            got="another: " + ", ".join(refused),
            fix="leave out --config to use the run's own",
        )
    return Resolved(config, workdir, changes)


def to_describe(app: App, request: Request) -> ConfigDict:
    """Returns the config named by `--config`, or else the one stored in `--workdir`."""
    if request.flags.config:
        config = experiment(app, request)
    elif request.flags.workdir:
        config = configs.read(request.flags.workdir, app.base(), request.overrides)
    else:
        raise input_error("--config", expected="a path", got="none", fix="add --config FILE, or --workdir DIR of a run")
    return config


def without_config(request: Request) -> None:
    """Raises `InputError` for `--config` and `--config.KEY=VALUE` given to a command that reads no experiment."""
    given = [f"--config.{key}" for key in request.overrides] + ["--config"] * bool(request.flags.config)
    if given:
        fix = "leave it out: a run's own config is used"
        raise input_error(given[0], expected="none with this verb", got="one", fix=fix)


def check_writable(directory: Path) -> None:
    """Raises `InputError` unless `directory` exists, or could be made, and can be written; leaves no trace.

    What stands in the place of a folder of results or checkpoints must be one.
    """
    existing = directory
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise input_error(
            f"workdir {directory}", expected="a directory", got=f"{existing}, a file", fix="choose another --workdir"
        )
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".scorebridge-"):
            pass
    except OSError as error:
        raise input_error(
            f"workdir {directory}",
            expected="a directory that can be written",
            got=f"{error.strerror} in {existing}",
            fix="choose another --workdir",
        ) from None
    for name in _FOLDERS:
        if os.path.lexists(directory / name) and not (directory / name).is_dir():
            got, fix = f"{name}, a file or a link that leads nowhere", "move it away, or choose another --workdir"
            raise input_error(f"workdir {directory}", expected=f"a directory {name}", got=got, fix=fix)
