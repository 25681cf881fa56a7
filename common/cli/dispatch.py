"""The command line of every method: `python -m METHOD VERB --config FILE --workdir DIR [--config.KEY=VALUE ...]`."""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from common.cli import flags
from common.cli.app import App, Request, Verb, add_checkpoint, add_dry_run
from common.errors import InputError, RunError, choice, one_line, shown
from common.migrations import flat

USAGE = 2  # exit code for wrong use and bad input
FAILED = 1
INTERRUPTED = 130


def main(argv: Sequence[str], app: App) -> int:
    """Runs one command and returns its exit code; a mistake of the user is one line on stderr."""
    try:
        _dispatch(list(argv), app)
        sys.stdout.flush()
        return 0
    except InputError as error:
        return _fail(error, USAGE)
    except RunError as error:
        return _fail(error, FAILED)
    except MemoryError as error:
        got = one_line(error).removeprefix("MemoryError").rstrip(".") or "the memory is full"
        return _fail(
            f"memory: expected enough for these settings, got none: {got}; use smaller numbers or sizes", FAILED
        )
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except (RuntimeError, AssertionError) as error:
        from common.training.parallel import platform_error

        if (cause := platform_error(error)) is None:
            raise
        return _fail(cause, USAGE)
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            # A failed write to an open file names none.
            return _fail(f"{error.filename or 'a file'}: {error.strerror}", FAILED)
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
            return _fail(f"{shown(str(error.filename))}: {error.strerror}; check the path", USAGE)
        raise


def _fail(error: object, code: int) -> int:
    print("error: " + one_line(error), file=sys.stderr)
    return code


def _dispatch(argv: list[str], app: App) -> None:
    verbs = {verb.name: verb for verb in (*VERBS, *app.extra_verbs)}
    command = f"python -m {app.name}"
    if not argv:
        raise InputError(f"verb: expected one of {', '.join(verbs)}, got none; see `{command} --help`")
    if argv[0] in ("-h", "--help"):
        print(_overview(app, verbs.values()))
        return
    if argv[0].startswith("-"):
        raise InputError(f"verb: expected one of {', '.join(verbs)} first, got {argv[0]}; see `{command} --help`")
    verb = verbs[choice("verb", argv[0], verbs)]
    overrides, rest = split_overrides(argv[1:])
    verb.run(app, Request(_parse(verb, app, rest), overrides))


