"""The style of every figure: readable in print, distinguishable by colour-blind readers and without colour."""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from PIL import Image

from common.io.files import write_atomically
from common.io.results import as_unit

# Okabe & Ito's palette, darkest hues first, each with its own marker and dash so that colour is never needed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
# From the eighth line on colours come again, with hollow markers of other shapes.
_MORE_MARKERS = ("h", "<", ">", "d", "p", "*", "8")
COLUMN = 3.4  # width of a text column, inches

_SETTINGS: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS * 2)
    + cycler(marker=MARKERS + _MORE_MARKERS)
    + cycler(linestyle=DASHES * 2)
    + cycler(markerfacecolor=COLOURS + ("white",) * len(COLOURS)),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "figure.dpi": 200,
    "figure.facecolor": "white",
    "font.size": 8,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """A context in which figures have the house style; matplotlib's own state is as before when it ends."""
    with matplotlib.rc_context(_SETTINGS):
        yield


@contextlib.contextmanager
def figure(path: str | os.PathLike, *, width: float = COLUMN, height: float = 2.4, columns: int = 1) -> Iterator:
    """Yields the axes of a new figure (a list when `columns` > 1) and writes it to `path` (.png or .pdf) at the end.

    Sizes are in inches. Nothing is written if the block raises.
    """
    path = Path(path)
    with style():
        made = _new_figure((width, height))
        axes = made.subplots(1, columns, squeeze=False)[0]
        yield axes[0] if columns == 1 else list(axes)
        stream = io.BytesIO()
        # Without a date, the same numbers give the same file.
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
        made.savefig(stream, format=path.suffix.removeprefix("."), metadata=metadata)
    write_atomically(path, stream.getvalue())


@contextlib.contextmanager
def grid(
    path: str | os.PathLike, *, rows: int, columns: int, width: float, height: float, title: str = ""
) -> Iterator[list]:
    """Yields the axes of `rows` x `columns` cells in reading order and writes them to `path` (.png) at the end.

    Sizes are in inches. Nothing is written if the block raises.
    """
    with style():
        made = _new_figure((width, height))
        _layout(made).set(w_pad=0.02, h_pad=0.03, wspace=0.02, hspace=0.0)
        if title:
            made.suptitle(title, fontsize=9)
        yield list(made.subplots(rows, columns, squeeze=False).reshape(-1))
        _write_without_alpha(path, made, "RGB")


def bare(axes) -> None:
    """Takes ticks, grid and frame away, as pictures want it."""
    axes.set(xticks=[], yticks=[])
    _unframe(axes)


def _unframe(axes) -> None:
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def value_map(axes, values: np.ndarray, *, limits: tuple[float, float], log: bool = False) -> None:
    """Draws numbers `[H, W]` as colours from `limits[0]` to `limits[1]`, with a bar; what is no number is gray."""
    colours = matplotlib.colormaps["cividis"].with_extremes(bad="#9e9e9e")
    scale = (LogNorm if log else Normalize)(*limits, clip=True)
    shown = axes.imshow(np.ma.masked_invalid(values), cmap=colours, norm=scale, interpolation="nearest")
    bar = axes.figure.colorbar(shown, cax=axes.inset_axes([1.02, 0.0, 0.035, 1.0]))
    bar.ax.tick_params(labelsize=6, length=2)
    bar.outline.set_visible(False)
    if log:
        bar.ax.yaxis.set_major_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
        bar.ax.minorticks_off()


