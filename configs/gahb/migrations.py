"""What older runs of `gahb` stored, in the keys and units of today; see common/migrations.py."""


def _from_255(value):
    """Returns noise levels in 1/255 as standard deviations; leaves alone what the check of types will refuse."""
    if isinstance(value, list | tuple):
        return [_from_255(each) for each in value]
    return value / 255 if isinstance(value, int | float) and not isinstance(value, bool) else value


def _class_name(value):
    if isinstance(value, list | tuple):
        return [_class_name(each) for each in value]
    return {"cone": "sinusoids", "ray": "scaled_image"}.get(value, value) if isinstance(value, str) else value


# Version that introduced the new names -> {old dotted key: new dotted key}.
RENAMED = {
    2: {
        "noise.low": "noise.sigma_min",
        "noise.high": "noise.sigma_max",
        "evaluate.levels": "evaluate.sigmas",
        "classes.levels": "classes.sigmas",
        "classes.moderate_db": "classes.window_db",
    },
}
# Version that introduced the new values -> {dotted key of that version: function of the value before}.
CHANGED = {
    2: {
        "noise.sigma_min": _from_255,
        "noise.sigma_max": _from_255,
        "evaluate.sigmas": _from_255,
        "classes.sigmas": _from_255,
        "data.source": _class_name,
        "classes.names": _class_name,
    },
}
