"""The command line of every method: `python -m METHOD VERB --config FILE --workdir DIR [--config.KEY=VALUE ...]`."""

import argparse
import difflib
import errno
import importlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from common.cli.app import App, Request, Verb, add_checkpoint, add_dry_run
from common.errors import InputError, RunError, choice, nearest, one_line, shown
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
        if (long := re.search(r"'(.{80,})'$", message)) is not None:
            message = message[: long.start()] + shown(long[1])
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
    check_known(argv, known, keys, verb=verb.name, see=see)
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        raise unknown_argument(unknown[0], keys(), see=see)
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


def _run(module: str, name: str):
    """Returns the function `name` of `common.cli.verbs.MODULE`, which is imported when the verb is called."""
    return lambda app, request: getattr(importlib.import_module(f"common.cli.verbs.{module}"), name)(app, request)


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
        _run("train", "train"),
    ),
    Verb(
        "sample",
        "draw samples from a trained model",
        "Writes DIR/samples/step-N-seed-S-KEY.npz, .png and .json; KEY is a hash of all settings. Without --config\n"
        "the run's own is used; --config.seed=1 gives other samples. With --num N they go to a directory\n"
        "DIR/samples/many-...; sample i does not depend on N, the batch size, the number of devices and\n"
        "interruptions.",
        _sample,
        _run("trained", "sample"),
    ),
    Verb(
        "evaluate",
        "measure a trained model on held-out data",
        "Writes DIR/results/evaluate-step-N-seed-S-KEY.json and .npz; KEY is a hash of all settings. Without\n"
        "--config the run's own is used.",
        _trained,
        _run("trained", "evaluate"),
    ),
    Verb(
        "figures",
        "draw figures from the result files",
        "Reads only DIR/metrics.jsonl, DIR/results and DIR/samples; writes DIR/figures and DIR/index.html. Of several\n"
        "results of one kind that of the highest step, and then the latest, is drawn; the page lists all of them.",
        _figures,
        _run("trained", "figures"),
        reads_config=False,
    ),
    Verb(
        "describe",
        "parameters, FLOPs, memory and resolved config",
        "Runs no training. Takes --config FILE, or --workdir DIR for the config stored there.",
        lambda parser: None,
        _run("describe", "describe"),
    ),
    Verb(
        "import-weights",
        "make a checkpoint of foreign weights",
        "Reads the authors' released weights, without PyTorch and without running code from the file, and\n"
        "writes DIR/config.json and DIR/checkpoints, ready for sample and evaluate.",
        _import_weights,
        _run("train", "import_weights"),
    ),
)


# Names in other programs of these flags and keys.
_FLAGS = {
    **dict.fromkeys(("out", "output", "outdir", "output_dir", "out_dir", "logdir", "log_dir", "save_dir", "dir",
                     "run_dir", "rundir", "model_dir", "ckpt_dir", "checkpoint_dir", "folder"), "--workdir"),
    **dict.fromkeys(("cfg", "conf", "config_file", "config_path", "experiment", "exp"), "--config"),
    **dict.fromkeys(("num_samples", "samples", "n_samples", "count", "n"), "--num"),
    **dict.fromkeys(("ckpt", "checkpoint", "checkpoint_step", "at_step"), "--step"),
}  # fmt: skip
_KEYS = {
    **dict.fromkeys(("lr", "rate", "learning_rate"), "optimizer.learning_rate"),
    **dict.fromkeys(("bs", "batch", "batchsize", "batch_size"), "train.batch_size"),
    **dict.fromkeys(("iterations", "iters", "num_steps", "n_steps", "total_steps", "num_train_steps", "train_steps",
                     "max_steps", "steps"), "train.steps"),
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs", "max_epochs"), "train.steps"),
    **dict.fromkeys(("wd", "weight_decay"), "optimizer.weight_decay"),
    **dict.fromkeys(("dtype", "precision"), "compute_dtype"),
    **dict.fromkeys(("dataset", "data_dir", "data_path"), "data.source"),
    **dict.fromkeys(("ema_decay", "ema"), "ema.decay"),
    **dict.fromkeys(("image_size", "resolution", "img_size"), "data.size"),
    **dict.fromkeys(("wandb", "tracking"), "train.tracking"),
    **dict.fromkeys(("grad_clip", "clip", "clip_norm", "max_grad_norm"), "optimizer.clip_norm"),
    **dict.fromkeys(("num_workers", "workers"), "data.workers"),
}  # fmt: skip
# The section that a verb prefers where several have a key of the same name.
_SECTIONS = {"sample": "sampler", "evaluate": "evaluate"}


