"""Sheets of one pair: images, warp, flow, confidence, error and hypotheses. Pure drawing: arrays in, a picture out."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from common.plots import plotting
from diffmatch_jax import colouring
from diffmatch_jax.metrics import endpoint_error

ERRORS = (0.3, 30.0)  # pixels between which errors are told apart


def sheet(
    path: str | PathLike,
    *,
    source: np.ndarray,
    target: np.ndarray,
    flow: np.ndarray,
    warped: np.ndarray,
    confidence: np.ndarray | None = None,
    spread: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    title: str = "",
) -> Path:
    """Draws a match: both images, the warped source, a checkerboard of it and the target; flow, confidence, error.

    Images `[H, W, C]` (bytes or in [0, 1]); flow `[H, W, 2]` in pixels; warped: the source drawn on the target's
    pixels; confidence in [0, 1]; spread in pixels; truth with its mask `[H, W]`. What is not given is
    not drawn.
    """
    source, target, warped = (colouring.unit(each) for each in (source, target, warped))
    known = None if truth is None else (np.ones(truth.shape[:2], bool) if mask is None else mask)
    longest = colouring.longest_of(flow) if truth is None else colouring.longest_of(truth, known)
    cells: list[Cell] = [
        picture(source, "source"),
        picture(target, "target"),
        picture(warped, "source warped to the target"),
        picture(colouring.checkerboard(target, warped), "target and warped source"),
        flow_picture(flow, f"flow (rim: {longest:.3g} px)", longest=longest),
    ]
    if truth is not None:
        error = endpoint_error(flow, np.where(known[..., None], truth, 0))
        mean = f", mean {error[known].mean():.2f} px" if known.any() else ""
        cells.append(flow_picture(truth, "true flow", longest=longest, known=known))
        cells.append(map_picture(error, f"error (px{mean})", limits=ERRORS, log=True, known=known))
    else:
        cells.append(picture(colouring.blend(target, warped), "target red, warped source cyan"))
    if confidence is not None:
        cells.append(map_picture(confidence, "confidence", limits=_limits(confidence)))
    if spread is not None:
        cells.append(map_picture(spread, "spread (px)", limits=ERRORS, log=True))
    return cells_figure(path, cells, columns=4, title=title)


def hypotheses(
    path: str | PathLike,
    *,
    target: np.ndarray,
    flows: np.ndarray,
    spread: np.ndarray,
    error: np.ndarray | None = None,
    known: np.ndarray | None = None,
    title: str = "",
) -> Path:
    """Draws hypotheses `[n, h, w, 2]` (pixels of one scale) and how each differs from their mean, below it.

    At most four of them are shown, beside the target, the spread and the error of the mean `[H, W]` in pixels.
    """
    away = flows - flows.mean(0)
    longest, farthest = colouring.longest_of(flows), colouring.longest_of(away)
    shown = range(min(len(flows), 4))
    cells: list[Cell] = [picture(colouring.unit(target), "target")]
    cells += [flow_picture(flows[i], f"hypothesis {i + 1} (rim: {longest:.3g} px)", longest=longest) for i in shown]
    cells.append(map_picture(spread, "spread (px)", limits=ERRORS, log=True))
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
    longest = colouring.longest_of(truth, mask)
    top = [picture(colouring.unit(target), "target"), flow_picture(truth, "true flow", longest=longest, known=mask)]
    below: list[Cell] = [picture(colouring.unit(source), "source"), None]
    if source.shape == target.shape:
        both = colouring.blend(colouring.unit(target), colouring.unit(source))
        below[1] = picture(both, "target red, source cyan")
    for name, flow in flows.items():
        error = endpoint_error(flow, np.where(mask[..., None], truth, 0))
        top.append(flow_picture(flow, name.replace(", ", ",\n") if len(flows) > 3 else name, longest=longest))
        words = f"error, mean {error[mask].mean():.2f} px" if mask.any() else "error"
        below.append(map_picture(error, words, limits=ERRORS, log=True, known=mask))
    return cells_figure(path, [*top, *below], columns=len(top), title=title)


Cell = Mapping[str, Any] | None


def picture(image: np.ndarray, title: str) -> Cell:
    """Returns a cell that shows an image `[H, W, 3]` in [0, 1]."""
    return {"image": image, "title": title}


def flow_picture(flow: np.ndarray, title: str, *, longest: float, known: np.ndarray | None = None) -> Cell:
    """Returns a cell that shows flow `[H, W, 2]` as colours, with their key."""
    return {"image": colouring.flow_colours(flow, longest=longest, known=known), "title": title, "wheel": True}


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
                inset.imshow(_on_transparent(colouring.wheel()))
    return Path(path)


def _on_transparent(disc: np.ndarray) -> np.ndarray:
    """Returns a disc `[n, n, 3]` with what surrounds it transparent, `[n, n, 4]`."""
    side = len(disc)
    places = (np.arange(side) + 0.5) / side * 2 - 1
    alpha = np.clip((1 - np.hypot(*np.meshgrid(places, places))) * side / 2 + 0.5, 0, 1)
    return np.concatenate([disc, alpha[..., None].astype(disc.dtype)], -1)
