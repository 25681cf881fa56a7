"""Commands that make a run: `train`, after all checks that need no computation, and `import-weights`."""

import contextlib
import platform
from pathlib import Path

from common import config as configs
from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.errors import InputError, within


def train(app: App, request: Request) -> None:
    """Trains or resumes; with `--dry-run` stops after the checks and compiles nothing."""
    with _joined_hosts(request):
        _run(app, request)


def _run(app: App, request: Request) -> None:
    config, workdir = workdirs.to_train(app, request)
    # Only now what takes seconds to import: a typo is reported at once.
    import jax

    from common.cli import train_run
    from common.data.source import length_text
    from common.training import hosts, parallel

    flags = request.flags
    if flags.profile is not None:
        within("--profile", flags.profile, 1)
    hosts.agree({"version": _versions()}, fix="install the same versions on every host")
    same = {
        "--num-processes": flags.num_processes,
        "--dry-run": flags.dry_run,
        "--init-from": flags.init_from,
        "--profile": flags.profile,
        "config": configs.to_dict(config),
    }
    hosts.agree(same, fix="start every host with the same command")
    may_change = workdirs.may_continue(request)
    if (workdir / configs.FILE_NAME).exists():
        # The config there, with which this one agrees, may be newer than the newest checkpoint.
        may_change = (*may_change, *configs.CONTINUE_MAY_CHANGE)
    prepared = train_run.prepare(
        app,
        config,
        workdir,
        may_change=may_change,
        init=None if flags.init_from is None else _absolute(flags.init_from),
        profile_steps=flags.profile or 0,
        dry_run=flags.dry_run,
    )
    chosen, source = prepared.settings, prepared.source
    hosts.agree(
        {"data fingerprint": source.fingerprint, "examples": len(source), "steps": chosen.steps, "seed": chosen.seed},
        fix="give every host the same data",
    )
    # A host that sees no checkpoint would begin with other weights while the others resume.
    weights = None if prepared.start is None else prepared.record["init_from"]["weights"]
    hosts.agree({"weights to start from": weights}, fix="let every host see the same --workdir and weights")
    if flags.dry_run:
        count = sum(leaf.size for leaf in jax.tree.leaves(prepared.template().params))
        print_lines(
            f"data: {length_text(source, 'training examples')}, {source!r}",
            f"run: {chosen.steps} steps of {chosen.batch_size} examples, {parallel.device_name()} ({chosen.parallel})",
            f"model: {count:,} parameters",
            *prepared.lines,
            f"checked and writable: {workdir}; nothing was compiled or written",
        )
        return
    if parallel.is_first_process() and prepared.lines:
        print_lines(*prepared.lines)
    parallel.enable_compilation_cache()
    result = train_run.run(prepared)
    if parallel.is_first_process():
        print_lines(*_summary(app, workdir, chosen.steps, result))


def _absolute(spec: str) -> str:
    path, partial = workdirs.split_init(spec)
    return f"{path}{workdirs.PARTIAL if partial else ''}"


def _joined_hosts(request: Request):
    flags = request.flags
    given = [each is not None for each in (flags.coordinator, flags.num_processes, flags.process_id)]
    if not any(given) and flags.host_timeout is None:
        return contextlib.nullcontext()
    if not all(given):
        raise InputError(
            "--coordinator: expected with --num-processes and --process-id (and perhaps --host-timeout), got a part; "
            "give all or none"
        )
    from common.training import cluster

    timeout = cluster.HOST_TIMEOUT_S if flags.host_timeout is None else flags.host_timeout
    return cluster.joined(flags.coordinator, flags.num_processes, flags.process_id, timeout)


def _versions() -> dict[str, str]:
    from common.io.results import version

    names = ("jax", "jaxlib", "numpy", "scorebridge")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _summary(app: App, workdir: Path, steps: int, result) -> list[str]:
    from common.io.metrics_log import read_metrics

    losses = [each["loss"] for each in read_metrics(workdir) if each.get("loss") is not None]
    last = f", loss {losses[-1]:.4g}" if losses else ""
    return [
        f"{'interrupted at' if result.interrupted else 'trained to'} step {int(result.state.step)} of {steps}{last}",
        f"metrics: {workdir / 'metrics.jsonl'}; checkpoints: {workdir / 'checkpoints'}",
        f"next: python -m {app.name} {'train' if result.interrupted else 'evaluate'} --workdir {workdir}",
    ]


def import_weights(app: App, request: Request) -> None:
    """Reads the file, checks it, and lets the method write config and checkpoint into the work directory."""
    workdir = workdirs.required(request, "workdir")
    weights = Path(request.flags.file)
    if not weights.is_file():
        raise InputError(f"{weights}: expected a file of weights, got no such file; check the path")
    workdirs.check_writable(workdir)
    if (workdir / configs.FILE_NAME).exists():
        raise InputError(f"workdir {workdir}: expected an empty directory, got one that holds a run; choose another")
    if request.flags.config:
        config = workdirs.experiment(app, request)
    else:
        config = configs.from_dict({}, app.base(), request.overrides)
    lines = app.import_weights(weights, workdir=workdir, config=config, dry_run=request.flags.dry_run)
    print_lines(*lines)
    if not request.flags.dry_run:
        print_lines(f"next: python -m {app.name} evaluate --workdir {workdir}, or train to fine-tune them there")
