"""Figures of the comparison of classes, from its result files alone."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.io import results
from common.io.results import NoResultError
from common.plots import plotting
from common.plots.report import Block, Paragraph, Picture, Table
from gahb.classes import row
from gahb.eigenbasis.expansion import pictures
from gahb.synthetic import unshuffle_pixels

SHOWN = 10  # eigenvectors of an image


class Result(NamedTuple):
    """The result of one class: its name, its numbers and its arrays."""

    name: str
    numbers: dict[str, Any]
    arrays: dict[str, np.ndarray]


def found(workdir: Path) -> list[Result]:
    """Returns the results of a comparison in alphabetical order; raises `NoResultError` if there is none."""
    loaded = [results.read(path) for path in results.latest_of_each(workdir / "results", "classes-")]
    if not loaded:
        place = workdir / "results"
        raise NoResultError(f"{place}: expected results of a comparison of classes, got none; run classes first")
    return [Result(numbers["class"], numbers, arrays) for numbers, arrays in loaded]


def slopes(workdir: Path) -> list[Path]:
    """Draws PSNR and local slopes of the C^alpha classes beside alpha / (alpha + 1): `figures/classes-slopes.png`."""
    shown = [each for each in found(workdir) if each.name.startswith("calpha")]
    if not shown:
        raise NoResultError(
            f"{workdir / 'results'}: expected a C^alpha class, got none; add one to config.classes.names"
        )
    path = plotting.path_in(workdir, "classes-slopes")
    with plotting.figure(path, width=2 * plotting.COLUMN, height=3.2, columns=2) as (left, right):
        for i, each in enumerate(shown):
            alpha, slope = each.name.removeprefix("calpha-"), each.numbers["slope"]
            best, moderate = each.numbers["best_slope"], each.numbers["moderate_slope"]
            label = f"α = {alpha}: {slope['value']:.2f}, {moderate['value']:.2f} (best {best:.2f})"
            x = each.arrays["curve.input_psnr"]
            left.plot(x, each.arrays["curve.psnr_of_mean"], label=label)
            for line in (slope, moderate):
                ends = np.array([line["from_db"], line["to_db"]])
                left.plot(ends, line["intercept"] + line["value"] * ends, color="black", marker="", linestyle=":")
            right.plot(each.arrays["slope.local_input_psnr"], each.arrays["slope.local"], label=f"α = {alpha}")
            right.axhline(best, color=plotting.COLOURS[i], linewidth=0.8, marker="", linestyle="--")
        left.set(xlabel="PSNR of noisy images (dB)", ylabel="PSNR of denoised images (dB)")
        right.set(xlabel="PSNR of noisy images (dB)", ylabel="local slope (dashed: α / (α + 1))")
        left.legend(loc="upper left")
    return [path]


def optima(workdir: Path) -> list[Path]:
    """Draws the PSNR on manifolds beside that of projecting on the tangent space: `figures/classes-optima.png`."""
    shown = [each for each in found(workdir) if "tangents" in each.arrays]
    if not shown:
        raise NoResultError(
            f'{workdir / "results"}: expected a manifold, got none; add "disks" to config.classes.names'
        )
    path = plotting.path_in(workdir, "classes-optima")
    with plotting.figure(path, width=max(plotting.COLUMN, 2.3 * len(shown)), height=2.8, columns=len(shown)) as panels:
        panels = np.atleast_1d(panels)
        for axes, each in zip(panels, shown, strict=True):
            x = each.arrays["curve.input_psnr"]
            lines = {
                "denoiser": each.arrays["curve.psnr_of_mean"],
                f"best, D = {each.numbers['tangent']['dimension']}": each.arrays["curve.best"],
            }
            plotting.curves(axes, x, lines, xlabel="PSNR of noisy images (dB)", ylabel="")
            axes.set(title=each.name)
        panels[0].set(ylabel="PSNR of denoised images (dB)")
    return [path]


def shuffled(workdir: Path) -> list[Path]:
    """Draws the PSNR on images as they are and with shuffled pixels: `figures/classes-shuffled.png`."""
    shown = {each.name: each for each in found(workdir)}
    if not {"images", "shuffled"} <= set(shown):
        place = workdir / "results"
        raise NoResultError(f'{place}: expected classes "images" and "shuffled", got {", ".join(shown)}; train both')
    path = plotting.path_in(workdir, "classes-shuffled")
    with plotting.figure(path, width=2 * plotting.COLUMN, height=2.8, columns=2) as (left, right):
        x = shown["images"].arrays["curve.input_psnr"]
        lines = {name: shown[name].arrays["curve.psnr_of_mean"] for name in ("images", "shuffled")}
        plotting.curves(left, x, lines, xlabel="PSNR of noisy images (dB)", ylabel="PSNR of denoised images (dB)")
        factors = {name: shown[name].arrays["basis.values"].mean(0) for name in ("images", "shuffled")}
        rank = np.arange(1, len(factors["images"]) + 1)
        plotting.curves(right, rank, factors, xlabel="rank k", ylabel="factor λ, mean over images")
    return [path]


def bases(workdir: Path) -> list[Path]:
    """Shows an image and its leading eigenvectors, of manifolds beside the tangent space: `classes-basis-NAME.png`.

    Of shuffled images the vectors are shown a second time with their pixels in order.
    """
    paths = []
    for each in found(workdir):
        arrays = each.arrays
        count = min(SHOWN, arrays["basis.values"].shape[1])
        vectors = arrays["basis.vectors"][0, :count]
        rows = {
            "images": np.stack([arrays[f"basis.{name}"][0] for name in ("clean", "noisy", "denoised")]),
            "basis": pictures(vectors),
        }
        notes = {
            "images": ["clean", "noisy", "denoised"],
            "basis": [f"{factor:.2f}" for factor in arrays["basis.values"][0]],
        }
        if "order" in arrays:
            rows["in order"] = pictures(unshuffle_pixels(vectors, arrays["order"]))
        if "tangents" in arrays:
            tangent = arrays["tangents"][0]
            cosines = np.einsum("khwc,dhwc->kd", vectors[: len(tangent)], tangent)
            rows["tangent"] = pictures(np.einsum("kd,dhwc->khwc", cosines, tangent))
            notes["tangent"] = [f"{length:.2f}" for length in np.linalg.norm(cosines, axis=1)]
        paths.append(plotting.path_in(workdir, f"classes-basis-{each.name}"))
        blank = np.ones_like(vectors)
        plotting.panels(
            paths[-1],
            {label: np.concatenate([images, blank])[:count] for label, images in rows.items()},
            columns=[""] * count,
            notes={label: (texts + [""] * count)[:count] for label, texts in notes.items()},
        )
    return paths


def section(workdir: Path) -> list[Block]:
    """Draws all figures there are results for and returns them with words and a table."""
    shown = found(workdir)
    blocks: list[Block] = [
        Paragraph(
            "One denoiser for each class of images. slope: dB of PSNR after denoising per dB before, at small noise "
            "with its standard error and at moderate noise, beside the best possible one; shortfall: dB below the "
            "projection on the tangent space, averaged over the points of the slope; trace: of the Jacobian; tangent "
            "cos2: mean squared cosine of the angles between tangent space and leading eigenvectors, 1 if they span "
            "the same."
        ),
        Table.of([row(each.numbers) for each in shown]),
    ]
    names = {each.name for each in shown}
    if any(name.startswith("calpha") for name in names):
        blocks.append(Picture(slopes(workdir)[0], "Geometric images of several regularities."))
    if any("tangents" in each.arrays for each in shown):
        blocks.append(Picture(optima(workdir)[0], "Classes with few parameters, beside the best possible denoiser."))
    if {"images", "shuffled"} <= names:
        blocks.append(Picture(shuffled(workdir)[0], "The same images with their pixels in order and shuffled."))
    for each, path in zip(shown, bases(workdir), strict=True):
        words = "their factors below" + (", and their parts in the tangent space" if "tangents" in each.arrays else "")
        level = f"{each.numbers['sigma']:.4g}/255"
        blocks.append(Picture(path, f"{each.name}: leading eigenvectors at noise {level}, {words}."))
    return blocks


NAMES = {
    "classes-slopes": slopes,
    "classes-optima": optima,
    "classes-shuffled": shuffled,
    "classes-bases": bases,
}
