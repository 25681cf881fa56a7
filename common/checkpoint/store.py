"""Steps on disk: Orbax stores the arrays and makes a step appear whole or not at all, for one writer a directory.

This is the only module that knows Orbax. It uses `Checkpointer` and the handlers of the stable API: V1 is still called
experimental in every release that setup.py allows, and `CheckpointManager` asks the preemption service on one process
alone, takes foreign names for steps and cannot remove links; keeping the newest steps takes less code than that.
"""

import contextlib
import datetime
import errno
import functools
import json
import logging
import os
import pathlib
import re
import shutil
import socket
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from common.checkpoint import manifest as manifests
from common.checkpoint.manifest import DamagedError
from common.errors import input_error
from common.training import hosts

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    try:
        import msvcrt
    except ImportError:
        msvcrt = None

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# Windows lets nobody else read a locked byte, so the one that is locked lies behind the name of the holder.
_LOCKED_BYTE = 1 << 30
_HOLDER_BYTES = 4096


@contextlib.contextmanager
def only_writer(path: pathlib.Path) -> Iterator[None]:
    """Holds the lock file at `path`; raises `InputError` that names the process that already does.

    The file stays when the lock is released: removing it could take it from under a process that has just opened it.
    """
    if path.exists() and not path.is_file():
        kind = "a directory" if path.is_dir() else "a FIFO or another special file"
        raise input_error(str(path), expected="a lock file, or none", got=kind, fix="remove it")
    with open(path, "a+", encoding="utf-8") as file:
        try:
            _acquire(file.fileno())
        except BlockingIOError:
            raise input_error(
                f"workdir {path.parent.parent}",
                expected="no other run that writes here",
                got=_holder(path),
                fix="wait for it, stop it, or choose another workdir",
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            _log.warning("%s: this file system has no locks; do not start a second run here", path)
        file.truncate(0)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        file.write(json.dumps(holder))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _acquire(descriptor: int) -> None:
    """Locks an open file until it is closed; raises BlockingIOError if another process has locked it."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]  # Windows alone
        except PermissionError as error:
            raise BlockingIOError(error.errno, error.strerror) from None
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _holder(path: pathlib.Path) -> str:
    try:
        with path.open("rb") as file:
            holder = json.loads(file.read(_HOLDER_BYTES))
        return f"one with pid {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # the holder may be writing this just now
        return "one that has just started"


_ARRAYS, _MANIFEST, _MANIFEST_FILE = "state", "manifest", "manifest.json"
_TEMPORARY = ".orbax-checkpoint-tmp"
_log = logging.getLogger(__name__)


def steps(directory: pathlib.Path) -> list[int]:
    """Returns the complete steps, ascending; other names are ignored. Raises `InputError` if it cannot be read."""
    try:
        names = [path.name for path in directory.iterdir() if path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        fix = "choose another workdir or change its permissions"
        raise input_error(
            str(directory), expected="a directory that can be read", got=error.strerror, fix=fix
        ) from None
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


def write(directory: pathlib.Path, leaves: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Writes the step of `manifest`; it appears under its name once it is complete."""
    path = directory.absolute() / str(manifest["step"])  # Orbax takes no relative path
    remove_temporary(directory)
    if os.path.lexists(path):  # no step, or it would not be written
        set_aside(path)
    # Orbax refuses arrays without elements; the manifest is enough to make them anew.
    tree = traverse_util.unflatten_dict({name: leaf for name, leaf in leaves.items() if leaf.size}, sep="/")
    args = {_ARRAYS: ocp.args.PyTreeSave(tree), _MANIFEST: ocp.args.JsonSave(manifest)}
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(path, ocp.args.Composite(**args))
    except BaseException:
        remove_temporary(directory)
        raise


def read_manifest(directory: pathlib.Path, step: int) -> dict[str, Any]:
    """Returns the verified manifest of a step; raises `DamagedError`."""
    path = directory / str(step) / _MANIFEST / _MANIFEST_FILE
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a file")  # a pipe would be waited for
        return manifests.parse(path.read_bytes(), step=step)
    except OSError as error:
        raise DamagedError(f"manifest: {error.strerror or error}") from error


def read(directory: pathlib.Path, manifest: Mapping[str, Any], fields: Collection[str]) -> dict[str, np.ndarray]:
    """Returns the verified leaves of some fields of the state; raises `DamagedError` naming the first bad one."""
    wanted = {name: stored for name, stored in manifest["leaves"].items() if name.partition("/")[0] in fields}
    filled = {name for name, stored in wanted.items() if 0 not in stored["shape"]}
    path = directory.absolute() / str(manifest["step"])
    if manifest["format"] == 1:
        # One item for each field of the state, with names inside it.
        found = {}
        for field in {name.partition("/")[0] for name in filled}:
            inside = {name.partition("/")[2] or field: name for name in filled if name.partition("/")[0] == field}
            found |= {inside.get(key, key): leaf for key, leaf in _read_item(path, field, inside).items()}
    else:
        found = _read_item(path, _ARRAYS, filled) if filled else {}
    leaves = {
        name: found[name] if name in filled else np.zeros(stored["shape"], stored["dtype"])
        for name, stored in wanted.items()
    }
    for name, stored in wanted.items():
        manifests.check_leaf(name, leaves[name], stored)
    return leaves


def set_aside(path: pathlib.Path) -> pathlib.Path:
    """Renames what is not a good step to `PATH.damaged`, so that a run can write the step; returns the new path."""
    target = path.with_name(f"{path.name}.damaged")
    _remove(target)
    return path.rename(target)


def remove_old(directory: pathlib.Path, *, keep: int, keep_every: int) -> None:
    """Removes all but the newest `keep` steps and the multiples of `keep_every`; warns of what cannot be removed."""
    for step in steps(directory)[:-keep]:
        if keep_every and step % keep_every == 0:
            continue
        path = directory / str(step)
        try:
            # Renamed first, so that no step is ever seen in part.
            _remove(path.rename(path.with_name(f"{step}{_TEMPORARY}")))
        except OSError as error:
            _log.warning("the old checkpoint %s cannot be removed: %s", path, error.strerror or error)


def remove_temporary(directory: pathlib.Path) -> None:
    """Removes what interrupted writes left behind."""
    for path in directory.glob(f"*{_TEMPORARY}*"):
        with contextlib.suppress(
            OSError
        ):  # other threads of a failed write may still be at it; the next call removes it
            _remove(path)


def _remove(path: pathlib.Path) -> None:
    """Removes a file, a link (never what it points to) or a folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read_item(path: pathlib.Path, item: str, names: Collection[str]) -> dict[str, np.ndarray]:
    tree = traverse_util.unflatten_dict(dict.fromkeys(names, 0), sep="/")
    try:
        with _checkpointer(item) as checkpointer:
            args = ocp.args.Composite(**{item: ocp.args.PyTreeRestore(tree, partial_restore=True)})
            found = checkpointer.restore(path, args)[item]
        return {name: np.asarray(leaf) for name, leaf in manifests.named_leaves(found).items()}
    except Exception as error:  # a damaged file surfaces as an error of almost any kind, far inside the reader
        raise DamagedError(f"{item}: {manifests.reason(error)}") from error


def _checkpointer(item: str = _ARRAYS) -> ocp.Checkpointer:
    """Returns what saves and restores a step: `item` with arrays, and the manifest."""
    _silence()
    this = hosts.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})
    # The arrays handed over are private copies already, and trained weights hardly compress.
    numpy_only = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False))
    )
    arrays = ocp.PyTreeCheckpointHandler(
        use_compression=False, type_handler_registry=numpy_only, multiprocessing_options=alone
    )
    texts = ocp.JsonCheckpointHandler(_MANIFEST_FILE, multiprocessing_options=alone)
    both = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone), **{item: arrays, _MANIFEST: texts}
    )
    return ocp.Checkpointer(both, multiprocessing_options=alone)


@functools.cache
def _silence() -> None:
    """Drops what Orbax prints besides its exceptions, which become our own error lines.

    That is its log, and what the other writes of a failed save report after the first error has been raised: through
    asyncio, and, once their event loop is closed, through the hook for exceptions that nobody can catch.
    """
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in pathlib.PurePath(record.pathname).parts)
    of_orbax = os.path.join("orbax", "checkpoint", "")
    logging.getLogger("asyncio").addFilter(lambda record: of_orbax not in record.getMessage())
    others = sys.unraisablehook
    sys.unraisablehook = lambda event: str(event.exc_value) == "Event loop is closed" or others(event)
