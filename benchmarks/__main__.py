"""`python -m benchmarks [NAME ...]`; nothing heavy is imported before the arguments are known to be good."""

import argparse
import importlib
import os
import sys
from pathlib import Path

from common.errors import InputError, RunError, choice

# In the order in which they run; each is a module with `FULL`, `QUICK` and `run(settings) -> Report`.
NAMES = ("overheads", "start", "unet", "eigenbasis")
DESCRIPTION = "Measures overheads and throughput, prints tables and keeps records. The machine should do nothing else."


def main(argv: list[str]) -> int:
    """Runs benchmarks one after the other, prints their tables and adds their records; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=DESCRIPTION)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--out", type=Path, help="where NAME.json is written (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all runs; the times mean nothing")
    flags = parser.parse_args(argv)
    try:
        for name in [choice("NAME", each, NAMES) for each in flags.names] or NAMES:
            _run(name, out=flags.out, quick=flags.quick)
    except (InputError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


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
