"""Figures and the page of a run, from its result files alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.io import results
from common.io.metrics_log import read_metrics, read_training
from common.io.results import NoResultError, grid, save_png
from common.plots import plotting, report
from common.plots.report import Block, Paragraph, Picture, Row, Table, write_report
from gahb import class_figures, eigenbasis_figures, inverse_figures, study_figures, study_model_figures


def training(workdir: Path) -> list[Path]:
    """Draws loss and PSNR of the training batches against the step: `figures/training.png`."""
    lines = read_training(workdir)
    records = [each for each in lines if "loss" in each]
    path = plotting.path_in(workdir, "training")
    steps = [each["step"] for each in records]
    with plotting.figure(path, width=2 * plotting.COLUMN, columns=2) as (left, right):
        plotting.losses(left, lines, ylabel="loss (squared error)", log=True)
        plotting.history(right, steps, [each.get("psnr") for each in records], ylabel="PSNR of training batches (dB)")
    return [path]


def psnr(workdir: Path) -> list[Path]:
    """Draws the PSNR of denoised against that of noisy held-out images: `figures/psnr.png`."""
    _, arrays = _evaluation(workdir)
    path = plotting.path_in(workdir, "psnr")
    x = arrays["curve.input_psnr"]
    lines = {"denoiser": arrays["curve.psnr_of_mean"]}
    if "curve.wiener.psnr_of_mean" in arrays:
        lines["Wiener filter (DCT)"] = arrays["curve.wiener.psnr_of_mean"]
    with plotting.figure(path, height=2.8) as axes:
        plotting.curves(axes, x, lines, xlabel="PSNR of noisy images (dB)", ylabel="PSNR of denoised images (dB)")
        plotting.identity(axes, x, label="noisy images")
        axes.legend()
    return [path]


def denoising(workdir: Path) -> list[Path]:
    """Shows held-out images noisy, denoised and clean at every level of the table: `figures/denoising-I.png`."""
    _, arrays = _evaluation(workdir)
    sigmas, clean = arrays["panel.sigma"], arrays["panel.clean"]
    columns = [f"σ = {sigma * 255:.4g}/255" for sigma in sigmas]
    paths = []
    for i, image in enumerate(clean):
        rows = {
            "noisy": arrays["panel.noisy"][:, i],
            "denoised": arrays["panel.denoised"][:, i],
            "clean": np.repeat(image[None], len(sigmas), axis=0),
        }
        input_psnr = -20 * np.log10(sigmas)
        notes = {
            "noisy": [f"{each:.1f} dB" for each in input_psnr],
            "denoised": [f"{each:.1f} dB" for each in arrays["panel.psnr"][:, i]],
        }
        paths.append(plotting.path_in(workdir, f"denoising-{i}"))
        plotting.panels(paths[-1], rows, columns=columns, notes=notes)
    return paths


def samples(workdir: Path) -> list[Path]:
    """Shows the newest samples: `figures/samples.png`."""
    _, arrays = _samples(workdir)
    images = arrays["samples"]
    side = images.shape[1]
    return [save_png(plotting.path_in(workdir, "samples"), grid(images, scale=max(1, 96 // side)))]


def index(workdir: Path) -> list[Path]:
    """Writes `index.html`, a page with what there is: curves, tables, pictures and how they were made."""
    title = f"Blind denoiser: {workdir.resolve().name}"
    lead = "Made from the result files beside this page."
    return [write_report(workdir / "index.html", title, sections(workdir), lead=lead)]


def sections(workdir: Path) -> dict[str, Sequence[Block]]:
    """Draws every figure there are results for; returns them with tables and words, by heading."""
    found: dict[str, Sequence[Block]] = {}
    made: list[Mapping[str, Any]] = []
    if results.newest(workdir / "results", "evaluate"):
        numbers, _ = _evaluation(workdir)
        made.append(numbers)
        found["Denoising held-out images"] = [
            Paragraph(
                f"Mean PSNR in dB over {numbers['num_images']} held-out images. sigma_255 is the standard deviation of "
                "the noise in 1/255; the denoiser does not know it, the Wiener filter does. error and gain_error are "
                f"standard errors over the {numbers['num_origins']} photographs that these images come from."
            ),
            Table.of([in_255(row) for row in numbers["table"]]),
            Picture(psnr(workdir)[0], "PSNR of the squared error averaged over all images, against that of the input."),
            *(Picture(path, "The same noise at each level, on a held-out image.") for path in denoising(workdir)),
        ]
    if results.newest(workdir / "samples", "step"):
        numbers, _ = _samples(workdir)
        made.append(numbers)
        found["Samples"] = [
            Paragraph(
                f"{numbers['num_converged']} of {numbers['num_samples']} samples reached the final noise level, in "
                f"{numbers['nfe_mean']:.0f} network evaluations on average."
            ),
            Picture(samples(workdir)[0], "Samples from noise.", pixels=True),
        ]
    if results.newest(workdir / "results", "study-"):
        found["From memory to generalisation"] = study_figures.section(workdir)
        made += [each.numbers for each in study_figures.found(workdir)]
    for kind, heading, section in (
        (study_model_figures.TIMES, "Memory over training time", study_model_figures.times_section),
        (study_model_figures.MACHINES, "Beside score machines", study_model_figures.machines_section),
    ):
        if results.newest(workdir / "results", kind):
            found[heading] = section(workdir)
            made += [each.numbers for each in study_model_figures.read(workdir, kind)]
    if results.newest(workdir / "results", "classes-"):
        found["Classes whose best denoiser is known"] = class_figures.section(workdir)
        made += [each.numbers for each in class_figures.read(workdir)]
    if results.newest(workdir / "results", "eigenbasis"):
        found["The bases it shrinks in"] = eigenbasis_figures.section(workdir)
        made.append(eigenbasis_figures.read(workdir)[0])
    if results.newest(workdir / "results", "restore"):
        found["Linear inverse problems"] = inverse_figures.section(workdir)
        made.append(inverse_figures.read(workdir)[0])
    if any("loss" in each for each in read_metrics(workdir)):
        found["Training"] = [Row([Picture(training(workdir)[0], "Loss and PSNR of the training batches.")])]
    if not found:
        raise NoResultError(f"workdir {workdir}: expected result files, got none; run evaluate or sample first")
    if made:
        found["How this was made"] = report.origins(workdir, made, command="python -m gahb figures --workdir DIR")
    return found


NAMES: Mapping[str, Callable[[Path], Sequence[Path]]] = {
    "training": training,
    "psnr": psnr,
    "denoising": denoising,
    "samples": samples,
    **study_figures.NAMES,
    **study_model_figures.NAMES,
    **class_figures.NAMES,
    "eigenbasis": eigenbasis_figures.eigenbasis,
    "restore": inverse_figures.restoration,
    "index": index,
}


def in_255(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row of a table with `sigma_255`, the noise in 1/255, in the place of `sigma`."""
    return {
        "sigma_255" if name == "sigma" else name: 255 * value if name == "sigma" else value
        for name, value in row.items()
    }


def _evaluation(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return results.read_newest(workdir / "results", "evaluate", verb="evaluate")


def _samples(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return results.read_newest(workdir / "samples", "step", verb="sample", what="samples")
