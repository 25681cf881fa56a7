"""Blind bias-free denoisers and the geometry-adaptive bases they denoise in (Kadkhodaie et al., ICLR 2024)."""

import importlib
import pathlib
import runpy

# By its path, since another project's `common` may be in the way.
runpy.run_path(str(pathlib.Path(__file__).parents[1] / "common" / "layout.py"))["check"]()

_WHERE = {
    "denoiser": "gahb.denoisers",
    "as_denoiser": "gahb.denoisers",
    "load_denoiser": "gahb.denoisers",
    "SamplerSettings": "gahb.sampler_settings",
    "sample": "gahb.sampling",
}

__all__ = ["SamplerSettings", "as_denoiser", "denoiser", "load_denoiser", "sample"]


def __getattr__(name: str):
    # Imported when first used, so that the command line's --help does not wait for JAX.
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name == "eigenbasis":
        return importlib.import_module("gahb.eigenbasis")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
