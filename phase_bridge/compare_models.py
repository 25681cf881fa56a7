"""The parts of a comparison: networks (objective and law of noise levels), paths, samplers, measures and tables.

A model is NETWORK/PATH: a denoiser is trained once and sampled along every path. Every path has the same number of
candidates, of which one is chosen for each number of evaluations, on samples that are not reported.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from common.plots.report import markdown_table


class Network(NamedTuple):
    """A line that describes a network, the config keys that make it, and the paths that it serves."""

    title: str
    changes: Mapping[str, Any]
    paths: tuple[str, ...]


class Path(NamedTuple):
    """A line that describes a path, and the config keys that choose it."""

    title: str
    changes: Mapping[str, Any]


MEASURES = {
    "frechet": "Frechet distance of features",
    "w2": "Sliced W2",
    "recall": "Recall",
    "coverage": "Coverage",
    "beyond": "Fraction of samples off the support",
    "distance": "Mean distance to the support",
}

EVERY = ("agm-ode", "agm-sde", "edm", "flow", "cld")
_DENOISER = {"objective.name": "denoiser", "objective.process": "bridge", "model.time": "raw"}
_FORCE = {"objective.name": "force", "objective.process": "bridge", "model.time": "log"}
_VELOCITY = {"objective.name": "velocity", "objective.process": "flow", "model.time": "raw"}

NETWORKS: Mapping[str, Network] = {
    "force-ode": Network("force (ODE)", {**_FORCE, "objective.kind": "ode"}, ("agm-ode", "agm-sde")),
    "force-sde": Network("force (SDE)", {**_FORCE, "objective.kind": "sde"}, ("agm-ode", "agm-sde")),
    "denoiser": Network("denoiser, bridge's levels", _DENOISER, EVERY),
    "denoiser-edm": Network("denoiser, EDM's levels", {**_DENOISER, "objective.noise": "log_normal"}, EVERY),
    "denoiser-even": Network("denoiser, even levels", {**_DENOISER, "objective.noise": "log_uniform"}, EVERY),
    "denoiser-flow": Network("denoiser, flow's levels", {**_DENOISER, "objective.process": "flow"}, EVERY),
    "velocity": Network("velocity", _VELOCITY, EVERY),
    "velocity-ot": Network("velocity, optimal-transport pairs", {**_VELOCITY, "objective.coupling": 128}, ("flow",)),
}
PATHS: Mapping[str, Path] = {
    "agm-ode": Path("AGM-ODE", {"sampler.process": "bridge", "sampler.kind": "ode"}),
    "agm-sde": Path("AGM-SDE", {"sampler.process": "bridge", "sampler.kind": "sde"}),
    "edm": Path("EDM", {"sampler.process": "edm", "sampler.kind": ""}),
    "flow": Path("flow", {"sampler.process": "flow", "sampler.kind": ""}),
    "cld": Path("CLD", {"sampler.process": "cld", "sampler.kind": ""}),
}
MODELS = tuple(f"{network}/{path}" for network, each in NETWORKS.items() for path in each.paths)
GROUPS: Mapping[str, tuple[str, ...]] = {
    # Each method as published, each with its own objective and path.
    "main": ("force-ode/agm-ode", "force-sde/agm-sde", "denoiser-edm/edm", "velocity/flow", "velocity-ot/flow"),
    # The effect of the path: one network along all of them.
    "one_denoiser": tuple(f"denoiser/{path}" for path in EVERY),
    # The effect of the objective and its noise levels: every network along the bridge.
    "objectives": tuple(f"{network}/agm-ode" for network, each in NETWORKS.items() if "agm-ode" in each.paths),
}

# Noise levels over the data's deviation, and last times of bridges, from many evaluations to few: with few they are
# better spent before the last details.
_LEVELS = ((15.0, 0.005), (15.0, 0.02), (3.0, 0.08), (3.0, 0.25))
_LAST = (0.9, 0.8, 0.6, 0.4)
_FEW = (12, 8, 3)  # numbers of evaluations up to which the second, third and fourth are taken without a choice


def _levels(solver: str, **options: Any) -> list[dict[str, Any]]:
    return [
        {"solver": solver, **options, "schedule": {"kind": "levels", "sigma_max": most, "sigma_min": least}}
        for most, least in _LEVELS
    ]


def _until(kind: str, solver: str, **options: Any) -> list[dict[str, Any]]:
    return [{"solver": solver, **options, "schedule": {"kind": kind, "last": last}} for last in _LAST]


def _in_time(solver: str, **options: Any) -> list[dict[str, Any]]:
    """Returns a uniform grid, and three that begin or end with short steps."""
    kinds = (
        {"kind": "uniform"},
        {"kind": "power", "power": 2.0},
        {"kind": "quadratic"},
        {"kind": "power", "power": 0.7},
    )
    return [{"solver": solver, **options, "schedule": kind} for kind in kinds]


_CORRECTED = {"degree": 1, "corrector": True}
CANDIDATES: Mapping[str, list[dict[str, Any]]] = {
    "agm-ode": [
        *_until("power_from_0", "gddim", degree=2), *_until("power_from_0", "data_multistep", **_CORRECTED),
        *_levels("data_multistep", **_CORRECTED), *_levels("unipc", degree=2),
    ],
    "agm-sde": [
        *_until("power_to_1", "data_multistep", **_CORRECTED), *_levels("data_multistep", **_CORRECTED),
        *_until("uniform", "euler_maruyama"), *_until("power_to_1", "splitting"),
    ],
    "edm": [*_levels("ipndm"), *_levels("dpmpp", degree=1), *_levels("unipc", degree=2), *_levels("heun")],
    "flow": [*_in_time("ab", degree=1), *_levels("unipc", degree=1), *_levels("deis", degree=2), *_in_time("heun")],
    "cld": [
        *_levels("data_multistep", degree=1), *_levels("unipc", degree=1), *_levels("data_multistep", degree=2),
        *_levels("ddim"),
    ],
}  # fmt: skip


def usual(path: str, nfe: int) -> Mapping[str, Any]:
    """Returns the candidate of a path that is taken where none is chosen."""
    own = CANDIDATES[path]
    return own[0] if path == "flow" else own[sum(nfe <= few for few in _FEW)]


def sampler_of(settings: Mapping[str, Any], *, sigma_data: float) -> dict[str, Any]:
    """Returns a candidate as arguments of `phase_bridge.sample`; noise levels become those of the data."""
    schedule = {
        name: value * sigma_data if name in ("sigma_max", "sigma_min") else value
        for name, value in settings["schedule"].items()
    }
    return {**settings, "schedule": schedule}


def words_of(settings: Mapping[str, Any]) -> str:
    """Returns a candidate in a few words for tables."""
    schedule = dict(settings["schedule"])
    kind = schedule.pop("kind")
    degree = f" {settings['degree']}" if "degree" in settings else ""
    corrected = "c" if settings == {**settings, "corrector": True} else ""
    numbers = [f"{value:g}" for value in schedule.values()]
    return f"{settings['solver']}{degree}{corrected}, {' '.join([kind, *numbers])}"


def split_name(model: str) -> tuple[str, str]:
    """Returns network and path of NETWORK/PATH."""
    network, _, path = model.partition("/")
    return network, path


def title_of(model: str) -> str:
    """Returns the words by which tables call a model."""
    network, path = split_name(model)
    return f"{NETWORKS[network].title}; {PATHS[path].title}"


def networks_of(models) -> tuple[str, ...]:
    """Returns the networks that some models need, each once."""
    return tuple(dict.fromkeys(split_name(each)[0] for each in models))


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Returns the mean of each measure that rows have, and its standard deviation over them (None for one row)."""
    found: dict[str, float | None] = {}
    for name in MEASURES:
        values = None if rows[0][name] is None else np.asarray([row[name] for row in rows], float)
        found[name] = None if values is None else float(values.mean())
        found[f"{name}_deviation"] = None if values is None or len(values) < 2 else float(values.std(ddof=1))
    return found


