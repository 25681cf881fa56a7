"""Commands of this method alone: `demo`, `edit` and `export`; `compare` is in a separate module."""

import functools
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

import configs.phase_bridge
from common import config as configuration
from common import config_values
from common.cli import demo as demonstration
from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.cli.verbs import trained
from common.errors import input_error
from common.io import results
from common.io.metrics_log import read_metrics
from common.plots.report import Paragraph
from phase_bridge import compare, conditioning, figures, method

DEMO = Path(configs.phase_bridge.__file__).with_name("demo.py")
NETWORK = "denoiser"


def demo(app: App, request: Request) -> None:
    """Learns a spiral, interrupts, resumes, samples and compares, each by its own command, in `--workdir`/phase_bridge.

    `--config.KEY=VALUE` goes to every command.
    """
    root = workdirs.required(request, "workdir")
    workdirs.check_writable(root)
    config = configuration.load(DEMO, request.overrides, app.base())
    compare.build(config)
    steps = config_values.steps(
        config.train.steps, batch_size=config.train.batch_size, num_examples=None, field="config.train.steps"
    )
    start = time.perf_counter()
    folder = demonstration.prepare(root, app.name)
    # It is the run that the comparison would make, so it is trained once.
    own = compare.model_path(folder, NETWORK, 0)
    changes = [f"--config.{key}={text}" for key, text in request.overrides.items()]
    chosen = ("--config", str(DEMO), "--workdir", str(own), *changes)
    seconds = {}
    seconds["train, first half"], saved = demonstration.run_interrupted(
        app.name, "train", *chosen, workdir=own, at_step=steps // 2
    )
    seconds["train, resumed"] = demonstration.run(app.name, "train", *chosen)
    seconds["sample"] = demonstration.run(app.name, "sample", "--workdir", str(own))
    seconds["compare"] = demonstration.run(
        app.name, "compare", "--config", str(DEMO), "--workdir", str(folder), *changes
    )
    for name in ("samples", "metrics.jsonl"):  # the page shows them beside the comparison
        (shutil.copytree if (own / name).is_dir() else shutil.copy)(own / name, folder / name)
    compared, _ = results.read_newest(folder / "results", "compare", verb="compare")
    before = time.perf_counter()
    sections = figures.sections(folder)
    seconds["draw"] = time.perf_counter() - before
    seconds["all"] = time.perf_counter() - start
    last = read_metrics(own)[-1]
    lines = figures.lines_of(compared)
    numbers = {
        "interrupted_at_step": saved,
        "steps": last["step"],
        "loss": last["loss"],
        "seconds": seconds,
        "floor": compared["floor"],
        "lines": {title: {str(nfe): row for nfe, row in found} for title, found in lines.items()},
    }
    words = Paragraph(
        f"The denoiser was trained for {last['step']} steps, stopped by SIGTERM after step {saved} and resumed from "
        f"there, the velocity of flow matching as long; {seconds['all']:.0f} s in all, sampling and measures included."
    )
    headed = {f"phase_bridge: {heading}": blocks for heading, blocks in sections.items()}
    first = next(iter(headed))
    page, table = demonstration.finish(
        folder, sections={**headed, first: [words, *headed[first]]}, numbers=numbers, title="ScoreBridge demonstration"
    )
    distances = [
        f"{title}: " + ", ".join(f"{row['w2']:.3f} @{nfe} ({row['sampler']})" for nfe, row in found)
        for title, found in lines.items()
    ]
    print_lines(
        "",
        f"interrupted after step {saved} of {last['step']} and resumed; {seconds['all']:.0f} s in all",
        f"sliced W2 at so many evaluations; data against data {compared['floor']['w2']:.3f}:",
        *distances,
        f"page: {page}",
        f"all numbers: {table}",
        f"next: python -m {app.name} sample --workdir {own} --config.sampler.nfe=5",
    )


def edit(app: App, request: Request) -> None:
    """Makes images from a coarse painting and around a hole: `results/edited-step-N-seed-S-KEY.json` and `.npz`."""
    flags = request.flags
    config = workdirs.of_trained(app, request).config
    path = config.sampler.process or config.objective.process
    if method.is_toy(config) or path != "bridge":
        got = f"{path}, {config.data.source}"
        raise input_error("edit", expected="a bridge of images", got=got, fix="train one, as in cifar10.py")
    for name, value, least, most in (
        ("num", flags.num, 1, 1024),
        ("nfe", flags.nfe, 2, 10_000),
        ("cells", flags.cells, 1, config.data.size),
        ("hole", flags.hole, 0.01, 0.99),
    ):
        if not least <= value <= most:
            raise input_error(f"--{name}", expected=f"{least} to {most}", got=value, fix="use another one")
    if config.data.size % flags.cells:
        expected = f"a divisor of config.data.size={config.data.size}"
        raise input_error("--cells", expected=expected, got=flags.cells, fix="use 8 or so")
    model = trained.load(app, request, "SAMPLE")
    if model is None:
        return
    found = method.held_out_images(config, model.method.sources)(0, flags.num)
    images = found["data"]
    settings = {"cells": flags.cells, "hole": flags.hole, "nfe": flags.nfe}
    own = method.as_model(method.build_setup(config), model.variables, found.get("label"))
    made = functools.partial(conditioning.edited, own, model.key, images, **settings)
    arrays, seconds = trained.timed("edit", made)
    numbers: dict[str, Any] = {**model.provenance(seconds, flags.nfe + 1), **settings, "num_images": len(images)}
    known = arrays["known"] > 0
    for name in ("inpainting", "stroke"):
        numbers[f"{name}_rms_of_known"] = float(np.sqrt(np.mean(np.square(arrays[name] - images)[:, known[0, ..., 0]])))
    paths = results.write(
        model.workdir / "results",
        f"edited-{model.name}",
        numbers=numbers,
        arrays=arrays,
        settings={
            **trained.without(model.settings, "evaluate"),
            "data": trained.fingerprints(model.method.sources()),
            "num": flags.num,
            **settings,
        },
    )
    print_lines(
        f"wrote {', '.join(str(path) for path in paths)}",
        f"next: python -m {app.name} figures edited --workdir {model.workdir}",
    )


def export(app: App, request: Request) -> None:
    """Writes the model of the run in `--workdir` to `--weights FILE`, as `phase_bridge.load` opens it."""
    config = workdirs.of_trained(app, request).config
    model = trained.load(app, request, "SAMPLE")
    if model is None:
        return
    path = Path(request.flags.weights)
    digest = method.SHELF.write(path, config, model.variables, step=model.step)
    print_lines(f"wrote {path}, {path.stat().st_size / 2**20:.2f} MiB in half precision, sha256 {digest}")
