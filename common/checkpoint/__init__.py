"""Checkpoints that are verified before they are used: the one door to Orbax.

workdir/checkpoints/
  .lock           held by the one run that writes here
  100/            a step: `state/` with all arrays and `manifest/manifest.json`
  80.damaged/     a step that failed its verification and was set aside
"""

import hashlib
import os
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from common import config as configs
from common.checkpoint.checkpoints import (
    Checkpoints,
    Restored,
    check_resume,
    check_unlocked,
    holds_weights_only,
    newest_manifest,
    restore_params,
    restore_variables,
    saved_steps,
    verify,
)
from common.errors import input_error
from common.method import PyTree, Variables
from common.training.step import TrainState

__all__ = [
    "Checkpoints",
    "Restored",
    "check_resume",
    "check_unlocked",
    "holds_weights_only",
    "newest_manifest",
    "restore_params",
    "restore_variables",
    "saved_steps",
    "verify",
    "write_imported",
]


def write_imported(
    workdir: str | os.PathLike, config: ConfigDict, variables: Variables, *, file: str | os.PathLike, ema: PyTree = ()
) -> None:
    """Writes config and checkpoint of step 0 into `workdir`; the checkpoint names the checksum of the `file` read.

    ema: the running average of the parameters, if there is one. Raises `InputError` for a directory with checkpoints.
    """
    with open(file, "rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    with Checkpoints(workdir, config=configs.to_dict(config), keep=1) as checkpoints:
        if steps := checkpoints.steps():
            raise input_error(
                f"workdir {workdir}", expected="no checkpoints", got=f"step {steps[-1]}", fix="choose another --workdir"
            )
        state = TrainState(np.zeros((), np.int32), *variables, ema_params=ema, opt_state=())
        checkpoints.save(0, state, {"imported_sha256": checksum})
        checkpoints.wait()
        configs.write(config, Path(workdir))
