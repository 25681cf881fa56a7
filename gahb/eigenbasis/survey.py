"""Everything at once: bases, shrinkage, dimensions and risk of a denoiser at several images and noise levels."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from common.arrays import as_images
from common.prng import as_key
from gahb.denoisers import Denoiser, as_denoiser
from gahb.eigenbasis.expansion import shrinkage
from gahb.eigenbasis.linear import homogeneity
from gahb.eigenbasis.topk import top_k
from gahb.eigenbasis.traces import asymmetry, effective_dimension, sure


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
    """Analyses a denoiser at each of `images [N, H, W, C]` with one draw of noise at each of `sigmas [S]`.

    images: bytes, or floats in [0, 1]. num: probes of each stochastic trace; `add(1)` is called after each level and
    image; the rest as in `top_k`. Returns one row of numbers for each level and image, and arrays: `sigma [S]`, `clean
    [N, ...]`, `noisy` and `denoised [S, N, ...]`, `values`, `residuals`, `noisy_coefficients` and `clean_coefficients
    [S, N, k]`, `vectors [S, N, k, H, W, C]` (float32).
    """
    denoise, key = as_denoiser(denoise), as_key(key)
    images = np.asarray(as_images(images, "images"), np.float32)
    noise = np.asarray(jax.random.normal(jax.random.fold_in(key, 0), images.shape))
    table: list[dict[str, Any]] = []
    levels = []
    for sigma in sigmas:
        parts = []
        for i, (clean, z) in enumerate(zip(images, noise, strict=True)):
            row, part = _one(
                denoise,
                clean,
                clean + np.float32(sigma) * z,
                float(sigma),
                jax.random.fold_in(key, 1 + i),
                num=num,
                k=k,
                tolerance=tolerance,
                block=block,
                max_products=max_products,
            )
            table.append({"sigma": 255 * float(sigma), "image": i, **row})
            parts.append(part)
            add(1)
        levels.append(jax.tree.map(lambda *each: np.stack(each), *parts))
    arrays = jax.tree.map(lambda *each: np.stack(each), *levels)
    return table, {"sigma": np.asarray(sigmas, np.float64), "clean": images, **arrays}


def _one(denoise, clean, y, sigma, key, *, num, k, **how):
    basis = top_k(denoise, y, k, key=key, **how)
    factors = shrinkage(basis, y, clean)
    denoised = np.asarray(denoise(y[None]))[0]
    dimension = effective_dimension(denoise, y, key=key, num=num)
    crooked = asymmetry(denoise, y, key=key, num=num)
    risk = sure(denoise, y, sigma, key=key, num=num)
    row = {
        "psnr": -10 * float(np.log10(np.square(denoised - clean).mean(dtype=np.float64))),
        "mse": float(np.square(denoised - clean).mean(dtype=np.float64)),
        "sure": risk.value,
        "sure_error": risk.error,
        "trace": dimension.trace.value,
        "trace_error": dimension.trace.error,
        "squares": dimension.squares.value,
        "squares_error": dimension.squares.error,
        "asymmetry": crooked.value,
        "asymmetry_error": crooked.error,
        "homogeneity": homogeneity(denoise, y),
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
