"""The interface of a method to the command line: functions that import it only when they are called."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # `--help` must not wait for these
    from ml_collections import ConfigDict

    from common.method import Method, Variables


class Request(NamedTuple):
    """A command as typed: the parsed `flags` and the texts of `--config.KEY=VALUE` by dotted key."""

    flags: argparse.Namespace
    overrides: Mapping[str, str]


class Verb(NamedTuple):
    """One verb: a line of `summary`, a `details` paragraph, its own flags, and what it does.

    `reads_config` is False for a verb that refuses or ignores `--config.KEY=VALUE`.
    """

    name: str
    summary: str
    details: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[App, Request], None]
    reads_config: bool = True


class App(NamedTuple):
    """A method as the command line sees it.

    `base()` holds every config key; `import_weights(path, *, workdir, config, dry_run)` writes an ordinary checkpoint
    of foreign weights and returns the lines to print; `read_weights(path)` returns variables and step (None where it is
    unknown) of a file that `export` wrote; `figures()` maps names to functions that read only the result
    files of a work directory and return the paths they wrote (`InputError` if a file they need is missing).
    `complete(config, workdir)` returns the config of a run in `workdir` with what it takes over from other runs, so
    that they are needed no more once it is under way.
    """

    name: str
    summary: str
    base: Callable[[], ConfigDict]
    build: Callable[[ConfigDict], Method]
    import_weights: Callable[..., Sequence[str]]
    read_weights: Callable[[Path], tuple[Variables, int | None]]
    figures: Callable[[], Mapping[str, Callable[[Path], Sequence[Path]]]]
    extra_verbs: Sequence[Verb] = ()
    examples: Sequence[str] = ()
    complete: Callable[[ConfigDict, Path], ConfigDict] = lambda config, workdir: config


def add_dry_run(parser: argparse.ArgumentParser, what: str = "that can be checked") -> None:
    """Adds `--dry-run`; `what` names what is checked or shown."""
    parser.add_argument("--dry-run", action="store_true", help=f"check everything {what}, and stop there")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Adds `--step` and `--no-ema`, which choose the weights of a trained run."""
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint to use (default: the newest good one)")
    parser.add_argument("--no-ema", action="store_true", help="use the parameters themselves, not their average")


def print_lines(*texts: Any) -> None:
    """Prints each text on a separate line."""
    print(*texts, sep="\n", flush=True)
