"""Figures of the generalisation study, from its result files alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.io import results
from common.io.results import NoResultError
from common.plots import plotting
from common.plots.report import Block, Paragraph, Picture, Table
from gahb.metrics.generalisation import ORIGINS

_SHOWN = 8  # samples a picture shows at most


class Result(NamedTuple):
    """The result of one pair: what it is called in figures, its numbers and its arrays."""

    label: str
    numbers: dict[str, Any]
    arrays: dict[str, np.ndarray]


def found(workdir: Path) -> list[Result]:
    """Returns the results of a study by size, the control last; raises `NoResultError` if there is none."""
    loaded = [results.read(path) for path in results.latest_of_each(workdir / "results", "study-")]
    if not loaded:
        place = workdir / "results"
        raise NoResultError(f"{place}: expected results of a generalisation study, got none; run study first")
    loaded.sort(key=lambda each: (each[0]["control"], each[0]["size"]))
    return [
        Result(f"control, {numbers['step']} steps" if numbers["control"] else f"N = {numbers['size']}", numbers, arrays)
        for numbers, arrays in loaded
    ]


def psnr(workdir: Path) -> list[Path]:
    """Draws PSNR against noise level on training and held-out images for each N: `figures/study-psnr.png`."""
    shown = found(workdir)
    path = plotting.path_in(workdir, "study-psnr")
    with plotting.figure(path, width=2 * plotting.COLUMN, height=3.5, columns=2) as panels:
        for axes, split, title in zip(panels, ("train", "test"), ("training images", "held-out images"), strict=True):
            for result in shown:
                curves = [f"psnr.{split}.{m}" for m in range(2)]
                x = result.arrays[f"{curves[0]}.input_psnr"]
                mean = np.mean([result.arrays[f"{each}.mean_psnr"] for each in curves], axis=0)
                # Of the mean of the two models, whose images differ (training) or whose noise is the same (held out).
                error = np.mean([result.arrays[f"{each}.mean_psnr_error"] for each in curves], axis=0)
                axes.errorbar(x, mean, yerr=1.96 * error, label=result.label, elinewidth=0.8)
            plotting.identity(axes, x)
            axes.set(xlabel="PSNR of noisy images (dB)", ylabel="PSNR of denoised images (dB)", title=title)
        panels[0].figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return [path]


def gap(workdir: Path) -> list[Path]:
    """Draws the train-test gap and what the two models share against N: `figures/study-gap.png`."""
    everything = found(workdir)
    shown = [each for each in everything if not each.numbers["control"]]
    if not shown:
        raise NoResultError(f"{workdir / 'results'}: expected results of a training set size, got only the control's")
    path = plotting.path_in(workdir, "study-gap")
    sizes = [each.numbers["size"] for each in shown]
    with plotting.figure(path, width=2 * plotting.COLUMN, height=3.4, columns=2) as (left, right):
        for m in range(2):
            intervals = [each.numbers["gap"]["sigma"][m] for each in shown]
            middle = np.array([each["mean"] for each in intervals])
            bounds = np.array([[each["mean"] - each["low"], each["high"] - each["mean"]] for each in intervals]).T
            left.errorbar(sizes, middle, yerr=np.maximum(bounds, 0), label=f"model {m + 1}", capsize=2)
        left.axhline(0, color="#777777", linewidth=0.8, marker="", linestyle=":")
        left.set(xlabel="training images N", ylabel="train − test PSNR, mean over σ (dB)")
        for label, words in _SIMILARITIES.items():
            values = [each.numbers["similarity"]["pixels"][label] for each in shown]
            means = [np.nan if value is None else value["mean"] for value in values]
            low, high = ([np.nan if v is None else v[end] for v in values] for end in ("low", "high"))
            bounds = np.maximum([np.subtract(means, low), np.subtract(high, means)], 0)
            right.errorbar(sizes, means, yerr=bounds, label=words, capsize=2)
        for each in everything:
            agreement = each.numbers["similarity"]["pixels"]["pair"]
            if each.numbers["control"] and agreement is not None:
                words = f"two models after {each.numbers['step']} steps"
                right.axhline(agreement["mean"], color="#777777", marker="", linestyle=":", label=words)
        right.set(xlabel="training images N", ylabel="correlation of pixels", ylim=(None, 1.02))
        for axes in (left, right):
            axes.set_xscale("log")
        left.legend()
        right.figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return [path]


_SIMILARITIES = {
    "pair": "two models, same noise",
    "other_noise": "two models, other noise",
    "nearest": "sample to nearest training image",
    "held_out": "held-out image to nearest training image",
}


def similarity(workdir: Path) -> list[Path]:
    """Draws histograms of the similarities for each N: `figures/study-similarity-FEATURE.png`."""
    shown = found(workdir)
    paths = []
    for feature in shown[0].numbers["similarity"]:
        path = plotting.path_in(workdir, f"study-similarity-{feature}")
        width = max(plotting.COLUMN, 2.1 * len(shown))
        with plotting.figure(path, width=width, height=3.0, columns=len(shown)) as panels:
            for axes, result in zip(np.atleast_1d(panels), shown, strict=True):
                _histograms(axes, result, feature)
                axes.set(title=result.label, xlabel=f"similarity of {feature}")
            first = np.atleast_1d(panels)[0]
            first.set(ylabel="fraction")
            first.figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        paths.append(path)
    return paths


def _histograms(axes, result: Result, feature: str) -> None:
    converged = result.arrays["converged"]
    kept = {
        "pair": converged.all(0),
        "other_noise": converged[0] & np.roll(converged[1], -1),
        "nearest": converged,
        "held_out": np.ones_like(result.arrays[f"similarity.{feature}.held_out"], bool),
    }
    edges = np.linspace(-0.25, 1, 26)
    middles = (edges[1:] + edges[:-1]) / 2
    for (label, words), colour, dash in zip(_SIMILARITIES.items(), plotting.COLOURS, plotting.DASHES, strict=False):
        values = result.arrays[f"similarity.{feature}.{label}"][kept[label]]
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        heights = counts / len(values) if len(values) else np.full(len(counts), np.nan)
        axes.step(middles, heights, where="mid", label=words, color=colour, linestyle=dash, marker="")


def pairs(workdir: Path) -> list[Path]:
    """Shows samples of both models from the same noise, with the nearest training image of each, for each N."""
    paths = []
    for result in found(workdir):
        count = min(_SHOWN, result.arrays["samples"].shape[1])
        samples, nearest = result.arrays["samples"], result.arrays["nearest"]
        rows = {
            "nearest to 1": nearest[0, :count],
            "model 1": np.nan_to_num(samples[0, :count]),
            "model 2": np.nan_to_num(samples[1, :count]),
            "nearest to 2": nearest[1, :count],
        }
        converged, similar = result.arrays["converged"], result.arrays["similarity.pixels.nearest"]
        notes = {
            f"model {m + 1}": [f"{similar[m, i]:.2f}" if converged[m, i] else "not converged" for i in range(count)]
            for m in range(2)
        }
        alike = result.arrays["similarity.pixels.pair"]
        path = plotting.path_in(workdir, f"study-samples-{_slug(result)}")
        plotting.panels(path, rows, columns=[f"A~B {each:.2f}" for each in alike[:count]], notes=notes)
        paths.append(path)
    return paths


def trajectories(workdir: Path) -> list[Path]:
    """Shows where the two models' ways from one noise part, sample by sample: `figures/study-trajectory-N-I.png`."""
    with_ways = [each for each in found(workdir) if "trajectory.frames" in each.arrays]
    if not with_ways:
        raise NoResultError(f"{workdir / 'results'}: expected trajectories, got none; set config.study.trajectories=3")
    paths = [plotting.path_in(workdir, "study-bifurcation")]
    with plotting.figure(paths[0], width=1.4 * plotting.COLUMN, height=3.2) as axes:
        for result in with_ways:
            distance = result.arrays["trajectory.distance"].mean(0)
            axes.plot(result.arrays["trajectory.step"], distance, label=result.label, marker="")
        axes.set(xlabel="iteration", ylabel="distance of the two models' images")
        axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    for result in with_ways:
        frames = result.arrays["trajectory.frames"]
        columns = [f"t = {step}" for step in result.arrays["trajectory.frame_step"]]
        for i in range(frames.shape[2]):
            path = plotting.path_in(workdir, f"study-trajectory-{_slug(result)}-{i}")
            rows = {f"model {m + 1}": np.nan_to_num(frames[m, :, i]) for m in range(2)}
            plotting.panels(path, rows, columns=columns)
            paths.append(path)
    return paths


