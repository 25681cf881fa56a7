"""`python -m gahb analyse`: the bases in which a trained denoiser shrinks held-out images."""

from typing import Any

from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.cli.verbs import trained
from common.errors import InputError, input_error, whole_number
from common.io import results
from common.plots.report import text_table
from gahb.denoisers import denoiser
from gahb.method import build_network, spread

COLUMNS = ("image", "psnr", "trace", "squares", "asymmetry", "largest", "smallest", "residual", "products")


def run(app: App, request: Request) -> None:
    """Writes `results/eigenbasis-step-N-seed-S-KEY.json` and `.npz`, and prints a table."""
    flags = request.flags
    config = _of_size(workdirs.of_trained(app, request).config, flags.size)
    sigmas = [level / 255 for level in parse_levels(flags.levels)]
    dimension = config.data.size**2 * config.data.channels
    for name, most in (("images", None), ("top", dimension), ("probes", None), ("block", None)):
        whole_number(f"--{name}", getattr(flags, name), least=2 if name == "probes" else 1, most=most)
    held_out = app.build(config).sources
    model = trained.load(app, request, "EVALUATE")
    if model is None:
        return
    from common.io.progress import Progress
    from gahb.eigenbasis.survey import survey

    sources = held_out()
    images = spread(sources["test"], flags.images)
    denoise = denoiser(model.variables, build_network(config))
    with Progress(len(sigmas) * len(images), unit="bases", what="analyse") as bar:
        (table, arrays), seconds = trained.timed(
            "",
            lambda: survey(
                denoise,
                images,
                sigmas,
                flags.top,
                model.key,
                num=flags.probes,
                block=flags.block,
                add=bar.add,
            ),
        )
    settings = {
        **trained.without(model.settings, "evaluate", "sampler"),
        "data": trained.fingerprints(sources),
        "sigmas": sigmas,
        **{name: getattr(flags, name) for name in ("images", "size", "top", "probes", "block")},
    }
    numbers = {
        **model.provenance(seconds, None),
        "num_images": len(images),
        "top": flags.top,
        "probes": flags.probes,
        "table": table,
    }
    paths = results.write(
        model.workdir / "results", f"eigenbasis-{model.name}", numbers=numbers, arrays=arrays, settings=settings
    )
    if any(not row["converged"] for row in table):
        print_lines(
            "note: some bases did not converge: residuals above the tolerance, or larger factors may be left out"
        )
    print_lines(
        *text_table([_printed(row) for row in table]),
        f"wrote {', '.join(str(path) for path in paths)}",
        f"next: python -m {app.name} figures eigenbasis --workdir {model.workdir}",
    )


def _printed(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "sigma_255": 255 * row["sigma"],
        **{name: row[name] for name in COLUMNS},
        "residual": f"{row['residual']:.1e}",
    }


def parse_levels(text: str) -> list[float]:
    """Returns the positive numbers of a list such as "10,25"; raises `InputError` for anything else."""
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        levels = []
    if not levels or not all(0 < level < float("inf") for level in levels):
        raise input_error(
            "--levels", expected="positive numbers with commas between", got=repr(text), fix="try 10,25,50"
        )
    return levels


def _of_size(config, size: int):
    """Returns the config under which held-out images have the side `size`; raises `InputError` if that cannot be."""
    if not size:
        return config
    if size < 0 or config.data.fit != "crop":
        raise InputError(f'--size: expected 0 unless data.fit is "crop" (then at least 1), got {size}; leave it out')
    whole = config.copy_and_resolve_references()
    with whole.unlocked():
        whole.data.fit, whole.data.size, whole.data.square = "resize", size, size
        whole.evaluate.panel_size = 0
    return whole
