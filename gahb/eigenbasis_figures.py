"""Figures of the bases in which a denoiser shrinks, from the result file of `analyse` alone."""

from pathlib import Path
from typing import Any

import numpy as np

from common.io import results
from common.plots import plotting
from common.plots.report import Block, Paragraph, Picture, Table
from gahb.eigenbasis.expansion import pictures

SHOWN, COLUMNS = 24, 8  # vectors on a sheet, and in a row of it


def eigenbasis(workdir: Path) -> list[Path]:
    """Draws factors, coefficients and vectors by level and image: `figures/eigenbasis-*.png`."""
    _, arrays = read(workdir)
    names = [_level(sigma) for sigma in arrays["sigma"]]
    factors, coefficients = (plotting.path_in(workdir, f"eigenbasis-{name}") for name in ("factors", "coefficients"))
    rank = np.arange(1, arrays["values"].shape[-1] + 1)
    # Signs of eigenvectors mean nothing.
    sizes = np.abs(arrays["clean_coefficients"])
    for path, values, label in (
        (factors, arrays["values"], "factor λ"),
        (coefficients, sizes, "|⟨x, e⟩|"),
    ):
        with plotting.figure(path) as axes:
            lines = {name: values[s].mean(0) for s, name in enumerate(names)}
            plotting.curves(axes, rank, lines, xlabel="rank k", ylabel=f"{label}, mean over images")
            if path == coefficients:
                axes.set_yscale("log")
    paths = [factors, coefficients]
    for s, name in enumerate(names):
        for i, vectors in enumerate(arrays["vectors"][s]):
            paths.append(plotting.path_in(workdir, f"eigenbasis-{s}-{i}"))
            _sheet(paths[-1], vectors, arrays["values"][s, i], name)
    return paths


def section(workdir: Path) -> list[Block]:
    """Returns table, curves and vectors for the page of a run; empty if there is no result."""
    if results.newest(workdir / "results", "eigenbasis") is None:
        return []
    numbers, arrays = read(workdir)
    table = [
        {
            "sigma_255": 255 * arrays["sigma"][i // numbers["num_images"]],
            **{name: value for name, value in row.items() if name not in ("sigma", "converged")},
        }
        for i, row in enumerate(numbers["table"])
    ]
    words = Paragraph(
        f"Eigenvectors of the symmetric part of the denoiser's Jacobian J at {numbers['num_images']} noisy held-out "
        "images, and the factors by which it shrinks their coefficients. trace: tr J; squares: the squared Frobenius "
        f"norm; both, with asymmetry and SURE, estimated from {numbers['probes']} random probes, errors beside them. "
        "residual: the largest ||S e - λ e|| relative to the largest factor."
    )
    factors, coefficients, *sheets = eigenbasis(workdir)
    captions = [
        Picture(path, f"Eigenvectors at image {path.stem.split('-')[-1]}, {_level(arrays['sigma'][s])}.")
        for path in sheets
        for s in (int(path.stem.split("-")[-2]),)
    ]
    return [
        words,
        Table.of(table),
        Picture(factors, "Shrinkage factors."),
        Picture(coefficients, "How much of the clean image each eigenvector holds."),
        *captions,
    ]


def read(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns numbers and arrays of the newest result of `analyse`; raises `NoResultError` if there is none."""
    return results.read_newest(workdir / "results", "eigenbasis", verb="analyse")


def _level(sigma: float) -> str:
    return f"σ = {sigma * 255:.4g}/255"


def _sheet(path: Path, vectors: np.ndarray, values: np.ndarray, level: str) -> None:
    """Draws up to `SHOWN` vectors, evenly spread over the ranks, each with its rank and factor."""
    count = min(SHOWN, len(vectors))
    columns = min(COLUMNS, count)
    count -= count % columns
    ranks = np.linspace(0, len(vectors) - 1, count).round().astype(int)
    rows, notes = {}, {}
    for start in range(0, count, columns):
        chosen = ranks[start : start + columns]
        label = level if start == 0 else " " * (start // columns)
        rows[label] = pictures(vectors[chosen])
        notes[label] = [f"{rank + 1}: {values[rank]:.3f}" for rank in chosen]
    plotting.panels(path, rows, columns=[""] * columns, notes=notes)
