"""Flags that do not exist, and the ones that were probably meant."""

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from common.errors import InputError, nearest

# What other programs call flags and keys of these.
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
        if plain.startswith("no_") and isinstance(keys.get(key := _key(plain[3:], keys, verb)), bool):
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
