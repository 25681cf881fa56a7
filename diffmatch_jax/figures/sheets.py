"""Sheets of one pair: images, warp, flow, confidence, error and hypotheses. Pure drawing: arrays in, a picture out.
Pictures made of arrays alone: flow as colours, and two images in one.

Directions of flow are hues of equal lightness (OKLCh, Ottosson, 2020), so that none looks stronger than another;
lengths go from white to full colour.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import as_images
from common.errors import input_error
from common.plots import plotting
from diffmatch_jax.evaluation.metrics import endpoint_error

ERRORS = (0.3, 30.0)  # range of errors that the colours distinguish, pixels


def sheet(
    path: str | PathLike,
    *,
    source: np.ndarray,
    target: np.ndarray,
    flow: np.ndarray,
    warped: np.ndarray,
    confidence: np.ndarray | None = None,
    std: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    title: str = "",
) -> Path:
    """Draws a match: both images, the warped source, a checkerboard of it and the target; flow, confidence, error.

    Images `[H, W, C]` (bytes or in [0, 1]); flow `[H, W, 2]` in pixels; warped: the source drawn on the target's
    pixels; confidence in [0, 1]; spread in pixels; truth with its mask `[H, W]`. What is not given is
    not drawn.
    """
    source, target, warped = (unit(each) for each in (source, target, warped))
    known = None if truth is None else (np.ones(truth.shape[:2], bool) if mask is None else mask)
    longest = longest_of(flow) if truth is None else longest_of(truth, known)
    cells: list[Cell] = [
        picture(source, "source"),
        picture(target, "target"),
        picture(warped, "source warped to the target"),
        picture(checkerboard(target, warped), "target and warped source"),
        flow_picture(flow, f"flow (rim: {longest:.3g} px)", longest=longest),
    ]
    if truth is not None and known is not None:
        error = endpoint_error(flow, np.where(known[..., None], truth, 0))
        mean = f", mean {error[known].mean():.2f} px" if known.any() else ""
        cells.append(flow_picture(truth, "true flow", longest=longest, known=known))
        cells.append(map_picture(error, f"error (px{mean})", limits=ERRORS, log=True, known=known))
    else:
        cells.append(picture(blend(target, warped), "target red, warped source cyan"))
    if confidence is not None:
        cells.append(map_picture(confidence, "confidence", limits=_limits(confidence)))
    if std is not None:
        cells.append(map_picture(std, "spread (px)", limits=ERRORS, log=True))
    return cells_figure(path, cells, columns=4, title=title)


def hypotheses(
    path: str | PathLike,
    *,
    target: np.ndarray,
    flows: np.ndarray,
    std: np.ndarray,
    error: np.ndarray | None = None,
    known: np.ndarray | None = None,
    title: str = "",
) -> Path:
    """Draws hypotheses `[n, h, w, 2]` (pixels of one scale) and how each differs from their mean, below it.

    At most four of them are shown, beside the target, the spread and the error of the mean `[H, W]` in pixels.
    """
    away = flows - flows.mean(0)
    longest, farthest = longest_of(flows), longest_of(away)
    shown = range(min(len(flows), 4))
    cells: list[Cell] = [picture(unit(target), "target")]
    cells += [flow_picture(flows[i], f"hypothesis {i + 1} (rim: {longest:.3g} px)", longest=longest) for i in shown]
    cells.append(map_picture(std, "spread (px)", limits=ERRORS, log=True))
    cells += [flow_picture(away[i], f"from the mean (rim: {farthest:.3g} px)", longest=farthest) for i in shown]
    if error is not None:
        cells.append(map_picture(error, "error of the mean (px)", limits=ERRORS, log=True, known=known))
    return cells_figure(path, cells, columns=1 + len(shown), title=title)


def rivals(
    path: str | PathLike,
    *,
    source: np.ndarray,
    target: np.ndarray,
    truth: np.ndarray,
    mask: np.ndarray,
    flows: Mapping[str, np.ndarray],
    title: str = "",
) -> Path:
    """Draws the flow of several matchers (title to `[H, W, 2]`) above their errors, beside the images and the truth."""
    longest = longest_of(truth, mask)
    top = [picture(unit(target), "target"), flow_picture(truth, "true flow", longest=longest, known=mask)]
    below: list[Cell] = [picture(unit(source), "source"), None]
    if source.shape == target.shape:
        both = blend(unit(target), unit(source))
        below[1] = picture(both, "target red, source cyan")
    for name, flow in flows.items():
        error = endpoint_error(flow, np.where(mask[..., None], truth, 0))
        top.append(flow_picture(flow, name.replace(", ", ",\n") if len(flows) > 3 else name, longest=longest))
        words = f"error, mean {error[mask].mean():.2f} px" if mask.any() else "error"
        below.append(map_picture(error, words, limits=ERRORS, log=True, known=mask))
    return cells_figure(path, [*top, *below], columns=len(top), title=title)


# Of the parts of a target; what is visible keeps its own colours.
REGION_COLOURS = {
    "ambiguous": (0.8, 0.2, 0.8),
    "flat": (0.2, 0.7, 0.3),
    "occluded": (0.85, 0.15, 0.1),
    "outside": (0.35, 0.35, 0.35),
}


def regions(
    path: str | PathLike,
    *,
    source: np.ndarray,
    target: np.ndarray,
    flow: np.ndarray,
    masks: Mapping[str, np.ndarray],
    said: Mapping[str, Mapping[str, Any]],
    title: str = "",
) -> Path:
    """Draws a generated pair with its flow everywhere and its regions, and below it a row for each matcher.

    masks: `[H, W]` by name; said: title to flow `[H, W, 2]`, and confidence and covisible `[H, W]`, which may be None.
    """
    longest = longest_of(flow)
    painted = unit(target).copy()
    for name, colour in REGION_COLOURS.items():
        painted[masks[name]] = 0.3 * painted[masks[name]] + 0.7 * np.asarray(colour)
    cells: list[Cell] = [
        picture(unit(source), "source"),
        picture(unit(target), "target"),
        flow_picture(flow, f"true flow (rim: {longest:.3g} px)", longest=longest),
        picture(painted, "purple ambiguous, green flat,\nred occluded, gray outside"),
    ]
    for name, found in said.items():
        error = endpoint_error(found["flow"], flow)
        cells.append(flow_picture(found["flow"], name, longest=longest))
        cells.append(
            map_picture(error, f"error (px, visible {error[masks['visible']].mean():.2f})", limits=ERRORS, log=True)
        )
        sure, seen = found["confidence"], found["covisible"]
        cells.append(None if sure is None else map_picture(sure, "confidence", limits=_limits(sure)))
        cells.append(picture(marked(unit(target), seen), "covisible (others gray)"))
    return cells_figure(path, cells, columns=4, title=title)


Cell = Mapping[str, Any] | None


def picture(image: np.ndarray, title: str) -> Cell:
    """Returns a cell that shows an image `[H, W, 3]` in [0, 1]."""
    return {"image": image, "title": title}


def flow_picture(flow: np.ndarray, title: str, *, longest: float, known: np.ndarray | None = None) -> Cell:
    """Returns a cell that shows flow `[H, W, 2]` as colours, with their key."""
    return {"image": flow_colours(flow, longest=longest, known=known), "title": title, "wheel": True}


def map_picture(
    values: np.ndarray,
    title: str,
    *,
    limits: tuple[float, float],
    log: bool = False,
    known: np.ndarray | None = None,
) -> Cell:
    """Returns a cell that shows numbers `[H, W]` between `limits` as colours, with a bar; unknown ones gray."""
    values = np.asarray(values, np.float64)
    values = values if known is None else np.where(known, values, np.nan)
    return {"values": values, "title": title, "limits": limits, "log": log}


def _limits(confidence: np.ndarray) -> tuple[float, float]:
    """Returns (0, 1) for confidences, and the range of other numbers."""
    low, high = float(np.nanmin(confidence)), float(np.nanmax(confidence))
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    low, high = (float(each) for each in np.nanquantile(confidence, [0.05, 1.0]))
    return low, high if high > low else low + 1


def cells_figure(path: str | PathLike, cells: Sequence[Cell], *, columns: int, title: str = "") -> Path:
    """Writes cells in rows of `columns` to `path` (.png) and returns it."""
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    shape = next(each for each in cells if each is not None)
    shape = (shape["image"] if "image" in shape else shape["values"]).shape
    side = min(2.6, 11.0 / columns)
    height = rows * (0.94 * side * min(max(shape[0] / shape[1], 0.4), 1.6) + 0.2) + (0.25 if title else 0)
    with plotting.grid(path, rows=rows, columns=columns, width=columns * side, height=height, title=title) as axes:
        for axis, cell in zip(axes, [*cells, *[None] * (len(axes) - len(cells))], strict=True):
            plotting.bare(axis)
            if cell is None:
                continue
            axis.set_title(cell["title"], fontsize=7, pad=3)
            if "image" in cell:
                axis.imshow(np.clip(cell["image"], 0, 1))
            else:
                plotting.value_map(axis, cell["values"], limits=cell["limits"], log=cell["log"])
            if cell.get("wheel"):
                inset = axis.inset_axes([0.985 - 0.2, 0.02, 0.2, 0.2 * shape[1] / shape[0]])
                plotting.bare(inset)
                inset.set_facecolor("none")
                inset.imshow(_on_transparent(wheel()))
    return Path(path)


def _on_transparent(disc: np.ndarray) -> np.ndarray:
    """Returns a disc `[n, n, 3]` with what surrounds it transparent, `[n, n, 4]`."""
    side = len(disc)
    places = (np.arange(side) + 0.5) / side * 2 - 1
    alpha = np.clip((1 - np.hypot(*np.meshgrid(places, places))) * side / 2 + 0.5, 0, 1)
    return np.concatenate([disc, alpha[..., None].astype(disc.dtype)], -1)


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
    finite = np.all(np.isfinite(flow), axis=-1)
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
