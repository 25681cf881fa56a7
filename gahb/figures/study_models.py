"""Figures of single models of the generalisation study, from result files alone: over training, beside machines."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.io import results
from common.io.results import NoResultError
from common.plots import plotting
from common.plots.report import Block, Paragraph, Picture, Table

TIMES, MACHINES = "times-", "machines-"
_SHOWN = 8  # columns of a sheet of samples at most
_WORDS = {
    "empirical": "whole images",
    "local": "local patches",
    "equivariant": "patches of all places",
    "wiener": "Wiener filter",
    "twin": "network of the other set",
}


class Model(NamedTuple):
    """The result of one model: its set size, number in the pair (1 or 2), numbers and arrays."""

    size: int
    half: int
    control: bool
    numbers: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def label(self) -> str:
        """The name of the training set in figures."""
        return "control" if self.control else f"N = {self.size}"

    @property
    def slug(self) -> str:
        """The name of the model in file names."""
        return f"{'control' if self.control else f'N-{self.size:05d}'}-{self.half}"


def read(workdir: Path, kind: str) -> list[Model]:
    """Returns the results of a kind (`TIMES`, `MACHINES`) by size, the control last; `NoResultError` without any."""
    loaded = [results.read(path) for path in results.latest_of_each(workdir / "results", kind)]
    if not loaded:
        raise NoResultError(f"{workdir / 'results'}: expected {kind}* of a study, got none; run study first")
    models = [Model(n["size"], n["half"], n["control"], n, arrays) for n, arrays in loaded]
    return sorted(models, key=lambda model: (model.control, model.size, model.half))


def times(workdir: Path) -> list[Path]:
    """Draws memorised fraction and PSNR against the step, and tau_gen and tau_mem against N: `study-times.png`."""
    models = read(workdir, TIMES)
    path = plotting.path_in(workdir, "study-times")
    looks = _looks(models)
    with plotting.figure(path, width=2.8 * plotting.COLUMN, height=3.2, columns=3) as (left, middle, right):
        for model in models:
            colour, dash = looks[model.size]
            look = {"color": colour, "linestyle": dash, "marker": "", "label": model.label if model.half == 1 else None}
            steps = model.numbers["steps"]
            left.plot(steps, _numbers(model.numbers["memorised"]), **look)
            pale = look | {"alpha": 0.35, "label": None}
            left.plot(steps, _numbers(model.numbers["memorised_standardised"]), **pale)
            middle.plot(steps, _mean_psnr(model, "held_out"), **look)
            middle.plot(steps, _mean_psnr(model, "train"), **pale)
        level = models[0].numbers["criterion"]["level"]
        left.axhline(level, color="#777777", linewidth=0.8, marker="", linestyle=":")
        left.set(xlabel="step", ylabel="memorised fraction of samples", ylim=(-0.03, 1.03))
        left.set(title="pixels (pale: standardised)")
        middle.set(xlabel="step", ylabel="PSNR, mean over levels (dB)", title="held-out (pale: training)")
        marks = (("tau_gen", "o", "generalises"), ("tau_mem", "s", "memorises"))
        for name, mark, words in (*marks, ("tau_mem_standardised", "x", "memorises, standardised")):
            points = [(model.size, model.numbers[name]) for model in models if model.numbers[name] is not None]
            if points:
                right.plot(*zip(*points, strict=True), marker=mark, linestyle="", label=words)
        # Of a run that never memorises, only the last step is known.
        never = [(model.size, model.numbers["steps"][-1]) for model in models if model.numbers["tau_mem"] is None]
        if never:
            style = {"marker": "^", "linestyle": "", "color": "#777777", "label": "not memorised at the last step"}
            right.plot(*zip(*never, strict=True), **style)
        right.set(xlabel="training images N", ylabel="step", xscale="log", yscale="log")
        right.legend()
        left.figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return [path]


def checkpoints(workdir: Path) -> list[Path]:
    """Shows samples from one noise at several checkpoints, and the training image nearest to the last of each."""
    paths = []
    for model in read(workdir, TIMES):
        samples, steps = model.arrays["samples"], model.numbers["steps"]
        chosen = np.unique(np.geomspace(1, len(steps), min(5, len(steps))).round().astype(int)) - 1
        count = min(_SHOWN, samples.shape[1])
        rows = {f"step {steps[t]}": np.nan_to_num(samples[t, :count]) for t in chosen}
        rows["nearest"] = model.arrays["nearest_images"][-1, :count]
        near = model.arrays["nearest"] / np.maximum(model.arrays["second_nearest"], 1e-12)
        notes = {f"step {steps[t]}": [f"d1/d2 {near[t, i]:.2f}" for i in range(count)] for t in chosen}
        paths.append(plotting.path_in(workdir, f"study-checkpoints-{model.slug}"))
        plotting.panels(paths[-1], rows, columns=[""] * count, notes=notes)
    return paths


def machines(workdir: Path) -> list[Path]:
    """Draws the fractions of each network that the machines explain: `study-machines-output.png`, `-residual.png`."""
    models = [model for model in read(workdir, MACHINES) if model.half == 1] or read(workdir, MACHINES)
    paths = []
    for quantity in ("output", "residual"):
        paths.append(plotting.path_in(workdir, f"study-machines-{quantity}"))
        width = max(2 * plotting.COLUMN, 1.9 * len(models))
        with plotting.figure(paths[-1], width=width, height=3.0, columns=len(models)) as panels:
            panels = np.atleast_1d(panels)
            for axes, model in zip(panels, models, strict=True):
                sigma = model.numbers["sigma"]
                for (name, words), colour, dash in zip(_WORDS.items(), plotting.COLOURS, plotting.DASHES, strict=False):
                    found = model.numbers["explained"]["held_out"].get(name)
                    if found is not None:
                        axes.plot(sigma, _numbers(found[quantity]), label=words, color=colour, linestyle=dash)
                axes.axhline(0, color="#777777", linewidth=0.8, marker="", linestyle=":")
                axes.set(title=model.label, xlabel="noise σ", ylim=(-0.6, 1.03))
                _levels(axes, sigma)
            panels[0].set(ylabel=f"explained fraction of the {quantity}")
            handles = max((axes.get_legend_handles_labels() for axes in panels), key=lambda pair: len(pair[0]))
            panels[0].figure.legend(*handles, loc="outside lower center", ncols=3)
    return paths


def implied(workdir: Path) -> list[Path]:
    """Draws the noise level that each network implies over the true one: `figures/study-implied-noise.png`."""
    models = [model for model in read(workdir, MACHINES) if not model.control]
    path = plotting.path_in(workdir, "study-implied-noise")
    looks = _looks(models)
    with plotting.figure(path, width=2 * plotting.COLUMN, height=3.0, columns=2) as panels:
        for axes, name, title in zip(
            panels, ("implied", "residual"), ("residual and trace", "residual alone"), strict=True
        ):
            for model in models:
                colour, dash = looks[model.size]
                sigma = np.asarray(model.numbers["sigma"])
                ratio = _numbers(model.numbers["implied_noise"][name]) / sigma
                label = model.label if model.half == 1 else None
                axes.plot(sigma, ratio, color=colour, linestyle=dash, label=label)
            axes.axhline(1, color="#777777", linewidth=0.8, marker="", linestyle=":")
            axes.set(xlabel="true noise σ", ylabel="implied / true noise", title=title)
            _levels(axes, models[0].numbers["sigma"])
        panels[0].figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return [path]


def times_section(workdir: Path) -> Sequence[Block]:
    """Draws the figures over training time and returns them with words and a table."""
    models = read(workdir, TIMES)
    criterion = models[0].numbers["criterion"]
    return [
        Paragraph(
            f"A sample is memorised if its distance to the nearest training image is below {criterion['ratio']:.3f} of "
            "that to the second nearest (Bonnaire et al., NeurIPS 2025). tau_gen is the first checkpoint whose "
            f"held-out PSNR is within {criterion['settled_db']:g} dB of the best, tau_mem the first whose memorised "
            f"fraction exceeds {criterion['level']:g}. Standardised: of images without their mean and of equal norm, "
            "so that a copy of another brightness or contrast counts. Of one training image there is no second nearest."
        ),
        Table.of([_times_row(model) for model in models]),
        Picture(times(workdir)[0], "Memorisation and generalisation over training time, and their times against N."),
        *(
            Picture(path, f"{model.label}, model {model.half}: samples from the same noise over training time.")
            for model, path in zip(models, checkpoints(workdir), strict=True)
        ),
    ]


def machines_section(workdir: Path) -> Sequence[Block]:
    """Draws the figures of the score machines and returns them with words."""
    first = read(workdir, MACHINES)[0].numbers
    count = len(first["sigma"])
    return [
        Paragraph(
            "Fractions of each network's output, and of its residual, that score machines of its training set explain "
            f"on held-out images at {count} noise levels (Kamb and Ganguli, arXiv 2412.20292). Any good denoiser "
            "explains the output in weak noise and the residual in strong noise: the Wiener filter is the control."
        ),
        *(Picture(path, f"Explained fraction ({path.stem.rpartition('-')[2]}).") for path in machines(workdir)),
        *(
            [Picture(implied(workdir)[0], "The noise level that each blind network implies, over the true one.")]
            if any(not model.control for model in read(workdir, MACHINES))
            else []
        ),
    ]


def _times_row(model: Model) -> dict[str, Any]:
    numbers = model.numbers
    last = numbers["memorised"][-1]
    return {
        "set": model.label,
        "model": model.half,
        "tau_gen": numbers["tau_gen"],
        "tau_mem": numbers["tau_mem"],
        "tau_mem (standardised)": numbers["tau_mem_standardised"],
        "memorised at the end": last,
        "(standardised)": numbers["memorised_standardised"][-1],
        "of held-out images": numbers["held_out_memorised_standardised"],
        "held-out PSNR (dB)": float(_mean_psnr(model, "held_out")[-1]),
        "training PSNR (dB)": float(_mean_psnr(model, "train")[-1]),
    }


def _looks(models: Sequence[Model]) -> dict[int, tuple[str, Any]]:
    """Returns colour and dash of each set size, the same for both of its models."""
    every = itertools.cycle(zip(plotting.COLOURS, plotting.DASHES, strict=True))
    return dict(zip(sorted({model.size for model in models}), every, strict=False))


def _levels(axes, sigma: Sequence[float]) -> None:
    """Makes the axis of noise levels logarithmic, with a tick at each level."""
    axes.set_xscale("log")
    axes.set_xticks(sigma, [f"{each:.2g}" for each in sigma])
    axes.minorticks_off()


def _mean_psnr(model: Model, split: str) -> np.ndarray:
    return np.asarray(model.numbers[f"psnr_{split}"], np.float64).mean(1)


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


NAMES = {
    "study-times": times,
    "study-checkpoints": checkpoints,
    "study-machines": machines,
    "study-implied-noise": implied,
}
