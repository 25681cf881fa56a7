"""`fidelity`: draws many images and compares their features with those of data (FID, KID, precision and recall).

A verb that a method with images lists among its own: `App(..., extra_verbs=(FIDELITY,))`.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

from common.cli.app import App, Request, Verb, add_checkpoint, add_dry_run, print_lines
from common.cli.verbs import trained
from common.cli.verbs.trained import draw_many, stopped
from common.errors import at_least, choice, input_error
from common.io import results
from common.plots.report import text_table

FEATURES = ("inception", "random", "pixels")
RESIZES = ("tf1", "half_pixel")
SPLITS = ("train", "test")
SHOWN = ("frechet", "kernel", "kernel_error", "precision", "recall", "density", "coverage")

_MOST_COMPARED = 10_000  # samples, and data, whose neighbours are searched: the usual number
_SUBSETS, _SUBSET = 100, 1000  # of the kernel distance, as it is usually reported


class Collected(NamedTuple):
    """The feature function, its values on samples and (if the reference is a split) on data, and samples a second.

    `settings` and `data_fingerprint` say which samples and data these are (the latter None without data).
    """

    extractor: Any
    samples: Any
    data: Any
    num_data: int
    rate: float | None
    settings: dict[str, Any]
    data_fingerprint: str | None


def run(app: App, request: Request) -> None:
    """Writes `results/fidelity-step-N-seed-S-FEATURES-KEY.json`; samples and features stay for the next time."""
    flags = request.flags
    _check(flags)
    model = trained.load(app, request, "SAMPLE")
    if model is None:
        return
    from common.metrics import distances, features
    from common.training.hosts import StopSignal

    sampler = model.method.sampler
    if sampler is None or sampler.to_unit is None:
        raise input_error("fidelity", expected="a model that draws images", got=app.name, fix="use evaluate")
    # These files are checked before any sampling.
    inception = features.inception(flags.weights, resize=flags.resize) if flags.features == "inception" else None
    reference: Any = None if flags.reference in SPLITS else distances.read_statistics(flags.reference)
    start = time.perf_counter()
    with StopSignal() as signal:
        found = _collect(model, flags, inception, lambda: signal.should_stop(0))
    if found is None:
        stopped(app, "fidelity", model.workdir)
        return
    own = features.statistics(found.samples, flags.num)
    if found.data is not None:
        reference = distances.gaussian(features.statistics(found.data, found.num_data))
    numbers = {
        **model.provenance(time.perf_counter() - start, sampler.settings["nfe"]),
        "features": dict(found.extractor.identity),
        "reference": flags.reference,
        "num_samples": flags.num,
        "num_reference": reference.count,
        "samples_per_s": found.rate,
        "sampler": dict(sampler.settings),
        "frechet": distances.frechet_distance(own, reference),
        **(_compared(found, flags.num) if found.data is not None else {}),
    }
    name = f"fidelity-{model.name}-{flags.features}"
    settings = {
        "samples": found.settings,
        "num": flags.num,
        "features": dict(found.extractor.identity),
        "reference": flags.reference,
        "reference_is": found.data_fingerprint or _digest_of(reference),
    }
    paths = results.write(model.workdir / "results", name, numbers=numbers, arrays={}, settings=settings)
    shown = {key: f"{numbers[key]:.5g}" for key in SHOWN if key in numbers}
    print_lines(*text_table([shown]), f"wrote {paths[0]}")


def _digest_of(gaussian) -> str:
    """Returns a hash of the mean and covariance of a reference that was read from a file."""
    from common.data.source import digest

    return digest(gaussian.mean, gaussian.covariance)


def _check(flags: argparse.Namespace) -> None:
    at_least({"--num": (flags.num, 2), "--batch-size": (flags.batch_size, 1)})
    kind = choice("--features", flags.features, FEATURES)
    if (kind == "inception") != (flags.weights is not None):
        fix = "add --weights FILE, or use --features random" if kind == "inception" else "leave out --weights"
        got = "none" if flags.weights is None else flags.weights
        expected = "the file of Inception-v3" if kind == "inception" else f"none with --features {kind}"
        raise input_error("--weights", expected=expected, got=got, fix=fix)
    choice("--resize", flags.resize, RESIZES)
    if flags.reference not in SPLITS and not Path(flags.reference).is_file():
        expected = "train, test or an .npz with mu and sigma"
        raise input_error(
            "--reference", expected=expected, got=f"{flags.reference}, no such file", fix="check the path"
        )


def _collect(model: trained.Trained, flags: argparse.Namespace, inception, should_stop) -> Collected | None:
    """Draws samples and computes the features that are not there yet; None if that was stopped."""
    from common.metrics import features
    from common.sampling import StoredSamples

    many = draw_many(model, flags.num, kind="uint8", should_stop=should_stop)
    if not many.whole:
        return None
    stored = StoredSamples(many.store.directory, num=flags.num)
    own = features.random_features(channels=stored[0]["image"].shape[-1]), features.pixels()
    extractor = inception or own[flags.features == "pixels"]
    how = {"place": model.workdir / "features", "batch_size": flags.batch_size, "should_stop": should_stop}
    samples, whole = _features(extractor, stored, "samples", **how)
    if whole and flags.reference in SPLITS:
        source = model.method.sources()[flags.reference].fixed()
        data, whole = _features(extractor, source, flags.reference, **how)
        found = Collected(extractor, samples, data, len(source), many.rate, many.settings, source.fingerprint)
    else:
        found = Collected(extractor, samples, None, 0, many.rate, many.settings, None)
    return found if whole else None


def _features(extractor, source, name: str, *, place: Path, batch_size: int, should_stop) -> tuple[Any, bool]:
    """Returns the store of a source's features, in a directory named after what decides them; and if it is whole."""
    from common.config import digest
    from common.io.progress import Progress
    from common.metrics import features

    directory = place / f"{name}-{digest({**extractor.identity, 'images': source.fingerprint})[:8]}"
    with Progress(len(source), what=f"features of {name}") as bar:
        how = {"batch_size": batch_size, "should_stop": should_stop, "add": bar.add}
        return features.extract_to(directory, extractor, source, **how)