def paired(rows: Sequence[Mapping[str, Any]], *, level: float = 0.95) -> list[dict[str, Any]]:
    """Returns rows with `against`: by measure, how far they are from the first model at as many evaluations.

    Differences are taken seed by seed, since a seed decides the network, the key of its samples and the data of all
    models alike; `low` and `high` end the interval of Student's t for their mean (None for one seed).
    """
    first = {row["nfe"]: row for row in rows if row["model"] == rows[0]["model"]}
    found = []
    for row in rows:
        against = {}
        for name, values in row["seeds"].items():
            apart = np.subtract(values, first[row["nfe"]]["seeds"][name])
            middle, low, high = float(apart.mean()), None, None
            if len(apart) > 1:
                half = stats.t.ppf((1 + level) / 2, len(apart) - 1) * apart.std(ddof=1) / np.sqrt(len(apart))
                low, high = middle - float(half), middle + float(half)
            against[name] = {"difference": middle, "low": low, "high": high}
        found.append({**row, "against": against})
    return found


def markdown(numbers: Mapping[str, Any]) -> str:
    """Returns the comparison as Markdown: a table a measure, with the floor (data against data) as its last row."""
    rows, floor = numbers["rows"], numbers["floor"]
    counts = sorted({row["nfe"] for row in rows})
    trained = f"{numbers['seeds']} training seed(s), {numbers['step']} steps of {numbers['batch_size']}, "
    if numbers["step"] == 0:
        trained = f"the exact denoiser, {numbers['seeds']} sampling seed(s), "
    parts = [
        f"{numbers['source']}, {trained}{numbers['num']} samples. Mean over seeds ± standard deviation; the sampler of "
        "each entry was chosen among as many candidates as all others', on other samples."
    ]
    titles = dict.fromkeys(row["title"] for row in rows)
    cells = {(row["title"], row["nfe"]): row for row in rows}
    for measure, words in MEASURES.items():
        if floor[measure] is None:
            continue
        parts.append(f"\n{words}\n")
        lines = [[title, *(_cell(cells.get((title, nfe)), measure) for nfe in counts)] for title in titles]
        lines.append(["data against data", *[_cell(floor, measure)] * len(counts)])
        parts += markdown_table(["model", *(f"NFE {nfe}" for nfe in counts)], lines)
        first, *others = titles
        if others and numbers["seeds"] > 1:
            parts.append(f'\n{words}: difference to "{first}", paired by seed, with its 95 % interval\n')
            lines = [[title, *(_apart(cells.get((title, nfe)), measure) for nfe in counts)] for title in others]
            parts += markdown_table(["model", *(f"NFE {nfe}" for nfe in counts)], lines)
    parts.append("\nSamplers\n")
    lines = [[title, *((cells.get((title, nfe)) or {}).get("sampler", "") for nfe in counts)] for title in titles]
    parts += markdown_table(["model", *(f"NFE {nfe}" for nfe in counts)], lines)
    return "\n".join(parts) + "\n"


def _apart(row: Mapping[str, Any] | None, measure: str) -> str:
    if row is None:
        return ""
    found = row["against"][measure]
    clear = "" if found["low"] <= 0 <= found["high"] else "**"
    return f"{clear}{found['difference']:+.3f}{clear} [{found['low']:+.3f}, {found['high']:+.3f}]"


def _cell(row: Mapping[str, Any] | None, measure: str) -> str:
    if row is None:
        return ""
    spread = row[f"{measure}_deviation"]
    return f"{row[measure]:.3f}" + ("" if spread is None else f" ± {spread:.3f}")
