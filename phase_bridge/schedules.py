"""Times of evaluation for every path: float64 NumPy arrays of nfe + 1 entries from the prior towards the data.

There is an evaluation at each time but the last, at which the last step ends.
"""

import numpy as np
from jaxtyping import Float

from common.errors import choice, input_error
from common.solvers import grids
from phase_bridge.bridge import KINDS
from phase_bridge.processes import Process

KINDS_OF_SCHEDULE = ("levels", "uniform", "power", "power_from_0", "power_to_1", "quadratic")
FIRST, END, END_OF_LEVELS = 1e-5, 0.999, 0.9999  # of bridges: where they begin, and where the last step ends
# Number of evaluations and time of the last one: as published for CIFAR-10 and for evaluation during training, and our
# own for the SDE.
USUAL_LAST = {
    "ode": ((5, 0.4), (10, 0.7), (20, 0.9), (100, 0.999)),
    "sde": ((5, 0.9), (10, 0.95), (20, 0.97), (50, 0.99), (200, 0.999)),
}
# Noise levels at which the SDE is usually evaluated: number of evaluations and level of the last one, level near which
# the second lies, order of the roots that are equally spaced. They keep the spread of the last estimates (see
# benchmarks/phase_bridge_solvers.py); an estimate from a higher level is too near the mean.
USUAL_SIGMA_MIN = ((5, 0.1), (10, 0.017), (20, 0.0125), (50, 0.005), (200, 0.002))
USUAL_SIGMA_MAX, USUAL_RHO = 3.0, 5.0
_DEFAULT = {"flow": "uniform", "edm": "levels", "cld": "levels"}


def schedule(
    process: Process,
    nfe: int,
    *,
    kind: str | None = None,
    sampler: str = "ode",
    first: float | None = None,
    last: float | None = None,
    end: float | None = None,
    power: float | None = None,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    rho: float | None = None,
) -> Float[np.ndarray, " times"]:
    """Returns the `nfe` + 1 times of a solver with one evaluation a step.

    process: the path.
    nfe: number of evaluations.
    kind: "levels": noise levels whose roots of order `rho` (default 7) are equally spaced from `sigma_max` (80) to
      `sigma_min` (0.002), as in Karras et al. (2022, eq. 5); a path whose prior is not at a finite level begins there
      instead. "power_from_0" (the published one of bridges): an evaluation at each of `nfe` times from `first` to
      `last`, whose roots of order `power` (default 2) are equally spaced, and then a step to `end`.
      "power_to_1": the same with the roots of 1 - t. "uniform", "quadratic", "power": `nfe` steps from `first` to
      `last`. Default: "uniform" for `Flow`, "levels" for `EDM` and `CLD`; for a `Bridge` "power_from_0" with `sampler`
      "ode", as published, and levels of our own with "sde".
    sampler: "ode" or "sde", the kind of the solver: it decides defaults of a Bridge.
    first, last, end: times; defaults are the path's ends, and for a Bridge 1e-5, the published last time for so many
      evaluations, and 0.999 (with "levels" 0.9999).

    Raises `InputError` for numbers that are not in order.

    >>> from phase_bridge import EDM, schedule
    >>> schedule(EDM(), 3, sigma_max=80.0, sigma_min=0.002, rho=7.0).round(3)
    array([8.000e+01, 2.515e+00, 2.000e-03, 0.000e+00])
    """
    choice("sampler", sampler, KINDS)
    if isinstance(nfe, bool) or nfe != int(nfe) or nfe < 1:
        raise input_error("nfe", expected="a whole number, at least 1", got=nfe, fix="published are 5, 10 and 20")
    nfe = int(nfe)
    bridge = process.name == "bridge"
    of_levels = {"sigma_max": sigma_max, "sigma_min": sigma_min, "rho": rho}
    if kind is None and bridge and sampler == "sde" and last is None and not any(of_levels.values()):
        counts, levels = np.log(np.transpose(USUAL_SIGMA_MIN))
        usual = float(np.exp(np.interp(np.log(nfe), counts, levels)))
        own = {"sigma_max": USUAL_SIGMA_MAX, "sigma_min": usual, "rho": USUAL_RHO}
        return _levels(process, nfe, first=first, end=END if end is None else end, **own)
    if kind is None:
        kind = _DEFAULT.get(process.name) or {"ode": "power_from_0", "sde": "power_to_1"}[sampler]
    choice("schedule", kind, KINDS_OF_SCHEDULE)
    ignored = {"last": last, "power": power} if kind == "levels" else of_levels
    if kind in ("uniform", "quadratic"):
        ignored |= {"power": power}
    for name, value in ignored.items():
        if value is not None:
            raise input_error(name, expected=f'none with schedule "{kind}"', got=value, fix="leave it out")
    if kind == "levels":
        given = {name: value for name, value in of_levels.items() if value is not None}
        return _levels(
            process, nfe, first=first, end=end, **{"sigma_max": 80.0, "sigma_min": 0.002, "rho": 7.0, **given}
        )
    power = 2.0 if power is None else power
    first = (FIRST if bridge else process.first) if first is None else first
    if last is None:
        last = usual_last(nfe, sampler=sampler) if bridge else process.last
    if not bridge:
        return _in_time(process, kind, nfe, first, last, power)
    end = END if end is None else end
    if not 0 <= first < last < 1:
        fix = "0.9 goes with 20 NFE"
        raise input_error("last", expected=f"a time after first = {first} and before 1", got=last, fix=fix)
    if kind in ("power_from_0", "power_to_1"):
        if not last <= end < 1:
            fix = "the published end is 0.999"
            raise input_error("end", expected=f"a time from last = {last} to 1", got=end, fix=fix)
        if nfe == 1:
            points = np.array([first])
        elif kind == "power_from_0":
            points = grids.power(first, last, nfe - 1, order=power)
        else:
            points = 1 - grids.power(1 - first, 1 - last, nfe - 1, order=power)
        return np.append(points, end)
    return _in_time(process, kind, nfe, first, last, power)


