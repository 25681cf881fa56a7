"""Data: sources with random access, and batches as a function of the step.

Names are looked up on first use, so importing this package imports neither JAX nor a reader of any file format.
"""

import importlib
from typing import Any

_WHERE = {
    "build": "pipeline",
    "Source": "source",
    "Resident": "source",
    "ArraySource": "source",
    "BadRecordError": "source",
    "fetch": "source",
    "Batches": "batches",
    "example_keys": "batches",
    "make_batches": "batches",
    "permuted": "order",
    "to_unit": "augment",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
