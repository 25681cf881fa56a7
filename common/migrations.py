"""Versions of the configuration: what older runs stored, in the keys of today.

Whoever renames or removes a key raises `VERSION` by one and adds it to `RENAMED` under the new version, or to
`REMOVED`.
A new key needs nothing here: its default must be what runs did before there was the key.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import input_error, shown

VERSION = 2
KEY = "config_version"  # beside the configuration's own keys; it is no part of the experiment

# Version that introduced the new names -> {old dotted key: new dotted key}.
RENAMED: Mapping[int, Mapping[str, str]] = {
    2: {
        "conditions.fit": "conditioning.fit",
        "conditions.refine": "conditioning.refine",
        "conditions.score": "conditioning.score",
        "conditions.wide": "conditioning.wide",
        "variable.coherence": "process.noise_correlation",
        "variable.learned_scale": "process.predict_variance",
    },
}


def _scale(stored: Mapping[str, Any]) -> float:
    if stored["features.compat"]:
        return 1.0
    fitted, cell = ("conditioning.fit", 8) if stored.get("task", "stage1") == "stage1" else ("conditioning.refine", 2)
    return cell / stored["features.fine"] if stored[fitted] else 0.1


# Removed key -> the value that programs of today always use, or a function of the stored keys that gives it. Runs that
# stored this value go on as they were; runs that stored another one cannot be trained further.
REMOVED: Mapping[str, Any] = {
    "conditions.gain": lambda stored: 0.0 if stored["features.compat"] else 8.0,
    "conditions.median": 0,
    "conditions.radius": 4,
    "conditions.soft": 0.0,
    "features.coarse": lambda stored: stored["features.fine"] // 2,
    "model.dropout": 0.0,
    "model.min_group": lambda stored: 1 if stored["features.compat"] else 8,
    "objective.epsilon": 0.1,
    "objective.first_share": lambda stored: 0.0 if stored["features.compat"] else 0.5,
    "objective.likelihood": lambda stored: 0.3 if stored["process.predict_variance"] else 0.0,
    "objective.penalty": lambda stored: "squared" if stored["features.compat"] else "charbonnier",
    "objective.pooled": lambda stored: bool(stored["features.compat"]),
    "pairs.control": 0.2,
    "pairs.supersample": 1,
    "pairs.window": [0.7, 0.8],
    "photometric.blur": 1.0,
    "photometric.brightness": 0.15,
    "photometric.contrast": 0.4,
    "photometric.fade": 0.2,
    "photometric.gamma": 0.4,
    "photometric.hue": 20.0,
    "photometric.noise": 0.4,
    "photometric.noisy": 0.5,
    "photometric.saturation": 0.5,
    "pretraining.supersample": 2,
    "pretraining.temperature": 0.07,
    "pretraining.window": [0.35, 0.8],
    "process.keep": "",
    "process.schedule": "cosine",
    "sampler.eta": 0.0,
    "sampler.rounds": 1,
    "sampler.rule": "ddim",
    "stage2.noise": 0.01,
    "variable.residual": lambda stored: not stored["features.compat"],
    "variable.scale": _scale,
    "variable.shrunk": lambda stored: not stored["features.compat"],
    "variable.skip": lambda stored: stored["process.predict_variance"],
}


def is_implied(key: str, stored: Mapping[str, Any]) -> bool:
    """Returns whether a removed key of stored dotted values has the value that is always used today."""
    if key not in REMOVED:
        return False
    today = REMOVED[key]
    try:
        return stored[key] == (today(stored) if callable(today) else today)
    except KeyError:  # of another method, whose keys decide nothing here
        return False


def upgraded(values: Mapping[str, Any], place: object) -> dict[str, Any]:
    """Returns stored nested values, without their version, under the names of today.

    Values without a version are of version 1. Raises `InputError`, naming `place`, for a version that this one does
    not know.
    """
    version = values.get(KEY, 1)
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= VERSION:
        raise input_error(
            str(place),
            expected=f"{KEY} 1 to {VERSION}",
            got=shown(version),
            fix="use the version of this program that wrote it",
        )
    names = [names for since, names in sorted(RENAMED.items()) if since > version]
    own = {name: each for name, each in values.items() if name != KEY}
    if not names:
        return own
    result: dict[str, Any] = {}
    for key, value in flat(own):
        for each in names:
            key = each.get(key, key)
        *sections, name = key.split(".")
        section = result
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return result


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of nested values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
