"""Figures of the benchmark, from its result files alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.io import results
from common.plots import plotting
from common.plots.report import Block, Paragraph, Picture, Table
from diffmatch_jax.figures import sheets

_DRAWN = 6  # matchers of a picture, at most


def benchmark(workdir: Path) -> list[Path]:
    """Draws everything there is of the benchmark."""
    return [*accuracy(workdir), *sparsification(workdir), *corruptions(workdir), *shown(workdir), *regions(workdir)]


def accuracy(workdir: Path) -> list[Path]:
    """Draws PCK-1, 3 and 5 of every matcher on the clean pairs: `figures/accuracy-DATA.png`."""
    numbers, _ = read(workdir)
    paths = []
    for data in numbers["data"]:
        rows = _rows(numbers, data, numbers["corruptions"][0])
        lines = {
            f"{numbers['methods'][row['method']]} ({row['aepe']:.2f} px)": [
                100 * row[f"pck_{each}_per_image"] for each in (1, 3, 5)
            ]
            for row in rows
            if row["aepe"] is not None  # of data whose poses alone are known
        }
        if not lines:
            continue
        paths.append(plotting.path_in(workdir, f"accuracy-{data}"))
        with plotting.figure(paths[-1], width=2 * plotting.COLUMN, height=2.8) as axes:
            plotting.curves(axes, (1, 3, 5), lines, xlabel="threshold (px)", ylabel="pixels within it (%)")
            axes.set(xticks=(1, 3, 5), ylim=(0, 100), title=f"{data}: in brackets the mean error")
            _legend_beside(axes)
    return paths


def sparsification(workdir: Path) -> list[Path]:
    """Draws what error is left when the least sure pixels go: `figures/sparsification-DATA-CORRUPTION.png`."""
    numbers, arrays = read(workdir)
    paths = []
    for data in numbers["data"]:
        for corruption in numbers["corruptions"]:
            lines, oracles = {}, {}
            for name, title in numbers["methods"].items():
                key = f"{data}.{corruption}.{name}"
                if f"{key}.curve" in arrays:
                    lines[title], oracles[title] = arrays[f"{key}.curve"], arrays[f"{key}.oracle"]
            if lines:
                paths.append(plotting.path_in(workdir, f"sparsification-{data}-{corruption}"))
                draw_sparsification(paths[-1], lines, oracles, title=f"{data}, {corruption}")
    return paths


def draw_sparsification(
    path: Path, lines: Mapping[str, np.ndarray], oracles: Mapping[str, np.ndarray], *, title: str = ""
) -> None:
    """Draws curves by name (mean error of the surest pixels over that of all, `[K]`, at i / K removed).

    Thin lines of the same colour show the best order of each, by the error itself.
    """
    with plotting.figure(path, width=2 * plotting.COLUMN, height=2.8) as axes:
        removed = {name: 100 * np.arange(len(values)) / len(values) for name, values in lines.items()}
        drawn = {
            name: axes.plot(removed[name], values, label=name, markevery=max(1, len(values) // 6))[0]
            for name, values in lines.items()
        }
        for name, line in drawn.items():
            axes.plot(removed[name], oracles[name], color=line.get_color(), linewidth=0.6, marker="", linestyle=":")
        axes.axhline(1, color="#777777", linewidth=0.6, linestyle="-")
        axes.set(xlabel="least sure pixels removed (%)", ylabel="error of the rest / of all", title=title)
        axes.set_ylim(bottom=0)
        _legend_beside(axes)


def corruptions(workdir: Path) -> list[Path]:
    """Draws the mean error of every matcher under every corruption: `figures/corruptions-DATA.png`; none if clean."""
    numbers, _ = read(workdir)
    if len(numbers["corruptions"]) < 2:
        return []
    paths = []
    for data in numbers["data"]:
        by_name = {
            (row["corruption"], row["method"]): row["aepe"]
            for row in numbers["rows"]
            if row["data"] == data and row["group"] == "all"
        }
        table = [[by_name[each, name] for name in numbers["methods"]] for each in numbers["corruptions"]]
        paths.append(plotting.path_in(workdir, f"corruptions-{data}"))
        draw_table(
            paths[-1],
            np.asarray(table, float),
            rows=[each.replace("_", " ") for each in numbers["corruptions"]],
            columns=list(numbers["methods"].values()),
            title=f"{data}: mean error (px), severity {numbers['severity']}",
        )
    return paths


def draw_table(path: Path, values: np.ndarray, *, rows: Sequence[str], columns: Sequence[str], title: str = "") -> None:
    """Draws positive numbers `[R, C]` as text on colours (logarithmic, light is small); the best of a row is bold."""
    width, height = 1.3 + 0.95 * len(columns), 0.75 + 0.24 * len(rows)
    with plotting.figure(path, width=width, height=height) as axes:
        plotting.number_table(axes, values, rows=rows, columns=[each.replace(", ", ",\n") for each in columns])
        axes.set_title(title, fontsize=8)


def shown(workdir: Path) -> list[Path]:
    """Draws one pair of every data set: `figures/shown-DATA.png`, and `shown-DATA-MATCHER.png` for each matcher."""
    paths = []
    whole, _ = read(workdir)
    for data, stem in whole["shown"].items():
        numbers, arrays = results.read(workdir / "results" / f"{stem}.json")
        titles = numbers["methods"]
        pair = {"source": arrays["source"], "target": arrays["target"]}
        truth = {"truth": arrays["flow"], "mask": arrays["mask"]}
        known = truth if arrays["mask"].any() else {}  # of data whose poses alone are known there is none
        flows = {title: arrays[f"{name}.flow"] for name, title in list(titles.items())[:_DRAWN]}
        paths.append(plotting.path_in(workdir, f"shown-{data}"))
        sheets.rivals(paths[-1], **pair, **truth, flows=flows, title=numbers["name"])
        for name, title in titles.items():
            paths.append(plotting.path_in(workdir, f"shown-{data}-{name}"))
            sheets.sheet(
                paths[-1],
                **pair,
                **known,
                flow=arrays[f"{name}.flow"],
                warped=arrays[f"{name}.warped"],
                confidence=arrays.get(f"{name}.confidence"),
                title=f"{title}: {numbers['name']}",
            )
    return paths


def regions(workdir: Path) -> list[Path]:
    """Draws the pair of a generated data set with truth, regions and what matchers say: `figures/regions-DATA.png`."""
    paths = []
    whole, _ = read(workdir)
    for data, stem in whole["shown"].items():
        numbers, arrays = results.read(workdir / "results" / f"{stem}.json")
        masks = {name.removeprefix("region."): mask for name, mask in arrays.items() if name.startswith("region.")}
        if "visible" not in masks:
            continue
        paths.append(plotting.path_in(workdir, f"regions-{data}"))
        said = {
            title: {part: arrays.get(f"{name}.{part}") for part in ("flow", "confidence", "covisible")}
            for name, title in list(numbers["methods"].items())[:_DRAWN]
        }
        pair = {name: arrays[name] for name in ("source", "target", "flow")}
        sheets.regions(paths[-1], **pair, masks=masks, said=said, title=numbers["name"])
    return paths


def section(workdir: Path) -> list[Block]:
    """Returns tables and pictures of the benchmark for the page of a run; empty if there is no result."""
    if results.newest(workdir / "results", "benchmark") is None:
        return []
    numbers, _ = read(workdir)
    blocks: list[Block] = [
        Paragraph(
            "Mean end-point error (AEPE) in pixels, shares of pixels within 1, 3 and 5 pixels per image, and how well "
            "each matcher knows its own error: the area under the sparsification curve (1 is chance, less is better) "
            "and the rank correlation of error and uncertainty."
        )
    ]
    columns = ["matcher", "AEPE", "PCK-1", "PCK-3", "PCK-5", "sparsification", "rank correlation", "seconds"]
    names = ("aepe", *(f"pck_{each}_per_image" for each in (1, 3, 5)), "area", "rank_correlation", "seconds")
    for data in numbers["data"]:
        for corruption in numbers["corruptions"]:
            rows = [
                [numbers["methods"][row["method"]], *(row[name] for name in names)]
                for row in _rows(numbers, data, corruption)
            ]
            blocks.append(Table(columns, rows, caption=f"{data}, {numbers['pairs'][data]} pairs, {corruption}"))
    captions = {
        "accuracy": "Shares of pixels within a threshold.",
        "sparsification": "Error of the pixels that remain when the least sure go; dotted: the best order there is.",
        "corruptions": "Mean error under corruptions of both images; the least of each row is bold.",
    }
    for draw in (accuracy, sparsification, corruptions):
        blocks += [Picture(path, captions[draw.__name__]) for path in draw(workdir)]
    caption = "One pair: its truth and its regions, and what matchers say."
    blocks += [Picture(path, caption) for path in regions(workdir)]
    return [*blocks, *(Picture(path, "One pair.") for path in shown(workdir))]


def read(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns numbers and arrays of the benchmark; raises `NoResultError` if there is no result."""
    return results.read_newest(workdir / "results", "benchmark", verb="benchmark")


def _rows(numbers: Mapping[str, Any], data: str, corruption: str) -> list[Mapping[str, Any]]:
    return [
        row for row in numbers["rows"] if (row["data"], row["corruption"], row["group"]) == (data, corruption, "all")
    ]


def _legend_beside(axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


NAMES = {
    "benchmark": benchmark,
    "accuracy": accuracy,
    "sparsification": sparsification,
    "corruptions": corruptions,
    "shown": shown,
    "regions": regions,
}
