"""Stored configurations of `gahb` in the keys and units of today; see common/migrations.py."""

from typing import Any

from common.migrations import renamed


def _from_255(value):
    """Returns noise levels in 1/255 as standard deviations; leaves alone what the check of types will refuse."""
    if isinstance(value, list | tuple):
        return [_from_255(each) for each in value]
    return value / 255 if isinstance(value, int | float) and not isinstance(value, bool) else value


def _class_name(value):
    if isinstance(value, list | tuple):
        return [_class_name(each) for each in value]
    return {"cone": "sinusoids", "ray": "scaled_image"}.get(value, value) if isinstance(value, str) else value


def _standard_deviations(values: dict[str, Any]) -> dict[str, Any]:
    """Noise levels become standard deviations for images in [0, 1]; two classes of images have other names."""
    values = renamed(values, {
        "noise.low": "noise.sigma_min",
        "noise.high": "noise.sigma_max",
        "evaluate.levels": "evaluate.sigmas",
        "classes.levels": "classes.sigmas",
        "classes.moderate_db": "classes.window_db",
    })  # fmt: skip
    levels = ("noise.sigma_min", "noise.sigma_max", "evaluate.sigmas", "classes.sigmas")
    changed = {**dict.fromkeys(levels, _from_255), "data.source": _class_name, "classes.names": _class_name}
    return {key: changed[key](value) if key in changed else value for key, value in values.items()}


MIGRATIONS = {2: _standard_deviations}
