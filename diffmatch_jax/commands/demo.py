"""`python -m diffmatch_jax demo`: both stages trained with an interruption and measured, and a real pair matched."""

import time
from pathlib import Path

import configs.diffmatch_jax
from common import config as configuration
from common import config_values
from common.cli import demo, workdirs
from common.cli.app import App, Request, print_lines
from common.io import results
from common.io.metrics_log import read_metrics
from common.plots.report import Paragraph, Picture, Table
from diffmatch_jax.figures import runs

CONFIGS = Path(configs.diffmatch_jax.__file__).parent
PAIR = ("motorcycle_left.png", "motorcycle_right.png")


def run(app: App, request: Request) -> None:
    """Runs the whole of it in `--workdir`/diffmatch_jax; `--config.KEY=VALUE` goes to every training."""
    root = workdirs.required(request, "workdir")
    workdirs.check_writable(root)
    one, two = CONFIGS / "demo.py", CONFIGS / "demo_stage2.py"
    config = configuration.load(one, request.overrides, app.base())
    steps = config_values.steps(
        config.train.steps, batch_size=config.train.batch_size, num_examples=None, field="config.train.steps"
    )
    images = photographs()
    start = time.perf_counter()
    folder = demo.prepare(root, app.name)
    first, second, pair = folder / "stage1", folder / "stage2", folder / "pair"
    changes = [f"--config.{key}={text}" for key, text in request.overrides.items()]
    chosen = ("--config", str(one), "--workdir", str(first), *changes)
    after = ("--config", str(two), "--workdir", str(second), f"--config.stage2.stage1={first}", *changes)
    seconds = {}
    seconds["train stage 1, first half"], saved = demo.run_interrupted(
        app.name, "train", *chosen, workdir=first, at_step=steps // 2
    )
    seconds["train stage 1, resumed"] = demo.run(app.name, "train", *chosen)
    seconds["evaluate stage 1"] = demo.run(app.name, "evaluate", "--workdir", str(first))
    seconds["train stage 2"] = demo.run(app.name, "train", *after)
    seconds["evaluate both"] = demo.run(app.name, "evaluate", "--workdir", str(second))
    seconds["match"] = demo.run(app.name, "match", *images, "--workdir", str(second), "--out", str(pair))
    alone, _ = results.read(results.newest(first / "results", "evaluate") or first)
    both, _ = results.read(results.newest(second / "results", "evaluate") or second)
    before = time.perf_counter()
    sections = runs.sections(second)
    seconds["draw"] = time.perf_counter() - before
    seconds["all"] = time.perf_counter() - start
    last = read_metrics(first)[-1]
    rows = [*alone["table"][:-1], {**alone["table"][-1], "method": "stage 1"}, {**both["table"][-1], "method": "both"}]
    numbers = {
        "interrupted_at_step": saved,
        "steps": last["step"],
        "loss": last["loss"],
        "seconds": seconds,
        "stage1": alone,
        "both": both,
    }
    words = [
        Paragraph(
            f"Stage 1 was trained for {last['step']} steps, stopped by SIGTERM after step {saved} and resumed from "
            f"there, then stage 2 on its predictions; {seconds['all']:.0f} s in all, measures included."
        ),
        Table.of(rows),
        Paragraph("Errors in pixels of 256x256 warps of held-out photographs, and shares of pixels within 1, 3, 5."),
    ]
    shown = [
        Picture(
            next(pair.glob("match-*.png")),
            "A real pair, two views of one room; the matcher does not know that they are stereo.",
        ),
        Picture(next(pair.glob("hypotheses-*.png")), "Where the hypotheses differ, the matcher is unsure."),
    ]
    headed = {f"diffmatch_jax: {heading}": blocks for heading, blocks in sections.items()}
    page, table = demo.finish(
        folder,
        sections={"diffmatch_jax: what was learned": words, "diffmatch_jax: a real pair": shown, **headed},
        numbers=numbers,
        title="ScoreBridge demonstration",
    )
    print_lines(
        "",
        f"interrupted after step {saved} of {last['step']} and resumed; {seconds['all']:.0f} s in all",
        "mean end-point error on held-out warps, pixels: "
        + ", ".join(f"{row['method']} {row['aepe']:.2f}" for row in rows),
        f"rank correlation of confidence and error: {both['rank_correlation']:.2f}",
        f"page: {page}",
        f"all numbers: {table}",
        f"next: python -m {app.name} match A.jpg B.jpg --workdir {second} --out runs/pair",
    )


def photographs() -> tuple[str, str]:
    """Returns the paths of the stereo pair that comes with scikit-image."""
    from common.data.photographs import photographs_folder as folder

    left, right = (folder() / name for name in PAIR)
    return str(left), str(right)
