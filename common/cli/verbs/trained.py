"""Commands on a trained run: `sample`, `evaluate` and `figures`, and helpers that other commands use too."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from common import config as configs
from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.errors import InputError, choice, input_error, within
from common.io import results
from common.plots.report import text_table

# Keys on which no result of given weights depends: how these were made, and how a computation is carried out.
IRRELEVANT = (
    "method",
    "seed",  # stands for itself in the settings
    "parallel",
    "data.placement",
    "data.workers",
    "data.device_limit_mb",
    "data.directory",
    "data.skip_bad",
    "data.max_pixels",
    "data.max_array_mb",
    "train.*",
    "optimizer.*",
    "ema.*",
    "checkpoint.*",
)


class Trained(NamedTuple):
    """A trained model, ready to be used: its method, variables and root key, and the words for its results.

    `settings` is what decides a result as far as the model and its config go: the weights by their hash, step and kind
    (`ema`), the seed, and the config but for `IRRELEVANT` keys.
    """

    method: Any
    variables: Any
    key: Any
    workdir: Path
    name: str
    step: int
    seed: int
    provenance: Callable[..., dict[str, Any]]
    settings: Mapping[str, Any] = MappingProxyType({"config": {}})


def load(
    app: App, request: Request, purpose: str, *, check: Callable[[Any], object] = lambda method: None
) -> Trained | None:
    """Returns the model that `request` names, with a key for `purpose`; None after a dry run, which only checks.

    check: of the method, what the command needs besides.

    Raises:
      InputError: no run in the work directory, a config of another model, or no whole checkpoint.
    """
    config, workdir, changes = workdirs.of_trained(app, request)
    workdirs.check_writable(workdir)
    # Imported only now, which takes seconds: a mistyped command is refused at once.
    import jax

    from common import checkpoint
    from common.prng import Purpose, key_for
    from common.sampling import weights_digest
    from common.training import parallel

    method = app.build(config)
    variables, step = checkpoint.restore_variables(workdir, ema=not request.flags.no_ema, step=request.flags.step)
    check(method)
    if changes:
        print(f"note: the config differs from the run's: {', '.join(changes)}", file=sys.stderr)
    if request.flags.dry_run:
        if purpose == "EVALUATE":
            method.sources()
        print_lines(
            f"checked and writable: {workdir}, with a whole checkpoint of step {step}; nothing was compiled or written"
        )
        return None
    parallel.enable_compilation_cache()
    settings = {
        "weights": weights_digest(variables),
        "step": step,
        "ema": not request.flags.no_ema,
        "seed": config.seed,
        "config": config_settings(config),
    }
    variables = jax.tree.map(jax.numpy.asarray, variables)

    def provenance(wall_s: float, nfe: int | None) -> dict[str, Any]:
        return results.provenance(
            config_hash=configs.digest(config),
            config_changes=changes,
            seed=config.seed,
            step=step,
            device=parallel.device_name(),
            wall_s=wall_s,
            nfe=nfe,
        )

    key = key_for(jax.random.key(config.seed), Purpose[purpose])
    name = f"step-{step}-seed-{config.seed}"
    return Trained(method, variables, key, workdir, name, step, config.seed, provenance, settings)


def config_settings(config, ignore: Sequence[str] = IRRELEVANT) -> dict[str, Any]:
    """Returns a config's keys and values, as nested plain values, without those of `ignore`.

    `ignore` holds dotted keys, or `section.*` for all keys of a section.
    """
    values = configs.to_dict(config)
    for key in ignore:
        *sections, name = key.removesuffix(".*").split(".")
        place = values
        for each in sections:
            place = place[each]
        place.pop(name, None)
    return values


def without(settings: Mapping[str, Any], *sections: str) -> dict[str, Any]:
    """Returns `settings` of a model without sections of the config that a command does not read."""
    kept = {name: each for name, each in settings["config"].items() if name not in sections}
    return {**settings, "config": kept}


def fingerprints(sources: Mapping[str, Any]) -> dict[str, str]:
    """Returns by split what the data are, for the settings of a result: a directory may hold others the next time."""
    return {split: source.fingerprint for split, source in sources.items()}


def timed(what: str, function: Callable, *args) -> tuple[Any, float]:
    """Returns the result of `function(*args)`, whose arrays are on the host, and the seconds it took.

    `what`, if given, names the computation in the note that it compiles.
    """
    from common.io.progress import compiling

    if what:
        compiling(what)
    start = time.perf_counter()
    result = function(*args)
    return result, time.perf_counter() - start


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


def sample(app: App, request: Request) -> None:
    """Writes `samples/step-N-seed-S-KEY.npz`, `.png` and `.json`; with `--num`, a directory `samples/many-...`."""
    num = request.flags.num
    if num is not None:
        within("--num", num, 1)
    if num is None and request.flags.type is not None:
        raise input_error("--type", expected="--num with it", got="none", fix="add --num N")
    if request.flags.type is not None:
        from common.sampling import TYPES  # takes seconds to import

        choice("--type", request.flags.type, TYPES)
    model = load(app, request, "SAMPLE")
    if model is None:
        return
    if num is not None:
        _many(app, request, model, num)
        return
    samples, seconds = timed("sample", model.method.sample, model.variables, model.key)
    paths = results.write(
        model.workdir / "samples",
        model.name,
        numbers={**model.provenance(seconds, samples.info["nfe"]), **samples.info},
        arrays=samples.arrays,
        images=samples.images,
        settings={**without(model.settings, "evaluate"), **samples.settings},
    )
    print_lines(
        *([samples.summary] if samples.summary else []),
        f"wrote {', '.join(str(path) for path in paths)}",
        f"next: python -m {app.name} figures --workdir {model.workdir}",
    )


def draw_many(model: Trained, num: int, *, kind: str, should_stop: Callable[[], bool], flag: str = "--num") -> Many:
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


def _many(app: App, request: Request, model: Trained, num: int) -> None:
    from common import sampling
    from common.training.hosts import StopSignal

    kind, start = request.flags.type or sampling.TYPES[0], time.perf_counter()
    with StopSignal() as signal:
        many = draw_many(model, num, kind=kind, should_stop=lambda: signal.should_stop(0))
    if not many.whole:
        stopped(app, "sample", model.workdir)
        return
    directory, sampler = many.store.directory, model.method.sampler
    described = directory.with_suffix(".json")
    if not many.added and described.exists() and results.read_numbers(described)["num_samples"] >= num:
        # Number and speed, noted by the command that sampled them, stay.
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


def evaluate(app: App, request: Request) -> None:
    """Writes `results/evaluate-step-N-seed-S-KEY.json` and `.npz`, and prints the table of the method if it has one."""
    model = load(app, request, "EVALUATE", check=lambda method: method.check_evaluate())
    if model is None:
        return
    settings = {**model.settings, "data": fingerprints(model.method.sources())}
    evaluation, seconds = timed("evaluate", model.method.evaluate, model.variables, model.key)
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


def figures(app: App, request: Request) -> None:
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
        except results.NoResultError:
            if names:
                raise
            missing.append(name)
    if not written:
        raise InputError(f"workdir {workdir}: expected result files, got none; run evaluate or sample first")
    if missing:
        print(f"note: no results yet for {', '.join(missing)}; name one to see what it needs", file=sys.stderr)
    print_lines(*(f"wrote {path}" for path in written))
