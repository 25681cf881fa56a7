"""`python -m diffmatch_jax benchmark`: the same pairs for every matcher, clean and corrupted; tables and figures.

Rows are kept in DIR/results/benchmark/DATA/CORRUPTION/MATCHER-KEY a few pairs a file, so the command may be stopped
anywhere and given again, also with more data, matchers or corruptions. KEY is a hash of what decides the rows: the
pairs, the matcher's weights and settings, and the version of this package. The command ends with
DIR/results/benchmark-KEY.json, .npz and .md, one pair of each data set in DIR/results/shown-DATA-KEY.json and .npz, and
the figures made of them.
"""

import argparse
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import workdirs
from common.cli.app import App, Request, add_dry_run, print_lines
from common.config import digest
from common.errors import input_error, within
from common.io import results
from common.io.files import write_atomically
from common.plots.report import markdown_table

CLEAN = "clean"
SHOWN = 480  # pixels, longer side of the pairs that are kept for pictures
_NUMBERS = ("aepe", "median", "pck_1_per_image", "pck_3_per_image", "pck_5_per_image", "area", "rank_correlation")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    from diffmatch_jax.evaluation.datasets.catalogue import KINDS

    known = "; ".join(f"{name}{':' if kind.where else ''}{kind.where}" for name, kind in KINDS.items())
    parser.add_argument("--data", default="stereo,warps", metavar="A,B", help=f"(default: stereo,warps) {known}")
    parser.add_argument("--methods", default="match,wta,median", metavar="A,B", help="(default: match,wta,median) also "
                        "fit, refined, still, wta-random, dis, sift, LABEL=run:DIR, "
                        "LABEL=function:MODULE:NAME; match@8: 8 hypotheses")  # fmt: skip
    parser.add_argument("--hypotheses", type=int, default=4, metavar="N",
                        help="flows that match and runs sample where no @N is given (default: 4)")  # fmt: skip
    parser.add_argument("--corruptions", default=CLEAN, metavar="A,B",
                        help='(default: clean) "all", gaussian_noise, contrast, ...')  # fmt: skip
    parser.add_argument("--severity", type=int, default=5, metavar="N", help="of corruptions, 1 to 5 (default: 5)")
    parser.add_argument("--count", type=int, metavar="N", help="pairs of each data set (default: all; warps: 32)")
    parser.add_argument("--side", type=int, metavar="N", help="shrink larger images to this longer side, pixels")
    parser.add_argument("--size", type=int, default=256, metavar="N", help="side of generated warps (default: 256)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of warps and corruptions (default: 0)")
    add_dry_run(parser, "and list what is measured")


def run(app: App, request: Request) -> None:
    """Measures the missing rows in `--workdir`, and writes table and figures."""
    from common.training import parallel
    from common.training.hosts import StopSignal
    from diffmatch_jax.evaluation.baselines import open_baselines
    from diffmatch_jax.evaluation.datasets.catalogue import Options, open_datasets

    flags = request.flags
    workdir = workdirs.required(request, "workdir")
    workdirs.without_config(request)
    for name, least in (("count", 1), ("side", 16), ("size", 32), ("hypotheses", 1)):
        value = getattr(flags, name)
        if value is not None:
            within(f"--{name}", value, least)
    if not 0 <= flags.seed < 2**32:
        raise input_error("--seed", expected="0 to 2**32 - 1", got=flags.seed, fix="use 0")
    workdirs.check_writable(workdir)
    corruptions = _corruptions(flags.corruptions, flags.severity, flags.seed)
    options = Options(side=flags.side, count=flags.count, size=flags.size, seed=flags.seed)
    datasets, baselines = open_datasets(flags.data, options), open_baselines(flags.methods, flags.hypotheses)
    if flags.dry_run:
        print_lines(
            *(f"{data.name}: {len(data)} pairs, {', '.join(corruptions)}" for data in datasets),
            f"matchers: {', '.join(each.title for each in baselines)}",
            "nothing was compiled or written",
        )
        return
    parallel.enable_compilation_cache()
    (workdir / "results").mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with StopSignal() as signal:
        stop = functools.partial(signal.should_stop, 0)
        found = _measure(workdir, datasets, baselines, corruptions, should_stop=stop)
    if found is None:
        print_lines("interrupted; the same command goes on from there")
        return
    shown = {data.name: _shown(workdir, data, baselines) for data in datasets}
    settings = settings_of(datasets, baselines, corruptions)
    origin = results.provenance(
        config_hash=digest(settings),
        seed=flags.seed,
        step=None,  # each matcher has its own: see "matchers"
        device=parallel.device_name(),
        wall_s=time.perf_counter() - start,
        nfe=None,
    )
    rows, arrays = found
    numbers = {
        **origin,
        "data": [data.name for data in datasets],
        "corruptions": list(corruptions),
        "severity": flags.severity,
        "methods": {each.name: each.title for each in baselines},
        "matchers": {each.name: {"nfe": 0, **each.described} for each in baselines},
        "pairs": {data.name: len(data) for data in datasets},
        "shown": {name: each.stem for name, each in shown.items()},
        "rows": rows,
    }
    path = results.write(workdir / "results", "benchmark", numbers=numbers, arrays=arrays, settings=settings)[-1]
    text = markdown(numbers)
    write_atomically(path.with_suffix(".md"), text.encode())
    print_lines(text, f"wrote {path}, {path.with_suffix('.md')}", *(f"wrote {each}" for each in shown.values()))
    print_lines(*(f"wrote {each}" for each in app.figures()["benchmark"](workdir)))