def _compared(found: Collected, num: int) -> dict[str, Any]:
    """Returns what needs the features themselves, on at most the usual number of each."""
    from common.metrics.distances import mmd_squared_of_subsets
    from common.metrics.neighbours import precision_recall

    samples = found.samples.load("features", min(num, _MOST_COMPARED))
    data = found.data.load("features", min(found.num_data, _MOST_COMPARED))
    least = min(len(samples), len(data))
    numbers: dict[str, Any] = {"num_compared": [len(samples), len(data)]}
    if least >= 2:
        kernel = mmd_squared_of_subsets(samples, data, size=min(_SUBSET, least), subsets=_SUBSETS)
        numbers |= {"kernel": kernel.mean, "kernel_error": kernel.error}
    if least > 3:
        numbers |= precision_recall(samples, data)._asdict()
    return numbers


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num", type=int, default=50_000, metavar="N", help="samples (default: 50000)")
    parser.add_argument(
        "--reference", default="train", metavar="R", help="train (default), test, or FILE.npz: mu, sigma"
    )
    parser.add_argument("--features", default="inception", metavar="F", help="inception (default), random or pixels")
    parser.add_argument("--weights", metavar="FILE", help="published weights of Inception-v3, read by their checksum")
    parser.add_argument(
        "--resize", default="tf1", metavar="R", help="tf1 (default, EDM's) or half_pixel (pytorch-fid's)"
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at once for their features")
    add_dry_run(parser)
    add_checkpoint(parser)


FIDELITY = Verb(
    "fidelity",
    "Frechet distance, precision and recall of many samples",
    "Draws N samples (those of `sample --num N`), computes features of samples and data, and writes\n"
    "DIR/results/fidelity-step-N-seed-S-FEATURES-KEY.json. The same command goes on where it was stopped.\n"
    "Distances of different N, --reference, --features or --resize cannot be compared.",
    _arguments,
    run,
)
