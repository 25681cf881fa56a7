"""Figures of the comparison of classes, from its result files alone."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.io import results
from common.io.results import NoResultError
from common.plots import plotting
from common.plots.report import Block, Paragraph, Picture, Table
from gahb.datasets.synthetic import unshuffle_pixels
from gahb.eigenbasis.linear import pictures
from gahb.experiments.classes import means

SHOWN = 10  # eigenvectors of an image


class Result(NamedTuple):
    """The result of one class: its name, its numbers and its arrays."""

    name: str
    numbers: dict[str, Any]
    arrays: dict[str, np.ndarray]


def read(workdir: Path) -> list[Result]:
    """Returns the results of a comparison by class and seed; raises `NoResultError` if there is none."""
    loaded = [results.read(path) for path in results.latest_of_each(workdir / "results", "classes-")]
    # Those of earlier versions have other keys.
    current = [Result(numbers["class"], numbers, arrays) for numbers, arrays in loaded if "slope_in_window" in numbers]
    if not current:
        place, got = workdir / "results", "those of an earlier version" if loaded else "none"
        raise NoResultError(f"{place}: expected results of a comparison of classes, got {got}; run classes first")
    return sorted(current, key=lambda each: (each.name, each.numbers["seed"]))


def first_of_each(workdir: Path) -> list[Result]:
    """Returns the result of the model with the lowest seed of each class; raises `NoResultError`."""
    return list({each.name: each for each in reversed(read(workdir))}.values())[::-1]


def slopes(workdir: Path) -> list[Path]:
    """Draws PSNR and local slopes of the C^alpha classes beside the oracle's: `figures/classes-slopes.png`."""
    models = [each for each in read(workdir) if each.name.startswith("calpha")]
    if not models:
        raise NoResultError(
            f"{workdir / 'results'}: expected a C^alpha class, got none; add one to config.classes.names"
        )
    path = plotting.path_in(workdir, "classes-slopes")
    with plotting.figure(path, width=2 * plotting.COLUMN, height=3.2, columns=2) as (left, right):
        for i, row in enumerate(means([each.numbers for each in models])):
            own = [each for each in models if each.name == row["class"]]
            alpha, colour = row["class"].removeprefix("calpha-"), plotting.COLOURS[i % len(plotting.COLOURS)]
            label = f"α = {alpha}: {row['in window']:.2f} ± {row['error in window']:.2f}"
            arrays = own[0].arrays
            x, between = arrays["curve.input_psnr"], arrays["slope.local_input_psnr"]
            style = {"color": colour, "linestyle": "-", "marker": "o", "markerfacecolor": colour}
            for number, each in enumerate(own):
                named = {"label": label} if number == 0 else {}
                left.plot(x, each.arrays["curve.psnr_of_mean"], **style, **named)
                right.plot(between, each.arrays["slope.local"], **style)
            if row["oracle"] is not None:
                left.plot(x, arrays["curve.best"], color=colour, linewidth=0.8, marker="", linestyle="--")
                right.plot(between, arrays["slope.best"], color=colour, linewidth=0.8, marker="", linestyle="--")
            right.axhline(row["nominal"], color=colour, linewidth=0.6, marker="", linestyle=":")
        ends = [own[0].numbers["slope_in_window"][end] for end in ("from_db", "to_db")]
        for axes in (left, right):
            axes.axvspan(*ends, color="black", alpha=0.06, linewidth=0)
        left.set(xlabel="PSNR of noisy images (dB)", ylabel="PSNR of denoised images (dB)")
        right.set(xlabel="PSNR of noisy images (dB)", ylabel="local slope")
        left.legend(loc="upper left", title=f"slope from {ends[0]:.0f} to {ends[1]:.0f} dB")
    return [path]


def optima(workdir: Path) -> list[Path]:
    """Draws the PSNR on manifolds beside that of projecting on the tangent space: `figures/classes-optima.png`."""
    shown = [each for each in first_of_each(workdir) if "tangents" in each.arrays]
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
    shown = {each.name: each for each in first_of_each(workdir)}
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
    for each in first_of_each(workdir):
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
    """Draws all figures there are results for and returns them with text and a table."""
    shown = first_of_each(workdir)
    blocks: list[Block] = [
        Paragraph(
            "Denoisers of several classes of images; numbers are means over the seeds of a class. slope: dB of PSNR "
            "after denoising per dB before, at small noise; in window: the same between the PSNRs that the figure "
            "shades; error: standard error over seeds, for one seed over images. nominal: alpha / (alpha + 1), the "
            "exponent of the contour alone; oracle: slope of the denoiser that knows the contour, gap: dB below its "
            "PSNR, both in the window. shortfall: dB below the projection on the tangent space, averaged over the "
            "points of the slope; trace: of the Jacobian; tangent cos2: mean squared cosine of the angles between "
            "tangent space and leading eigenvectors, 1 if they span the same."
        ),
        Table.of(means([each.numbers for each in read(workdir)])),
    ]
    names = {each.name for each in shown}
    if any(name.startswith("calpha") for name in names):
        words = "Geometric images of several regularities. Dashed: the oracle that knows the contour; dotted: nominal."
        blocks.append(Picture(slopes(workdir)[0], words))
    if any("tangents" in each.arrays for each in shown):
        blocks.append(Picture(optima(workdir)[0], "Classes with few parameters, beside the best possible denoiser."))
    if {"images", "shuffled"} <= names:
        blocks.append(Picture(shuffled(workdir)[0], "The same images with their pixels in order and shuffled."))
    for each, path in zip(shown, bases(workdir), strict=True):
        words = "their factors below" + (
            ", and their projections on the tangent space" if "tangents" in each.arrays else ""
        )
        blocks.append(Picture(path, f"{each.name}: leading eigenvectors at σ = {each.numbers['sigma']:.3g}, {words}."))
    return blocks


NAMES = {
    "classes-slopes": slopes,
    "classes-optima": optima,
    "classes-shuffled": shuffled,
    "classes-bases": bases,
}
