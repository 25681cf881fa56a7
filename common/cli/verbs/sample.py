"""`sample`: samples of a trained model, a few to view or any number to measure."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from common.cli.app import App, Request, print_lines
from common.cli.verbs import trained
from common.errors import choice, input_error, within
from common.io import results

_SHOWN = 64  # samples on the picture beside many


class Many(NamedTuple):
    """Samples in a directory: their `store`, whether all are there, and the settings that decide them.

    added: how many of them this command drew. rate: samples a second without compilation, None if none or one batch was
    drawn.
    """

    store: Any
    whole: bool
    settings: dict[str, Any]
    added: int
    rate: float | None


def run(app: App, request: Request) -> None:
    """Writes `samples/step-N-seed-S-KEY.npz`, `.png` and `.json`; with `--num`, a directory `samples/many-...`."""
    num = request.flags.num
    if num is not None:
        within("--num", num, 1)
    if num is None and request.flags.type is not None:
        raise input_error("--type", expected="--num with it", got="none", fix="add --num N")
    if request.flags.type is not None:
        from common.sampling import TYPES  # takes seconds to import

        choice("--type", request.flags.type, TYPES)
    model = trained.load(app, request, "SAMPLE")
    if model is None:
        return
    if num is not None:
        _many(app, request, model, num)
        return
    samples, seconds = trained.timed("sample", model.method.sample, model.variables, model.key)
    paths = results.write(
        model.workdir / "samples",
        model.name,
        numbers={**model.provenance(seconds, samples.info["nfe"]), **samples.info},
        arrays=samples.arrays,
        images=samples.images,
        settings={**trained.without(model.settings, "evaluate"), **samples.settings},
    )
    print_lines(
        *([samples.summary] if samples.summary else []),
        f"wrote {', '.join(str(path) for path in paths)}",
        f"next: python -m {app.name} figures --workdir {model.workdir}",
    )


def draw_many(
    model: trained.Trained, num: int, *, kind: str, should_stop: Callable[[], bool], flag: str = "--num"
) -> Many:
    """Draws the samples below `num` that are not in `samples/many-...` yet, and shows how far it is.

    Raises `InputError` for a method that cannot draw samples one by one.
    """
    from common import sampling
    from common.io.progress import Progress

    sampler = model.method.sampler
    if sampler is None:
        got = model.method.name
        raise input_error(flag, expected="a model that draws samples one by one", got=got, fix="use sample without it")
    kind = kind if sampler.to_unit is not None else "float32"
    identity = sampling.identify(sampler, model.variables, seed=model.seed, step=model.step)
    settings = {**identity, "type": kind}
    directory = model.workdir / "samples" / results.name_of(f"many-{model.name}", settings)
    bars: list[Progress] = []

    def progress(done: int):
        bars.append(Progress(num, done=done, unit="img" if sampler.to_unit else "samples", what="sample"))
        if done:
            print_lines(f"{done} of {num} are in {directory} already")
        return bars[-1].add

    store, whole = sampling.draw_to(
        directory,
        sampler,
        model.variables,
        model.key,
        num=num,
        identity=identity,
        kind=kind,
        should_stop=should_stop,
        progress=progress,
    )
    for bar in bars:
        bar.close()
    added, rate = (bars[0].added, bars[0].rate) if bars else (0, None)
    return Many(store, whole, settings, added, rate)


def stopped(app: App, verb: str, workdir: Path) -> None:
    """Says that a stopped command may be given again."""
    print("note: stopped; the samples in complete files are kept", file=sys.stderr)
    print_lines(f"next: python -m {app.name} {verb} --workdir {workdir}, with the same flags, goes on")


def _many(app: App, request: Request, model: trained.Trained, num: int) -> None:
    from common import sampling
    from common.training.preemption import StopSignal

    kind, start = request.flags.type or sampling.TYPES[0], time.perf_counter()
    with StopSignal() as signal:
        many = draw_many(model, num, kind=kind, should_stop=lambda: signal.should_stop(0))
    if not many.whole:
        stopped(app, "sample", model.workdir)
        return
    directory, sampler = many.store.directory, model.method.sampler
    described = directory.with_suffix(".json")
    if not many.added and described.exists() and results.read_numbers(described)["num_samples"] >= num:
        # What the command that drew them noted, their number and speed, stays.
        print_lines(f"{num} samples are in {directory} already; {described}")
        return
    numbers = {
        **model.provenance(time.perf_counter() - start, sampler.settings["nfe"]),
        "num_samples": num,
        "samples_per_s": many.rate,
        "batch_size": sampler.batch_size,
        "chunks": directory.name,
    }
    images = many.store.read(0)["images"][:_SHOWN] if many.settings["type"] == "uint8" else None
    paths = results.write(
        directory.parent,
        f"many-{model.name}",
        numbers=numbers,
        arrays={},
        images=images,
        settings=many.settings,
    )
    if sampler.summary is not None:
        print_lines(sampler.summary(lambda name: many.store.load(name, num)))
    print_lines(f"wrote {num} samples to {directory}; {', '.join(str(path) for path in paths)}")
