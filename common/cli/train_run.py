"""A training run in a work directory: everything that is checked before it, and the wiring of what it is made of."""

import datetime
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from common import checkpoint, config_values
from common import config as configs
from common.checkpoint import Checkpoints
from common.cli import init_from, workdirs
from common.cli.app import App
from common.data.batches import make_batches
from common.errors import input_error
from common.io.metrics_log import Recorder, check_tracking
from common.io.progress import compiling
from common.method import Method
from common.training import hosts, parallel
from common.training import settings as training_settings
from common.training.hosts import StopSignal
from common.training.loop import TrainResult, train
from common.training.settings import Settings
from common.training.step import TrainState, abstract_state


class Run(NamedTuple):
    """A training run that has been checked and may start.

    `agreement` is what its checkpoints must agree with: the config's values, the data, and what may differ.
    `template()` has shapes and types of its state, `start` puts weights of another run into the initial one, `record`
    goes into config.json, and `lines` say what is special about this run.
    """

    method: Method
    settings: Settings
    source: Any
    held_out: Any
    workdir: pathlib.Path
    agreement: Mapping[str, Any]
    template: Callable[[], TrainState]
    start: Callable[[TrainState], TrainState] | None
    record: Mapping[str, Any]
    lines: list[str]
    profile_steps: int


def prepare(
    app: App,
    config: ConfigDict,
    workdir: str | pathlib.Path,
    *,
    may_change: tuple[str, ...] = configs.RESUME_MAY_CHANGE,
    init: str | None = None,
    profile_steps: int = 0,
    dry_run: bool = False,
) -> Run:
    """Returns the run of `config` in `workdir` after all checks that need no compilation; writes nothing.

    `may_change` are the keys in which the config may differ from that of the checkpoints there, `init` is the text of
    `--init-from`. A `dry_run` also checks what would be found out once the run has begun.

    Raises:
      InputError: the config, the data or the devices do not fit, or the directory belongs to another run.
    """
    workdir = pathlib.Path(workdir)
    method = app.build(config)
    sources = method.sources()
    source = sources["train"]
    settings = training_settings.build(config, num_examples=len(source))
    parallel.check_batch(settings.batch_size, settings.accumulate)
    check_tracking(settings.tracking)
    if settings.preview_every:
        method.check_preview()
    held_out = _held_out(sources) if settings.evaluate_every else None
    template = functools.cache(lambda: abstract_state(method, settings, source))
    stored = workdirs.read_stored(app, workdir)
    record = configs.read_record(workdir) if stored is not None else {}
    weights_only = checkpoint.holds_weights_only(workdir)
    if weights_only:
        may_change = (*may_change, *workdirs.TRAINED_MAY_CHANGE)
    manifest = checkpoint.newest_manifest(workdir)
    recorded = None if manifest is None else manifest["data_fingerprint"]
    is_older = recorded not in (None, source.fingerprint) and recorded in source.earlier_fingerprints
    earlier = recorded if is_older else ""
    agreement = {
        "config": configs.to_dict(config),
        "data_fingerprint": source.fingerprint,
        "earlier_fingerprint": earlier,
        "may_change": may_change,
        "upgrade": functools.partial(configs.filled, base=app.base()),
    }
    # Restoring compares the shapes too, so only a dry run has to trace the network for it here.
    step = checkpoint.check_resume(workdir, **agreement, template=template() if dry_run and not weights_only else None)
    if dry_run:
        checkpoint.check_unlocked(workdir)
        checkpoint.verify(workdir)
    lines: list[str] = []
    start = _start(app, config, workdir, init, record, template, fresh=step is None, weights_only=weights_only)
    if start is not None:
        record["init_from"] = start.record
        lines += start.lines
    if stored is not None:
        lines += _continued(config, stored, settings, len(source), step or 0, method, record)
    if earlier:
        lines.append(f"written by an older version: the same data, in this version's order from step {step} on")
    if profile_steps:
        _check_profile(profile_steps, settings, step or 0)
    apply = None if start is None else start.apply
    return Run(method, settings, source, held_out, workdir, agreement, template, apply, record, lines, profile_steps)