def section(workdir: Path) -> Sequence[Block]:
    """Draws all figures of the study and returns them with words and a table."""
    shown = found(workdir)
    first = shown[0].numbers
    return [
        Paragraph(
            "Two denoisers for each N, trained on disjoint sets of N images. Intervals are of 95 %, by bootstrap. A "
            "control of two nearly untrained models says how much agreement means nothing; held-out images beside "
            "their nearest training image say how near chance comes. No agreement is stated where fewer than half of "
            "the samples converged in both models. Scores disagree by the mean square of their difference, in units of "
            f"the score of the noise, over the levels from σ = {first['scores']['lowest']:g} up, where sampling ends."
        ),
        Table.of([_row(each) for each in shown]),
        Picture(gap(workdir)[0], "The gap between training and held-out PSNR, and similarities, against N."),
        Picture(psnr(workdir)[0], f"PSNR on training and on {first['num_held_out']} held-out images."),
        *(Picture(path, "Similarities; the controls are broken lines.") for path in similarity(workdir)),
        *(
            Picture(path, f"{each.label}: samples from the same noise, their similarity to the nearest training image.")
            for each, path in zip(shown, pairs(workdir), strict=True)
        ),
        *(
            [
                Picture(
                    trajectories(workdir)[0], "How far the images of the two models are apart on their way from noise."
                )
            ]
            if any("trajectory.frames" in each.arrays for each in shown)
            else []
        ),
    ]


