"""Matchers by name, as a command line gives them: `match,wta,median,dis,sift`, or `run:DIR` for a trained run."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from common.checkpoint import restore_variables
from common.errors import choice, input_error
from common.sampling import weights_digest
from diffmatch_jax import backbone, baselines, features
from diffmatch_jax.baselines import Matcher


class Entrant(NamedTuple):
    """A matcher in a table: its name, title, the function, and what decides its results (plain values).

    described: what else a record of the results has of it: network evaluations for a pair (`nfe`), `hypotheses`,
    `weights` and their training `step`.
    """

    name: str
    title: str
    matcher: Matcher
    identity: dict[str, Any]
    described: Mapping[str, Any] = MappingProxyType({})


def _still(_: str) -> Entrant:
    return Entrant("still", "no motion", baselines.still, {})


def _winner(title: str, pyramid: Callable[[], features.Pyramid], **smoothing: float) -> Callable[[str], Entrant]:
    def make(name: str) -> Entrant:
        found = pyramid()
        matcher = baselines.winner_take_all(found, **smoothing)
        return Entrant(name, title, matcher, {"weights": weights_digest(found), **smoothing})

    return make


def _fitted(title: str, **how: float) -> Callable[[str], Entrant]:
    def make(name: str) -> Entrant:
        found = backbone.embedded()
        return Entrant(name, title, baselines.fitted(found, **how), {"weights": weights_digest(found), **how})

    return make


def _random() -> features.Pyramid:
    return backbone.random(jax.random.key(0))


def _dis(name: str) -> Entrant:
    from diffmatch_jax import classical

    return Entrant(name, "DIS optical flow", classical.dis(), {"opencv": classical.opencv().__version__})


def _sift(name: str) -> Entrant:
    from diffmatch_jax import classical

    version = classical.opencv().__version__
    return Entrant(name, "SIFT + MAGSAC++ homography", classical.sift_magsac(), {"opencv": version})


def _of_model(name: str, title: str, where: str | None, hypotheses: int) -> Entrant:
    from diffmatch_jax.matcher import load, match

    # Of a run that goes on, the step that is recorded and the one that is loaded must be the same.
    step = restore_variables(where)[1] if where else None
    model = load(where, step=step)
    key = jax.random.key(0)

    def matcher(source: np.ndarray, target: np.ndarray):
        found = match(source, target, model=model, key=key, hypotheses=hypotheses)
        return found.flow, found.confidence

    identity = {"plan": repr(model.plan), "weights": weights_digest(model.weights), "hypotheses": hypotheses}
    described = {"nfe": model.plan.nfe(hypotheses), "hypotheses": hypotheses, "weights": where or "of the package"}
    return Entrant(name, title, matcher, identity, {**described, "step": step})


ENTRANTS: dict[str, Callable[[str], Entrant]] = {
    "still": _still,
    "wta-random": _winner("winner-take-all, random features", _random),
    "wta": _winner("winner-take-all", backbone.embedded),
    "median": _winner("winner-take-all, 5x5 median", backbone.embedded, median=5),
    "fit": _fitted("affine fit to mutual winners", fit=4.0, refine=0),
    "refined": _fitted("affine fit, refined", fit=4.0, refine=2),
    "dis": _dis,
    "sift": _sift,
}


MATCH = "match"


def open_entrants(text: str, hypotheses: int = 4) -> list[Entrant]:
    """Returns the matchers of a list of names of `ENTRANTS`, `match` (the weights in the package) and `run:DIR`.

    `LABEL=run:DIR` gives a trained run another name than its directory's. `match@N` and `run:DIR@N` draw N hypotheses
    instead of `hypotheses`. Raises `InputError` for unknown names, names that occur twice, runs that are none, or what
    is not installed.
    """
    found: list[Entrant] = []
    for each in filter(None, (part.strip() for part in text.split(","))):
        made = _opened(each, hypotheses)
        if made.name in [other.name for other in found]:
            raise input_error("--methods", expected="each name once", got=text, fix="write LABEL=run:DIR")
        found.append(made)
    if not found:
        expected = f"some of {', '.join((*ENTRANTS, MATCH))}"
        raise input_error("--methods", expected=expected, got=repr(text), fix="for example wta,median")
    return found


def _opened(text: str, hypotheses: int) -> Entrant:
    what, suffix, count = re.fullmatch(r"(?s)(.*?)(?:(@)(\d+))?", text).groups()
    label, run, where = what.partition("run:")
    if run and (not label or label.endswith("=")):
        name = label[:-1] or where.rstrip("/").rpartition("/")[2]
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not name.strip("."):
            # It becomes the name of a directory.
            expected = "a label of letters, digits, _ . and -"
            raise input_error("--methods", expected=expected, got=repr(name), fix="write LABEL=run:DIR")
        title = name
    elif what == MATCH:
        name, title, where = MATCH, "this model", None
    else:
        # A suffix that means nothing there stays on, and is refused as a part of the name.
        return ENTRANTS[choice("--methods", text, (*ENTRANTS, MATCH))](text)
    if not suffix:
        return _of_model(name, title, where, hypotheses)
    if int(count) < 1:
        raise input_error(f"--methods {text}", expected="at least 1 hypothesis", got=count, fix=f"use {what}@4")
    plural = "hypothesis" if int(count) == 1 else "hypotheses"
    return _of_model(f"{name}@{int(count)}", f"{title}, {int(count)} {plural}", where, int(count))
