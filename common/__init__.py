"""Code shared by the three methods: networks, data, training, checkpoints, figures. It depends on no method.

Each method's package runs this file by its path before it imports anything of `common`, so it needs nothing of it:
other projects have packages of these names too, and the current directory comes first where Python looks for them.
"""

import importlib.util
import sys
from pathlib import Path

NAMES = ("common", "configs")


def check() -> None:
    """Raises `ImportError` if one of `NAMES` leads elsewhere; ends `python -m METHOD` with one line and exit code 2."""
    root = Path(__file__).resolve().parents[1]
    for name in NAMES:
        place = _place(name)
        if place is not None and place.resolve().parent == root / name:
            continue
        message = (
            f"{place or name}: expected the package `{name}` of ScoreBridge, which is in {root}, got another one of "
            "that name; rename it, or run from another directory"
        )
        if sys.argv[:1] == ["-m"]:  # what it is while `python -m` looks for the module to run
            print(f"error: {message}", file=sys.stderr)
            raise SystemExit(2)
        raise ImportError(message)


def _place(name: str) -> Path | None:
    """Returns the file of the package that `import name` gives, None if there is none."""
    if name in sys.modules:
        place = getattr(sys.modules[name], "__file__", None)
    else:
        spec = importlib.util.find_spec(name)
        place = None if spec is None else spec.origin
        if place is None and spec is not None:  # a directory without __init__.py
            place = next(iter(spec.submodule_search_locations or ()), None)
    return None if place is None else Path(place)