def _corruptions(text: str, severity: int, seed: int) -> dict[str, Any]:
    """Returns functions of a pair by name, None for clean pictures; raises `InputError` for unknown ones."""
    names = [each.strip() for each in text.split(",") if each.strip()]
    if names == ["all"]:
        from diffmatch_jax.evaluation.corruptions import KINDS

        names = [CLEAN, *KINDS]
    if not names or len(set(names)) < len(names):
        raise input_error("--corruptions", expected="names, each once", got=text, fix="use clean")
    if names == [CLEAN]:
        return {CLEAN: None}
    from diffmatch_jax.evaluation.corruptions.pairs import corruption

    return {name: None if name == CLEAN else corruption(name, severity, seed) for name in names}


def _measure(workdir: Path, datasets, baselines, corruptions, *, should_stop):
    """Returns the rows of the table and the curves by name; None if it was stopped."""
    from common.io.progress import Progress
    from diffmatch_jax.evaluation import evaluate

    rows, arrays = [], {}
    compiled: dict[str, set[tuple[int, ...]]] = {baseline.name: set() for baseline in baselines}
    for data in datasets:
        for corruption, corrupt in corruptions.items():
            for baseline in baselines:
                identity = identity_of(data, baseline, corrupt)
                place = workdir / "results" / "benchmark" / data.name / corruption
                place /= results.name_of(baseline.name, identity)
                missing = evaluate.num_missing(place, data)
                if missing:
                    print_lines(f"{baseline.title} on {data.name}, {corruption}: {missing} of {len(data)} pairs")
                what = f"{baseline.name} on {data.name}, {corruption}"
                with Progress(len(data), done=len(data) - missing, unit="pairs", what=what) as bar:
                    measured = evaluate.evaluate_flow(
                        baseline.matcher,
                        data,
                        directory=place,
                        identity=identity,
                        corrupt=corrupt,
                        should_stop=should_stop,
                        add=bar.add,
                        compiled=compiled[baseline.name],
                    )
                if measured is None:
                    return None
                key = {"data": data.name, "corruption": corruption, "method": baseline.name}
                for group, numbers in evaluate.summary(measured, data).items():
                    rows.append({**key, "group": group, **numbers})
                curves = evaluate.mean_curves(measured)
                if curves is not None:
                    name = f"{data.name}.{corruption}.{baseline.name}"
                    arrays |= {f"{name}.curve": curves[0], f"{name}.oracle": curves[1]}
    return rows, arrays


