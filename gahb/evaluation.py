"""What `evaluate` measures: denoising of held-out images, beside the best stationary linear filter."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from common.method import Evaluation
from gahb.analysis import PsnrCurve, psnr_curve
from gahb.denoisers import Denoiser, as_denoiser
from gahb.reference import Prior, wiener


def evaluate(
    denoise: Denoiser,
    key: jax.Array,
    *,
    images: np.ndarray,
    levels: Sequence[float],
    curve_db: Sequence[float],
    panel: np.ndarray,
    prior: Prior | None = None,
    batch_size: int = 64,
) -> Evaluation:
    """Measures PSNR at `levels` (noise standard deviations in 1/255) and along `curve_db` (input PSNRs, dB).

    images: held-out `[N, H, W, C]` in [0, 1]. prior: of the Wiener filter, which knows sigma, on the same noisy images;
    None leaves it out. panel: a few larger held-out images `[P, H', W', C]`, denoised at each level to be looked at.

    Arrays: `levels.*` and `curve.*` (fields of `PsnrCurve`, `.wiener.*` too), and the panel's `panel.clean`,
    `panel.noisy`, `panel.denoised` (`[P, ...]`, `[S, P, ...]`), `panel.psnr [S, P]`.
    """
    level_key, curve_key, panel_key = jax.random.split(key, 3)
    arrays: dict[str, np.ndarray] = {}
    sigmas = {"levels": np.asarray(levels, float) / 255, "curve": 10 ** (-np.asarray(curve_db, float) / 20)}
    found: dict[str, PsnrCurve] = {}
    for name, noise_key in (("levels", level_key), ("curve", curve_key)):
        rivals = {"": denoise}
        if prior is not None:
            rivals[".wiener"] = [wiener(prior, sigma) for sigma in sigmas[name]]
        for suffix, rival in rivals.items():
            curve = psnr_curve(rival, images, sigmas[name], noise_key, batch_size=batch_size)
            found[name + suffix] = curve
            arrays |= {f"{name}{suffix}.{field}": value for field, value in curve._asdict().items()}
    arrays |= _panel(denoise, panel_key, panel, sigmas["levels"])
    curves = {"noisy": found["levels"], "denoised": found["levels"], "wiener": found.get("levels.wiener")}
    numbers = {
        "num_images": len(images),
        "nfe": 1,
        "table": [_row(level, i, found["levels"], found.get("levels.wiener")) for i, level in enumerate(levels)],
        "psnr_of_mean_mse": {
            name: curve.input_psnr if name == "noisy" else curve.psnr_of_mean
            for name, curve in curves.items()
            if curve is not None
        },
    }
    return Evaluation(numbers, arrays)


def _row(level: float, i: int, curve: PsnrCurve, rival: PsnrCurve | None) -> dict[str, Any]:
    """Returns mean PSNRs over the images at one level, dB, and the standard error of the denoiser's."""
    row = {
        "sigma": float(level),
        "noisy": float(curve.input_psnr[i]),
        "denoised": float(curve.mean_psnr[i]),
        "error": float(curve.mean_psnr_error[i]),
    }
    if rival is not None:
        row |= {"wiener": float(rival.mean_psnr[i]), "gain": float(curve.mean_psnr[i] - rival.mean_psnr[i])}
    return row


def _panel(denoise: Denoiser, key: jax.Array, clean: np.ndarray, sigmas: np.ndarray) -> dict[str, np.ndarray]:
    noisy, denoised = denoise_at(denoise, key, clean, sigmas)
    error = np.square(denoised - clean[None]).mean((2, 3, 4), dtype=np.float64)
    return {
        "panel.sigma": sigmas,
        "panel.clean": clean,
        "panel.noisy": noisy,
        "panel.denoised": denoised,
        "panel.psnr": -10 * np.log10(error),
    }


def denoise_at(
    denoise: Denoiser, key: jax.Array, clean: np.ndarray, sigmas: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `clean [N, H, W, C]` noisy and denoised, the same draw at each of `sigmas [S]`: two `[S, N, H, W, C]`."""
    z = jax.random.normal(key, clean.shape)
    pairs = [_denoise_noisy(as_denoiser(denoise), clean, z, float(sigma)) for sigma in sigmas]
    noisy, denoised = zip(*pairs, strict=True)
    return np.stack([np.asarray(x) for x in noisy]), np.stack([np.asarray(x) for x in denoised])


@jax.jit
def _denoise_noisy(denoise, clean, z, sigma):
    noisy = clean + sigma * z
    return noisy, denoise(noisy)