def split_overrides(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Takes `--config.KEY=VALUE` and `--config.KEY VALUE` out of a command; returns them by key, and what is left."""
    overrides, rest, position = {}, [], 0
    while position < len(argv):
        word = argv[position]
        position += 1
        if not word.startswith("--config."):
            rest.append(word)
            continue
        key, equals, text = word.removeprefix("--config.").partition("=")
        if not equals:
            if position == len(argv) or argv[position].startswith("--"):
                raise InputError(f"config.{key}: expected a value, got none; write --config.{key}=VALUE")
            text = argv[position]
            position += 1
        overrides[key] = text
    return overrides, rest


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; see `{self.prog} --help`")


def _parse(verb: Verb, app: App, argv: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog=f"python -m {app.name} {verb.name}",
        description=f"{verb.summary[0].upper()}{verb.summary[1:]}.\n\n{verb.details}",
        epilog="--config.KEY=VALUE changes one key, e.g. --config.train.steps=200 or --config.train.steps='5 epochs'.\n"
        "Wrong use or bad input: one line on stderr that begins with `error:`, exit code 2.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help=f"experiment: a file, or a name such as {app.name}/EXPERIMENT")
    parser.add_argument("--workdir", metavar="DIR", help="directory of the run")
    verb.arguments(parser)
    known = [each for action in parser._actions for each in action.option_strings]
    see = f"see `{parser.prog} --help`"

    def keys() -> dict[str, Any]:
        return dict(flat(app.base().to_dict())) if verb.reads_config else {}

    # First of all: argparse would complain of what is missing, or take a word for the value of another flag.
    flags.check_known(argv, known, keys, verb=verb.name, see=see)
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        raise flags.unknown_argument(unknown[0], keys(), see=see)
    return parsed


def _overview(app: App, verbs) -> str:
    width = max(len(verb.name) for verb in verbs)
    listed = "\n".join(f"  {verb.name:<{width}}  {verb.summary}" for verb in verbs)
    examples = "\n".join(f"  python -m {app.name} {each}" for each in app.examples)
    return f"""usage: python -m {app.name} VERB --config FILE --workdir DIR [--config.KEY=VALUE ...]

{app.summary}

verbs:
{listed}

  --config FILE         experiment: a Python file with get_config(), or the name of one in configs/; may be left out
                        where DIR holds a run
  --workdir DIR         directory of the run: config.json, metrics.jsonl, checkpoints/, samples/, results/, figures/
  --config.KEY=VALUE    changes one key of the experiment; a duration is steps, "5 epochs" or "100000 examples"
  --help                after a verb: its own flags

examples:
{examples}

exit codes: 0 done, 1 the run failed, 2 wrong use or bad input (one line on stderr that begins with `error:`)"""


def _run(name: str):
    """Returns the function of `common.cli.verbs.NAME`, imported when it is called."""
    return lambda app, request: importlib.import_module(f"common.cli.verbs.{name}").run(app, request)


def _train(parser: argparse.ArgumentParser) -> None:
    add_dry_run(parser)
    parser.add_argument(
        "--init-from",
        metavar="PATH",
        help="start a new run from the parameters of a run (DIR, or DIR/checkpoints/STEP) or of a file that\n"
        "import-weights reads; PATH:partial takes the arrays that fit and names those that stay random",
    )
    parser.add_argument(
        "--profile", type=int, metavar="STEPS", help="trace that many steps into DIR/profile (Perfetto, TensorBoard)"
    )
    hosts = parser.add_argument_group("several hosts (the same command on each)")
    hosts.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    hosts.add_argument("--num-processes", type=int, metavar="N", help="number of processes")
    hosts.add_argument("--process-id", type=int, metavar="I", help="number of this process, from 0")
    hosts.add_argument(
        "--host-timeout",
        type=int,
        metavar="SECONDS",
        help="how long to wait for a process that does not come, or gives no sign of life (default: 120)",
    )


def _trained(parser: argparse.ArgumentParser) -> None:
    add_dry_run(parser)
    add_checkpoint(parser)


def _sample(parser: argparse.ArgumentParser) -> None:
    _trained(parser)
    many = parser.add_argument_group("many samples (resumed when the same command is given again)")
    many.add_argument("--num", type=int, metavar="N", help="draw samples 0 ... N - 1 into several files")
    many.add_argument("--type", metavar="T", help='how images are kept: "uint8" (default) or "float32"')


def _figures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="which figures (default: all that can be made)")


def _import_weights(parser: argparse.ArgumentParser) -> None:
    add_dry_run(parser)
    parser.add_argument("file", metavar="FILE", help="a PyTorch checkpoint (zip format) or a .safetensors file")


VERBS = (
    Verb(
        "train",
        "train, or resume or prolong what DIR holds",
        "A run that was interrupted goes on where it stopped when the same command is given again. SIGTERM\n"
        "and Ctrl-C finish the current step, save and exit with code 0. --dry-run checks config, data,\n"
        "devices, directories and checkpoints and compiles nothing. A larger --config.train.steps prolongs a run,\n"
        "and --config.optimizer.KEY=VALUE changes its optimizer from the newest checkpoint on; both are recorded\n"
        "in DIR/config.json. A directory of imported weights is fine-tuned, --init-from starts a new run from others.",
        _train,
        _run("train"),
    ),
    Verb(
        "sample",
        "draw samples from a trained model",
        "Writes DIR/samples/step-N-seed-S-KEY.npz, .png and .json; KEY is a hash of all settings. Without --config\n"
        "the run's own is used; --config.seed=1 gives other samples. With --num N they go to a directory\n"
        "DIR/samples/many-...; sample i is the same whatever N, the batch size, the number of devices and\n"
        "interruptions.",
        _sample,
        _run("sample"),
    ),
    Verb(
        "evaluate",
        "measure a trained model on held-out data",
        "Writes DIR/results/evaluate-step-N-seed-S-KEY.json and .npz; KEY is a hash of all settings. Without\n"
        "--config the run's own is used.",
        _trained,
        _run("evaluate"),
    ),
    Verb(
        "figures",
        "draw figures from the result files",
        "Reads only DIR/metrics.jsonl, DIR/results and DIR/samples; writes DIR/figures and DIR/index.html. Of several\n"
        "results of one kind that of the highest step, and then the latest, is drawn; the page lists all of them.",
        _figures,
        _run("figures"),
        reads_config=False,
    ),
    Verb(
        "describe",
        "parameters, FLOPs, memory and resolved config",
        "Runs no training. Takes --config FILE, or --workdir DIR for the config stored there.",
        lambda parser: None,
        _run("describe"),
    ),
    Verb(
        "import-weights",
        "make a checkpoint of foreign weights",
        "Reads the authors' released weights, without PyTorch and without running code from the file, and\n"
        "writes DIR/config.json and DIR/checkpoints, ready for sample and evaluate.",
        _import_weights,
        _run("import_weights"),
    ),
)
