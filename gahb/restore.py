"""`python -m gahb restore`: held-out images from a few linear measurements of them."""

import jax
import numpy as np

from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.cli.verbs import trained
from common.errors import InputError, at_least, input_error
from common.io import results
from common.io.progress import Progress
from common.plots.tables import text_table
from common.training.keys import Purpose, key_for
from gahb import inverse
from gahb.denoisers import denoiser
from gahb.method import build_network, spread


def run(app: App, request: Request) -> None:
    """Writes `results/restore-step-N-seed-S-KEY.json` and `.npz`, and prints a table of PSNRs."""
    config = workdirs.of_trained(app, request).config
    whole = _of_images(config)
    shape = (whole.data.size, whole.data.size, whole.data.channels)
    restore = config.evaluate.restore
    measured = {"hole": restore.hole, "scale": restore.scale, "fraction": restore.fraction}
    _check(restore, shape, measured)
    held_out = app.build(whole).sources
    model = trained.load(app, request, "SAMPLE")
    if model is None:
        return
    sources = held_out()
    images = spread(sources["test"], restore.num)
    if images.shape[1:] != shape:
        got = list(images.shape[1:])
        raise input_error("held-out images", expected=list(shape), got=got, fix="set config.evaluate.restore.size to 0")
    key = key_for(jax.random.key(config.seed), Purpose.EVALUATE)
    problems = inverse.problems(restore.problems, key, shape, **measured)
    found, seconds = trained.timed("", _restore, config, model, images, problems)
    rows = [inverse.summary(name, arrays) for name, arrays in found.items()]
    numbers = {
        **model.provenance(seconds, max(int(arrays["steps"].max()) for arrays in found.values()) + 1),
        "num_images": len(images),
        "table": rows,
    }
    arrays = {f"{name}.{field}": value for name, parts in found.items() for field, value in parts.items()}
    paths = results.write(
        model.workdir / "results",
        f"restore-{model.name}",
        numbers=numbers,
        arrays={"original": images, **arrays},
        settings={**model.settings, "data": trained.fingerprints(sources)},
    )
    print_lines(
        *text_table(rows),
        f"wrote {', '.join(str(path) for path in paths)}",
        f"next: python -m {app.name} figures restore --workdir {model.workdir}",
    )


def _of_images(config):
    """Returns the config under which held-out images have the size they are restored at; raises `InputError`."""
    size = config.evaluate.restore.size
    if size and config.data.fit != "crop":
        fix = "set it to 0"
        raise input_error("config.evaluate.restore.size", expected='0 unless data.fit is "crop"', got=size, fix=fix)
    whole = config.copy_and_resolve_references()
    if size:
        with whole.unlocked():
            whole.data.fit, whole.data.size, whole.data.square = "resize", size, size
            whole.evaluate.panel_size = 0
    return whole


def _check(restore, shape, measured) -> None:
    """Raises `InputError` for impossible settings, before anything expensive."""
    at_least({f"config.evaluate.restore.{field}": (restore[field], 1) for field in ("num", "samples")})
    try:
        inverse.check(restore.problems, shape, **measured)
    except InputError as error:
        raise InputError(f"config.evaluate.restore.{error}") from None


def _restore(config, model, images: np.ndarray, problems) -> dict[str, dict[str, np.ndarray]]:
    sampler, restore = config.sampler, config.evaluate.restore
    denoise = denoiser(model.variables, build_network(config))
    restored = {}
    with Progress(len(problems), unit="problems", what="restore") as bar:
        for name, operator in problems.items():
            restored[name] = inverse.restore(
                denoise,
                jax.random.fold_in(model.key, inverse.PROBLEMS.index(name)),
                images,
                operator,
                samples=restore.samples,
                impose=restore.impose,
                mean=sampler.mean,
                sigma_0=sampler.sigma_0,
                sigma_L=sampler.sigma_L,
                h0=sampler.h0,
                beta=sampler.beta,
                fixed_step=sampler.fixed_step,
                max_steps=sampler.max_steps,
                divergence=sampler.divergence,
            )
            bar.add()
    return restored
