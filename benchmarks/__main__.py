"""`python -m benchmarks [NAME ...]`; nothing heavy is imported before the arguments are known to be good."""

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import InputError, RunError, choice, input_error

# In the order in which they run; each is a module with `FULL`, `QUICK` and `run(settings) -> Report`.
SPEEDS = ("overheads", "start", "unet", "eigenbasis", "phase_bridge_solvers", "phase_bridge_sampler", "diffmatch")
NAMES = (*SPEEDS, "song_unet", "phase_bridge_tables", "kills")
DESCRIPTION = "Measures overheads and throughput, prints tables and keeps records. The machine should do nothing else."


def main(argv: list[str]) -> int:
    """Runs benchmarks one after the other, prints their tables and adds their records; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=DESCRIPTION)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(NAMES)} (default: all but the last three)"
    )
    parser.add_argument("--out", type=Path, help="where NAME.json is written (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all runs; the times mean nothing")
    parser.add_argument("--count", type=int, metavar="N", help="kills: how many of each kind of work")
    parser.add_argument(
        "--what", metavar="A,B", help="kills: which work, of train,sample,study,benchmark (default: all)"
    )
    flags = parser.parse_args(argv)
    try:
        names = [choice("NAME", each, NAMES) for each in flags.names] or SPEEDS
        changes = {"count": flags.count, "what": flags.what and tuple(flags.what.split(","))}
        changes = {key: value for key, value in changes.items() if value is not None}
        if changes and list(names) != ["kills"]:
            raise input_error(
                f"--{next(iter(changes))}", expected="kills alone", got=" ".join(names), fix="leave it out"
            )
        if len(names) == 1:
            _run(names[0], out=flags.out, quick=flags.quick, changes=changes)
            return 0
    except (InputError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    # Each in a separate process: after another one, the runtime was observed to use one thread only.
    options = [word for word in argv if word not in flags.names]
    return max(subprocess.run([sys.executable, "-m", "benchmarks", name, *options]).returncode for name in names)


def _run(name: str, *, out: Path | None, quick: bool, changes: Mapping[str, Any]) -> None:
    from benchmarks import harness

    module = importlib.import_module(f"benchmarks.{name}")
    load_average = os.getloadavg()
    settings = module.QUICK if quick else module.FULL
    # The very object where nothing changes: it stands for "full size", whatever that is on this machine.
    report = module.run(settings._replace(**changes) if changes else settings)
    record = harness.make_record(name, report, load_average=load_average, quick=quick)
    path = harness.append(record, out or harness.RESULTS)
    print(*harness.lines(record), "", f"added to {path}", "", sep="\n", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
