"""`python -m phase_bridge export`: a trained model as one small file of weights, and its config beside it."""

from pathlib import Path

from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.cli.verbs import trained
from phase_bridge.method import SHELF


def run(app: App, request: Request) -> None:
    """Writes the model of the run in `--workdir` to `--weights FILE`, as `phase_bridge.load` opens it."""
    config = workdirs.of_trained(app, request).config
    model = trained.load(app, request, "SAMPLE")
    if model is None:
        return
    path = Path(request.flags.weights)
    digest = SHELF.write(path, config, model.variables, step=model.step)
    print_lines(f"wrote {path}, {path.stat().st_size / 2**20:.2f} MiB in half precision, sha256 {digest}")
