"""Figures of the inverse problems, from the result file of `restore` alone."""

from pathlib import Path
from typing import Any

import numpy as np

from common.io import results
from common.plots import plotting
from common.plots.report import Block, Paragraph, Picture, Table

_SHOWN = 3  # images a picture shows at most


def restoration(workdir: Path) -> list[Path]:
    """Shows measurement, minimum-norm image, reconstruction and original: `figures/restore-PROBLEM.png`."""
    numbers, arrays = read(workdir)
    original = arrays["original"][:_SHOWN]
    paths = []
    for row in numbers["table"]:
        name = row["problem"]
        rows = {
            "measured": arrays[f"{name}.measured"][:_SHOWN],
            "min. norm": arrays[f"{name}.minimum_norm"][:_SHOWN],
            "restored": arrays[f"{name}.restored"][:_SHOWN, 0],
            **{solver: arrays[f"{name}.{solver}.restored"][:_SHOWN, 0] for solver in numbers.get("baselines", {})},
            "original": original,
        }
        notes = {
            "min. norm": [f"{each:.1f} dB" for each in arrays[f"{name}.minimum_norm_psnr"][:_SHOWN]],
            "restored": [
                f"{psnr:.1f} dB" + ("" if converged else ", not converged")
                for psnr, converged in zip(
                    arrays[f"{name}.psnr"][:_SHOWN, 0], arrays[f"{name}.converged"][:_SHOWN, 0], strict=True
                )
            ],
            **{
                solver: [f"{each:.1f} dB" for each in arrays[f"{name}.{solver}.psnr"][:_SHOWN, 0]]
                for solver in numbers.get("baselines", {})
            },
        }
        paths.append(plotting.path_in(workdir, f"restore-{name}"))
        columns = [f"image {i + 1}" for i in range(len(original))]
        plotting.panels(paths[-1], {label: np.asarray(x) for label, x in rows.items()}, columns=columns, notes=notes)
    return paths


def section(workdir: Path) -> list[Block]:
    """Returns table and pictures of the inverse problems for the page of a run; empty if there is no result."""
    if results.newest(workdir / "results", "restore") is None:
        return []
    numbers, _ = read(workdir)
    table, baselines = numbers["table"], numbers.get("baselines", {})
    words = Paragraph(
        f"Mean PSNR in dB over {numbers['num_images']} held-out images. The minimum-norm image is the one nearest to "
        "uniform gray that agrees with the measurement; a restored image is a sample given the measurement, and the "
        "average of samples is nearer to the original than one of them. Mismatch: rms difference of measured parts."
    )
    pictures = zip([row["problem"] for row in table], restoration(workdir), strict=True)
    captions = [Picture(path, name.replace("_", " ").capitalize() + ".") for name, path in pictures]
    compared = [{"solver": solver, **row} for solver, rows in baselines.items() for row in rows]
    return [words, Table.of(table), *([Table.of(compared)] if compared else []), *captions]


def read(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns numbers and arrays of the newest result of `restore`; raises `NoResultError` if there is none."""
    return results.read_newest(workdir / "results", "restore", verb="restore")
