"""`python -m gahb export`: a trained denoiser as one file that needs neither this package nor its weights to run."""

import jax
import jax.numpy as jnp

from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.errors import RunError
from common.io.files import write_atomically
from gahb.denoisers import Denoiser, load_denoiser

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
    """Writes `export/denoiser-SIZE.jax` of the run in `--workdir`; `--config.data.size` chooses another image size."""
    resolved = workdirs.of_trained(app, request)
    workdirs.check_writable(resolved.workdir)
    app.build(resolved.config)  # refuses an image size that the network cannot take
    data = resolved.config.data
    denoise = load_denoiser(resolved.workdir, step=request.flags.step)
    folder = resolved.workdir / "export"
    content = export(denoise, size=data.size, channels=data.channels)
    folder.mkdir(exist_ok=True)
    path = write_atomically(folder / f"denoiser-{data.size}.jax", content)
    print_lines(
        f"wrote {path}, {path.stat().st_size / 2**20:.1f} MiB, for {', '.join(PLATFORMS)}",
        f"next: jax.export.deserialize(open({str(path)!r}, 'rb').read()).call(y)  # y [B, {data.size}, {data.size}, "
        f"{data.channels}] -> x_hat",
    )
