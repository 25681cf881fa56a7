"""`sample`: draws from a trained model."""

from common import results
from common.app import App, Request, lines
from common.verbs import trained


def run(app: App, request: Request) -> None:
    """Writes `samples/step-N-seed-S.npz`, `.png` and `.json`."""
    model = trained.load(app, request, "SAMPLE")
    if model is None:
        return
    samples, seconds = trained.timed(model.method.sample, model.variables, model.key)
    paths = results.write(
        model.workdir / "samples",
        model.name,
        numbers={**model.provenance(seconds, samples.info["nfe"]), **samples.info},
        arrays=samples.arrays,
        images=samples.images,
    )
    lines(
        f"wrote {', '.join(str(path) for path in paths)}",
        f"next: python -m {app.name} figures --workdir {model.workdir}",
    )
