"""DiffMatch (Nam et al., ICLR 2024): dense correspondence by conditional diffusion, with a confidence."""

import importlib
import pathlib
import runpy

# By its path, since another project's `common` may be in the way.
runpy.run_path(str(pathlib.Path(__file__).parents[1] / "common" / "layout.py"))["check"]()

_WHERE = {"Match": "diffmatch_jax.matcher", "load": "diffmatch_jax.matcher", "match": "diffmatch_jax.matcher"}

__all__ = ["Match", "load", "match"]


def __getattr__(name: str):
    # Imported when first used, so that the command line's --help does not wait for JAX.
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
