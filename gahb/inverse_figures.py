"""Figures of the inverse problems, from the result file of `restore` alone."""

from pathlib import Path
from typing import Any

import numpy as np

from common.io import results
from common.plots import plotting
from common.plots.report import Block, Paragraph, Picture, Table


def restoration(workdir: Path) -> list[Path]:
    """Shows measurement, minimum-norm image, reconstruction and original: `figures/restore-PROBLEM.png`."""
    numbers, arrays = read(workdir)
    original = arrays["original"]
    paths = []
    for row in numbers["table"]:
        name = row["problem"]
        rows = {
            "measured": arrays[f"{name}.measured"],
            "min. norm": arrays[f"{name}.minimum_norm"],
            "restored": arrays[f"{name}.restored"][:, 0],
            "original": original,
        }
        notes = {
            "min. norm": [f"{each:.1f} dB" for each in arrays[f"{name}.minimum_norm_psnr"]],
            "restored": [
                f"{psnr:.1f} dB" + ("" if converged else ", not converged")
                for psnr, converged in zip(arrays[f"{name}.psnr"][:, 0], arrays[f"{name}.converged"][:, 0], strict=True)
            ],
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
    table = numbers["table"]
    words = Paragraph(
        f"Mean PSNR in dB over {numbers['num_images']} held-out images. The minimum-norm image is the one nearest to "
        "uniform gray that agrees with the measurement; a restored image is a sample given the measurement, and the "
        "average of samples is nearer to the original than one of them. Mismatch: rms difference of measured parts."
    )
    pictures = zip([row["problem"] for row in table], restoration(workdir), strict=True)
    captions = [Picture(path, name.replace("_", " ").capitalize() + ".") for name, path in pictures]
    return [words, Table.of(table), *captions]


def read(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns numbers and arrays of the newest result of `restore`; raises `NoResultError` if there is none."""
    return results.read_newest(workdir / "results", "restore", verb="restore")
