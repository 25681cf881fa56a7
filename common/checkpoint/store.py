"""Steps on disk, written and read with Orbax."""

import logging
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from common.checkpoint import manifest as manifests
from common.checkpoint.manifest import DamagedError
from common.training import hosts

_MANIFEST = "manifest"
_MANIFEST_FILE = "manifest.json"
_TEMPORARY = "*.orbax-checkpoint-tmp*"


def open_manager(directory: pathlib.Path, *, keep: int) -> ocp.CheckpointManager:
    """Returns the manager that writes into `directory` and keeps the newest `keep` steps."""
    _quiet()
    options = _this_process_alone()
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    registry.add(None, ocp.args.PyTreeSave, _arrays(options))
    registry.add(None, ocp.args.JsonSave, ocp.JsonCheckpointHandler(_MANIFEST_FILE, multiprocessing_options=options))
    return _Manager(
        directory.absolute(),  # Orbax takes no other
        options=ocp.CheckpointManagerOptions(
            # Checkpoints has its own thread, which computes the checksums too.
            enable_async_checkpointing=False,
            create=False,
            multiprocessing_options=options,
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
        ),
        handler_registry=registry,
    )


def write(
    manager: ocp.CheckpointManager, step: int, leaves: Mapping[str, np.ndarray], manifest: Mapping[str, Any]
) -> None:
    """Writes one step; it appears under its name once it is complete, and then the oldest beyond `keep` goes."""
    items: dict[str, dict[str, np.ndarray]] = {}
    for name, leaf in leaves.items():
        if leaf.size:  # Orbax refuses arrays without elements; the manifest is enough to make them anew
            field, _, rest = name.partition("/")
            items.setdefault(field, {})[rest or field] = leaf
    arrays = {
        field: ocp.args.PyTreeSave(traverse_util.unflatten_dict(named, sep="/")) for field, named in items.items()
    }
    args = ocp.args.Composite(**arrays, **{_MANIFEST: ocp.args.JsonSave(manifest)})
    try:
        manager.save(step, args=args, force=True)
    except BaseException:
        _remove_failed(manager.directory)
        raise


def steps(directory: pathlib.Path) -> list[int]:
    """Returns the complete steps, ascending."""
    try:
        return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal() and path.is_dir())
    except FileNotFoundError:
        return []


def read_manifest(directory: pathlib.Path, step: int) -> dict[str, Any]:
    """Returns the verified manifest of a step; raises `DamagedError`."""
    try:
        text = (directory / str(step) / _MANIFEST / _MANIFEST_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedError(f"manifest: {error}") from error
    return manifests.parse(text, step=step)


def read(directory: pathlib.Path, manifest: Mapping[str, Any], fields: Iterable[str]) -> dict[str, np.ndarray]:
    """Returns the verified leaves of some fields of the state; raises `DamagedError` naming the first bad one."""
    _quiet()
    leaves = {}
    for field in fields:
        inside = {name: stored for name, stored in manifest["leaves"].items() if name.partition("/")[0] == field}
        found = _read_field(directory / str(manifest["step"]) / field) if any(map(_size, inside.values())) else {}
        for name, stored in inside.items():
            if _size(stored):
                leaf = found.pop(name.partition("/")[2] or field, None)
            else:
                leaf = np.zeros(stored["shape"], stored["dtype"])
            manifests.check_leaf(name, leaf, stored)
            leaves[name] = leaf
    return leaves


def set_aside(directory: pathlib.Path, step: int) -> pathlib.Path:
    """Renames a damaged step, so that a run that restored an earlier one can write it anew; returns the new path."""
    target = directory / f"{step}.damaged"
    shutil.rmtree(target, ignore_errors=True)
    return (directory / str(step)).rename(target)


def remove_temporary(directory: pathlib.Path) -> None:
    """Removes what interrupted writes left behind."""
    for path in pathlib.Path(directory).glob(_TEMPORARY):
        shutil.rmtree(path)


def _remove_failed(directory: pathlib.Path) -> None:
    """Removes what a failed write left; its other parts may be writing for a moment longer and make it anew."""
    for _ in range(20):
        for path in pathlib.Path(directory).glob(_TEMPORARY):
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.05)


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        # Asking the preemption service here, on one process and in another thread, would disturb the agreement of all
        # processes on the step at which they stop.
        return False


def _read_field(path: pathlib.Path) -> dict[str, np.ndarray]:
    options = _this_process_alone()
    try:
        with ocp.Checkpointer(_arrays(options), multiprocessing_options=options) as checkpointer:
            tree = checkpointer.restore(path.absolute(), args=ocp.args.PyTreeRestore())
        return {name: np.asarray(leaf) for name, leaf in manifests.named_leaves(tree).items()}
    except Exception as error:  # a damaged file surfaces as an error of almost any kind, far inside the reader
        raise DamagedError(f"{path.name}: {manifests.reason(error)}") from error


def _arrays(options: ocp.options.MultiprocessingOptions) -> ocp.PyTreeCheckpointHandler:
    # The arrays handed over are private copies already, and trained weights hardly compress.
    numpy_only = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False))
    )
    return ocp.PyTreeCheckpointHandler(
        use_compression=False, type_handler_registry=numpy_only, multiprocessing_options=options
    )


def _this_process_alone() -> ocp.options.MultiprocessingOptions:
    """Returns options under which Orbax waits for no other process."""
    this = hosts.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})


def _size(stored: Mapping[str, Any]) -> int:
    return int(np.prod(stored["shape"], dtype=np.int64))


def _quiet() -> None:
    """Drops what Orbax prints besides its exceptions, which are told in our own words.

    That is its log, the exceptions of reads and writes that fail after a first one has been raised, and the tracebacks
    of those that end after it has closed their event loop; these come at any later moment, so the hook stays.
    """
    logging.getLogger("absl").addFilter(_not_of_orbax)
    logging.getLogger("asyncio").addFilter(_not_of_its_tasks)
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in pathlib.PurePath(record.pathname).parts


def _not_of_its_tasks(record: logging.LogRecord) -> bool:
    return os.path.join("orbax", "checkpoint", "") not in record.getMessage()


class _UnraisableHook:
    def __init__(self, otherwise: Callable[[Any], object]):
        self._otherwise = otherwise

    def __call__(self, event) -> None:
        if not (isinstance(event.exc_value, RuntimeError) and str(event.exc_value) == "Event loop is closed"):
            self._otherwise(event)
