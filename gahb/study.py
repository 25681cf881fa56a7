"""`python -m gahb study`: pairs of denoisers on disjoint training sets of growing size, from memory to generalisation.

Each model is an ordinary run in DIR/N-00010/1 (or /2), resumed as `train` resumes; each pair is measured once both are
there, each model at all its kept checkpoints and beside score machines, into DIR/results (`gahb.study_results`).
Measures of the same weights, images and settings are not repeated, so the command may be stopped anywhere, and given
again.

The models are trained one after the other, on all devices. On CPUs two models in one vectorised program took three
times as long each; where several accelerators are there, `--only 10/2` trains one model, so each device may be given
its own (one process each, made visible to it alone), and the command without it then measures what all have trained.
`--measure-only` trains nothing.
"""

from typing import Any

from common import config as configs
from common.cli import multi_run, workdirs
from common.cli.app import App, Request, print_lines
from common.errors import input_error
from common.io import results
from common.plots.report import text_table
from gahb.study_plan import Part, Plan, build, config_of, folder_of, images


def run(app: App, request: Request) -> None:
    """Trains and measures whatever of the study is missing in `--workdir`."""
    config, workdir = workdirs.to_train(app, request)
    plan = build(config)
    multi_run.check_same(app, config, workdir, what="study")
    chosen, halves = _chosen(plan, request.flags.only)
    if request.flags.measure_only and request.flags.only:
        raise input_error(
            "--measure-only", expected="no --only beside it", got=f"--only {request.flags.only}", fix="leave one out"
        )
    # Imported only now, which takes seconds: a mistyped command is refused at once.
    from common.training import parallel

    for part in chosen:
        for half in halves:
            multi_run.check(app, config_of(config, part, half), folder_of(workdir, part, half))
    training, held_out, dropped = images(app, config, plan)
    kept = f"{len(held_out)} held out ({dropped} near-duplicates of training images left out)"
    print_lines(f"data: training sets of up to {len(training[0])} images, {kept}")
    from gahb.study_results import Measured

    measured = Measured(config, workdir, training, held_out)
    if request.flags.dry_run:
        print_lines(*text_table([_planned(part, measured) for part in plan.parts]), "nothing was compiled or written")
        return
    parallel.enable_compilation_cache()
    workdir.mkdir(parents=True, exist_ok=True)
    configs.write(config, workdir)
    for part in chosen:
        for half in halves if not request.flags.measure_only else ():
            folder, title = folder_of(workdir, part, half), f"{part.name}/{half}"
            if not multi_run.train(app, config_of(config, part, half), folder, title=title, size=part.size):
                print_lines(f"interrupted in {part.name}/{half}; the same command goes on from there")
                return
        if not request.flags.only:
            _measure(app, plan, part, measured)
    pairs = [results.read(path)[0] for part in plan.parts if (path := measured.pair_path(part)).exists()]
    for numbers in pairs:
        if not numbers["agreement_stated"]:
            both, of = numbers["converged"]["both"], numbers["converged"]["of"]
            print_lines(
                f"note: {_label(numbers)}: {both} of {of} samples converged in both models; no agreement is stated"
            )
    print_lines(
        *text_table([_row(numbers) for numbers in pairs]), f"next: python -m {app.name} figures --workdir {workdir}"
    )


def _measure(app: App, plan: Plan, part: Part, measured) -> None:
    """Measures whatever of a part is trained and not measured yet."""
    from gahb import study_results

    place = f"{plan.parts.index(part) + 1} of {len(plan.parts)}"
    trained = [half for half in (1, 2) if multi_run.is_trained(folder_of(measured.workdir, part, half))]
    written = []
    if len(trained) == 2:
        written.append(study_results.measure_pair(app, plan, part, measured, title=f"{part.name}, pair ({place})"))
    for half in trained:
        title = f"{part.name}/{half}"
        written.append(
            study_results.measure_times(app, plan, part, half, measured, title=f"{title}, checkpoints ({place})")
        )
        written.append(
            study_results.measure_beside_machines(
                plan, part, half, measured, title=f"{title}, score machines ({place})"
            )
        )
    print_lines(*(f"wrote {path}" for path in written if path is not None))


def _chosen(plan: Plan, only: str | None) -> tuple[tuple[Part, ...], tuple[int, ...]]:
    if only is None:
        return plan.parts, (1, 2)
    known = {
        f"{'control' if part.control else part.size}/{half}": (part, half) for part in plan.parts for half in (1, 2)
    }
    if only not in known:
        raise input_error("--only", expected=f"one of {', '.join(known)}", got=only, fix="name one model of the study")
    part, half = known[only]
    return (part,), (half,)


def _planned(part: Part, measured) -> dict[str, Any]:
    done = sum(multi_run.is_trained(folder_of(measured.workdir, part, half)) for half in (1, 2))
    there = "yes" if measured.pair_path(part).exists() else "no"
    return {"part": part.name, "images": part.size, "steps": part.steps, "trained": done, "measured": there}


def _row(numbers: dict[str, Any]) -> dict[str, Any]:
    """Returns a line of the table printed at the end; similarities are correlations of pixels."""
    alike, gaps = numbers["similarity"]["pixels"], numbers["gap"]["sigma"]

    def mean(label):
        return None if alike[label] is None else alike[label]["mean"]

    return {
        "set": _label(numbers),
        "steps": numbers["step"],
        "gap (dB) 1": gaps[0]["mean"],
        "2": gaps[1]["mean"],
        "A~B": mean("pair"),
        "other noise": mean("other_noise"),
        "nearest": mean("nearest"),
        "held-out nearest": mean("held_out"),
        "converged": f"{numbers['converged']['both']}/{numbers['converged']['of']}",
    }


def _label(numbers: dict[str, Any]) -> str:
    return "control" if numbers["control"] else str(numbers["size"])