def check_known(
    argv: Sequence[str], known: Iterable[str], keys: Callable[[], Mapping[str, Any]], *, verb: str, see: str
) -> None:
    """Raises `InputError` for the first flag of a command that is not `known`; names the flag or key that was meant.

    `keys()` returns those of the config, dotted, with their default values; `see` is the advice where nothing is near.
    """
    known = tuple(known)
    for position, word in enumerate(argv):
        if word == "--":
            return
        name, equals, value = word.partition("=")
        if not re.match(r"--?[A-Za-z]", word) or name in known:
            continue
        if not equals:
            after = argv[position + 1 : position + 2]
            value = after[0] if after and not re.match(r"--?[A-Za-z]", after[0]) else None
        raise InputError(f"{name}: unknown flag; {_meant(name, value, known, keys(), verb) or see}")


def unknown_argument(word: str, keys: Mapping[str, Any], *, see: str) -> InputError:
    """Returns the error for a word that no flag takes; `train.steps=5` lacks `--config.`."""
    name, equals, value = word.partition("=")
    key = _key(name.removeprefix("config."), keys, "") if equals else None
    return InputError(f"{name}: unknown argument; {f'write {_change(key, value, keys)}' if key else see}")


def _meant(name: str, value: str | None, known: Sequence[str], keys: Mapping[str, Any], verb: str) -> str | None:
    plain = _plain(name)
    flags = {_plain(flag): flag for flag in known}
    # Only dashes differ, or a whole word of another program.
    flag = {_squeezed(each): flag for each, flag in flags.items()}.get(_squeezed(plain))
    if flag is None and (close := difflib.get_close_matches(plain, flags, n=1, cutoff=0.85)):
        flag = flags[close[0]]
    if flag is None and _FLAGS.get(plain) in known:
        flag = _FLAGS[plain]
    if flag is None:
        if plain.startswith("no_") and (key := _key(plain[3:], keys, verb)) and isinstance(keys[key], bool):
            return f"did you mean --config.{key}=false?"
        if key := _key(plain, keys, verb):
            if "epoch" in plain and value is not None:
                value = f"{value} epochs"
            return f"did you mean {_change(key, value, keys)}?"
        flag = flags[close] if (close := nearest(plain, flags)) else None
    return f'did you mean "{flag}"?' if flag else None


def _change(key: str, value: str | None, keys: Mapping[str, Any]) -> str:
    if value is None:
        value = "true" if isinstance(keys[key], bool) else "VALUE"
    return f"--config.{key}={shlex.quote(value)}"


def _key(plain: str, keys: Mapping[str, Any], verb: str) -> str | None:
    """Returns the dotted key that a name means: a whole key, the end of one, what other programs call it, a typo."""
    if plain in keys:
        return plain
    section = _SECTIONS.get(verb, verb)
    same = [key for key in keys if key.rpartition(".")[2] == plain or key.replace(".", "_") == plain]
    if same:
        return min(
            same, key=lambda key: (not key.startswith(f"{section}."), not key.startswith("train."), key.count("."))
        )
    if _KEYS.get(plain) in keys:
        return _KEYS[plain]
    if "." in plain:
        return nearest(plain, keys)
    leaves: dict[str, str] = {}
    for key in keys:
        leaves.setdefault(key.rpartition(".")[2], key)
    close = difflib.get_close_matches(plain, leaves, n=1, cutoff=0.8)
    return leaves[close[0]] if close else None


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_").removeprefix("config.")


def _squeezed(name: str) -> str:
    return name.replace("_", "").lower()
