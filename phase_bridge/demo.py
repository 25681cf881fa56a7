"""`python -m phase_bridge demo`: a spiral learned with an interruption, sampled, and compared along other paths."""

import shutil
import time
from pathlib import Path

import configs.phase_bridge
from common import config as configuration
from common import config_values
from common.cli import demo, workdirs
from common.cli.app import App, Request, print_lines
from common.io import results
from common.io.metrics_log import read_metrics
from common.plots.report import Paragraph
from phase_bridge import compare, figures

CONFIG = Path(configs.phase_bridge.__file__).with_name("demo.py")
NETWORK = "denoiser"


def run(app: App, request: Request) -> None:
    """Runs the whole of it in `--workdir`/phase_bridge; `--config.KEY=VALUE` goes to every command."""
    root = workdirs.required(request, "workdir")
    workdirs.check_writable(root)
    config = configuration.load(CONFIG, request.overrides, app.base())
    compare.build(config)
    steps = config_values.steps(
        config.train.steps, batch_size=config.train.batch_size, num_examples=None, field="config.train.steps"
    )
    start = time.perf_counter()
    folder = demo.prepare(root, app.name)
    # It is the run that the comparison would make, so it is trained once.
    own = compare.model_path(folder, NETWORK, 0)
    changes = [f"--config.{key}={text}" for key, text in request.overrides.items()]
    chosen = ("--config", str(CONFIG), "--workdir", str(own), *changes)
    seconds = {}
    seconds["train, first half"], saved = demo.run_interrupted(
        app.name, "train", *chosen, workdir=own, at_step=steps // 2
    )
    seconds["train, resumed"] = demo.run(app.name, "train", *chosen)
    seconds["sample"] = demo.run(app.name, "sample", "--workdir", str(own))
    seconds["compare"] = demo.run(app.name, "compare", "--config", str(CONFIG), "--workdir", str(folder), *changes)
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
    page, table = demo.finish(
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
        f"look at: {page}",
        f"all numbers: {table}",
        f"next: python -m {app.name} sample --workdir {own} --config.sampler.nfe=5",
    )
