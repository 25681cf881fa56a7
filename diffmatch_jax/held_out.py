"""What `evaluate` measures while a matcher is made: flow of generated warps of held-out photographs."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common.data.source import Source
from common.method import Evaluation
from diffmatch_jax import conditions as looking
from diffmatch_jax import joint, metrics
from diffmatch_jax.matcher import Match, Model, Plan, Weights, match
from diffmatch_jax.pairs import Pair
from diffmatch_jax.resize import average_flow, resize_normalised
from diffmatch_jax.training import Making, pair_of

FIT, REFINED = "its fit", "its fit, refined"


def pairs(making: Making, source: Source, key: jax.Array, *, num: int) -> Pair:
    """Returns `num` pairs of the photographs of `source`, in turn, as NumPy arrays; pair i depends on key and i."""
    run = _make(making)
    parts = []
    for start in range(0, num, 8):
        index = np.arange(start, start + 8)  # always as many, so that one program serves all
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(index))
        made = run(keys, source.read((index % len(source)).tolist()))
        parts.append(jax.tree.map(lambda x, n=num - start: np.asarray(x[:n]), made))
    return jax.tree.map(lambda *each: np.concatenate(each), *parts)


@functools.cache
def _make(making: Making) -> Callable[..., Pair]:
    return jax.jit(jax.vmap(functools.partial(pair_of, making)))


def matched(model: Model, made: Pair, key: jax.Array, *, hypotheses: int, batch_size: int) -> Match:
    """Returns the matches of all pairs, `batch_size` at once, each with noise of its own."""
    num = len(made.source)
    parts = []
    for start in range(0, num, batch_size):
        index = np.minimum(np.arange(start, start + batch_size), num - 1)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(index))
        found = match(made.source[index], made.target[index], model=model, key=keys, hypotheses=hypotheses)
        parts.append(jax.tree.map(lambda x, n=num - start: x[:n], found))
    return jax.tree.map(lambda *each: np.concatenate(each), *parts)


def evaluate(model: Model, made: Pair, key: jax.Array, *, hypotheses: int, batch_size: int) -> Evaluation:
    """Measures the model beside winner-take-all, its median and what the model starts from, in pixels of the pairs.

    `ratio` is the model's mean end-point error over that of winner-take-all; `rank_correlation` that of spread and
    error over the valid pixels of all pairs, that `of_fit` of error and the fit's own uncertainty; `sparsification` the
    skill of the spread (1 is the error itself); `calibration` the sizes of both in six parts of the pixels; and `joint`
    what `diffmatch_jax.joint` says of the hypotheses, if there are several.
    """
    found = matched(model, made, key, hypotheses=hypotheses, batch_size=batch_size)
    rivals = {"winner-take-all": found.winner, "its median": filtered(model, found.winner)}
    fits = {
        name: matched(each, made, key, hypotheses=1, batch_size=batch_size) for name, each in fits_of(model).items()
    }
    rivals |= {name: each.flow for name, each in fits.items()} | {"model": found.flow}
    rows = [{"method": name, **measured(flow, made)} for name, flow in rivals.items()]
    numbers: dict[str, Any] = {
        "table": rows,
        "num_images": len(made.source),
        "hypotheses": hypotheses,
        "nfe": model.plan.nfe(hypotheses),
        "ratio": rows[-1]["aepe"] / rows[0]["aepe"],
    }
    error = metrics.endpoint_error(found.flow, np.where(made.mask[..., None], made.flow, 0))
    unsure = 1 - found.confidence
    if made.mask.any():
        numbers["rank_correlation"] = metrics.rank_correlation(error, unsure, made.mask)
        curve = metrics.sparsification(error, unsure, made.mask)
        numbers["sparsification"] = curve.skill
        numbers["sparsification_area"] = curve.area
        numbers["calibration"] = metrics.calibration(error, found.spread, made.mask)._asdict()
        if fits:
            numbers["rank_correlation_of_fit"] = metrics.rank_correlation(error, 1 - fits[FIT].confidence, made.mask)
    # Released hypotheses lie on corners, between cells of the truth.
    if found.hypotheses.shape[1] > 1 and model.plan.look.compat is None:
        numbers["joint"] = of_hypotheses(found, made)._asdict()
    few = slice(0, 8)
    arrays = {
        "source": made.source[few],
        "target": made.target[few],
        "flow": made.flow[few],
        "mask": made.mask[few],
        "predicted": found.flow[few],
        "winner": found.winner[few],
        "confidence": found.confidence[few],
        "spread": found.spread[few],
    }
    return Evaluation(numbers, arrays)


def of_hypotheses(found: Match, made: Pair) -> joint.Joint:
    """Returns how good the hypotheses of matches are, in pixels of the pairs, on cells that are valid throughout."""
    side = made.flow.shape[1]
    truth, share = average_flow(jnp.asarray(made.flow), jnp.asarray(made.mask), found.hypotheses.shape[2:4])
    valid = np.asarray(share) > 1 - 1e-6  # all of it, up to rounding
    return joint.measure(found.hypotheses * np.float32(side), np.asarray(truth), valid)


def filtered(model: Model, flow: np.ndarray) -> np.ndarray:
    """Returns winner-take-all flow `[B, H, W, 2]` under a median of 5x5 cells."""
    size, cells = flow.shape[1:3], (model.plan.look.cells,) * 2
    coarse = resize_normalised(jnp.asarray(flow), cells)
    return np.asarray(resize_normalised(looking.median(coarse, looking.MEDIAN), size))


def fits_of(model: Model) -> dict[str, Model]:
    """Returns what the model starts from as matchers without networks: its fit, and that refined; none without."""
    look, weights = model.plan.look, Weights(model.weights.pyramid)
    if not look.fit:
        return {}
    rounds = {FIT: 0} | ({REFINED: look.refine} if look.refine else {})
    return {name: Model(Plan(replace(look, refine=n)), weights) for name, n in rounds.items()}


def measured(flows: Sequence[np.ndarray], made: Pair) -> dict[str, float]:
    """Returns AEPE in pixels and PCK-1, 3 and 5 in percent, means over images of their valid pixels."""
    each = [metrics.measure(*one) for one in zip(flows, made.flow, made.mask, strict=True)]
    told = metrics.aggregate(each)
    return {"aepe": told["aepe"]} | {f"pck_{n} %": 100 * told[f"pck_{n}_per_image"] for n in (1, 3, 5)}
