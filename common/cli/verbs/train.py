"""`train`: from a config to a trained run, after everything that can be checked has been checked."""

import contextlib
import platform
from pathlib import Path

from common import config as configs
from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.errors import InputError


def run(app: App, request: Request) -> None:
    """Trains or resumes; with `--dry-run` stops after the checks and compiles nothing."""
    with _joined_hosts(request):
        _run(app, request)


def _run(app: App, request: Request) -> None:
    config, workdir = workdirs.to_train(app, request)
    # Only now what takes seconds to import: a typo is told at once.
    from common import checkpoint
    from common.cli.train_run import run as run_training
    from common.training import hosts, parallel, settings

    values = configs.to_dict(config)
    hosts.agree({"version": _versions()}, fix="install the same versions on every host")
    same = {"--num-processes": request.flags.num_processes, "config": values}
    hosts.agree(same, fix="start every host with the same command")
    method = app.build(config)
    source = method.sources()["train"]
    chosen = settings.build(config, num_examples=len(source))
    hosts.agree(
        {"data fingerprint": source.fingerprint, "examples": len(source), "steps": chosen.steps, "seed": chosen.seed},
        fix="give every host the same data",
    )
    parallel.check_batch(chosen.batch_size, chosen.accumulate)
    checkpoint.check_resume(
        workdir, config=values, data_fingerprint=source.fingerprint, may_change=configs.RESUME_MAY_CHANGE
    )
    if request.flags.dry_run:
        print_lines(
            f"data: {len(source)} training examples, {source!r}",
            f"run: {chosen.steps} steps of {chosen.batch_size} examples, {parallel.device_name()} ({chosen.parallel})",
            f"model: {_count(method, source, chosen.batch_size):,} parameters",
            f"checked and writable: {workdir}; nothing was compiled or written",
        )
        return
    parallel.enable_compilation_cache()
    outcome = run_training(method, source, chosen, workdir=workdir, config=values)
    if parallel.is_first_process():
        print_lines(*_summary(app, workdir, chosen.steps, outcome))


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


def _count(method, source, batch_size: int) -> int:
    """Returns the number of parameters; the network is traced with abstract arrays, so that its shapes are checked."""
    import jax

    from common.cli.verbs.describe import abstract_batch, augmented

    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = abstract_batch(augmented(method, source), batch_size)
    variables = jax.eval_shape(method.init, key, batch)
    return sum(leaf.size for leaf in jax.tree.leaves(variables.params))


def _summary(app: App, workdir: Path, steps: int, outcome) -> list[str]:
    from common.io.metrics_log import read_metrics

    losses = [each["loss"] for each in read_metrics(workdir) if each.get("loss") is not None]
    last = f", loss {losses[-1]:.4g}" if losses else ""
    return [
        f"{'interrupted at' if outcome.interrupted else 'trained to'} step {int(outcome.state.step)} of {steps}{last}",
        f"metrics: {workdir / 'metrics.jsonl'}; checkpoints: {workdir / 'checkpoints'}",
        f"next: python -m {app.name} {'train' if outcome.interrupted else 'evaluate'} --workdir {workdir}",
    ]
