"""`python -m gahb analyse`: the bases in which a trained denoiser shrinks held-out images, and its risk there."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from common.arrays import as_images
from common.cli import workdirs
from common.cli.app import App, Request, print_lines
from common.cli.verbs import trained
from common.errors import InputError, input_error, whole_number
from common.io import results
from common.io.progress import Progress
from common.plots.report import text_table
from common.prng import as_key
from gahb.denoisers import Denoiser, as_denoiser
from gahb.eigenbasis.linear import homogeneity_of, linearise, shrinkage
from gahb.eigenbasis.topk import top_k_of
from gahb.eigenbasis.traces import sums_of
from gahb.method import build_network, spread
from gahb.networks import denoiser

COLUMNS = ("sigma", "image", "psnr", "trace", "squares", "asymmetry", "largest", "smallest", "residual", "products")


def run(app: App, request: Request) -> None:
    """Writes `results/eigenbasis-step-N-seed-S-KEY.json` and `.npz`, and prints a table."""
    flags = request.flags
    config = _of_size(workdirs.of_trained(app, request).config, flags.size)
    sigmas = parse_levels(flags.levels)
    dimension = config.data.size**2 * config.data.channels
    for name, most in (("images", None), ("top", dimension), ("probes", None), ("block", None)):
        whole_number(f"--{name}", getattr(flags, name), least=2 if name == "probes" else 1, most=most)
    held_out = app.build(config).sources
    model = trained.load(app, request, "EVALUATE")
    if model is None:
        return
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
        **{name: row[name] for name in COLUMNS},
        "sigma": f"{row['sigma']:.3g}",
        "residual": f"{row['residual']:.1e}",
    }


def parse_levels(text: str) -> list[float]:
    """Returns noise standard deviations for images in [0, 1] of a list such as "0.04,0.1"; raises `InputError`."""
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        levels = []
    if not levels or not all(0 < level <= 1 for level in levels):
        largest = max((level for level in levels if 1 < level < float("inf")), default=None)
        fix = "try 0.04,0.1,0.2" if largest is None else f"{largest:g}/255 = {largest / 255:.3f}"
        expected = "noise in (0, 1], for images in [0, 1], with commas between"
        raise input_error("--levels", expected=expected, got=repr(text), fix=fix)
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


def survey(
    denoise: Denoiser,
    images: np.ndarray,
    sigmas: Sequence[float] | np.ndarray,
    k: int,
    key: jax.Array,
    *,
    num: int = 64,
    tolerance: float = 1e-3,
    block: int = 2,
    max_products: int | None = None,
    add: Callable[[int], object] = lambda count: None,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Analyses a denoiser at each of `images [N, H, W, C]` with one noise sample at each of `sigmas [S]`.

    images: bytes, or floats in [0, 1]. sigmas: intensity units. num: probes of each stochastic trace. `add(1)` is
    called after each level and image; the rest as in `top_k`. Returns one row for each level and image, and arrays:
    `sigma [S]`, `clean [N, ...]`, `noisy` and `denoised [S, N, ...]`, `values`, `residuals`, `noisy_coefficients` and
    `clean_coefficients [S, N, k]`, `vectors [S, N, k, H, W, C]` (float32).
    """
    denoise, key = as_denoiser(denoise), as_key(key)
    images = np.asarray(as_images(images, "images"), np.float32)
    noise = np.asarray(jax.random.normal(jax.random.fold_in(key, 0), images.shape))
    table: list[dict[str, Any]] = []
    levels = []
    for sigma in sigmas:
        per_image = []
        for i, (clean, z) in enumerate(zip(images, noise, strict=True)):
            row, measured = _one(
                linearise(denoise, clean + np.float32(sigma) * z),
                clean,
                float(sigma),
                jax.random.fold_in(key, 1 + i),
                num=num,
                k=k,
                tolerance=tolerance,
                block=block,
                max_products=max_products,
            )
            table.append({"sigma": float(sigma), "image": i, **row})
            per_image.append(measured)
            add(1)
        levels.append(jax.tree.map(lambda *each: np.stack(each), *per_image))
    arrays = jax.tree.map(lambda *each: np.stack(each), *levels)
    return table, {"sigma": np.asarray(sigmas, np.float64), "clean": images, **arrays}


def _one(linear, clean, sigma, key, *, num, k, **settings):
    basis = top_k_of(linear, k, key=key, **settings)
    y, denoised = np.asarray(linear.y), np.asarray(linear.value)
    factors = shrinkage(basis, y, clean)
    dimension, asymmetry, risk = sums_of(linear, sigma, key=key, num=num)
    error = np.square(denoised - clean).mean(dtype=np.float64)
    row = {
        "psnr": -10 * float(np.log10(error)),
        "mse": float(error),
        "sure": risk.value,
        "sure_error": risk.error,
        "trace": dimension.trace.value,
        "trace_error": dimension.trace.error,
        "squares": dimension.squares.value,
        "squares_error": dimension.squares.error,
        "asymmetry": asymmetry.value,
        "asymmetry_error": asymmetry.error,
        "homogeneity": homogeneity_of(linear),
        "largest": float(basis.values[0]),
        "smallest": float(basis.values[-1]),
        "residual": float(basis.residuals.max()),
        "products": basis.products,
        "converged": basis.converged,
    }
    return row, {
        "noisy": y,
        "denoised": denoised,
        "values": basis.values,
        "residuals": basis.residuals,
        "noisy_coefficients": factors.noisy,
        "clean_coefficients": factors.clean,
        "vectors": np.asarray(basis.vectors, np.float32),
    }
