"""AGM (Chen et al., ICLR 2024): generative modelling in phase space, by bridges of position and velocity."""

import importlib
import pathlib
import runpy

# By its path, since another project's `common` may be in the way.
runpy.run_path(str(pathlib.Path(__file__).parents[1] / "common" / "layout.py"))["check"]()

_WHERE = {
    "Bridge": "phase_bridge.bridge",
    "inpainting": "phase_bridge.conditional",
    "log_density": "phase_bridge.likelihood",
    "log_likelihood": "phase_bridge.likelihood",
    "make_steps": "phase_bridge.sampling",
    "mixture_field": "phase_bridge.analytic",
    "sample": "phase_bridge.sampling",
    "stroke": "phase_bridge.conditional",
    "time_grid": "phase_bridge.sampling",
}

__all__ = [
    "Bridge",
    "inpainting",
    "log_density",
    "log_likelihood",
    "make_steps",
    "mixture_field",
    "sample",
    "stroke",
    "time_grid",
]


def __getattr__(name: str):
    # Imported when first used, so that the command line's --help does not wait for JAX.
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
