"""Figures and the page of a run, from its result files alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.io import results
from common.io.metrics_log import read_metrics, read_training
from common.io.results import NoResultError
from common.plots import plotting, report
from common.plots.report import Block, Paragraph, Picture, Row, Table, write_report
from diffmatch_jax.figures import benchmark, sheets
from diffmatch_jax.model.pair_match import warped

_PAIRS = 4  # of an evaluation that are drawn, at most


def training(workdir: Path) -> list[Path]:
    """Draws the loss of the training batches against the step: `figures/training.png`."""
    lines, path = read_training(workdir), plotting.path_in(workdir, "training")
    with plotting.figure(path) as axes:
        plotting.losses(axes, lines, ylabel="loss", log=True)  # with a likelihood it may be negative
    return [path]


def matches(workdir: Path) -> list[Path]:
    """Shows pairs of the evaluation with flow, truth, error and confidence: `figures/match-I.png`."""
    _, arrays = _evaluation(workdir)
    if "predicted" not in arrays:
        raise NoResultError(
            f"{workdir / 'results'}: expected matched pairs, got another evaluation; train a stage first"
        )
    paths = []
    for i in range(min(_PAIRS, len(arrays["predicted"]))):
        paths.append(plotting.path_in(workdir, f"match-{i}"))
        sheets.sheet(
            paths[-1],
            source=arrays["source"][i],
            target=arrays["target"][i],
            flow=arrays["predicted"][i],
            warped=warped(arrays["source"][i], arrays["predicted"][i]),
            confidence=arrays["confidence"][i],
            std=arrays["std"][i] if np.any(arrays["std"]) else None,
            truth=arrays["flow"][i],
            mask=arrays["mask"][i],
        )
    return paths


def index(workdir: Path) -> list[Path]:
    """Writes `index.html`, a page with what there is: curves, tables, pictures and how they were made."""
    title = f"Dense matching: {workdir.resolve().name}"
    lead = "Made from the result files beside this page."
    return [write_report(workdir / "index.html", title, sections(workdir), lead=lead)]


def sections(workdir: Path) -> dict[str, Sequence[Block]]:
    """Draws every figure there are results for; returns them with tables and words, by heading."""
    found: dict[str, Sequence[Block]] = {}
    made: list[Mapping[str, Any]] = []
    if results.newest(workdir / "results", "evaluate"):
        numbers, arrays = _evaluation(workdir)
        made.append(numbers)
        rows = numbers["table"]
        blocks: list[Block] = [
            Paragraph(
                "Warps of held-out photographs, whose flow is known at every pixel; errors in pixels of the pairs."
            ),
            Table.of(rows),
        ]
        if "predicted" in arrays:
            words = "Wheel: the colour of a direction; its rim is the length in the title. Gray: outside the source."
            blocks += [Picture(path, words) for path in matches(workdir)]
        found["Held-out warps"] = blocks
    if blocks := benchmark.section(workdir):
        found["Benchmark"] = blocks
        made.append(benchmark.read(workdir)[0])
    if any("loss" in each for each in read_metrics(workdir)):
        found["Training"] = [Row([Picture(training(workdir)[0], "Loss of the training batches.")])]
    if not found:
        raise NoResultError(f"workdir {workdir}: expected result files, got none; run evaluate or benchmark first")
    if made:
        found["How this was made"] = report.origins(
            workdir, made, command="python -m diffmatch_jax figures --workdir DIR"
        )
    return found


NAMES: Mapping[str, Callable[[Path], Sequence[Path]]] = {
    "training": training,
    "matches": matches,
    **benchmark.NAMES,
    "index": index,
}


def _evaluation(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return results.read_newest(workdir / "results", "evaluate", verb="evaluate")
