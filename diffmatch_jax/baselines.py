"""What a matcher is compared with: nothing, the cost volume's winner, its median or fit, and OpenCV's matchers.

A matcher is any function of a source and a target image `[H, W, 3]` (bytes) that returns the flow `[Ht, Wt, 2]` on the
target's pixels into the source's, and a confidence `[Ht, Wt]` (larger is surer) or None.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import median_filter

from common.errors import bad
from diffmatch_jax import correlation, features, fitting, matching
from diffmatch_jax.datasets.record import centres
from diffmatch_jax.resize import resize, resize_normalised
from diffmatch_jax.sampling import confidence_of

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
    fit: float = 0.0,
    compat: str | None = None,
) -> Matcher:
    """Returns a matcher by the best of all cells of the averaged cost volume, on `fine` / 8 cells a side.

    median: the side of a median filter over cells, in x and in y (0: none). fit: cells around of the affine fit to the
    mutual winners that is taken instead (0: none; `diffmatch_jax.fitting`). The confidence is the winner's
    cosine, that of a fit 1 / (1 + u^2) for how many cells u it may be wrong by (`fitting.uncertainty`).
    compat="released": their alignments, 512 and 256 pixels, and normalised flow clipped to [-1, 1].
    """
    if fine % 16 or coarse % 16 or min(fine, coarse) < 16:
        got = f"{fine} and {coarse}"
        raise bad("fine, coarse", expected="multiples of 16", got=got, fix="use 256 and 128")
    if median < 0 or (median and median % 2 == 0):
        raise bad("median", expected="0 or an odd number of cells", got=median, fix="use 5")
    if not (fit == 0 or fit >= 1) or (fit and median):
        got = f"fit {fit} and median {median}"
        raise bad("fit", expected="0, or 1 or more and no median with it", got=got, fix="use fit=4 and median=0")
    if compat == "released":
        fine, coarse = 512, 256
    cells = fine // 8
    pyramid = pyramid if isinstance(pyramid, jax.tree_util.Partial) else jax.tree_util.Partial(pyramid)

    def match(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ready = [
            features.prepared(jnp.asarray(each)[None], fine=fine, coarse=coarse, compat=compat)
            for each in (source, target)
        ]
        flow, sure = _winner(pyramid, *ready, cells=cells, fit=fit, compat=compat)
        if median:
            flow = jnp.asarray(median_filter(np.asarray(flow), size=(median, median, 1), mode="nearest"))
        size = target.shape[:2]
        alignment = "corner" if compat == "released" else "half_pixel"
        whole = resize_normalised(flow / cells, size, alignment=alignment, edge="repeat")
        if compat == "released":
            whole = jnp.clip(whole, -1, 1)
        confidence = resize(sure[..., None], size, alignment=alignment)[..., 0]
        return np.asarray(matching.to_pixels(whole, source=source.shape[:2])), np.asarray(confidence)

    return match


@partial(jax.jit, static_argnames=("cells", "fit", "compat"))
def _winner(pyramid, source, target, *, cells, fit, compat):
    """Returns the winner's flow `[cells, cells, 2]` in cells, or its fit, and the confidence `[cells, cells]`."""
    of_source, of_target = (
        correlation.descriptor(features.stage1_maps(pyramid, each), (cells, cells), compat=compat)
        for each in (source, target)
    )
    found = correlation.search(of_source, of_target)
    if not fit:
        return found.flow[0], found.scores[0, ..., 0]
    back = correlation.search(of_target, of_source).flow
    flow = fitting.fit(found.flow, fitting.mutual(found.flow, back), sigma=fit)
    return flow[0], confidence_of(fitting.uncertainty(found.flow - flow)[0, ..., 0], 1.0)


def warped(source: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Returns the source `[H, W, C]` (bytes or in [0, 1]) drawn on the target by `flow [h, w, 2]`, of the same type."""
    drawn = np.asarray(matching.warp(jnp.asarray(source, jnp.float32), jnp.asarray(flow)))
    return np.clip(np.round(drawn), 0, 255).astype(np.uint8) if source.dtype == np.uint8 else drawn
