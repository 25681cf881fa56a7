"""`python -m gahb export`: a trained denoiser as one file: a program that needs nothing of this package, or weights."""

from pathlib import Path

import jax
import jax.numpy as jnp

from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.cli.verbs import trained
from common.errors import RunError
from common.io import results
from common.io.files import write_atomically
from gahb.denoisers import Denoiser
from gahb.method import SHELF, build_network
from gahb.networks import denoiser

PLATFORMS = ("cpu", "cuda", "tpu")


def export(denoise: Denoiser, *, size: int, channels: int = 1, platforms: tuple[str, ...] = PLATFORMS) -> bytes:
    """Returns a serialised `jax.export` program `y [B, size, size, channels] -> x_hat` for any B, weights inside.

    `jax.export.deserialize(data).call(y)` runs it on any of `platforms`. Raises `RunError` if flatbuffers is missing.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    y = jax.ShapeDtypeStruct((batch, size, size, channels), jnp.float32)
    exported = jax.export.export(jax.jit(lambda y: denoise(y)), platforms=platforms)(y)
    try:
        return bytes(exported.serialize())
    except ImportError:
        raise RunError("flatbuffers: expected for export, got none; pip install 'scorebridge[export]'") from None


def run(app: App, request: Request) -> None:
    """Writes `export/denoiser-SIZE-KEY.jax` of the run in `--workdir`, and its settings beside it, `.json`.

    `--config.data.size` chooses another image size. `--weights FILE` writes what `gahb.load_denoiser` opens instead.
    """
    config = workdirs.of_trained(app, request).config
    model = trained.load(app, request, "SAMPLE")  # refuses an image size that the network cannot take
    if model is None:
        return
    if request.flags.weights:
        digest = SHELF.write(request.flags.weights, config, model.variables, step=model.step)
        size = Path(request.flags.weights).stat().st_size / 2**20
        print_lines(f"wrote {request.flags.weights}, {size:.2f} MiB in half precision, sha256 {digest}")
        return
    data, folder = config.data, model.workdir / "export"
    settings = {**trained.without(model.settings, "evaluate", "sampler"), "platforms": list(PLATFORMS)}
    content, seconds = trained.timed(
        "export",
        lambda: export(denoiser(model.variables, build_network(config)), size=data.size, channels=data.channels),
    )
    name = f"denoiser-{data.size}"
    folder.mkdir(exist_ok=True)
    path = write_atomically(folder / f"{results.name_of(name, settings)}.jax", content)
    results.write(folder, name, numbers=model.provenance(seconds, 1), arrays={}, settings=settings)
    print_lines(
        f"wrote {path}, {path.stat().st_size / 2**20:.1f} MiB, for {', '.join(PLATFORMS)}",
        f"next: jax.export.deserialize(open({str(path)!r}, 'rb').read()).call(y)  # y [B, {data.size}, {data.size}, "
        f"{data.channels}] -> x_hat",
    )
