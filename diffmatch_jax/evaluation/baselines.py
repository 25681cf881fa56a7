"""Baselines of a matcher: no motion, winner-take-all, its median, and the fit without networks.

A matcher is any function of a source and a target image `[H, W, 3]` (bytes) that returns the flow `[Ht, Wt, 2]` on the
target's pixels into the source's, and a confidence `[Ht, Wt]` (larger is surer) or None; hypotheses may follow
(`regions.Answer`).

Matchers by name, as a command line gives them: `match,wta,median,dis,sift`, or `run:DIR` for a trained run."""

import importlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import median_filter

from common.checkpoint import restore_variables
from common.errors import choice, input_error
from common.sampling import weights_digest
from diffmatch_jax.api import load
from diffmatch_jax.evaluation.datasets.record import centres
from diffmatch_jax.evaluation.evaluate import Matcher
from diffmatch_jax.model import backbone, cost_volume, features, geometry, weights
from diffmatch_jax.model.conditioning import ConditioningConfig
from diffmatch_jax.model.flow import to_pixels
from diffmatch_jax.model.matcher import MatcherConfig, Model, Weights, as_argument, match
from diffmatch_jax.model.resize import resize, resize_normalised


def still(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, None]:
    """Answers that nothing moves: each pixel is at the same place relative to the image."""
    places = centres(target.shape[:2])
    factors = [a / b for a, b in zip(source.shape[1::-1], target.shape[1::-1], strict=True)]
    return ((places + 0.5) * factors - 0.5 - places).astype(np.float32), None


