"""DiffMatch (Nam et al., ICLR 2024): dense correspondence by conditional diffusion, with a confidence."""

import importlib
import pathlib
import runpy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffmatch_jax.api import Match, load, match

# By its path, since another project's `common` may be in the way.
runpy.run_path(str(pathlib.Path(__file__).parents[1] / "common" / "__init__.py"))["check"]()

__all__ = ["Match", "load", "match"]


def __getattr__(name: str):
    # Imported when first used, so that the command line's --help does not wait for JAX.
    if name in __all__:
        return getattr(importlib.import_module("diffmatch_jax.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
