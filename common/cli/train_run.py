"""A training run in a work directory: the wiring of data, devices, checkpoints, records and signals."""

import pathlib
from collections.abc import Mapping
from typing import Any

from common import config as configs
from common.checkpoint import Checkpoints
from common.data.batches import make_batches
from common.io.metrics_log import Recorder
from common.io.progress import compiling
from common.method import Method
from common.training import hosts, parallel
from common.training.loop import Outcome, train
from common.training.preemption import StopSignal
from common.training.settings import Settings


def run(
    method: Method, source, settings: Settings, *, workdir: str | pathlib.Path, config: Mapping[str, Any]
) -> Outcome:
    """Trains `method` on `source` in `workdir`, resuming what is there; writes `config` (plain JSON values) beside it.

    Raises:
      InputError: the work directory belongs to another config, data set or running process, or cannot be written; the
        batch does not divide over the devices.
      RunError: non-finite losses beyond the budget, or no space for a checkpoint.
    """
    workdir = pathlib.Path(workdir)
    parallel.check_batch(settings.batch_size, settings.accumulate)
    backend = parallel.make_backend(settings.parallel, batch_size=settings.batch_size)
    with (
        StopSignal() as signal,
        Checkpoints(
            workdir,
            config=config,
            keep=settings.checkpoint_keep,
            data_fingerprint=source.fingerprint,
            may_change=configs.RESUME_MAY_CHANGE,
        ) as checkpoints,
    ):
        # Only now: a run that is refused must not replace what the run that holds the directory has written.
        hosts.first_decides(lambda: str(configs.write(config, workdir)))
        start = max(checkpoints.steps(), default=0)
        batches = make_batches(
            source,
            batch_size=settings.batch_size,
            seed=settings.seed,
            augment=method.augment,
            placement=settings.placement,
            device_limit_bytes=settings.device_limit_bytes,
            workers=settings.workers,
            start_step=start,
            num_steps=settings.steps - start,
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
                    ),
                    should_stop=signal.should_stop,
                    dump_dir=workdir,
                )
        finally:
            batches.close()