def _row(result: Result) -> dict[str, Any]:
    numbers = result.numbers
    alike = numbers["similarity"]["pixels"]

    def mean(label):
        return None if alike[label] is None else float(alike[label]["mean"])

    def fraction(name, kind):
        fractions = numbers["origins"][name]["fractions"]
        return None if fractions is None else float(fractions[kind])

    disagreement = numbers["scores"].get("disagreement")
    return {
        "set": result.label,
        "steps": numbers["step"],
        "gap 1 (dB)": float(numbers["gap"]["sigma"][0]["mean"]),
        "gap 2 (dB)": float(numbers["gap"]["sigma"][1]["mean"]),
        "A~B": mean("pair"),
        "other noise": mean("other_noise"),
        "nearest": mean("nearest"),
        "held-out nearest": mean("held_out"),
        **{f"{kind} (held out)": _both(fraction, kind) for kind in ORIGINS[:2]},
        "scores disagree": None if disagreement is None else float(disagreement["mean"]),
        "converged": f"{numbers['converged']['both']} of {numbers['converged']['of']}",
    }


def _both(fraction, kind: str) -> str:
    sampled, control = fraction("samples", kind), fraction("held_out", kind)
    return f"{'–' if sampled is None else f'{sampled:.2f}'} ({control:.2f})"


def _slug(result: Result) -> str:
    return "control" if result.numbers["control"] else f"N-{result.numbers['size']:05d}"


NAMES = {
    "study-psnr": psnr,
    "study-gap": gap,
    "study-similarity": similarity,
    "study-samples": pairs,
    "study-trajectories": trajectories,
}
