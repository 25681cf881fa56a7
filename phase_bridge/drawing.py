"""Drawing from a trained process of any kind by one call: bridges, and what they are compared with."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from common.errors import input_error
from common.solvers import linear
from phase_bridge import bridge as bridges
from phase_bridge import sampling, statistic
from phase_bridge.baselines import solvers
from phase_bridge.bridge import Bridge


class How(NamedTuple):
    """How samples are drawn; configs/phase_bridge/base.py says what each field means."""

    process: str = "bridge"
    bridge: Bridge = Bridge()
    kind: str = "ode"
    normaliser: str = "released"
    rule: str = ""
    order: int = -1
    corrector: bool | None = None
    nfe: int = 20
    grid: str = ""
    power: float = 2.0
    last_time: float = 0.0
    largest: float = 80.0
    smallest: float = 0.002
    level_power: float = 7.0


# Without a rule: the best of each process at few evaluations.
RECOMMENDED = {"flow": "midpoint", "edm": "ipndm", "cld": "multistep"}


def times_of(how: How) -> np.ndarray:
    """Returns the times of a bridge's sampler; raises `InputError` for a grid that is none."""
    if how.nfe < 1:
        raise input_error("nfe", expected="a whole number, at least 1", got=how.nfe, fix="published are 5, 10 and 20")
    if how.grid == "levels":
        return statistic.times_at_levels(
            how.bridge, how.nfe, largest=how.largest, smallest=how.smallest, power=how.level_power
        )
    given = {"grid": how.grid or None, "last": how.last_time or None, "power": how.power}
    return sampling.usual_times(how.bridge, how.nfe, kind=how.kind, **given)


def check(how: How) -> None:
    """Raises `InputError` for what cannot be sampled, before anything is compiled."""
    if how.process == "bridge":
        _steps(how)
        return
    solver = how.rule or RECOMMENDED[how.process]
    if solver not in solvers.SOLVERS[how.process]:
        expected = "one of " + ", ".join(f'"{each}"' for each in solvers.SOLVERS[how.process])
        raise input_error("rule", expected=expected, got=f'"{how.rule}"', fix='leave it "" for the recommended one')
    count, _ = solvers.steps_for(how.process, solver, how.nfe)
    solvers.make_steps(how.process, solver, count, largest=how.largest, smallest=how.smallest, order=how.level_power)


def draw(
    field, keys: jax.Array, shape: tuple[int, ...], how: How, *, store: bool = False
) -> tuple[jax.Array, dict[str, Any]]:
    """Draws samples `[B, ..., C]`, sample i from `keys[i]`, from a field that `objective.field` made.

    store: with a bridge, `info` also has `states [B, N + 1, ..., 2C]` and `estimates [B, N, ..., C]`. May be traced.
    Returns the samples and a dictionary with at least `nfe`. Raises `InputError` for what does not fit together.
    """
    if how.process != "bridge":
        return solvers.sample(
            field,
            keys,
            shape,
            process=how.process,
            solver=how.rule or RECOMMENDED[how.process],
            nfe=how.nfe,
            largest=how.largest,
            smallest=how.smallest,
            order=how.level_power,
        )
    apart = jax.vmap(jax.random.split)(keys)
    start = bridges.prior(how.bridge, apart[:, 0], shape)
    return sampling.sample(
        field,
        keys[0],
        shape,
        bridge=how.bridge,
        kind=how.kind,
        normaliser=how.normaliser,
        steps=_steps(how),
        start=start,
        noise=Partial(_noise_of, apart[:, 1]),
        store_states=store,
        store_estimates=store,
    )


def nfe_of(how: How) -> int:
    """Returns how many evaluations `draw` makes; at most `how.nfe`."""
    if how.process == "bridge":
        return how.nfe
    return solvers.steps_for(how.process, how.rule or RECOMMENDED[how.process], how.nfe)[1]


def _steps(how: How) -> linear.Steps:
    return sampling.make_steps(
        how.bridge,
        times_of(how),
        kind=how.kind,
        rule=how.rule or None,
        order=None if how.order < 0 else how.order,
        corrector=how.corrector,
        normaliser=how.normaliser,
    )


def _noise_of(own, keys, n, which, like):
    return linear.normal_noise(own, n, which, like)
