"""How near a denoiser comes to the best possible one on a class of images: its slope, its error, its tangent space."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gahb import slopes
from gahb.analysis import psnr_curve
from gahb.denoisers import Denoiser
from gahb.eigenbasis import principal_angles
from gahb.eigenbasis.survey import survey


class Settings(NamedTuple):
    """Settings of `measure`."""

    curve_db: Sequence[float]  # PSNRs of the noisy images, dB
    moderate_db: tuple[float, float] = (4.0, 18.0)  # PSNRs of noisy images of the second slope, dB
    batch_size: int = 64
    top: int = 20  # eigenvectors of each
    probes: int = 64  # of each trace
    bootstrap: int = 1000


def measure(
    denoise: Denoiser,
    images: np.ndarray,
    looked_at: np.ndarray,
    settings: Settings,
    key: jax.Array,
    *,
    sigma: float,
    alpha: float | None = None,
    tangents: np.ndarray | None = None,
    add: Callable[[int], object] = lambda count: None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measures PSNR curve and slope on `images [N, H, W, C]`, eigenvectors at noise `sigma` on `looked_at [M, ...]`.

    `tangents [M, D, H, W, C]`: the tangent spaces at the images looked at, of a class that is a manifold of dimension
    D; the D leading eigenvectors are compared with them, and the error with that of projecting on them, D sigma^2.
    `alpha` says that the best slope is alpha / (alpha + 1). `slope` is fitted at small noise, where that is an
    asymptote; `moderate_slope` within `moderate_db`, which even a short training serves well. `add(1)` is called after
    the curve and after each of the M images. Returns numbers and arrays: `curve.*` (fields of `PsnrCurve`),
    `curve.best` (dB, for manifolds), `slope.*`, `basis.*` (as of `survey`, without the axis of noise levels), and
    `tangents` and `angles` (radians) for manifolds.
    """
    curve_key, slope_key, basis_key = jax.random.split(key, 3)
    sigmas = 10 ** (-np.asarray(settings.curve_db, float) / 20)
    curve = psnr_curve(denoise, images, sigmas, curve_key, batch_size=settings.batch_size)
    add(1)
    slope, moderate = (
        slopes.fit_slope(curve.input_psnr, curve.per_image, slope_key, selected=selected, resamples=settings.bootstrap)
        for selected in windows(curve.input_psnr, settings.moderate_db)
    )
    table, basis = survey(denoise, looked_at, [sigma], settings.top, basis_key, num=settings.probes, add=add)
    arrays = {f"curve.{name}": value for name, value in curve._asdict().items()}
    arrays |= {f"slope.{name}": getattr(slope, name) for name in ("local", "local_input_psnr", "selected")}
    arrays |= {f"basis.{name}": each if name == "clean" else each[0] for name, each in basis.items()}
    best_slope = None if alpha is None else slopes.contour_slope(alpha)
    shortfall, tangent = None, None
    if tangents is not None:
        dimension, pixels = tangents.shape[1], images[0].size
        best = slopes.manifold_psnr(curve.input_psnr, dimension=dimension, pixels=pixels)
        shortfall, best_slope = float((best - curve.psnr_of_mean)[slope.selected].mean()), 1.0
        angles = np.stack(
            [principal_angles(basis["vectors"][0, i, :dimension], tangents[i]) for i in range(len(tangents))]
        )
        arrays |= {"curve.best": best, "tangents": tangents, "angles": angles}
        tangent = {
            "dimension": dimension,
            "mean_square_cosine": float(np.square(np.cos(angles)).mean()),
            "angles_degrees": np.degrees(angles).tolist(),
            "next_factor": float(np.mean(basis["values"][0, :, dimension])),
        }
    numbers = {
        "num_images": len(images),
        "sigma": 255 * sigma,
        "best_slope": best_slope,
        "slope": _told(slope, curve.input_psnr),
        "moderate_slope": _told(moderate, curve.input_psnr),
        "shortfall": shortfall,
        "tangent": tangent,
        # Over images: a class with few parameters has as few directions that are not removed.
        "trace": float(np.mean([row["trace"] for row in table])),
        "bases": table,
    }
    return numbers, arrays


def windows(input_psnr: np.ndarray, moderate_db: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which points of a curve each of the two slopes is fitted to, bool `[S]`."""
    between = (input_psnr >= moderate_db[0] - 1e-6) & (input_psnr <= moderate_db[1] + 1e-6)
    return slopes.window(input_psnr), between


def _told(slope: slopes.Slope, input_psnr: np.ndarray) -> dict[str, float]:
    return {
        "value": slope.slope,
        "standard_error": slope.standard_error,
        "intercept": slope.intercept,
        "from_db": float(input_psnr[slope.selected].min()),
        "to_db": float(input_psnr[slope.selected].max()),
    }