def _shown(workdir: Path, data, baselines) -> Path:
    """Writes one pair of a data set with every matcher's flow, for pictures; returns the path."""
    from diffmatch_jax.evaluation import regions
    from diffmatch_jax.evaluation.datasets.record import resized
    from diffmatch_jax.evaluation.evaluate import asked
    from diffmatch_jax.model.pair_match import warped

    example = resized(data.load(len(data) // 2), SHOWN)
    arrays = {name: getattr(example, name) for name in ("source", "target", "flow", "mask")}
    if example.regions is not None:
        arrays |= {f"region.{name}": mask for name, mask in example.regions.masks.items()}
    for baseline in baselines:
        answer = asked(baseline.matcher, example.source, example.target)
        arrays[f"{baseline.name}.flow"] = np.asarray(answer.flow, np.float32)
        arrays[f"{baseline.name}.warped"] = warped(example.source, answer.flow)
        if answer.confidence is not None:
            arrays[f"{baseline.name}.confidence"] = np.asarray(answer.confidence, np.float32)
        if example.regions is not None:
            back = asked(baseline.matcher, example.target, example.source)
            arrays[f"{baseline.name}.covisible"] = regions.seen_in_both(answer, back)
    numbers = {"name": example.name, "methods": {each.name: each.title for each in baselines}}
    settings = {
        "longer_side": SHOWN,
        "pair": example.name,
        "rows": [identity_of(data, each, None) for each in baselines],
    }
    return results.write(workdir / "results", f"shown-{data.name}", numbers=numbers, arrays=arrays, settings=settings)[
        -1
    ]


def identity_of(data, baseline, corrupt) -> dict[str, Any]:
    """Returns what decides the rows of a matcher on a data set: pairs, corruption, matcher, version of the package."""
    return {
        "data": data.name,
        "fingerprint": data.fingerprint,
        "corruption": getattr(corrupt, "identity", CLEAN),
        "matcher": {"name": baseline.name, **baseline.identity},
        "version": results.version("scorebridge"),
    }


def settings_of(datasets, baselines, corruptions: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what decides a whole benchmark: what decides its rows, and how many there are."""
    return {
        "pairs": [len(data) for data in datasets],
        "rows": [
            identity_of(data, baseline, corrupt)
            for data in datasets
            for corrupt in corruptions.values()
            for baseline in baselines
        ],
    }


def markdown(numbers: Mapping[str, Any]) -> str:
    """Returns the tables as Markdown: one for each data set's clean pairs, and one of all corruptions."""
    titles = numbers["methods"]
    parts = []
    for data in numbers["data"]:
        rows = [row for row in numbers["rows"] if row["data"] == data]
        clean = [row for row in rows if row["corruption"] == numbers["corruptions"][0]]
        count = numbers["pairs"][data]
        parts.append(f"### {data}, {count} pair{'s' * (count != 1)}, {numbers['corruptions'][0]}\n")
        head = ["matcher", "AEPE", "median", "PCK-1", "PCK-3", "PCK-5", "sparsification", "rank corr.", "s a pair"]
        parts += markdown_table(head, [_line(titles, row) for row in clean if row["group"] == "all"])
        parts += _geometry_table(titles, [row for row in clean if row["group"] == "all"])
        parts += _region_tables(titles, [row for row in clean if row["group"] == "all"])
        groups = [row["group"] for row in clean if row["method"] == clean[0]["method"] and row["group"] != "all"]
        if 1 < len(groups) <= 12 and any(_known(row["aepe"]) for row in clean):
            parts += ["", f"AEPE by group, {data}\n"]
            cells = [
                [titles[name], *(_number(_one(clean, name, group)["aepe"]) for group in groups)] for name in titles
            ]
            parts += markdown_table(["matcher", *groups], cells)
        if len(numbers["corruptions"]) > 1:
            parts += ["", f"AEPE under corruptions of severity {numbers['severity']}, {data}\n"]
            cells = [
                [
                    titles[name],
                    *(
                        _number(_one([row for row in rows if row["corruption"] == each], name, "all")["aepe"])
                        for each in numbers["corruptions"]
                    ),
                ]
                for name in titles
            ]
            parts += markdown_table(["matcher", *numbers["corruptions"]], cells)
        parts.append("")
    parts.append(
        "AEPE: mean end-point error, pixels (per image; of groups where the benchmark asks for it). median: mean over "
        "pairs of the median error. PCK-t: fraction of pixels within t pixels, per image. sparsification: area under "
        "the error of the pixels that remain when the least sure go first, divided by the error of all (1: no better "
        "than chance). rank corr.: Spearman's, of error and uncertainty. AUC@t: area under the recall of the mean "
        "corner error of the homography (t pixels) or of the pose error (t degrees). s a pair: seconds, without "
        "compilation."
    )
    return "\n".join(parts) + "\n"


def _geometry_table(titles: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the table of the areas under the recall of homographies or poses, nothing where there are none."""
    names = [name for name in rows[0] if "_auc_" in name] if rows else []
    if not names:
        return []
    head = ["matcher", *(name.replace("_auc_", " AUC@") for name in names)]
    return [
        "",
        *markdown_table(head, [[titles[row["method"]], *(_number(row[each], 3) for each in names)] for row in rows]),
    ]


def _region_tables(titles: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the tables by region of generated pairs, nothing for other data."""
    from diffmatch_jax.evaluation import regions

    parts = []
    if rows and "covisible_said" in rows[0]:
        for title, head, lines in regions.tables(titles, rows):
            cells = [
                [name, *(_number(each, 2 if title.startswith("AEPE") else 3) for each in rest)] for name, *rest in lines
            ]
            parts += ["", f"{title}\n", *markdown_table(head, cells)]
    return parts


def _line(titles: Mapping[str, str], row: Mapping[str, Any]) -> list[str]:
    digits = {"aepe": 2, "median": 2}
    return [
        titles[row["method"]],
        *(_number(row[name], digits.get(name, 3)) for name in _NUMBERS),
        _number(row["seconds"], 3),
    ]


def _one(rows: Sequence[Mapping[str, Any]], method: str, group: str) -> Mapping[str, Any]:
    return next((row for row in rows if row["method"] == method and row["group"] == group), {"aepe": None})


def _known(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))


def _number(value: float | None, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if _known(value) else "-"
