"""Commands made of many ordinary runs: one training that stops and resumes, and the check that nothing has changed."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from common import config as configs
from common.cli.app import App, print_lines
from common.errors import input_error
from common.io import results

_TRAINED = "trained"
# Unlike a training run, what is measured at the end depends on these, so that they must stay as they are.
_MATTERS = ("evaluate.*", "sampler.*")
MAY_CHANGE = tuple(key for key in configs.RESUME_MAY_CHANGE if key not in _MATTERS)


def check_same(
    app: App, config: ConfigDict, workdir: Path, *, what: str, may_change: tuple[str, ...] = MAY_CHANGE
) -> None:
    """Raises `InputError` if `workdir` holds the same kind of command (`what`: study, ...) with another config."""
    if not (workdir / configs.FILE_NAME).exists():
        return
    if changes := configs.diff(configs.read(workdir, app.base()), config, may_change):
        raise input_error(
            f"workdir {workdir}",
            expected=f"the {what} it already holds",
            got="another: " + ", ".join(changes),
            fix="choose a new --workdir, or keep these keys as they were",
        )


def check(app: App, config: ConfigDict, folder: Path) -> None:
    """Checks the run of `config` in `folder` as a dry run of `train` does; opens its data.

    Raises `InputError` for what training would refuse. A run that has ended is checked too, but for its directory: what
    is measured of it afterwards compares it with the data it was trained on, which must still be those.
    """
    if not is_trained(folder):
        from common.cli.train_run import prepare

        prepare(app, config, folder, dry_run=True)
        return
    from common import checkpoint

    values = configs.to_dict(config)
    checkpoint.check_resume(
        folder,
        config=values,
        data_fingerprint=app.build(config).sources()["train"].fingerprint,
        # Of the config `check_same` decides; keys that concern the measures alone may have changed.
        may_change=tuple(f"{name}.*" if isinstance(each, Mapping) else name for name, each in values.items()),
        upgrade=functools.partial(configs.filled, base=app.base()),
    )


def train(app: App, config: ConfigDict, folder: Path, *, title: str, **described: Any) -> bool:
    """Trains the run of `config` in `folder` unless it is trained, resuming it; returns whether it is trained now.

    `described` goes into `trained.json`, which marks the run as complete, beside step and hash of the weights.
    """
    if is_trained(folder):
        return True
    from common.checkpoint import restore_variables
    from common.cli import train_run
    from common.data.source import length_text
    from common.sampling import weights_digest

    prepared = train_run.prepare(app, config, folder)
    settings, source = prepared.settings, prepared.source
    steps = f"{config.train.steps} steps of {settings.batch_size}"
    print_lines(f"training {title}: {steps} on {length_text(source, 'examples')}")
    folder.mkdir(parents=True, exist_ok=True)
    result = train_run.run(prepared)
    if not result.interrupted:
        variables, step = restore_variables(folder)
        numbers = {"step": step, "weights": weights_digest(variables), **described}
        results.write(folder, _TRAINED, numbers=numbers, arrays={})
    return not result.interrupted


def is_trained(folder: Path) -> bool:
    """Returns whether the run in `folder` has ended."""
    return (folder / f"{_TRAINED}.json").exists()


def trained_weights(folder: Path) -> str | None:
    """Returns the hash of the weights with which the run in `folder` ended, None if it has not."""
    if not is_trained(folder):
        return None
    numbers = results.read_numbers(folder / f"{_TRAINED}.json")
    if "weights" in numbers:
        return numbers["weights"]
    # Runs of earlier versions did not write the hash.
    from common.checkpoint import restore_variables
    from common.sampling import weights_digest

    return weights_digest(restore_variables(folder)[0])
