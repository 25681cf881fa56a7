"""Figures and the page of a run or a comparison, from result files alone."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from common.io import results
from common.io.metrics_log import read_metrics, read_training
from common.io.results import NoResultError, grid, save_png
from common.plots import plotting, report
from common.plots.report import Block, Paragraph, Picture, Row, Table, write_report
from phase_bridge import toy

_WORDS = {
    "frechet": "Frechet distance of features",
    "w2": "sliced W2 to held-out data",
    "recall": "recall",
    "coverage": "coverage",
    "beyond": "fraction of samples off the support",
}
_FRACTIONS = ("recall", "coverage", "beyond")
_COLUMNS = 5
_CLASS_ROWS = 16  # classes that get a row of their own


def training(workdir: Path) -> list[Path]:
    """Draws the loss of the training batches against the step: `figures/training.png`."""
    lines, path = read_training(workdir), plotting.path_in(workdir, "training")
    with plotting.figure(path) as axes:
        plotting.losses(axes, lines, ylabel="loss")
    return [path]


def quality(workdir: Path) -> list[Path]:
    """Draws the measures of `evaluate` against the number of evaluations: `figures/quality.png`."""
    numbers, _ = _evaluation(workdir)
    floor, *table = numbers["table"]
    measures = [name for name in _WORDS if floor.get(name) is not None]
    path = plotting.path_in(workdir, "quality")
    with plotting.figure(path, width=plotting.COLUMN * len(measures), columns=len(measures)) as made:
        for axes, name in zip(made if len(measures) > 1 else [made], measures, strict=True):
            _against_nfe(axes, {"samples": [(row["nfe"], row[name]) for row in table]}, floor[name], _WORDS[name])
    return [path]


def trajectories(workdir: Path) -> list[Path]:
    """Draws how position and velocity of some samples go from the prior to the data: `figures/trajectories.png`."""
    numbers, arrays = _bridge_samples(workdir)
    states, times = arrays["states"][:, :-1], arrays["times"]
    size = states.shape[-1] // 2
    path = plotting.path_in(workdir, "trajectories")
    if states.ndim > 3:
        few = states[:4, np.linspace(0, len(times) - 1, min(8, len(times))).round().astype(int)]
        rows = {}
        for i, each in enumerate(few):
            rows[f"x, sample {i + 1}"] = _unit(each[..., :size])
            rows[f"v, sample {i + 1}"] = _unit(each[..., size:])
        shown = times[np.linspace(0, len(times) - 1, few.shape[1]).round().astype(int)]
        plotting.panels(path, rows, columns=[f"t = {t:.2f}" for t in shown])
        return [path]
    with plotting.figure(path, width=2 * plotting.COLUMN, height=3.2, columns=2) as (left, right):
        for axes, part, words in ((left, slice(0, size), "position"), (right, slice(size, None), "velocity")):
            _lines(axes, states[:60, :, part], times)
            axes.set(title=f"{words} from t = 0 (light) to {times[-1]:.2f} (dark)", aspect="equal")
    return [path]


def estimates(workdir: Path) -> list[Path]:
    """Shows the data estimates along time ("sampling hop"): `figures/estimates.png`."""
    numbers, arrays = _bridge_samples(workdir)
    found, times = arrays["estimates"], arrays["times"]
    chosen = np.unique(np.linspace(0, len(times) - 1, min(_COLUMNS, len(times))).round().astype(int))
    path = plotting.path_in(workdir, "estimates")
    if found.ndim > 3:
        rows = {f"sample {i + 1}": _unit(found[i, chosen]) for i in range(min(4, len(found)))}
        plotting.panels(path, rows, columns=[f"t = {times[n]:.2f}" for n in chosen])
        return [path]
    clouds = {f"t = {times[n]:.2f}": found[:, n] for n in chosen}
    _scatter(path, clouds, extent=_extent(arrays["samples"]))
    return [path]


def samples(workdir: Path) -> list[Path]:
    """Shows the newest samples, images as a grid or by class, points as a cloud: `figures/samples.png`."""
    _, arrays = _samples(workdir)
    drawn = arrays["samples"]
    path = plotting.path_in(workdir, "samples")
    if "labels" in arrays:
        rows = by_class(_unit(drawn), arrays["labels"])
        if 1 < len(rows) <= _CLASS_ROWS:
            plotting.panels(path, rows, columns=[""] * len(next(iter(rows.values()))))
            return [path]
        drawn = drawn[:64][np.argsort(arrays["labels"][:64], kind="stable")]
    if drawn.ndim == 4:
        return [save_png(path, grid(_unit(drawn[:64]), scale=max(1, 64 // drawn.shape[1])))]
    _scatter(path, {"samples": drawn[:4096]}, extent=_extent(drawn))
    return [path]


def by_nfe(workdir: Path) -> list[Path]:
    """Shows what `evaluate` drew at each number of evaluations beside held-out data: `figures/by-nfe.png`."""
    _, arrays = _evaluation(workdir)
    drawn = {int(name.partition(".")[2]): each for name, each in arrays.items() if name.startswith("samples.")}
    path = plotting.path_in(workdir, "by-nfe")
    reference = arrays["reference"]
    clouds = {**{f"NFE {nfe}": drawn[nfe] for nfe in sorted(drawn)}, "held-out data": reference}
    if reference.ndim == 4:
        count = min(8, *(len(each) for each in clouds.values()))
        plotting.panels(path, {name: _unit(each[:count]) for name, each in clouds.items()}, columns=[""] * count)
        return [path]
    _scatter(path, clouds, extent=_extent(reference))
    return [path]


def edited(workdir: Path) -> list[Path]:
    """Shows images made from paintings and around holes: `figures/edited.png`."""
    _, arrays = results.read_newest(workdir / "results", "edited", verb="edit")
    few = slice(0, 8)
    holed = np.where(arrays["known"] > 0, arrays["original"], 1.0)
    rows = {
        "painting": arrays["painting"],
        "made from it": arrays["stroke"],
        "with a hole": holed,
        "filled": arrays["inpainting"],
        "held out": arrays["original"],
        "made freely": arrays["free"],
    }
    shown = {name: _unit(images[few]) for name, images in rows.items()}
    written = plotting.path_in(workdir, "edited")
    plotting.panels(written, shown, columns=[""] * len(shown["painting"]))
    return [written]


def compare(workdir: Path) -> list[Path]:
    """Draws quality against NFE for all models of a comparison: `figures/compare.png` and `compare-samples.png`."""
    numbers = _comparison(workdir)
    paths = [plotting.path_in(workdir, "compare")]
    lines = lines_of(numbers)
    measures = [name for name in _WORDS if numbers["floor"][name] is not None]
    with plotting.figure(
        paths[0], width=1.1 * len(measures) * plotting.COLUMN, height=3.4, columns=len(measures)
    ) as made:
        for axes, name in zip(made, measures, strict=True):
            chosen = {model: [(nfe, row[name]) for nfe, row in found] for model, found in lines.items()}
            _against_nfe(axes, chosen, numbers["floor"][name], _WORDS[name])
        for axes in made[1:]:
            axes.get_legend().remove()
    rows = {}
    measured_at = sorted({row["nfe"] for row in numbers["rows"]})
    shown = [nfe for nfe in (3, 5, 10, 20) if nfe in measured_at] or measured_at[:4]
    for model in dict.fromkeys(row["model"] for row in numbers["rows"]):
        measured, arrays = results.read(workdir / "results" / f"{numbers['measured'][model][0]}.json")
        rows[measured["title"]] = {
            f"NFE {nfe}": arrays[f"samples.{nfe}"] for nfe in shown if f"samples.{nfe}" in arrays
        }
    if rows and shown and not numbers["source"].startswith("toy:"):
        paths.append(plotting.path_in(workdir, "compare-samples"))
        pictures = {
            textwrap.fill(name, 18): np.stack([_unit(each[0]) for each in own.values()]) for name, own in rows.items()
        }
        plotting.panels(paths[-1], pictures, columns=[f"NFE {nfe}" for nfe in shown])
    elif rows and shown:
        paths.append(plotting.path_in(workdir, "compare-samples"))
        extent = toy.toy(numbers["source"].partition(":")[2]).extent
        _table_of_clouds(paths[-1], rows, [f"NFE {nfe}" for nfe in shown], extent)
    return paths


def index(workdir: Path) -> list[Path]:
    """Writes `index.html`, a page with what there is: curves, tables, pictures and how they were made."""
    title = f"Bridge: {workdir.resolve().name}"
    lead = "Made from the result files beside this page."
    return [write_report(workdir / "index.html", title, sections(workdir), lead=lead)]


def sections(workdir: Path) -> dict[str, Sequence[Block]]:
    """Draws every figure there are results for; returns them with tables and words, by heading."""
    found: dict[str, Sequence[Block]] = {}
    origins: list[Mapping[str, Any]] = []
    if results.newest(workdir / "results", "compare"):
        found["Networks and paths compared"] = comparison_blocks(workdir)
    if results.newest(workdir / "results", "evaluate"):
        numbers, _ = _evaluation(workdir)
        origins.append(numbers)
        found["Quality against evaluations"] = [
            Paragraph(
                f"{numbers['num']} samples against as many held-out data, {numbers['repeats']} sets; the first row is "
                "data against fresh data, the floor of each measure."
            ),
            Table.of(numbers["table"], digits=3),
            Row(
                [
                    Picture(quality(workdir)[0], "The dotted line is data against fresh data."),
                    Picture(by_nfe(workdir)[0], "Samples at each number of evaluations."),
                ]
            ),
        ]
    if results.newest(workdir / "samples", "step"):
        numbers, arrays = _samples(workdir)
        origins.append(numbers)
        words = f"Samples with {numbers['nfe']} evaluations{', sorted by class' * ('labels' in arrays)}."
        blocks: list[Block] = [Picture(samples(workdir)[0], words)]
        if "states" in arrays:
            blocks += [
                Picture(trajectories(workdir)[0], "From the prior to the data."),
                Picture(estimates(workdir)[0], "The data estimate along time: the early ones are samples already."),
            ]
        found["Samples"] = blocks
    if results.newest(workdir / "results", "edited"):
        words = "From top to bottom: paintings, images made from them, holes, holes filled, originals, free samples."
        found["Images from paintings and known pixels"] = [Picture(edited(workdir)[0], words, pixels=True)]
    if any("loss" in each for each in read_metrics(workdir)):
        found["Training"] = [Picture(training(workdir)[0], "Loss of the training batches.")]
    if not found:
        raise NoResultError(f"workdir {workdir}: expected result files, got none; run evaluate or sample first")
    if origins:
        command = "python -m phase_bridge figures --workdir DIR"
        found["How this was made"] = report.origins(workdir, origins, command=command)
    return found


def by_class(images: np.ndarray, labels: np.ndarray, *, most: int = 10) -> dict[str, np.ndarray]:
    """Returns `{"class K": [N, H, W, C]}`, the first images of each class, white where one has fewer."""
    classes, counts = np.unique(labels, return_counts=True)
    rows = {}
    for each in classes:
        own = images[labels == each][:most]
        white = np.ones((min(most, counts.max()) - len(own), *images.shape[1:]), images.dtype)
        rows[f"class {each}"] = np.concatenate([own, white])
    return rows


def comparison_blocks(workdir: Path) -> list[Block]:
    """Returns tables and figures of a comparison."""
    numbers = _comparison(workdir)
    lines, floor = lines_of(numbers), numbers["floor"]
    counts = sorted({row["nfe"] for row in numbers["rows"]})
    blocks: list[Block] = [
        Paragraph(
            f"{numbers['source']}: the same architecture, {numbers['step']} steps of {numbers['batch_size']}, "
            f"{numbers['seeds']} training seed(s), {numbers['num']} samples. Each entry's sampler was chosen for its "
            "number of evaluations (NFE) among equally many candidates, on other samples."
        )
    ]
    for measure, words in _WORDS.items():
        if floor[measure] is None:
            continue
        rows = [
            [model, *(dict(found)[nfe][measure] if nfe in dict(found) else None for nfe in counts)]
            for model, found in lines.items()
        ]
        rows.append(["data against data", *[floor[measure]] * len(counts)])
        blocks.append(Table(["model", *(f"NFE {nfe}" for nfe in counts)], rows, caption=words, digits=3))
    blocks += [Picture(path, "Dotted: data against fresh data.") for path in compare(workdir)]
    return blocks


NAMES: Mapping[str, Callable[[Path], Sequence[Path]]] = {
    "training": training,
    "quality": quality,
    "by-nfe": by_nfe,
    "samples": samples,
    "trajectories": trajectories,
    "estimates": estimates,
    "edited": edited,
    "compare": compare,
    "index": index,
}


def lines_of(numbers: Mapping[str, Any]) -> dict[str, list[tuple[int, Mapping[str, Any]]]]:
    """Returns, by title of the model, (nfe, row) with rising nfe."""
    lines: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for row in sorted(numbers["rows"], key=lambda row: row["nfe"]):
        lines.setdefault(row["title"], []).append((row["nfe"], row))
    return {title: lines[title] for title in dict.fromkeys(row["title"] for row in numbers["rows"])}


def _against_nfe(axes, lines: Mapping[str, Sequence[tuple[int, float]]], floor: float, words: str) -> None:
    for name, points in lines.items():
        axes.plot([nfe for nfe, _ in points], [value for _, value in points], label=name)
    axes.axhline(floor, color="#777777", linestyle=":", marker="", label="data")
    axes.set(xscale="log", xlabel="network evaluations (NFE)", ylabel=words)
    if words not in [_WORDS[name] for name in _FRACTIONS]:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:.3g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1)
    ticks = sorted({nfe for points in lines.values() for nfe, _ in points})
    axes.set_xticks(ticks, [str(nfe) for nfe in ticks])
    axes.xaxis.minorticks_off()
    axes.legend(fontsize=6)


def _lines(axes, paths: np.ndarray, times: np.ndarray) -> None:
    colours = matplotlib.colormaps["Blues"](0.25 + 0.75 * (times / times[-1]))
    for n in range(len(times) - 1):
        axes.plot(paths[:, n : n + 2, 0].T, paths[:, n : n + 2, 1].T, color=colours[n + 1], linewidth=0.6, marker="",
                  linestyle="-")  # fmt: skip
    axes.plot(paths[:, -1, 0], paths[:, -1, 1], color="#D55E00", marker=".", markersize=3, linestyle="")


def _scatter(path: Path, clouds: Mapping[str, np.ndarray], *, extent: float) -> None:
    count = len(clouds)
    with plotting.figure(path, width=1.6 * max(count, 2), height=1.9, columns=count) as made:
        for axes, (name, points) in zip(made if count > 1 else [made], clouds.items(), strict=True):
            _cloud(axes, points, extent)
            axes.set_title(name)


def _cloud(axes, points: np.ndarray, extent: float) -> None:
    axes.plot(points[:, 0], points[:, 1], color="#0072B2", marker=".", markersize=1, linestyle="", rasterized=True)
    axes.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal", xticks=[], yticks=[])
    axes.grid(False)


def _table_of_clouds(path: Path, rows, columns: Sequence[str], extent: float) -> None:
    """Writes point clouds as small pictures in labelled rows and columns."""
    side, half = 160, 1.1 * extent
    shown = {}
    for name, clouds in rows.items():
        images = []
        for column in columns:
            points = clouds.get(column, np.empty((0, 2)))
            counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=side, range=[[-half, half]] * 2)
            images.append((1 - np.minimum(1, counts))[::-1, :, None])
        shown[textwrap.fill(name, 18)] = np.stack(images)
    plotting.panels(path, shown, columns=columns)


def _extent(points: np.ndarray) -> float:
    return 1.05 * float(np.quantile(np.abs(points), 0.999))


def _unit(images: np.ndarray) -> np.ndarray:
    return np.clip((images + 1) / 2, 0, 1)


def _comparison(workdir: Path) -> dict[str, Any]:
    return results.read_newest(workdir / "results", "compare", verb="compare")[0]


def _evaluation(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return results.read_newest(workdir / "results", "evaluate", verb="evaluate")


def _samples(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return results.read_newest(workdir / "samples", "step", verb="sample", what="samples")


def _bridge_samples(workdir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    numbers, arrays = _samples(workdir)
    if "states" not in arrays:
        raise NoResultError(
            f"{workdir / 'samples'}: expected samples of a bridge, got {numbers['process']}; use a bridge"
        )
    return numbers, arrays
