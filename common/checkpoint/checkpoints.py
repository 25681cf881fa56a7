"""Saving and restoring a run's state, so that no fault of a disk, a machine or a user goes unnoticed."""

import concurrent.futures
import contextlib
import functools
import json
import logging
import operator
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from common import config as configs
from common.checkpoint import manifest as manifests
from common.checkpoint import store
from common.checkpoint.manifest import DamagedError
from common.checkpoint.store import only_writer
from common.errors import InputError, RunError, at_least, input_error, listed
from common.method import PyTree, Variables
from common.training import hosts

FOLDER = "checkpoints"
_log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """A verified checkpoint: the `state` (NumPy leaves), the `extra` JSON values saved with it, and its `step`."""

    state: Any
    extra: dict[str, Any]
    step: int


class Checkpoints:
    """The checkpoints of one run, for the one process that may write them; use it in a `with` statement.

    `config` (plain JSON values) and `data_fingerprint` say what the run is; a directory of another run is refused, but
    for keys that match `may_change` (dotted, or `section.*`). `data_fingerprint=None` skips the check of the data;
    `earlier_fingerprint` is what older versions called the same data.
    `upgrade` turns the config of a checkpoint, which an older version may have written, into today's keys.
    The newest `keep` steps stay, and all multiples of `keep_every` (0: none of them).

    With several processes every one makes every call; the first one reads and writes, and its results and errors come
    out on all of them. The state must be the same on all.

    Entering raises:
      InputError: the directory cannot be written, another process writes there, or it belongs to another config or
        data set.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        config: Mapping[str, Any],
        keep: int,
        keep_every: int = 0,
        data_fingerprint: str | None = None,
        earlier_fingerprint: str = "",
        may_change: tuple[str, ...] = (),
        upgrade: Callable[[Mapping], Mapping] = configs.experiment,
    ):
        at_least({"config.checkpoint.keep": (keep, 1), "config.checkpoint.keep_every": (keep_every, 0)})
        self._workdir = pathlib.Path(workdir)
        self._directory = self._workdir / FOLDER
        self._run = {"config": configs.stamped(json.loads(json.dumps(config))), "data_fingerprint": data_fingerprint}
        self._agreement = {"earlier_fingerprint": earlier_fingerprint, "may_change": may_change, "upgrade": upgrade}
        self._remove_old = functools.partial(store.remove_old, self._directory, keep=keep, keep_every=keep_every)
        # Not Orbax's own: checksums of a large state take seconds and belong in the background too.
        self._writer: Any = None  # an Executor, while the block runs
        self._pending: concurrent.futures.Future | None = None
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> "Checkpoints":
        hosts.first_decides(self._open)
        return self

    def __exit__(self, kind, error, trace) -> None:
        with self._resources:
            if kind is None:
                self.wait()
                return
            # The other processes may not come here, so this one does not wait for them.
            try:
                self._finish()
            except RunError as late:
                _log.error("%s", late)

    def steps(self) -> list[int]:
        """Returns the complete steps, ascending."""
        return hosts.first_decides(lambda: store.steps(self._directory))

    def save(self, step: int, state: PyTree, extra: Mapping[str, Any]) -> bool:
        """Starts writing a checkpoint and returns at once; False if this step is the newest already.

        `state` is a NamedTuple with at least `params` and `stats`, whose leaves are arrays on this host or replicated
        over devices; they are copied before this returns. `extra` holds JSON values with text keys.

        Raises:
          RunError: too little space, or an earlier write failed; older checkpoints are untouched. The state that is
            written in the background is refused, with this error at the next call, if params, stats or ema_params
            are not finite.
          InputError: a later step exists.
        """
        return hosts.first_decides(lambda: self._save(operator.index(step), state, extra))

    def wait(self) -> None:
        """Returns when all writes are complete; raises `RunError` if one failed."""
        hosts.first_decides(self._finish)

    def restore_latest(self, template: PyTree) -> Restored | None:
        """Returns the newest checkpoint that verifies, or None if there are no checkpoints.

        `template` is a state of arrays or `jax.ShapeDtypeStruct`s. Damaged steps are reported by a warning and set
        aside once an earlier one proves good.

        Raises:
          InputError: the checkpoint's leaves differ from the template's in name, shape or dtype, or all are damaged.
        """
        return self._restore(template, None)

    def restore(self, template: PyTree, step: int) -> Restored:
        """Returns the checkpoint of `step`; raises `InputError` if it is absent, damaged or unlike the template."""
        return self._restore(template, step)

    def _open(self) -> None:
        lock = self._directory / ".lock"
        with contextlib.ExitStack() as resources:
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                resources.enter_context(only_writer(lock))
            except OSError as error:
                raise input_error(
                    f"workdir {self._workdir}",
                    expected="a directory that can be written",
                    got=f"{error.strerror or error} ({error.filename or lock})",
                    fix="choose another workdir or change its permissions",
                ) from None
            store.remove_temporary(self._directory)
            check_resume(self._workdir, **self._run, **self._agreement)
            self._writer = resources.enter_context(concurrent.futures.ThreadPoolExecutor(1, "checkpoint"))
            self._resources = resources.pop_all()

    def _save(self, step: int, state: PyTree, extra: Mapping[str, Any]) -> bool:
        self._finish()
        newest = max(store.steps(self._directory), default=-1)
        if step == newest:
            return False
        if step < newest:
            raise input_error(
                f"checkpoint of step {step}",
                expected=f"a step after {newest}, the newest in {self._directory}",
                got=step,
                fix="remove the later steps or use another workdir",
            )
        named = manifests.named_leaves(state)
        trees = {
            field: manifests.skeleton(getattr(state, field), field)
            for field in manifests.TEMPLATE_FREE
            if hasattr(state, field)
        }
        values = {"step": step, "trees": trees, "extra": json.loads(json.dumps(extra)), **self._run}
        self._check_space(step, sum(leaf.nbytes for leaf in named.values()))
        # Copies, because the state's buffers are reused by the step that follows.
        leaves = {name: np.array(leaf, order="C") for name, leaf in jax.device_get(named).items()}
        self._pending = self._writer.submit(self._write, leaves, values)
        return True

    def _check_space(self, step: int, num_bytes: int) -> None:
        needed = num_bytes + num_bytes // 20 + 2**20  # names, indices and the manifest
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError as error:
            raise RunError(
                f"the checkpoint of step {step} could not be written: {error.strerror} ({self._directory})"
            ) from None
        if free < needed:
            raise RunError(
                f"no space for the checkpoint of step {step}: it needs {needed:,} bytes, {self._directory} has "
                f"{free:,} free; {self._kept()}; make space and start again"
            )

    def _write(self, leaves: dict[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Runs in the background."""
        step = values["step"]
        for name, leaf in leaves.items():
            if name.partition("/")[0] in manifests.TEMPLATE_FREE and not _is_finite(leaf):
                raise RunError(f"step {step} is not saved: {name} has values that are not finite; {self._kept()}")
        try:
            store.write(self._directory, leaves, manifests.make(leaves, values))
        except Exception as error:  # any reason that keeps a checkpoint from the disk is handled alike
            raise RunError(
                f"the checkpoint of step {step} could not be written: {manifests.reason(error)}; {self._kept()}"
            ) from error
        self._remove_old()

    def _kept(self) -> str:
        steps = store.steps(self._directory)
        return f"the older ones are untouched (newest: step {steps[-1]})" if steps else "there are no older ones"

    def _finish(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _restore(self, template: PyTree, step: int | None) -> Any:
        """Reads on the first process and gives what it read to all."""
        wanted = manifests.named_leaves(template)
        leaves: dict[str, np.ndarray] = {}

        def load(manifest):
            manifests.check_template(manifest, template, str(self._directory / str(manifest["step"])))
            return store.read(self._directory, manifest, {name.partition("/")[0] for name in wanted})

        def read():
            self._finish()
            found = _find(self._directory, load, step)
            if found is None:
                return None
            manifest, named = found
            leaves.update(zip(manifests.current_names(named, wanted), named.values(), strict=True))
            if step is None:
                self._set_aside_after(manifest["step"])
            return {"step": manifest["step"], "extra": manifest["extra"]}

        answer = hosts.first_decides(read)
        if answer is None:
            return None
        ordered = [leaves[n] if leaves else np.zeros(x.shape, x.dtype) for n, x in wanted.items()]
        state = jax.tree.unflatten(jax.tree.structure(template), hosts.from_first(ordered))
        return Restored(state, answer["extra"], answer["step"])

    def _set_aside_after(self, good: int) -> None:
        """Sets the damaged steps after a good one aside, so that the run can write them anew."""
        for path in (self._directory / str(step) for step in store.steps(self._directory) if step > good):
            try:
                _log.warning("checkpoint %s is set aside as %s", path, store.set_aside(path).name)
            except OSError as error:
                raise RunError(f"the damaged checkpoint {path} cannot be set aside: {error.strerror}") from None


def saved_steps(workdir: str | os.PathLike) -> list[int]:
    """Returns the steps that a run has saved in `workdir`, ascending; they are not verified."""
    return store.steps(pathlib.Path(workdir) / FOLDER)


def newest_manifest(workdir: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the manifest of the newest readable checkpoint in `workdir`; None where there is none."""
    try:
        found = _find(pathlib.Path(workdir) / FOLDER, lambda manifest: None)
    except InputError:
        return None  # restoring reports it and names the damage
    return None if found is None else found[0]


def check_resume(
    workdir: str | os.PathLike,
    *,
    config: Mapping[str, Any],
    data_fingerprint: str | None = None,
    earlier_fingerprint: str = "",
    may_change: tuple[str, ...] = (),
    upgrade: Callable[[Mapping], Mapping] = configs.experiment,
    template: PyTree | None = None,
) -> int | None:
    """Returns the step from which a run with this config would resume in `workdir`, None for a new run; writes nothing.

    Raises:
      InputError: the checkpoints there are of another config or of other data, or their leaves differ from those of
        `template`, if one is given; the message has what differs.
    """
    manifest = newest_manifest(workdir)
    if manifest is None:
        return None
    if lines := configs.diff(upgrade(manifest["config"]), json.loads(json.dumps(config)), ignore=may_change):
        raise input_error(
            f"workdir {workdir}",
            expected=f"the config of its checkpoint at step {manifest['step']}",
            got=f"another (checkpoint -> now): {listed(lines)}",
            fix="undo the change or choose another workdir",
        )
    stored = manifest["data_fingerprint"]
    if stored is not None and data_fingerprint is not None and stored not in (data_fingerprint, earlier_fingerprint):
        raise input_error(
            f"workdir {workdir}",
            expected=f"the data its checkpoint was trained on (fingerprint {stored[:16]})",
            got=f"other data ({data_fingerprint[:16]})",
            fix=f"bring back the data, or start a new run from its weights: --init-from {workdir} --workdir NEW",
        )
    if template is not None:
        manifests.check_template(manifest, template, str(pathlib.Path(workdir) / FOLDER / str(manifest["step"])))
    return manifest["step"]


def verify(workdir: str | os.PathLike) -> None:
    """Reads the newest good checkpoint, if there are any; raises `InputError` if all are damaged."""
    directory = pathlib.Path(workdir) / FOLDER

    def load(manifest):
        store.read(directory, manifest, {name.partition("/")[0] for name in manifest["leaves"]})

    _find(directory, load)


def check_unlocked(workdir: str | os.PathLike) -> None:
    """Raises `InputError` if a run is writing checkpoints in `workdir` now, or its lock is no file."""
    path = pathlib.Path(workdir) / FOLDER / ".lock"

    def check():
        if path.exists():
            with only_writer(path):
                pass

    # On one process: others that hold the lock for a moment would be taken for a run.
    hosts.first_decides(check)


def holds_weights_only(workdir: str | os.PathLike) -> bool:
    """Returns whether the newest checkpoint is of imported weights, which no step of training has changed."""
    manifest = newest_manifest(workdir)
    return manifest is not None and not any(name.startswith("opt_state") for name in manifest["leaves"])


def restore_params(workdir: str | os.PathLike, *, ema: bool = True, step: int | None = None) -> Variables:
    """Returns the variables of `restore_variables`, without their step."""
    return restore_variables(workdir, ema=ema, step=step)[0]


def restore_variables(
    workdir: str | os.PathLike, *, ema: bool = True, step: int | None = None
) -> tuple[Variables, int]:
    """Returns verified variables (NumPy leaves) and their step: that of `step`, or of the newest good checkpoint.

    With `ema`, `params` are the averaged ones if the run kept an average. Needs no lock: a run may be writing there.

    Raises:
      InputError: there is no checkpoint, the one of `step` is absent or damaged, or all are damaged.
    """
    directory = pathlib.Path(workdir) / FOLDER

    def load(manifest):
        averaged = ema and any(name.startswith("ema_params/") for name in manifest["leaves"])
        fields = ("ema_params" if averaged else "params", "stats")
        leaves = store.read(directory, manifest, fields)
        return Variables(*(manifests.filled(manifest["trees"][field], leaves) for field in fields))

    found = _find(directory, load, step)
    if found is None:
        raise input_error(f"workdir {workdir}", expected=f"checkpoints in {FOLDER}/", got="none", fix="train first")
    return found[1], found[0]["step"]


def _find(directory: pathlib.Path, load: Callable, exactly: int | None = None) -> tuple[dict[str, Any], Any] | None:
    """Returns (manifest, loaded) of the newest step that verifies, or of one step; None if there are no steps.

    Raises:
      InputError: the one step is absent or damaged, or all are damaged.
    """
    damaged: dict[int, str] = {}
    while True:
        present = store.steps(directory)
        step = max((each for each in present if each not in damaged and exactly in (None, each)), default=None)
        if step is None:
            break
        try:
            manifest = store.read_manifest(directory, step)
            return manifest, load(manifest)
        except DamagedError as error:
            if store.steps(directory) != present:
                continue  # a run is writing here: this step may just be making room for a newer one
            damaged[step] = str(error)
            if exactly is None:
                _warn_once(f"checkpoint {directory / str(step)} is damaged ({error}); trying the one before")
    if exactly in damaged:
        where, expected, got = f"checkpoint {directory / str(exactly)}", "a whole checkpoint", damaged[exactly]
        raise input_error(where, expected=expected, got=f"a damaged one ({got})", fix=f"use another of {present}")
    if exactly is not None:
        raise input_error(
            f"checkpoints in {directory}", expected=f"step {exactly}", got=f"steps {present}", fix="name one of those"
        )
    if damaged:
        got = listed(f"step {step} damaged ({reason})" for step, reason in damaged.items())
        fix = "restore them from a copy, or choose another workdir"
        raise input_error(f"checkpoints {directory}", expected="at least one that is whole", got=got, fix=fix)
    return None


@functools.cache
def _warn_once(message: str) -> None:
    """Warns; what is read again, to check and then to restore, is reported once."""
    _log.warning("%s", message)


def _is_finite(array: np.ndarray) -> bool:
    return not jax.numpy.issubdtype(array.dtype, np.inexact) or bool(np.isfinite(array).all())
