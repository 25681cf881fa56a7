"""Saving and restoring a run's state, so that no fault of a disk, a machine or a user goes unnoticed."""

import concurrent.futures
import contextlib
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
from common.checkpoint.lock import only_writer
from common.checkpoint.manifest import DamagedError
from common.errors import InputError, RunError, input_error
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
    for keys that match `may_change` (dotted, or `section.*`). `data_fingerprint=None` skips the check of the data.
    The newest `keep` steps stay.

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
        data_fingerprint: str | None = None,
        may_change: tuple[str, ...] = (),
    ):
        if keep < 1:
            raise input_error("config.checkpoint.keep", expected="at least 1", got=keep, fix="use 1 or more")
        self._workdir = pathlib.Path(workdir)
        self._directory = self._workdir / FOLDER
        self._config = json.loads(json.dumps(config))
        self._keep = keep
        self._data_fingerprint = data_fingerprint
        self._may_change = may_change
        self._manager = None
        self._pending: concurrent.futures.Future | None = None
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> "Checkpoints":
        hosts.first_decides(self._open)
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self.wait()
            else:
                # The other processes may not come here, so this one does not wait for them.
                try:
                    self._finish()
                except RunError as late:
                    _log.error("%s", late)
        finally:
            self._resources.close()

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

        def find(loaded):
            chosen = _newest_good(self._directory, lambda manifest: self._load(manifest, template))
            if chosen is None:
                return None
            for step in (step for step in store.steps(self._directory) if step > chosen[0]["step"]):
                _log.warning("step %d is set aside as %s", step, store.set_aside(self._directory, step))
            self._manager.reload()
            return loaded(*chosen)

        return self._restore(find, template)

    def restore(self, template: PyTree, step: int) -> Restored:
        """Returns the checkpoint of `step`; raises `InputError` if it is absent, damaged or unlike the template."""

        def find(loaded):
            return loaded(*_exactly(self._directory, step, lambda manifest: self._load(manifest, template)))

        return self._restore(find, template)

    def _open(self) -> None:
        with contextlib.ExitStack() as resources:
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                resources.enter_context(only_writer(self._directory / ".lock"))
                store.remove_temporary(self._directory)
            except OSError as error:
                raise input_error(
                    f"workdir {self._workdir}",
                    expected="a directory that can be written",
                    got=f"{error.strerror} ({error.filename})",
                    fix="choose another workdir or change its permissions",
                ) from None
            check_resume(
                self._workdir,
                config=self._config,
                data_fingerprint=self._data_fingerprint,
                may_change=self._may_change,
            )
            self._manager = store.open_manager(self._directory, keep=self._keep)
            resources.callback(self._manager.close)
            self._writer = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
            resources.callback(self._writer.shutdown)
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
        extra = json.loads(json.dumps(extra))
        self._check_space(step, sum(leaf.nbytes for leaf in named.values()))
        leaves = _private_copies(named)
        self._pending = self._writer.submit(self._write, step, leaves, trees, extra)
        return True

    def _check_space(self, step: int, num_bytes: int) -> None:
        needed = num_bytes + num_bytes // 20 + 2**20  # names, indices and the manifest
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise RunError(
                f"no space for the checkpoint of step {step}: it needs {needed:,} bytes, {self._directory} has "
                f"{free:,} free; {self._kept()}; make space and start again"
            )

    def _write(self, step: int, leaves: dict[str, np.ndarray], trees: Mapping[str, Any], extra: dict) -> None:
        """Runs in the background."""
        for name, leaf in leaves.items():
            if name.partition("/")[0] in manifests.TEMPLATE_FREE and not _is_finite(leaf):
                raise RunError(f"step {step} is not saved: {name} has values that are not finite; {self._kept()}")
        try:
            manifest = manifests.make(
                step=step,
                leaves=leaves,
                trees=trees,
                config=self._config,
                config_sha256=configs.digest(self._config),
                data_fingerprint=self._data_fingerprint,
                extra=extra,
                versions={"jax": jax.__version__, "numpy": np.__version__},
            )
            store.write(self._manager, step, leaves, manifest)
        except Exception as error:  # whatever keeps a checkpoint from the disk is the same to the run
            raise RunError(
                f"the checkpoint of step {step} could not be written: {manifests.reason(error)}; {self._kept()}"
            ) from error

    def _kept(self) -> str:
        steps = store.steps(self._directory)
        return f"the older ones are untouched (newest: step {steps[-1]})" if steps else "there are no older ones"

    def _finish(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _load(self, manifest: Mapping[str, Any], template: PyTree) -> dict[str, np.ndarray]:
        manifests.check_template(manifest, template, str(self._directory / str(manifest["step"])))
        return store.read(self._directory, manifest, dict.fromkeys(n.partition("/")[0] for n in manifest["leaves"]))

    def _restore(self, find: Callable, template: PyTree) -> Restored | None:
        """Runs `find` on the first process and gives what it loaded to all."""
        wanted = manifests.named_leaves(template)
        leaves: dict[str, np.ndarray] = {}

        def loaded(manifest, named):
            leaves.update(named)
            return {"step": manifest["step"], "extra": manifest["extra"]}

        def act():
            self._finish()
            return find(loaded)

        answer = hosts.first_decides(act)
        if answer is None:
            return None
        ordered = [leaves[n] if leaves else np.zeros(x.shape, x.dtype) for n, x in wanted.items()]
        state = jax.tree.unflatten(jax.tree.structure(template), hosts.from_first(ordered))
        return Restored(state, answer["extra"], answer["step"])


def check_resume(
    workdir: str | os.PathLike,
    *,
    config: Mapping[str, Any],
    data_fingerprint: str | None = None,
    may_change: tuple[str, ...] = (),
) -> int | None:
    """Returns the step from which a run with this config would resume in `workdir`, None for a new run; writes nothing.

    Raises:
      InputError: the checkpoints there are of another config or of other data; the message has the keys that differ.
    """
    directory = pathlib.Path(workdir) / FOLDER
    try:
        found = _newest_good(directory, lambda manifest: None)
    except InputError:
        # The leaves cannot be read either; restoring tells it, naming the damage.
        return None
    if found is None:
        return None
    manifest = found[0]
    if lines := configs.diff(manifest["config"], json.loads(json.dumps(config)), ignore=may_change):
        raise input_error(
            f"workdir {workdir}",
            expected=f"the config of its checkpoint at step {manifest['step']}",
            got=f"another (checkpoint -> now): {manifests.listed(lines)}",
            fix="undo the change or choose another workdir",
        )
    stored = manifest["data_fingerprint"]
    if None not in (stored, data_fingerprint) and stored != data_fingerprint:
        raise input_error(
            f"workdir {workdir}",
            expected=f"the data its checkpoint was trained on (fingerprint {stored[:16]})",
            got=f"other data ({data_fingerprint[:16]})",
            fix="bring back the data or choose another workdir",
        )
    return manifest["step"]


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
        field = "ema_params" if averaged else "params"
        leaves = store.read(directory, manifest, (field, "stats"))
        return Variables(*(manifests.filled(manifest["trees"][each], leaves) for each in (field, "stats")))

    found = _newest_good(directory, load) if step is None else _exactly(directory, step, load)
    if found is None:
        raise input_error(f"workdir {workdir}", expected=f"checkpoints in {FOLDER}/", got="none", fix="train first")
    return found[1], found[0]["step"]


def _newest_good(directory: pathlib.Path, load: Callable) -> tuple[dict[str, Any], Any] | None:
    """Returns (manifest, loaded) of the newest step that verifies, None without steps; warns of damaged ones."""
    damaged: dict[int, str] = {}
    while True:
        present = store.steps(directory)
        step = max(set(present) - damaged.keys(), default=None)
        if step is None:
            break
        try:
            manifest = store.read_manifest(directory, step)
            return manifest, load(manifest)
        except DamagedError as error:
            if store.steps(directory) != present:
                continue  # a run is writing here: this step may just be making room for a newer one
            damaged[step] = str(error)
            _log.warning("checkpoint %s is damaged (%s); trying the one before", directory / str(step), error)
    if not damaged:
        return None
    raise input_error(
        f"checkpoints {directory}",
        expected="at least one that is whole",
        got=manifests.listed(f"step {step} damaged ({reason})" for step, reason in damaged.items()),
        fix="restore them from a copy, or choose another workdir",
    )


def _exactly(directory: pathlib.Path, step: int, load: Callable) -> tuple[dict[str, Any], Any]:
    steps = store.steps(directory)
    if step not in steps:
        raise input_error(
            f"checkpoints in {directory}", expected=f"step {step}", got=f"steps {steps}", fix="name one of those"
        )
    try:
        manifest = store.read_manifest(directory, step)
        return manifest, load(manifest)
    except DamagedError as error:
        raise input_error(
            f"checkpoint {directory / str(step)}",
            expected="a whole checkpoint",
            got=f"a damaged one ({error})",
            fix=f"use another of the steps {steps}",
        ) from error


def _private_copies(named: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the leaves as NumPy arrays of their own: the state's buffers are reused by the step that follows."""
    for leaf in named.values():
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    return {name: np.array(leaf, order="C") for name, leaf in named.items()}


def _is_finite(array: np.ndarray) -> bool:
    return not jax.numpy.issubdtype(array.dtype, np.inexact) or bool(np.isfinite(array).all())
