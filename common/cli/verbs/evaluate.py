"""`evaluate`: measures a trained model on held-out data."""

from common.cli.app import App, Request, print_lines
from common.cli.verbs import trained
from common.io import results
from common.plots.tables import text_table


def run(app: App, request: Request) -> None:
    """Writes `results/evaluate-step-N-seed-S-KEY.json` and `.npz`, and prints the table of the method if it has one."""
    model = trained.load(app, request, "EVALUATE")
    if model is None:
        return
    settings = {**model.settings, "data": trained.fingerprints(model.method.sources())}
    evaluation, seconds = trained.timed("evaluate", model.method.evaluate, model.variables, model.key)
    numbers = {**model.provenance(seconds, evaluation.numbers.get("nfe")), **evaluation.numbers}
    paths = results.write(
        model.workdir / "results",
        f"evaluate-{model.name}",
        numbers=numbers,
        arrays=evaluation.arrays,
        settings=settings,
    )
    print_lines(
        *text_table(evaluation.numbers.get("table", [])),
        f"wrote {', '.join(str(path) for path in paths)}",
        f"next: python -m {app.name} figures --workdir {model.workdir}",
    )
