"""Figures of one trained model, from its result files alone."""

from pathlib import Path
from typing import Any

import numpy as np

from common.io import results
from common.io.metrics_log import read_training
from common.io.results import grid, save_png
from common.plots import plotting
from common.plots.report import Block, Paragraph, Picture, Table
from gahb.eigenbasis.linear import pictures

SHOWN, COLUMNS = 24, 8  # vectors on a sheet, and in a row of it


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
    _, arrays = read_evaluation(workdir)
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
    _, arrays = read_evaluation(workdir)
    sigmas, clean = arrays["panel.sigma"], arrays["panel.clean"]
    columns = [_level(sigma) for sigma in sigmas]
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
    _, arrays = read_samples(workdir)
    images = arrays["samples"]
    side = images.shape[1]
    return [save_png(plotting.path_in(workdir, "samples"), grid(images, scale=max(1, 96 // side)))]


def eigenbasis(workdir: Path) -> list[Path]:
    """Draws factors, coefficients and vectors by level and image: `figures/eigenbasis-*.png`."""
    _, arrays = read_eigenbasis(workdir)
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


def eigenbasis_section(workdir: Path) -> list[Block]:
    """Returns table, curves and vectors for the page of a run; empty if there is no result."""
    if results.newest(workdir / "results", "eigenbasis") is None:
        return []
    numbers, arrays = read_eigenbasis(workdir)
    table = [
        {
            "sigma": arrays["sigma"][i // numbers["num_images"]],
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


def read_eigenbasis(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns numbers and arrays of the newest result of `analyse`; raises `NoResultError` if there is none."""
    return results.read_newest(workdir / "results", "eigenbasis", verb="analyse")


def _level(sigma: float) -> str:
    return f"σ = {sigma:.3g}"


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


_RESTORED = 3  # images a picture shows at most


def restoration(workdir: Path) -> list[Path]:
    """Shows measurement, minimum-norm image, reconstruction and original: `figures/restore-PROBLEM.png`."""
    numbers, arrays = read_restoration(workdir)
    original = arrays["original"][:_RESTORED]
    paths = []
    for row in numbers["table"]:
        name = row["problem"]
        rows = {
            "measured": arrays[f"{name}.measured"][:_RESTORED],
            "min. norm": arrays[f"{name}.minimum_norm"][:_RESTORED],
            "restored": arrays[f"{name}.restored"][:_RESTORED, 0],
            **{solver: arrays[f"{name}.{solver}.restored"][:_RESTORED, 0] for solver in numbers.get("baselines", {})},
            "original": original,
        }
        notes = {
            "min. norm": [f"{each:.1f} dB" for each in arrays[f"{name}.minimum_norm_psnr"][:_RESTORED]],
            "restored": [
                f"{psnr:.1f} dB" + ("" if converged else ", not converged")
                for psnr, converged in zip(
                    arrays[f"{name}.psnr"][:_RESTORED, 0], arrays[f"{name}.converged"][:_RESTORED, 0], strict=True
                )
            ],
            **{
                solver: [f"{each:.1f} dB" for each in arrays[f"{name}.{solver}.psnr"][:_RESTORED, 0]]
                for solver in numbers.get("baselines", {})
            },
        }
        paths.append(plotting.path_in(workdir, f"restore-{name}"))
        columns = [f"image {i + 1}" for i in range(len(original))]
        plotting.panels(paths[-1], {label: np.asarray(x) for label, x in rows.items()}, columns=columns, notes=notes)
    return paths


def restoration_section(workdir: Path) -> list[Block]:
    """Returns table and pictures of the inverse problems for the page of a run; empty if there is no result."""
    if results.newest(workdir / "results", "restore") is None:
        return []
    numbers, _ = read_restoration(workdir)
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


def read_restoration(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns numbers and arrays of the newest result of `restore`; raises `NoResultError` if there is none."""
    return results.read_newest(workdir / "results", "restore", verb="restore")


def read_evaluation(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return results.read_newest(workdir / "results", "evaluate", verb="evaluate")


def read_samples(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return results.read_newest(workdir / "samples", "step", verb="sample", what="samples")
