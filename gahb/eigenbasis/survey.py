"""Everything at once: bases, shrinkage, dimensions and risk of a denoiser at several images and noise levels."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from common.arrays import as_images
from common.prng import as_key
from gahb.denoisers import Denoiser, as_denoiser
from gahb.eigenbasis.expansion import shrinkage
from gahb.eigenbasis.linear import homogeneity_of, linearise
from gahb.eigenbasis.topk import top_k_of
from gahb.eigenbasis.traces import sums_of


def survey(
    denoise: Denoiser,
    images: np.ndarray,
    sigmas: Sequence[float],
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
