"""`python -m phase_bridge guide`: images made from a coarse painting, and images whose hole is filled."""

import functools
from typing import Any

import jax
import numpy as np

from common.arrays import SIGNED, as_images
from common.cli import workdirs
from common.cli.app import App, Request, add_checkpoint, add_dry_run, print_lines
from common.cli.verbs import trained
from common.errors import input_error
from common.io import results


def arguments(parser) -> None:
    """Adds the flags of the verb."""
    parser.add_argument("--num", type=int, default=4, metavar="N", help="held-out images (default: 4)")
    parser.add_argument("--nfe", type=int, default=100, metavar="N", help="network evaluations (default: 100)")
    parser.add_argument("--cells", type=int, default=8, metavar="N", help="cells a side of the painting (default: 8)")
    parser.add_argument("--hole", type=float, default=0.5, metavar="X", help="share of the side it has (default: 0.5)")
    add_dry_run(parser)
    add_checkpoint(parser)


def run(app: App, request: Request) -> None:
    """Writes `results/guided-step-N-seed-S-KEY.json` and `.npz`."""
    from phase_bridge import method

    flags = request.flags
    config = workdirs.of_trained(app, request).config
    if method.is_toy(config) or config.objective.process != "bridge" or config.objective.kind != "ode":
        got = f"{config.objective.process}, {config.data.source}"
        raise input_error(
            "guide", expected='a bridge of images of kind "ode"', got=got, fix="train one, as in cifar10.py"
        )
    for name, value, least, most in (
        ("num", flags.num, 1, 1024),
        ("nfe", flags.nfe, 2, 10_000),
        ("cells", flags.cells, 1, config.data.size),
        ("hole", flags.hole, 0.01, 0.99),
    ):
        if not least <= value <= most:
            raise input_error(f"--{name}", expected=f"{least} to {most}", got=value, fix="use another one")
    if config.data.size % flags.cells:
        expected = f"a divisor of config.data.size={config.data.size}"
        raise input_error("--cells", expected=expected, got=flags.cells, fix="use 8 or so")
    model = trained.load(app, request, "SAMPLE")
    if model is None:
        return
    found = method.held_out_images(config, model.method.sources)(0, flags.num)
    images = found["data"]
    settings = {"cells": flags.cells, "hole": flags.hole, "nfe": flags.nfe}
    own = method.build_model(config)
    made = functools.partial(guide, own, model.variables, model.key, images, labels=found.get("label"), **settings)
    arrays, seconds = trained.timed("guide", made)
    numbers: dict[str, Any] = {**model.provenance(seconds, flags.nfe + 1), **settings, "num_images": len(images)}
    known = arrays["known"] > 0
    for name in ("inpainting", "stroke"):
        numbers[f"{name}_rms_of_known"] = float(np.sqrt(np.mean(np.square(arrays[name] - images)[:, known[0, ..., 0]])))
    paths = results.write(
        model.workdir / "results",
        f"guided-{model.name}",
        numbers=numbers,
        arrays=arrays,
        settings={
            **trained.without(model.settings, "evaluate"),
            "data": trained.fingerprints(model.method.sources()),
            "num": flags.num,
            **settings,
        },
    )
    print_lines(
        f"wrote {', '.join(str(path) for path in paths)}",
        f"next: python -m {app.name} figures guided --workdir {model.workdir}",
    )


def guide(
    model, variables, key: jax.Array, images: np.ndarray, *, cells: int, hole: float, nfe: int, labels=None
) -> dict[str, np.ndarray]:
    """Returns images `[N, H, W, C]` in [-1, 1] made from paintings and around holes, and what they were made from.

    labels: the classes of the images, `[N]`, for a model that is told them.
    """
    from phase_bridge import conditional
    from phase_bridge.method import as_field
    from phase_bridge.sampling import sample

    images = np.asarray(as_images(images, "images", scale=SIGNED))
    how = {"bridge": model.how.bridge, "kind": "ode", "normaliser": model.how.normaliser, "nfe": nfe}
    field = as_field(model, variables, labels=None if labels is None else jax.numpy.asarray(labels))
    painted, known = painting(images, cells), around_hole(images.shape[1], hole)
    guides = {"stroke": conditional.stroke(painted), "inpainting": conditional.inpainting(images, known)}
    made = {name: np.asarray(sample(field, key, images.shape, guide=each, **how)[0]) for name, each in guides.items()}
    free = np.asarray(sample(field, key, images.shape, **how)[0])
    own = {} if labels is None else {"labels": labels}
    return {"original": images, "painting": painted, "known": known, "free": free, **made, **own}


def painting(images: np.ndarray, cells: int) -> np.ndarray:
    """Returns images `[N, H, W, C]` in which each of `cells` x `cells` squares has its mean colour."""
    count, height, width, channels = images.shape
    side = height // cells, width // cells
    means = images.reshape(count, cells, side[0], cells, side[1], channels).mean((2, 4))
    return means.repeat(side[0], axis=1).repeat(side[1], axis=2)


def around_hole(size: int, share: float) -> np.ndarray:
    """Returns a mask `[1, size, size, 1]`, 0 in a central square of side `share` of the picture and 1 around it."""
    known = np.ones((1, size, size, 1), np.float32)
    side = max(1, round(share * size))
    start = (size - side) // 2
    known[:, start : start + side, start : start + side] = 0
    return known
