"""AGM (Chen et al., ICLR 2024): generative modelling in phase space, by bridges of position and velocity.

A `Model` is a path (`Bridge`, `Flow`, `EDM`, `CLD`) and an estimate of the data along it. `load` gives a trained one,
`denoiser_model` one of any denoiser; `sample`, `stroke`, `inpainting`, `guided` and `log_likelihood` take it.

    model = phase_bridge.load("runs/spiral")
    points, info = phase_bridge.sample(model, jax.random.key(0), (1000, *model.shape), nfe=10)
"""

import importlib
import pathlib
import runpy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phase_bridge.bridge import Bridge
    from phase_bridge.conditioning import guided, inpainting, stroke
    from phase_bridge.learned import learn_table, load_table, save_table
    from phase_bridge.likelihood import log_density, log_likelihood
    from phase_bridge.method import load
    from phase_bridge.processes import CLD, EDM, Flow
    from phase_bridge.sampling import Model, denoiser_model, sample
    from phase_bridge.schedules import schedule
    from phase_bridge.solvers import make_steps
    from phase_bridge.toy import mixture

# By its path, since another project's `common` may be in the way.
runpy.run_path(str(pathlib.Path(__file__).parents[1] / "common" / "__init__.py"))["check"]()

_WHERE = {
    "Bridge": "phase_bridge.bridge",
    "CLD": "phase_bridge.processes",
    "EDM": "phase_bridge.processes",
    "Flow": "phase_bridge.processes",
    "Model": "phase_bridge.sampling",
    "denoiser_model": "phase_bridge.sampling",
    "guided": "phase_bridge.conditioning",
    "inpainting": "phase_bridge.conditioning",
    "learn_table": "phase_bridge.learned",
    "load": "phase_bridge.method",
    "load_table": "phase_bridge.learned",
    "log_density": "phase_bridge.likelihood",
    "log_likelihood": "phase_bridge.likelihood",
    "make_steps": "phase_bridge.solvers",
    "mixture": "phase_bridge.toy",
    "sample": "phase_bridge.sampling",
    "save_table": "phase_bridge.learned",
    "schedule": "phase_bridge.schedules",
    "stroke": "phase_bridge.conditioning",
}

__all__ = [
    "CLD", "EDM", "Bridge", "Flow", "Model", "denoiser_model", "guided", "inpainting", "learn_table", "load",
    "load_table", "log_density", "log_likelihood", "make_steps", "mixture", "sample", "save_table", "schedule",
    "stroke",
]  # fmt: skip


def __getattr__(name: str):
    # Imported when first used, so that the command line's --help does not wait for JAX.
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
