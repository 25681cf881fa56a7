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
    parser.add_argument(
        "--hole", type=float, default=0.5, metavar="X", help="fraction of the side it has (default: 0.5)"
    )
    add_dry_run(parser)
    add_checkpoint(parser)


def run(app: App, request: Request) -> None:
    """Writes `results/guided-step-N-seed-S-KEY.json` and `.npz`."""
    from phase_bridge import method

    flags = request.flags
    config = workdirs.of_trained(app, request).config
    path = config.sampler.process or config.objective.process
    if method.is_toy(config) or path != "bridge":
        got = f"{path}, {config.data.source}"
        raise input_error("guide", expected="a bridge of images", got=got, fix="train one, as in cifar10.py")
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
    own = method.as_model(method.build_setup(config), model.variables, found.get("label"))
    made = functools.partial(guide, own, model.key, images, **settings)
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


def guide(model, key: jax.Array, images: np.ndarray, *, cells: int, hole: float, nfe: int) -> dict[str, np.ndarray]:
    """Returns images `[N, H, W, C]` in [-1, 1] made from paintings and around holes, and what they were made from.

    model: a `phase_bridge.models.Model` along a bridge, with the classes of the images if it knows any.
    """
    from phase_bridge import conditioning
    from phase_bridge.sampling import sample

    images = np.asarray(as_images(images, "images", scale=SIGNED))
    painted = conditioning.painting(images, cells)
    known = conditioning.around_hole(images.shape[1], hole)
    conditions = {"stroke": conditioning.stroke(painted), "inpainting": conditioning.inpainting(images, known)}
    options = {"kind": "ode", "nfe": nfe}
    made = {
        name: np.asarray(sample(model, key, images.shape, condition=each, **options)[0])
        for name, each in conditions.items()
    }
    free = np.asarray(sample(model, key, images.shape, **options)[0])
    own = {} if model.labels is None else {"labels": np.asarray(model.labels)}
    return {"original": images, "painting": painted, "known": known, "free": free, **made, **own}
