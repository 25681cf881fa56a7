"""`figures`: pictures and a page from result files, without loading a model."""

import sys

from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.errors import InputError, choice
from common.io.results import NoResultError


def run(app: App, request: Request) -> None:
    """Draws the named figures, or all for which there are results; a damaged result raises `InputError`."""
    workdir = workdirs.required(request, "workdir")
    if not workdir.is_dir():
        raise InputError(f"workdir {workdir}: expected the directory of a run, got none; train one first")
    workdirs.check_writable(workdir)
    available = app.figures()
    names = [choice("figure", name, available) for name in request.flags.names]
    written, missing = [], []
    for name in names or available:
        try:
            written += available[name](workdir)
        except NoResultError:
            if names:
                raise
            missing.append(name)
    if not written:
        raise InputError(f"workdir {workdir}: expected result files, got none; run evaluate or sample first")
    if missing:
        print(f"note: no results yet for {', '.join(missing)}; name one to see what it needs", file=sys.stderr)
    print_lines(*(f"wrote {path}" for path in written))
