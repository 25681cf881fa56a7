"""`python -m gahb demo`: a blind denoiser of photographs, trained with an interruption, measured and drawn."""

import time
from pathlib import Path

import configs.gahb
from common import config as configuration
from common import config_values
from common.cli import demo, workdirs
from common.cli.app import App, Request, print_lines
from common.io import results
from common.io.metrics_log import read_metrics
from common.plots.report import Paragraph
from gahb import figures

CONFIG = Path(configs.gahb.__file__).with_name("photographs.py")


def run(app: App, request: Request) -> None:
    """Runs the whole of it in `--workdir`/gahb; `--config.KEY=VALUE` goes to every command."""
    root = workdirs.required(request, "workdir")
    workdirs.check_writable(root)
    config = configuration.load(CONFIG, request.overrides, app.base())
    steps = config_values.steps(
        config.train.steps, batch_size=config.train.batch_size, num_examples=None, field="config.train.steps"
    )
    start = time.perf_counter()
    folder = demo.prepare(root, app.name)
    place = ("--workdir", str(folder))
    chosen = ("--config", str(CONFIG), *place, *(f"--config.{key}={text}" for key, text in request.overrides.items()))
    seconds = {}
    seconds["train, first half"], saved = demo.run_interrupted(
        app.name, "train", *chosen, workdir=folder, at_step=steps // 2
    )
    seconds["train, resumed"] = demo.run(app.name, "train", *chosen)
    seconds["evaluate"] = demo.run(app.name, "evaluate", *place)
    seconds["sample"] = demo.run(app.name, "sample", *place)
    measured, _ = results.read(results.newest(folder / "results", "evaluate") or folder)
    sampled, _ = results.read(results.newest(folder / "samples", "step") or folder)
    before = time.perf_counter()
    sections = figures.sections(folder)
    seconds["draw"] = time.perf_counter() - before
    seconds["all"] = time.perf_counter() - start
    last = read_metrics(folder)[-1]
    numbers = {
        "interrupted_at_step": saved,
        "steps": last["step"],
        "loss": last["loss"],
        "seconds": seconds,
        "evaluate": measured,
        "sample": sampled,
    }
    words = Paragraph(
        f"Trained for {last['step']} steps, stopped by SIGTERM after step {saved} and resumed from there; "
        f"{seconds['all']:.0f} s in all, evaluation and sampling included."
    )
    headed = {f"gahb: {heading}": blocks for heading, blocks in sections.items()}
    first = next(iter(headed))
    page, table = demo.finish(
        folder, sections={**headed, first: [words, *headed[first]]}, numbers=numbers, title="ScoreBridge demonstration"
    )
    gains = [f"{row['gain']:+.2f} dB at sigma {row['sigma']:.3g}" for row in measured["table"] if "gain" in row]
    print_lines(
        "",
        f"interrupted after step {saved} of {last['step']} and resumed; {seconds['all']:.0f} s in all",
        f"against the stationary Wiener filter on held-out photographs: {', '.join(gains) or 'not compared'}",
        f"page: {page}",
        f"all numbers: {table}",
        f"next: python -m {app.name} sample --workdir {folder} --config.seed=1",
    )
