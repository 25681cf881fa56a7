"""Blind bias-free denoisers and the geometry-adaptive bases they denoise in (Kadkhodaie et al., ICLR 2024)."""

import importlib
import pathlib
import runpy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gahb import datasets, eigenbasis, metrics, operators, reference
    from gahb.denoisers import as_denoiser, at_sigma, from_callback, from_eps, from_score, from_torch, score
    from gahb.eigenbasis import implied_sigma
    from gahb.method import load_denoiser
    from gahb.metrics import psnr_curve
    from gahb.networks import denoiser
    from gahb.sampler_settings import SamplerSettings
    from gahb.sampling import sample

# By its path, since another project's `common` may be in the way.
runpy.run_path(str(pathlib.Path(__file__).parents[1] / "common" / "__init__.py"))["check"]()

_MODULES = ("datasets", "eigenbasis", "metrics", "operators", "reference")
_WHERE = {
    "as_denoiser": "gahb.denoisers",
    "at_sigma": "gahb.denoisers",
    "denoiser": "gahb.networks",
    "from_callback": "gahb.denoisers",
    "from_eps": "gahb.denoisers",
    "from_score": "gahb.denoisers",
    "from_torch": "gahb.denoisers",
    "implied_sigma": "gahb.eigenbasis",
    "load_denoiser": "gahb.method",
    "psnr_curve": "gahb.metrics",
    "sample": "gahb.sampling",
    "SamplerSettings": "gahb.sampler_settings",
    "score": "gahb.denoisers",
}

__all__ = [
    "SamplerSettings", "as_denoiser", "at_sigma", "datasets", "denoiser", "eigenbasis", "from_callback", "from_eps",
    "from_score", "from_torch", "implied_sigma", "load_denoiser", "metrics", "operators", "psnr_curve", "reference",
    "sample", "score",
]  # fmt: skip


def __getattr__(name: str):
    # Imported when first used, so that the command line's --help does not wait for JAX.
    if name in _MODULES:
        return importlib.import_module(f"gahb.{name}")
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
