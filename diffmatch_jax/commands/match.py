"""`python -m diffmatch_jax match A B`: matches two image files and writes flow, confidence and pictures."""

import argparse
import time
from pathlib import Path

import numpy as np

from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.errors import input_error
from common.io import results


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    parser.add_argument("source", metavar="A", help="image that is looked up in")
    parser.add_argument("target", metavar="B", help="image whose every pixel is looked up")
    parser.add_argument("--out", required=True, metavar="DIR", help="where results are written")
    parser.add_argument("--hypotheses", type=int, default=4, metavar="N", help="flows drawn (default: 4)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of their noise (default: 0)")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint of --workdir (default: the newest good one)")


def run(app: App, request: Request) -> None:
    """Writes `match-KEY.npz`, `.json` and `.png`, `flow-KEY.flo`, `warped-KEY.png`, of several `hypotheses-KEY.png`."""
    del app
    flags = request.flags
    out = Path(flags.out)
    workdirs.without_config(request)
    if flags.step is not None and not flags.workdir:
        raise input_error("--step", expected="a run in --workdir", got="none", fix="add --workdir DIR, or leave it out")
    workdirs.check_writable(out)
    if flags.hypotheses < 1:
        raise input_error("--hypotheses", expected="at least 1", got=flags.hypotheses, fix="use 4")
    if not 0 <= flags.seed < 2**32:
        raise input_error("--seed", expected="0 to 2**32 - 1", got=flags.seed, fix="use 0")
    source, target = (_read(path) for path in (flags.source, flags.target))
    import jax

    from common.checkpoint import restore_variables
    from common.data.source import digest
    from common.io.progress import compiling
    from common.io.results import save_png
    from common.sampling import weights_digest
    from common.training import parallel
    from diffmatch_jax.api import load, match
    from diffmatch_jax.evaluation.datasets.flow_files import write_flo
    from diffmatch_jax.figures import sheets
    from diffmatch_jax.model.pair_match import warped as warp
    from diffmatch_jax.model.resize import resize_normalised

    parallel.enable_compilation_cache()
    # The step that is recorded and the one that is loaded must be the same.
    step = restore_variables(flags.workdir, step=flags.step)[1] if flags.workdir else None
    model = load(flags.workdir, step=step)
    settings = {
        "source": digest(source),
        "target": digest(target),
        "weights": weights_digest(model.weights),
        "plan": repr(model.config),
        "step": step,
        "hypotheses": flags.hypotheses,
        "seed": flags.seed,
    }
    key = jax.random.key(flags.seed)
    compiling("match")
    start = time.perf_counter()
    found = match(source, target, model=model, key=key, hypotheses=flags.hypotheses)
    seconds = time.perf_counter() - start
    warped = warp(source, found.flow)
    numbers = {
        **results.provenance(
            config_hash="",
            config_changes=[],
            seed=flags.seed,
            step=step,
            device=parallel.device_name(),
            wall_s=seconds,
            nfe=model.config.nfe(flags.hypotheses),
        ),
        "source": str(flags.source),
        "target": str(flags.target),
        "weights": str(flags.workdir or "of the package"),
        "hypotheses": flags.hypotheses,
        "mean_confidence": float(found.confidence.mean()),
    }
    paths = results.write(out, "match", numbers=numbers, arrays=found._asdict(), settings=settings)
    flow, warped_picture, sheet, several = (
        out / results.name_of(name, settings) for name in ("flow", "warped", "match", "hypotheses")
    )
    paths.append(write_flo(flow.with_suffix(".flo"), found.flow))
    paths.append(save_png(warped_picture.with_suffix(".png"), warped / np.float32(255)))
    paths.append(
        sheets.sheet(
            sheet.with_suffix(".png"),
            source=source,
            target=target,
            flow=found.flow,
            warped=warped,
            confidence=found.confidence,
            std=found.std if np.any(found.std) else None,
            title=f"{Path(flags.source).name} to {Path(flags.target).name}",
        )
    )
    if len(found.hypotheses) > 1:
        wide = np.asarray([source.shape[1], source.shape[0]], np.float32)
        flows = np.asarray(resize_normalised(found.hypotheses, target.shape[:2])) * wide
        picture = several.with_suffix(".png")
        paths.append(sheets.hypotheses(picture, target=target, flows=flows, std=found.std))
    print_lines(
        f"{target.shape[1]} x {target.shape[0]} pixels matched in {seconds:.1f} s, compilation included; "
        f"mean confidence {found.confidence.mean():.2f}",
        f"wrote {', '.join(str(path) for path in paths)}",
    )


def _read(path: str) -> np.ndarray:
    from common.data import images

    if not Path(path).is_file():
        raise input_error(path, expected="an image file", got="no such file", fix="check the path")
    try:
        return images.decode(Path(path))
    except ValueError as error:
        raise input_error(path, expected="an image", got=error, fix="use PNG or JPEG, gray or RGB") from None
