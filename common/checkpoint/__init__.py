"""Checkpoints that are verified before they are used: the one door to Orbax.

workdir/checkpoints/
  .lock           held by the one run that writes here
  100/            a step: `state/` with all arrays and `manifest/manifest.json`
  80.damaged/     a step that failed its verification and was set aside
"""

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
from common.checkpoint.imported import write_imported

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