def usual_last(nfe: int, *, sampler: str) -> float:
    """Returns the time of a bridge's last evaluation for that many, in between by interpolation in log(nfe)."""
    counts, times = zip(*USUAL_LAST[sampler], strict=True)
    return float(np.interp(np.log(max(nfe, 1)), np.log(counts), times))


def _in_time(process, kind, nfe, first, last, power):
    if kind in ("power_from_0", "power_to_1"):
        expected = f'one for the path "{process.name}": "levels", "uniform", "power", "quadratic"'
        raise input_error("schedule", expected=expected, got=f'"{kind}"', fix='use "uniform"')
    if kind == "uniform":
        return grids.uniform(first, last, nfe)
    return grids.power(first, last, nfe, order=power if kind == "power" else 0.5)


def _levels(process: Process, nfe: int, *, sigma_max: float, sigma_min: float, rho: float, first=None, end=None):
    if not 0 < sigma_min < sigma_max:
        got = f"{sigma_max:g} to {sigma_min:g}"
        raise input_error("levels", expected="0 < sigma_min < sigma_max", got=got, fix="for example 80 to 0.002")
    sigma = grids.power(sigma_max, sigma_min, nfe - 1, order=rho) if nfe > 1 else np.array([sigma_max])
    if process.parts == 1:
        return np.append(process.time_at(sigma), process.last)
    # The prior of two-part states is at a separate time, from which the second level is reached in one step.
    begin = (FIRST if process.name == "bridge" else process.first) if first is None else first
    times = np.append(begin, process.time_at(sigma[1:]))
    if end is None:
        end = END_OF_LEVELS if process.name == "bridge" else times[-1] + 0.1 * (process.last - times[-1])
    times = np.append(times, end)
    if not (np.diff(times) * np.sign(process.last - process.first) > 0).all():
        expected = f"levels of times from {begin:g} to {end:g}"
        raise input_error("levels", expected=expected, got=times, fix="raise sigma_min or lower sigma_max")
    return times
