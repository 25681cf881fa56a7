"""Who takes part in a comparison: how each model is trained, and the samplers and settings that are tried on it."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from phase_bridge.drawing import How

# Times of a bridge's last evaluation, and noise levels over the data's standard deviation, that are tried.
LAST_TIMES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# With few evaluations they are better spent before the last details: by NFE, last times, and ln of levels over the
# data's deviation.
_USUAL = {
    "last_time": ((2, 3, 5, 10, 20, 50), (0.4, 0.4, 0.45, 0.65, 0.8, 0.9)),
    "smallest": ((3, 5, 10, 20), tuple(np.log([0.25, 0.12, 0.02, 0.005]))),
    "largest": ((5, 10), tuple(np.log([3.0, 15.0]))),
}
# Those of a bridge: its prior is reached in one step, whatever the largest level.
_USUAL_OF_BRIDGE = {
    "smallest": ((3, 5, 8, 10, 20), tuple(np.log([0.25, 0.25, 0.08, 0.05, 0.01]))),
    "largest": ((1,), (np.log(3.0),)),
}
LARGEST = (3.0, 15.0)
SMALLEST = (0.005, 0.02, 0.08, 0.25)


class Candidate(NamedTuple):
    """A sampler under a name, with the settings (fields of `How`, levels over the data's deviation) to choose among.

    `least` is the smallest number of evaluations it can make. `title` replaces that of its model in tables.
    """

    name: str
    settings: Sequence[Mapping[str, Any]]
    least: int = 1
    title: str = ""


class Entrant(NamedTuple):
    """A model: a line that describes it, the config keys that make it, and its samplers."""

    title: str
    changes: Mapping[str, Any]
    samplers: Sequence[Candidate]


def _options(**options: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def _until(**fixed: Any) -> list[dict[str, Any]]:
    return [{**fixed, "grid": "reversed_power", "last_time": last} for last in LAST_TIMES]


def _levels(**fixed: Any) -> list[dict[str, Any]]:
    return [{**fixed, **each} for each in _options(largest=LARGEST, smallest=SMALLEST)]


_OF_BRIDGE = {"objective.process": "bridge"}
_RELEASED = {**_OF_BRIDGE, "objective.recipe": "released", "model.time": "log"}
_IMPROVED = {**_OF_BRIDGE, "objective.recipe": "improved", "model.time": "raw"}

_CORRECTED = {"rule": "data", "order": 1, "corrector": True}
_IMPROVED_ODE, _IMPROVED_SDE = "AGM-ODE, improved recipe", "AGM-SDE, improved recipe"

_ODE = (
    Candidate("exponential", _until(rule="exponential", order=2)),
    Candidate("data", _until(rule="data", order=1)),
)

_MAIN: Mapping[str, Entrant] = {
    "agm-ode": Entrant(
        "AGM-ODE, released recipe",
        {**_RELEASED, "objective.kind": "ode"},
        _ODE,
    ),
    "agm-sde": Entrant(
        "AGM-SDE, released recipe",
        {**_RELEASED, "objective.kind": "sde"},
        (
            Candidate("euler", [{"rule": "euler", "grid": "uniform", "last_time": last} for last in LAST_TIMES]),
            Candidate("data", _until(kind="sde", **_CORRECTED)),
        ),
    ),
    "agm-improved": Entrant(
        "AGM, improved recipe",
        {**_IMPROVED, "objective.kind": "ode"},
        (
            Candidate("ode-exponential", _until(kind="ode", rule="exponential", order=2), title=_IMPROVED_ODE),
            Candidate("ode-data", _until(kind="ode", **_CORRECTED), title=_IMPROVED_ODE),
            Candidate("ode-levels", _levels(kind="ode", grid="levels", **_CORRECTED), title=_IMPROVED_ODE),
            Candidate("sde-data", _until(kind="sde", **_CORRECTED), title=_IMPROVED_SDE),
            Candidate("sde-levels", _levels(kind="sde", grid="levels", **_CORRECTED), title=_IMPROVED_SDE),
        ),
    ),
    "flow": Entrant(
        "flow matching",
        {"objective.process": "flow", "model.time": "raw"},
        tuple(
            Candidate(rule, [{"rule": rule}], 2 if rule in ("heun", "midpoint") else 1)
            for rule in ("euler", "ab2", "midpoint", "heun")
        ),
    ),
    "flow-ot": Entrant(
        "flow matching, optimal-transport pairs",
        {"objective.process": "flow", "model.time": "raw", "objective.coupling": 128},
        tuple(
            Candidate(rule, [{"rule": rule}], 2 if rule in ("heun", "midpoint") else 1)
            for rule in ("euler", "ab2", "midpoint", "heun")
        ),
    ),
    "edm": Entrant(
        "EDM",
        {"objective.process": "edm", "model.time": "raw"},
        tuple(Candidate(rule, _levels(rule=rule)) for rule in ("ddim", "heun", "dpmpp_2m", "dpmpp_3m", "ipndm")),
    ),
    "cld": Entrant(
        "critically damped Langevin diffusion",
        {"objective.process": "cld", "model.time": "raw"},
        tuple(Candidate(rule, _levels(rule=rule)) for rule in ("euler", "multistep")),
    ),
}


# From the released to the improved recipe, one step after the other; each is the one before with a further change.
_STEPS = (
    ("a-preconditioned", "output times 1 - t", {"objective.output": "preconditioned"}),
    (
        "b-scaled",
        "inputs of unit variance, time as log noise level",
        {"objective.inputs": "scaled", "objective.label": "noise", "model.time": "raw"},
    ),
    ("c-data", "output is the rest of the best linear estimate of the data", {"objective.output": "data"}),
    ("d-statistic", "input is what the state tells about the data", {"objective.inputs": "statistic"}),
)
_ABLATIONS: dict[str, Entrant] = {}
_changes: dict[str, Any] = {**_RELEASED, "objective.kind": "ode"}
for _name, _title, _change in _STEPS:
    _changes = {**_changes, **_change}
    _ABLATIONS[_name] = Entrant(f"AGM-ODE + {_title}", _changes, _ODE)
# The same denoiser trained at other noise levels: the bridge's with those of EDM, and EDM's with even ones.
_ABLATIONS["f-levels"] = Entrant(
    "AGM, improved recipe, noise levels of EDM",
    {**_MAIN["agm-improved"].changes, "objective.times": "log_normal"},
    tuple(each._replace(title="") for each in _MAIN["agm-improved"].samplers),
)
_ABLATIONS["edm-even"] = Entrant(
    "EDM, even noise levels", {**_MAIN["edm"].changes, "objective.times": "log_uniform"}, _MAIN["edm"].samplers
)

ENTRANTS: Mapping[str, Entrant] = {**_MAIN, **_ABLATIONS}
GROUPS: Mapping[str, tuple[str, ...]] = {
    "main": tuple(_MAIN),
    "ablation": ("agm-ode", *_ABLATIONS, "agm-improved", "edm"),
}


def usual(candidate: Candidate, nfe: int) -> Mapping[str, Any]:
    """Returns the settings of a candidate that are taken where none are chosen: those nearest to a rule of thumb."""

    def apart(settings):
        rules = {**_USUAL, **(_USUAL_OF_BRIDGE if "grid" in settings else {})}
        total = 0.0
        for name in rules.keys() & settings.keys():
            value = settings[name] if name == "last_time" else np.log(settings[name])
            total += abs(value - np.interp(np.log(nfe), np.log(rules[name][0]), rules[name][1]))
        return total

    return min(candidate.settings, key=apart)


def how_of(base: How, settings: Mapping[str, Any], *, nfe: int, sigma_data: float) -> How:
    """Returns how samples are drawn with some settings of a candidate; noise levels become those of the data."""
    scaled = {
        name: value * sigma_data if name in ("largest", "smallest") else value for name, value in settings.items()
    }
    # What the config says of sampling is for its own model alone.
    plain = {name: How._field_defaults[name] for name in ("rule", "order", "corrector", "grid", "power", "last_time")}
    return base._replace(**{**plain, **scaled, "nfe": nfe})
