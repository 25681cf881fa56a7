"""What a matcher is compared with: nothing, the cost volume's winner, its median, and the fit without networks.

A matcher is any function of a source and a target image `[H, W, 3]` (bytes) that returns the flow `[Ht, Wt, 2]` on the
target's pixels into the source's, and a confidence `[Ht, Wt]` (larger is surer) or None.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import median_filter

from common.errors import input_error
from diffmatch_jax import correlation, features, matching
from diffmatch_jax.conditions import Settings
from diffmatch_jax.datasets.record import centres
from diffmatch_jax.matcher import Model, Plan, Weights, as_argument, match
from diffmatch_jax.resize import resize, resize_normalised

Matcher = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray | None]]


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
    compat: str | None = None,
) -> Matcher:
    """Returns a matcher by the best of all cells of the averaged cost volume, on `fine` / 8 cells a side.

    median: the side of a median filter over cells, in x and in y (0: none). The confidence is the winner's cosine.
    compat="released": their alignments, 512 and 256 pixels, and normalised flow clipped to [-1, 1].
    """
    if fine % 16 or coarse % 16 or min(fine, coarse) < 16:
        got = f"{fine} and {coarse}"
        raise input_error("fine, coarse", expected="multiples of 16", got=got, fix="use 256 and 128")
    if median < 0 or (median and median % 2 == 0):
        raise input_error("median", expected="0 or an odd number of cells", got=median, fix="use 5")
    if compat == "released":
        fine, coarse = 512, 256
    cells = fine // 8
    pyramid = as_argument(pyramid)

    def matcher(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ready = [
            features.prepared(jnp.asarray(each)[None], fine=fine, coarse=coarse, compat=compat)
            for each in (source, target)
        ]
        flow, sure = _winner(pyramid, *ready, cells=cells, compat=compat)
        if median:
            flow = jnp.asarray(median_filter(np.asarray(flow), size=(median, median, 1), mode="nearest"))
        size = target.shape[:2]
        alignment = "corner" if compat == "released" else "half_pixel"
        whole = resize_normalised(flow / cells, size, alignment=alignment, edge="repeat")
        if compat == "released":
            whole = jnp.clip(whole, -1, 1)
        confidence = resize(sure[..., None], size, alignment=alignment)[..., 0]
        return np.asarray(matching.to_pixels(whole, source=source.shape[:2])), np.asarray(confidence)

    return matcher


@partial(jax.jit, static_argnames=("cells", "compat"))
def _winner(pyramid, source, target, *, cells, compat):
    """Returns the winner's flow `[cells, cells, 2]` in cells, and its score `[cells, cells]`."""
    of_source, of_target = (
        correlation.descriptor(features.stage1_maps(pyramid, each), (cells, cells), compat=compat)
        for each in (source, target)
    )
    found = correlation.search(of_source, of_target)
    return found.flow[0], found.scores[0, ..., 0]


def fitted(
    pyramid: features.Pyramid,
    *,
    fine: int = 256,
    coarse: int = 128,
    fit: float = 4.0,
    refine: int = 0,
    contrast: float = 0.15,
) -> Matcher:
    """Returns a matcher without networks: the robust fit to mutual winners of `fine` / 8 cells a side.

    fit: cells around a place that it goes through; refine: rounds of matches near it on `fine` / 2 cells a side, which
    are fitted again; contrast: fraction of a side over which local contrast is normalised, that of the package's
    matcher. It is what the denoisers start from; the confidence is that of `matcher.Match`.
    """
    look = Settings(fine=fine, coarse=coarse, fit=fit, refine=refine, contrast=contrast)
    model = Model(Plan(look), Weights(pyramid))

    def matcher(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = match(source, target, model=model)
        return found.flow, found.confidence

    return matcher


def warped(source: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Returns the source `[H, W, C]` (bytes or in [0, 1]) drawn on the target by `flow [h, w, 2]`, of the same type."""
    drawn = np.asarray(matching.warp(jnp.asarray(source, jnp.float32), jnp.asarray(flow)))
    return np.clip(np.round(drawn), 0, 255).astype(np.uint8) if source.dtype == np.uint8 else drawn
