"""`python -m benchmarks [NAME ...]`; nothing heavy is imported before the arguments are known to be good."""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

from common.errors import InputError, RunError, choice

# In the order in which they run; each is a module with `FULL`, `QUICK` and `run(settings) -> Report`.
NAMES = ("overheads", "start", "unet", "eigenbasis", "phase_bridge_solvers", "phase_bridge_sampler", "diffmatch")
DESCRIPTION = "Measures overheads and throughput, prints tables and keeps records. The machine should do nothing else."


def main(argv: list[str]) -> int:
    """Runs benchmarks one after the other, prints their tables and adds their records; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=DESCRIPTION)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--out", type=Path, help="where NAME.json is written (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all runs; the times mean nothing")
    flags = parser.parse_args(argv)
    try:
        names = [choice("NAME", each, NAMES) for each in flags.names] or NAMES
        if len(names) == 1:
            _run(names[0], out=flags.out, quick=flags.quick)
            return 0
    except (InputError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    # Each in a process of its own: after another one, the runtime was seen to compute with one thread only.
    options = [word for word in argv if word not in flags.names]
    return max(subprocess.run([sys.executable, "-m", "benchmarks", name, *options]).returncode for name in names)


def _run(name: str, *, out: Path | None, quick: bool) -> None:
    from benchmarks import harness

    module = importlib.import_module(f"benchmarks.{name}")
    load_average = os.getloadavg()
    report = module.run(module.QUICK if quick else module.FULL)
    record = harness.make_record(name, report, load_average=load_average, quick=quick)
    path = harness.append(record, out or harness.RESULTS)
    print(*harness.lines(record), "", f"added to {path}", "", sep="\n", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
