"""Pictures made of arrays alone: flow as colours, and two images in one.

Directions of flow are hues of equal lightness (OKLCh, Ottosson, 2020), so that none looks stronger than another;
lengths go from white to full colour.
"""

import numpy as np

from common.arrays import as_images
from common.errors import input_error

UNKNOWN = (0.62, 0.62, 0.62)  # pixels of which nothing is known

_LIGHTNESS = (1.0, 0.7)  # at length 0 and at full length
_CHROMA = 0.155  # most hues reach it; more would flatten blue and green at the edge of what screens show
_TO_LMS = np.array([
    [1.0, 0.3963377774, 0.2158037573],
    [1.0, -0.1055613458, -0.0638541728],
    [1.0, -0.0894841775, -1.2914855480],
])  # fmt: skip
_TO_RGB = np.array([
    [4.0767416621, -3.3077115913, 0.2309699292],
    [-1.2684380046, 2.6097574011, -0.3413193965],
    [-0.0041960863, -0.7034186147, 1.7076147010],
])  # fmt: skip


def flow_colours(flow: np.ndarray, *, longest: float | None = None, known: np.ndarray | None = None) -> np.ndarray:
    """Returns flow `[H, W, 2]` as colours `[H, W, 3]` in [0, 1].

    Flow of length `longest` (pixels; default: `longest_of`) and beyond has full colour; pixels that are not `known`
    `[H, W]` are gray.
    """
    flow = np.asarray(flow, np.float64)
    if flow.ndim != 3 or flow.shape[-1] != 2:
        raise input_error("flow", expected="[H, W, 2]", got=list(flow.shape), fix="draw one pair's flow")
    finite = np.isfinite(flow).all(-1)
    flow = np.where(finite[..., None], flow, 0)
    longest = longest_of(flow, known) if longest is None else longest
    length = np.minimum(np.linalg.norm(flow, axis=-1) / max(longest, 1e-9), 1)
    colours = _colour(length, np.arctan2(flow[..., 1], flow[..., 0]))
    shown = finite if known is None else finite & np.asarray(known, bool)
    return np.where(shown[..., None], colours, UNKNOWN).astype(np.float32)


def longest_of(flow: np.ndarray, known: np.ndarray | None = None) -> float:
    """Returns the length that 98 % of the (known) flow `[..., 2]` does not exceed, pixels, at least 1."""
    length = np.linalg.norm(np.asarray(flow, np.float64), axis=-1)
    length = length[np.isfinite(length) if known is None else np.isfinite(length) & np.asarray(known, bool)]
    return max(1.0, float(np.quantile(length, 0.98))) if length.size else 1.0


def wheel(side: int = 128) -> np.ndarray:
    """Returns the key of `flow_colours`, a disc on white `[side, side, 3]`: the colour at a place is flow to there."""
    places = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(places, places)
    length = np.hypot(x, y)
    colours = _colour(np.minimum(length, 1), np.arctan2(y, x))
    cover = np.clip((1 - length) * side / 2 + 0.5, 0, 1)[..., None]  # smooth at its edge
    return (colours * cover + (1 - cover)).astype(np.float32)


def _colour(length: np.ndarray, angle: np.ndarray) -> np.ndarray:
    lightness = _LIGHTNESS[0] + (_LIGHTNESS[1] - _LIGHTNESS[0]) * length
    chroma = _CHROMA * length
    lab = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], -1)
    linear = np.clip((lab @ _TO_LMS.T) ** 3 @ _TO_RGB.T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def checkerboard(first: np.ndarray, second: np.ndarray, *, squares: int = 8) -> np.ndarray:
    """Returns squares of two images `[H, W, C]` in turn, `squares` along the longer side: edges meet where they fit."""
    _check(first, second)
    height, width = first.shape[:2]
    side = max(height, width) / max(squares, 1)
    y, x = (np.arange(length) // side for length in (height, width))
    return np.where(((y[:, None] + x) % 2 == 0)[..., None], first, second)


def blend(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the first image's brightness in red and the second's in green and blue, `[H, W, 3]`: gray where they fit.

    Images `[H, W, C]`, bytes or in [0, 1].
    """
    _check(first, second)
    a, b = (unit(each).mean(-1) for each in (first, second))
    return np.stack([a, b, b], -1)


def marked(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns an image `[H, W, 3]` in which what is not `known [H, W]` is gray."""
    return np.where(np.asarray(known, bool)[..., None], image, UNKNOWN).astype(np.float32)


def unit(image: np.ndarray) -> np.ndarray:
    """Returns an image `[H, W]`, `[H, W, 1]` or `[H, W, 3]`, bytes or in [0, 1], as colours `[H, W, 3]` in [0, 1].

    Raises `InputError` for other numbers, such as floats from 0 to 255, and NaN.
    """
    image = np.asarray(image)
    scaled = as_images(image[..., None] if image.ndim == 2 else image, "image", batch=False)
    return np.broadcast_to(scaled, (*scaled.shape[:2], 3)).clip(0, 1)


def _check(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape:
        got = f"{list(first.shape)} and {list(second.shape)}"
        raise input_error("images", expected="two of one shape", got=got, fix="warp the source to the target first")