def run(prepared: Run) -> TrainResult:
    """Trains a prepared run, resuming what is in its directory; writes its config beside it.

    Raises:
      InputError: another process writes there, or the directory has changed since.
      RunError: non-finite losses beyond the budget, or no space for a checkpoint.
    """
    method, settings, workdir = prepared.method, prepared.settings, prepared.workdir
    backend = parallel.make_backend(settings.parallel, batch_size=settings.batch_size)
    with (
        StopSignal() as signal,
        Checkpoints(workdir, **prepared.agreement, keep=settings.keep, keep_every=settings.keep_every) as checkpoints,
    ):
        # Only now: a run that is refused must not replace what the run that holds the directory has written.
        hosts.first_decides(lambda: str(configs.write(prepared.agreement["config"], workdir, prepared.record)))
        start = max(checkpoints.steps(), default=0)
        loading = {"batch_size": settings.batch_size, "augment": method.augment, **settings.loading}
        batches = make_batches(
            prepared.source, seed=settings.seed, start_step=start, num_steps=settings.steps - start, **loading
        )
        held_out = None
        if prepared.held_out is not None:
            held_out = make_batches(
                prepared.held_out, seed=settings.seed, num_steps=settings.evaluate_batches, **loading
            )
        if start < settings.steps and parallel.is_first_process():
            compiling("training step")
        try:
            with parallel.explain_memory(settings.batch_size, settings.accumulate):
                return train(
                    method,
                    settings,
                    batches,
                    backend,
                    checkpoints=checkpoints,
                    open_recorder=lambda step: Recorder(
                        workdir,
                        total_steps=settings.steps,
                        resume_step=step,
                        enabled=parallel.is_first_process(),
                        tracking=settings.tracking,
                        config=prepared.agreement["config"],
                    ),
                    should_stop=signal.should_stop,
                    dump_dir=workdir,
                    held_out=held_out,
                    start_from=prepared.start,
                    profile_steps=prepared.profile_steps,
                )
        finally:
            batches.close()
            if held_out is not None:
                held_out.close()


def _held_out(sources: Mapping[str, Any]):
    """Returns the held-out data; raises `InputError` where training cannot take it."""
    given, wanted = (set(sources[split][0]) for split in ("test", "train"))
    if given != wanted:
        raise input_error(
            "config.train.evaluate_every",
            expected=f"0, as the held-out data have {sorted(given)} and the training data {sorted(wanted)}",
            got="another",
            fix="set it to 0 and use the verb evaluate",
        )
    return sources["test"]


def _start(
    app: App,
    config: ConfigDict,
    workdir: pathlib.Path,
    init: str | None,
    record: Mapping[str, Any],
    template: Callable[[], TrainState],
    *,
    fresh: bool,
    weights_only: bool,
) -> init_from.Start | None:
    """Returns how the run starts from other weights, None where it goes on from its own or from random ones."""
    before = record.get("init_from")
    known = before and before["path"] + (workdirs.PARTIAL if before["partial"] else "")
    if weights_only:
        if init is not None:
            fix = "leave it out to start from those, or choose a new --workdir"
            raise input_error(f"--init-from {init}", expected="none", got=f"imported weights in {workdir}", fix=fix)
        return init_from.fit(init_from.load(app, config, str(workdir)), template())
    if init is not None and known != init and (not fresh or before):
        held = f"a run that started from {known}" if known else "a run with its own checkpoints"
        fix = "leave it out to resume that run, or choose a new --workdir"
        raise input_error(f"--init-from {init}", expected="none", got=f"{workdir}, {held}", fix=fix)
    if not fresh or (init is None and before is None):
        return None
    source = init_from.load(app, config, str(init or known))
    if before and source.record["weights"] != before.get("weights"):
        fix = "choose a new --workdir"
        raise input_error(
            f"--init-from {known}", expected="the weights that this run started from", got="others", fix=fix
        )
    return init_from.fit(source, template())


def _continued(
    config: ConfigDict,
    stored: ConfigDict,
    settings: Settings,
    num_examples: int,
    step: int,
    method: Method,
    record: dict[str, Any],
) -> list[str]:
    """Adds what the config changes in a stored run to its history; returns what to say of it.

    Raises `InputError` for a run that would end before `step`.
    """
    if settings.steps < step:
        raise input_error(
            "config.train.steps",
            expected=f"at least {step}, the step of the newest checkpoint",
            got=settings.steps,
            fix="use more steps, or choose a new --workdir",
        )
    changes = configs.diff(stored, config, configs.RESUME_MAY_CHANGE)
    if not changes:
        return []
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record["history"] = [*record.get("history", ()), {"step": step, "changes": changes, "time": now}]
    others = [each for each in changes if not each.startswith("train.steps:")]
    lines = [f"changed from step {step} on: {', '.join(others)}"] if others else []
    before = config_values.steps(
        stored.train.steps,
        batch_size=stored.train.batch_size,
        num_examples=num_examples,
        field="config.train.steps",
    )
    if before != settings.steps and step:
        depending = training_settings.depending_on_length(config) + list(method.uses_progress)
        before_it = [change for entry in record["history"] for change in entry["changes"]]
        effect = "no setting depends on the length"
        if all(each.startswith("train.steps:") for each in before_it):
            effect += ", so it is the run of that length from its start"
        if depending:
            effect = (
                f"{', '.join(depending)} depend on the length, and are those of {settings.steps} steps from here on"
            )
        lines.append(f"{before} -> {settings.steps} steps from step {step} on: {effect}")
    return lines


def _check_profile(profile_steps: int, settings: Settings, step: int) -> None:
    most = settings.steps - step - settings.steps_per_call
    if not 1 <= profile_steps <= most:
        expected = f"1 to {most}, the steps that follow the first call" if most > 0 else "a run with more steps to go"
        raise input_error("--profile", expected=expected, got=profile_steps, fix="profile fewer steps")
