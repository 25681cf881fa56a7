"""Checkpoints that are verified before they are used: the one door to Orbax.

workdir/checkpoints/
  .lock           held by the one run that writes here
  100/            a step: `manifest/manifest.json` and one folder for each field of the state
  80.damaged/     a step that failed its verification and was set aside
"""

from common.checkpoint.checkpoints import Checkpoints, Restored, check_resume, restore_params, restore_variables

__all__ = ["Checkpoints", "Restored", "check_resume", "restore_params", "restore_variables"]
