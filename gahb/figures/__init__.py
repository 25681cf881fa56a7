"""Figures and the page of a run, from its result files alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.io import results
from common.io.metrics_log import read_metrics
from common.io.results import NoResultError
from common.plots import report
from common.plots.report import Block, Paragraph, Picture, Row, Table, write_report
from gahb.figures import classes, model, study, study_models


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
        numbers, _ = model.read_evaluation(workdir)
        made.append(numbers)
        found["Denoising held-out images"] = [
            Paragraph(
                f"Mean PSNR in dB over {numbers['num_images']} held-out images. sigma is the standard deviation of the "
                "noise for images in [0, 1]; the denoiser does not know it, the Wiener filter does. error and "
                f"gain_error are standard errors over the {numbers['num_origins']} photographs that these images come "
                "from."
            ),
            Table.of(numbers["table"]),
            Picture(
                model.psnr(workdir)[0], "PSNR of the squared error averaged over all images, against that of the input."
            ),
            *(Picture(path, "The same noise at each level, on a held-out image.") for path in model.denoising(workdir)),
        ]
    if results.newest(workdir / "samples", "step"):
        numbers, _ = model.read_samples(workdir)
        made.append(numbers)
        found["Samples"] = [
            Paragraph(
                f"{numbers['num_converged']} of {numbers['num_samples']} samples reached the final noise level, in "
                f"{numbers['nfe_mean']:.0f} network evaluations on average."
            ),
            Picture(model.samples(workdir)[0], "Samples from noise.", pixels=True),
        ]
    if results.newest(workdir / "results", "study-"):
        found["From memory to generalisation"] = study.section(workdir)
        made += [each.numbers for each in study.found(workdir)]
    for kind, heading, section in (
        (study_models.TIMES, "Memory over training time", study_models.times_section),
        (study_models.MACHINES, "Beside score machines", study_models.machines_section),
    ):
        if results.newest(workdir / "results", kind):
            found[heading] = section(workdir)
            made += [each.numbers for each in study_models.read(workdir, kind)]
    if results.newest(workdir / "results", "classes-"):
        found["Classes whose best denoiser is known"] = classes.section(workdir)
        made += [each.numbers for each in classes.read(workdir)]
    if results.newest(workdir / "results", "eigenbasis"):
        found["The bases it shrinks in"] = model.eigenbasis_section(workdir)
        made.append(model.read_eigenbasis(workdir)[0])
    if results.newest(workdir / "results", "restore"):
        found["Linear inverse problems"] = model.restoration_section(workdir)
        made.append(model.read_restoration(workdir)[0])
    if any("loss" in each for each in read_metrics(workdir)):
        found["Training"] = [Row([Picture(model.training(workdir)[0], "Loss and PSNR of the training batches.")])]
    if not found:
        raise NoResultError(f"workdir {workdir}: expected result files, got none; run evaluate or sample first")
    if made:
        found["How this was made"] = report.origins(workdir, made, command="python -m gahb figures --workdir DIR")
    return found


NAMES: Mapping[str, Callable[[Path], Sequence[Path]]] = {
    "training": model.training,
    "psnr": model.psnr,
    "denoising": model.denoising,
    "samples": model.samples,
    **study.NAMES,
    **study_models.NAMES,
    **classes.NAMES,
    "eigenbasis": model.eigenbasis,
    "restore": model.restoration,
    "index": index,
}
