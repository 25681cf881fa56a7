"""Matchers by name, as a command line gives them: `match,wta,median,dis,sift`, or `run:DIR` for a trained run."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from common.data.source import digest
from common.errors import bad, choice
from diffmatch_jax import backbone, baselines, features
from diffmatch_jax.baselines import Matcher

CLASSICAL = ("dis", "sift")


class Entrant(NamedTuple):
    """A matcher in a table: its name, title, the function, and what decides its results (plain values)."""

    name: str
    title: str
    matcher: Matcher
    identity: dict[str, Any]


def _still(_: str) -> Entrant:
    return Entrant("still", "no motion", baselines.still, {})


def _winner(title: str, pyramid: Callable[[], features.Pyramid], **smoothing: float) -> Callable[[str], Entrant]:
    def make(name: str) -> Entrant:
        found = pyramid()
        matcher = baselines.winner_take_all(found, **smoothing)
        sure = {"confidence": "uncertainty"} if "fit" in smoothing else {}
        return Entrant(name, title, matcher, {"weights": weights_digest(found), **smoothing, **sure})

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


def _match(name: str) -> Entrant:
    return _of_model(name, "this model", None)


def _of_model(name: str, title: str, where: str | None) -> Entrant:
    from diffmatch_jax.matcher import load, match

    model = load(where)
    key = jax.random.key(0)

    def matcher(source: np.ndarray, target: np.ndarray):
        found = match(source, target, model=model, key=key)
        return found.flow, found.confidence

    return Entrant(name, title, matcher, {"plan": repr(model.plan), "weights": weights_digest(model.weights)})


ENTRANTS: dict[str, Callable[[str], Entrant]] = {
    "still": _still,
    "wta-random": _winner("winner-take-all, random features", _random),
    "wta": _winner("winner-take-all", backbone.embedded),
    "median": _winner("winner-take-all, 5x5 median", backbone.embedded, median=5),
    "fit": _winner("affine fit to mutual winners", backbone.embedded, fit=4.0),
    "match": _match,
    "dis": _dis,
    "sift": _sift,
}


def open_entrants(text: str) -> list[Entrant]:
    """Returns the matchers of a list of names of `ENTRANTS`; `run:DIR` is the matcher of a trained run.

    Also `LABEL=run:DIR`, so that several runs have a row each. Raises `InputError` for unknown names, names that occur
    twice, runs that are none, or what is not installed.
    """
    found: list[Entrant] = []
    for each in filter(None, (part.strip() for part in text.split(","))):
        label, _, rest = each.rpartition("=")
        if rest.startswith("run:"):
            where = rest.removeprefix("run:")
            name = label or where.rstrip("/").rpartition("/")[2]
            if not re.fullmatch(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
                # It becomes the name of a directory.
                expected = "a label of letters, digits, _ . and -"
                raise bad("--methods", expected=expected, got=repr(name), fix="write LABEL=run:DIR")
            made = _of_model(name, label or name, where)
        else:
            made = ENTRANTS[choice("--methods", each, ENTRANTS)](each)
        if made.name in [other.name for other in found]:
            raise bad("--methods", expected="each name once", got=text, fix="write LABEL=run:DIR")
        found.append(made)
    if not found:
        raise bad("--methods", expected=f"some of {', '.join(ENTRANTS)}", got=repr(text), fix="for example wta,median")
    return found


def weights_digest(tree: Any) -> str:
    """Returns a hash of all arrays of a pytree."""
    return digest(*(np.asarray(leaf) for leaf in jax.tree.leaves(tree)))