def winner_take_all(
    pyramid: features.Pyramid,
    *,
    fine: int = 256,
    coarse: int = 128,
    median: int = 0,
) -> Matcher:
    """Returns a matcher by the best of all cells of the averaged cost volume, on `fine` / 8 cells a side.

    median: the side of a median filter over cells, in x and in y (0: none). The confidence is the winner's cosine.
    """
    if fine % 16 or coarse % 16 or min(fine, coarse) < 16:
        got = f"{fine} and {coarse}"
        raise input_error("fine, coarse", expected="multiples of 16", got=got, fix="use 256 and 128")
    if median < 0 or (median and median % 2 == 0):
        raise input_error("median", expected="0 or an odd number of cells", got=median, fix="use 5")
    cells = fine // 8
    pyramid = as_argument(pyramid)

    def matcher(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ready = [features.prepared(jnp.asarray(each)[None], fine=fine, coarse=coarse) for each in (source, target)]
        flow, sure = _winner(pyramid, *ready, cells=cells)
        if median:
            flow = jnp.asarray(median_filter(np.asarray(flow), size=(median, median, 1), mode="nearest"))
        size = target.shape[:2]
        whole = resize_normalised(flow / cells, size, edge="repeat")
        confidence = resize(sure[..., None], size)[..., 0]
        return np.asarray(to_pixels(whole, source=source.shape[:2])), np.asarray(confidence)

    return matcher


@partial(jax.jit, static_argnames="cells")
def _winner(pyramid, source, target, *, cells):
    """Returns the winner's flow `[cells, cells, 2]` in cells, and its score `[cells, cells]`."""
    of_source, of_target = (
        cost_volume.descriptor(features.stage1_maps(pyramid, each), (cells, cells)) for each in (source, target)
    )
    found = cost_volume.search(of_source, of_target)
    return found.flow[0], found.scores[0, ..., 0]


def fitted(
    pyramid: features.Pyramid,
    *,
    fine: int = 256,
    fit: float = 4.0,
    refine: int = 0,
    contrast: float = 0.15,
) -> Matcher:
    """Returns a matcher without networks: the robust fit to mutual winners of `fine` / 8 cells a side.

    fit: cells around a place that it goes through; refine: rounds of matches near it on `fine` / 2 cells a side, which
    are fitted again, and then refined on the images' own pixels; contrast: fraction of a side over which local
    contrast is normalised, that of the package's matcher. It is what the denoisers start from; the confidence is that
    of `matcher.Match`.
    """
    settings = ConditioningConfig(fine=fine, fit=fit, refine=refine, contrast=contrast)
    model = Model(MatcherConfig(settings), Weights(pyramid))

    def matcher(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = match(source, target, model=model, full_size=refine > 0)
        return found.flow, found.confidence

    return matcher


class Baseline(NamedTuple):
    """A matcher in a table: its name, title, the function, and what decides its results (plain values).

    described: what else a record of the results has of it: network evaluations for a pair (`nfe`), `hypotheses`,
    `weights` and their training `step`.
    """

    name: str
    title: str
    matcher: Callable[..., Any]
    identity: dict[str, Any]
    described: Mapping[str, Any] = MappingProxyType({})


def _still(_: str) -> Baseline:
    return Baseline("still", "no motion", still, {})


def _winner_take_all(
    title: str, pyramid: Callable[[], features.Pyramid], **smoothing: Any
) -> Callable[[str], Baseline]:
    def make(name: str) -> Baseline:
        found = pyramid()
        matcher = winner_take_all(found, **smoothing)
        return Baseline(name, title, matcher, {"weights": weights_digest(found), **smoothing})

    return make


def _fitted(title: str, **how: Any) -> Callable[[str], Baseline]:
    def make(name: str) -> Baseline:
        found = weights.embedded()
        return Baseline(name, title, fitted(found, **how), {"weights": weights_digest(found), **how})

    return make


def _random() -> features.Pyramid:
    return backbone.random(jax.random.key(0))


def _dis(name: str) -> Baseline:
    from diffmatch_jax.evaluation import classical

    return Baseline(name, "DIS optical flow", classical.dis(), {"opencv": geometry.opencv().__version__})


def _sift(name: str) -> Baseline:
    from diffmatch_jax.evaluation import classical

    version = geometry.opencv().__version__
    return Baseline(name, "SIFT + MAGSAC++ homography", classical.sift_magsac(), {"opencv": version})


def _of_model(name: str, title: str, where: str | None, hypotheses: int) -> Baseline:
    # Of a run that goes on, the step that is recorded and the one that is loaded must be the same.
    step = restore_variables(where)[1] if where else None
    model = load(where, step=step)
    key = jax.random.key(0)

    def matcher(source: np.ndarray, target: np.ndarray):
        found = match(source, target, model=model, key=key, hypotheses=hypotheses)
        sampled = resize_normalised(jnp.asarray(found.hypotheses), target.shape[:2])
        return found.flow, found.confidence, to_pixels(sampled, source=source.shape[:2])

    identity = {"plan": repr(model.config), "weights": weights_digest(model.weights), "hypotheses": hypotheses}
    described = {"nfe": model.config.nfe(hypotheses), "hypotheses": hypotheses, "weights": where or "of the package"}
    return Baseline(name, title, matcher, identity, {**described, "step": step})


BASELINES: dict[str, Callable[[str], Baseline]] = {
    "still": _still,
    "wta-random": _winner_take_all("winner-take-all, random features", _random),
    "wta": _winner_take_all("winner-take-all", weights.embedded),
    "median": _winner_take_all("winner-take-all, 5x5 median", weights.embedded, median=5),
    "fit": _fitted("affine fit to mutual winners", fit=4.0, refine=0),
    "refined": _fitted("affine fit, refined", fit=4.0, refine=2),
    "dis": _dis,
    "sift": _sift,
}


MATCH = "match"


def open_baselines(text: str, hypotheses: int = 4) -> list[Baseline]:
    """Returns the matchers of a list of names of `BASELINES`, `match` (the weights in the package) and `run:DIR`.

    `LABEL=run:DIR` gives a trained run another name than its directory's. `match@N` and `run:DIR@N` sample N hypotheses
    instead of `hypotheses`. `LABEL=function:MODULE:NAME` is any other matcher: a function NAME of an importable module
    that takes two images `[H, W, 3]` (bytes) and returns (flow, confidence or None), as all do here. Raises
    `InputError` for unknown names, names that occur twice, runs that are none, or what is not installed.
    """
    found: list[Baseline] = []
    for each in filter(None, (part.strip() for part in text.split(","))):
        made = _opened(each, hypotheses)
        if made.name in [other.name for other in found]:
            raise input_error("--methods", expected="each name once", got=text, fix="write LABEL=run:DIR")
        found.append(made)
    if not found:
        expected = f"some of {', '.join((*BASELINES, MATCH))}"
        raise input_error("--methods", expected=expected, got=repr(text), fix="for example wta,median")
    return found


def _opened(text: str, hypotheses: int) -> Baseline:
    matched: Any = re.fullmatch(r"(?s)(.*?)(?:(@)(\d+))?", text)
    what, suffix, count = matched.groups()
    label, peer, function = what.partition("=function:")
    if peer and not suffix:
        return peer_of(label, function)
    label, run, where = what.partition("run:")
    if run and (not label or label.endswith("=")):
        name = _label(label[:-1] or where.rstrip("/").rpartition("/")[2])
        title = name
    elif what == MATCH:
        name, title, where = MATCH, "this model", None
    else:
        # A suffix that means nothing there stays on, and is refused as a part of the name.
        return BASELINES[choice("--methods", text, (*BASELINES, MATCH))](text)
    if not suffix:
        return _of_model(name, title, where, hypotheses)
    if int(count) < 1:
        raise input_error(f"--methods {text}", expected="at least 1 hypothesis", got=count, fix=f"use {what}@4")
    plural = "hypothesis" if int(count) == 1 else "hypotheses"
    return _of_model(f"{name}@{int(count)}", f"{title}, {int(count)} {plural}", where, int(count))


def _label(name: str) -> str:
    """Returns a label, which becomes the name of a directory; raises `InputError` for another."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not name.strip("."):
        expected = "a label of letters, digits, _ . and -"
        raise input_error("--methods", expected=expected, got=repr(name), fix="write LABEL=run:DIR")
    return name


def peer_of(label: str, function: str) -> Baseline:
    """Returns the matcher `MODULE:NAME`, a function that anyone wrote, for a table.

    Rows depend on its name and, if it has one, on its attribute `identity` (plain values: weights, settings), which its
    author changes with it. Raises `InputError` for what cannot be imported or called.
    """
    module, _, name = function.partition(":")
    try:
        matcher = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        expected = "LABEL=function:MODULE:NAME of an importable module"
        raise input_error("--methods", expected=expected, got=str(error), fix="check PYTHONPATH and the name") from None
    if not callable(matcher):
        got = type(matcher).__name__
        raise input_error("--methods", expected=f"a function at {function}", got=got, fix="name a function")
    return Baseline(_label(label), label, matcher, {"function": function, "own": getattr(matcher, "identity", None)})
