"""`sample`: draws from a trained model, a few to look at or any number to measure."""

import sys
import time

from common import results
from common.app import App, Request, lines
from common.errors import bad, choice
from common.verbs import trained

_SHOWN = 64  # samples on the picture beside many


def run(app: App, request: Request) -> None:
    """Writes `samples/step-N-seed-S.npz`, `.png` and `.json`; with `--num`, a directory `samples/many-...`."""
    num = request.flags.num
    if num is not None and num < 1:
        raise bad("--num", expected="at least 1", got=num, fix="leave it out for config.sampler.num samples")
    if num is None and request.flags.type is not None:
        raise bad("--type", expected="--num with it", got="none", fix="add --num N")
    model = trained.load(app, request, "SAMPLE")
    if model is None:
        return
    if num is not None:
        _many(app, request, model, num)
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


def _many(app: App, request: Request, model: trained.Trained, num: int) -> None:
    """Draws the samples below `num` that are not there yet."""
    from common import sampling
    from common.config import digest
    from common.progress import Progress
    from common.training.preemption import StopSignal

    sampler = model.method.sampler
    if sampler is None:
        raise bad("--num", expected="a model that draws samples one by one", got=app.name, fix="leave out --num")
    kind = choice("--type", request.flags.type or sampling.TYPES[0], sampling.TYPES)
    if sampler.to_unit is None:
        kind = "float32"
    identity = sampling.identify(sampler, model.variables, seed=model.seed, step=model.step)
    name = f"many-{model.name}-{digest({**identity, 'type': kind})[:8]}"
    directory, bars, start = model.workdir / "samples" / name, [], time.perf_counter()

    def progress(done: int):
        bars.append(Progress(num, done=done, unit="img" if sampler.to_unit else "samples"))
        if done:
            lines(f"{done} of {num} are in {directory} already")
        return bars[-1].add

    with StopSignal() as signal:
        store, whole = sampling.draw_to(
            directory,
            sampler,
            model.variables,
            model.key,
            num=num,
            identity=identity,
            kind=kind,
            should_stop=lambda: signal.should_stop(0),
            progress=progress,
        )
    for bar in bars:
        bar.close()
    if not whole:
        print("note: stopped; what is in whole chunks stays", file=sys.stderr)
        lines(f"next: python -m {app.name} sample --workdir {model.workdir} --num {num}, with the same flags, goes on")
        return
    rate = bars[0].rate if bars else None
    numbers = {
        **model.provenance(time.perf_counter() - start, sampler.settings["nfe"]),
        **identity,
        "num_samples": num,
        "samples_per_s": rate,
        "batch_size": sampler.batch_size,
        "chunks": name,
    }
    images = store.read(0)["images"][:_SHOWN] / 255 if kind == "uint8" else None
    paths = results.write(model.workdir / "samples", name, numbers=numbers, arrays={}, images=images)
    lines(f"wrote {num} samples to {directory}; {', '.join(str(path) for path in paths)}")