def number_table(axes, values: np.ndarray, *, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draws positive numbers `[R, C]` as text on colours (logarithmic, light is small); the least of a row is bold."""
    shown = np.ma.masked_invalid(values)
    scale = LogNorm(shown.min(), max(shown.max(), 1.01 * shown.min()))
    colours = matplotlib.colormaps["Blues"].with_extremes(bad="white")
    axes.imshow(shown, cmap=colours, norm=scale, aspect="auto", alpha=0.8)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if np.isfinite(value):
                ink = "white" if scale(value) > 0.62 else "black"
                weight = "bold" if value == np.nanmin(row) else "normal"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=7, fontweight=weight)
    axes.set_xticks(range(len(columns)), columns, fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.tick_params(length=0)
    _unframe(axes)


def path_in(workdir: Path, name: str) -> Path:
    """Returns `workdir/figures/NAME.png`, its folder made if it was not there."""
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.png"


def curves(
    axes,
    x: Sequence[float] | np.ndarray,
    lines: Mapping[str, Sequence[float] | np.ndarray],
    *,
    xlabel: str,
    ylabel: str,
) -> None:
    """Draws one line with markers per entry of `lines` (name to values at `x`), with labels and a legend."""
    for name, values in lines.items():
        axes.plot(x, _numbers(values), label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend()


def losses(axes, records: Sequence[Mapping[str, float | None]], *, ylabel: str, log: bool = False) -> None:
    """Draws the loss of the lines of `metrics.jsonl` against the step, and the held-out loss where it was measured.

    With `log` the axis is logarithmic, unless a loss is not positive.
    """
    lines = [("loss", "training batches", "-"), ("held_out_loss", "held-out data", "--")]
    numbers: Any = {name: {each["step"]: each[name] for each in records if name in each} for name, _, _ in lines}
    log = log and all(value is None or value > 0 for each in numbers.values() for value in each.values())
    for name, label, linestyle in lines:
        if each := numbers[name]:
            history(axes, list(each), list(each.values()), ylabel=ylabel, log=log, label=label, linestyle=linestyle)
    if numbers["held_out_loss"]:
        axes.legend()


def history(
    axes,
    steps: Sequence[float],
    values: Sequence[float | None],
    *,
    ylabel: str,
    log: bool = False,
    label: str = "",
    linestyle: str = "-",
) -> None:
    """Draws a quantity against the training step; None and non-finite values leave gaps."""
    # A line through one point shows nothing.
    axes.plot(steps, _numbers(values), marker="o" if len(steps) == 1 else "", linestyle=linestyle, label=label)
    axes.set(xlabel="step", ylabel=ylabel)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter())


def identity(axes, x: Sequence[float] | np.ndarray, label: str = "noisy input") -> None:
    """Draws the line y = x over the range of `x`."""
    ends = [min(x), max(x)]
    axes.plot(ends, ends, color="#777777", marker="", linestyle=":", label=label)


def panels(
    path: str | os.PathLike, rows: Mapping[str, np.ndarray], *, columns: Sequence[str], notes: Mapping | None = None
) -> None:
    """Writes images in labelled rows and columns to `path`.

    `rows` maps a label to images `[N, H, W, C]` in [0, 1], one per column; `notes[label][i]`, if given, is written
    below that image. Every image pixel is shown as an exact square.
    """
    count = len(columns)
    height, width = next(iter(rows.values())).shape[1:3]
    side = min(1.6, 7.0 / count)
    with style():
        size = (count * side + 0.35, len(rows) * side * height / width + 0.25 + 0.14 * len(rows) * bool(notes))
        made = _new_figure(size)
        _layout(made).set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
        axes = made.subplots(len(rows), count, squeeze=False)
        for i, (label, images) in enumerate(rows.items()):
            for j in range(count):
                cell = axes[i, j]
                image = np.clip(as_unit(images[j]), 0.0, 1.0)
                cell.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
                bare(cell)
                if i == 0:
                    cell.set_title(columns[j])
                if j == 0:
                    cell.set_ylabel(label)
                if notes and label in notes:
                    cell.set_xlabel(notes[label][j], fontsize=7, labelpad=1)
        gray = next(iter(rows.values())).shape[-1] == 1
        _write_without_alpha(path, made, "L" if gray else "RGB")


def _new_figure(size: tuple[float, float]) -> Figure:
    made = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(made)
    return made


def _write_without_alpha(path: str | os.PathLike, figure: Figure, mode: str) -> None:
    stream, smaller = io.BytesIO(), io.BytesIO()
    figure.savefig(stream, format="png", pil_kwargs={"compress_level": 0})
    Image.open(stream).convert(mode).save(smaller, format="PNG")
    write_atomically(path, smaller.getvalue())


def _layout(made) -> Any:
    return made.get_layout_engine()


def _numbers(values: Sequence[float | None] | np.ndarray) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], float)
