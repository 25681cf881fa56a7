"""`import-weights`: foreign weights become an ordinary checkpoint."""

from pathlib import Path

from common import config as configs
from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.errors import InputError


def run(app: App, request: Request) -> None:
    """Reads the file, checks it, and lets the method write config and checkpoint into the work directory."""
    workdir = workdirs.required(request, "workdir")
    weights = Path(request.flags.file)
    if not weights.is_file():
        raise InputError(f"{weights}: expected a file of weights, got no such file; check the path")
    workdirs.check_writable(workdir)
    if (workdir / configs.FILE_NAME).exists():
        raise InputError(f"workdir {workdir}: expected an empty directory, got one that holds a run; choose another")
    if request.flags.config:
        config = workdirs.experiment(app, request)
    else:
        config = configs.from_dict({}, app.base(), request.overrides)
    lines = app.import_weights(weights, workdir=workdir, config=config, dry_run=request.flags.dry_run)
    print_lines(*lines)
    if not request.flags.dry_run:
        print_lines(f"next: python -m {app.name} evaluate --workdir {workdir}, or train to fine-tune them there")
