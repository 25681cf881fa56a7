"""Stored configurations of `phase_bridge` in the keys and values of today; see common/migrations.py."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Change(NamedTuple):
    """A rule for stored values `{dotted key: value}`: where all of `when` hold, keys are renamed and values set.

    when: key -> values of which it has one, or None for a key that is merely there. then: key -> value. refuse: why
    such values cannot be used any more; they then raise `ValueError`.
    """

    when: Mapping[str, tuple | None]
    rename: Mapping[str, str] = {}
    then: Mapping[str, Any] = {}
    refuse: str = ""


def _of_bridges() -> Iterator[Change]:
    """Yields what became of recipes and of samplers by process: one objective, one table of solvers for all paths."""
    old = {"objective.recipe": None, "objective.normaliser": None, "sampler.rule": None}
    names = {
        "sampler.rule": "sampler.solver", "sampler.order": "sampler.degree", "sampler.grid": "sampler.schedule",
        "sampler.last_time": "sampler.last", "sampler.largest": "sampler.sigma_max",
        "sampler.smallest": "sampler.sigma_min", "sampler.level_power": "sampler.rho",
        "objective.times": "objective.noise",
    }  # fmt: skip
    bridge, known = {"objective.process": ("bridge",), "objective.recipe": None}, {"objective.recipe": None}
    for key in ("inputs", "label"):
        there = ("state", "scaled", "statistic") if key == "inputs" else ("remaining", "noise")
        yield Change({**bridge, f"objective.{key}": there}, refuse="a recipe of several choices")
    yield Change({**bridge, "objective.normaliser": ("consistent",)}, refuse='objective.normaliser="consistent"')
    yield Change({"objective.process": ("cld",), **known}, refuse="the score of a velocity as objective")
    yield Change(old, rename=names)
    for value in ("data", "scaled"):
        yield Change({**bridge, "objective.output": (value,)}, refuse="a recipe of several choices")
    released, improved = ({**bridge, "objective.recipe": (each,)} for each in ("released", "improved"))
    yield Change({**released, "objective.noise": ("log_normal", "log_uniform")}, refuse="a recipe of several choices")
    for key, there in (("output", ("force", "preconditioned")), ("weight", ("reciprocal", "ones", "reciprocalinv"))):
        yield Change({**improved, f"objective.{key}": there}, refuse="a recipe of several choices")
    yield Change(released, then={"objective.name": "force", "objective.noise": ""})
    yield Change({**released, "objective.output": ("force",)}, then={"objective.output": ""})
    yield Change(improved, then={"objective.name": "denoiser", "objective.weight": ""})
    plain = {"objective.output": "", "objective.weight": ""}
    yield Change(
        {**known, "objective.process": ("flow",)}, then={**plain, "objective.noise": "", "objective.name": "velocity"}
    )
    yield Change({**known, "objective.process": ("edm",)}, then={**plain, "objective.name": "denoiser"})
    for process, rule, then in (
        ("bridge", "exponential", {"sampler.solver": "gddim"}),
        ("bridge", "data", {"sampler.solver": "data_multistep"}),
        ("flow", "ab2", {"sampler.solver": "ab", "sampler.degree": 1}),
        ("flow", "", {"sampler.solver": "midpoint"}),
        ("edm", "dpmpp_2m", {"sampler.solver": "dpmpp", "sampler.degree": 1}),
        ("edm", "dpmpp_3m", {"sampler.solver": "dpmpp", "sampler.degree": 2}),
    ):
        yield Change({**known, "objective.process": (process,), "sampler.solver": (rule,)}, then=then)
    for key, other in (("sampler.kind", ("sde",)), ("objective.kind", ("sde",))):
        own = {key: other, "sampler.kind": ("sde",) if key == "sampler.kind" else ("",)}
        yield Change({**bridge, "sampler.solver": ("euler",), **own}, then={"sampler.solver": "euler_maruyama"})
    for key, value, new in (
        ("schedule", "reversed_power", "power_from_0"), ("schedule", "remaining", "power_to_1"), ("power", 2.0, 0.0),
        ("sigma_max", 80.0, 0.0), ("sigma_min", 0.002, 0.0), ("rho", 7.0, 0.0),
    ):  # fmt: skip
        yield Change({**known, f"sampler.{key}": (value,)}, then={f"sampler.{key}": new})
    removed = ("objective.recipe", "objective.normaliser", "objective.inputs", "objective.label")
    yield Change(known, rename=dict.fromkeys(removed, ""))


def one_denoiser(stored: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of version 2, in which one objective and one table of solvers serve all paths."""
    for change in _of_bridges():
        if all(key in stored and (several is None or stored[key] in several) for key, several in change.when.items()):
            if change.refuse:
                raise ValueError(change.refuse)
            # A key without a new name has been removed.
            kept = {change.rename.get(key, key): value for key, value in stored.items()}
            kept.pop("", None)
            stored = kept | dict(change.then)
    return stored


MIGRATIONS = {2: one_denoiser}
