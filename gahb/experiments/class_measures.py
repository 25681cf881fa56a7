"""The distance of a denoiser to the optimal one of a class of images: slope, error and tangent space."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gahb.denoisers import Denoiser
from gahb.eigenbasis import principal_angles
from gahb.experiments.analyse import survey
from gahb.metrics import slopes
from gahb.metrics.psnr import psnr_curve


class Settings(NamedTuple):
    """Settings of `measure`."""

    curve_db: Sequence[float]  # PSNRs of the noisy images, dB
    window_db: tuple[float, float] = (14.0, 20.0)  # PSNRs of noisy images of slope_in_window, dB
    batch_size: int = 64
    top: int = 20  # eigenvectors of each
    probes: int = 64  # of each trace
    bootstrap: int = 1000

    @property
    def sigmas(self) -> np.ndarray:
        """Noise standard deviations of the curve, intensity units, `[S]`."""
        return 10 ** (-np.asarray(self.curve_db, float) / 20)


def measure(
    denoise: Denoiser,
    images: np.ndarray,
    basis_images: np.ndarray,
    settings: Settings,
    key: jax.Array,
    *,
    sigma: float,
    alpha: float | None = None,
    oracle: np.ndarray | None = None,
    tangents: np.ndarray | None = None,
    add: Callable[[int], object] = lambda count: None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measures PSNR curve and slopes on `images [N, H, W, C]`, eigenvectors at `sigma` on `basis_images [M, ...]`.

    `slope` is fitted at small noise, where theory has an asymptote; `slope_in_window` within `window_db`. alpha: of a
    C^alpha class, whose `nominal_slope` is alpha / (alpha + 1). oracle: squared error per pixel `[S, N']` of the
    denoiser that knows the contour, at `settings.sigmas` and on images of the class; its slopes are fitted in the same
    windows, and `gap_to_oracle` is how far the denoiser is below its PSNR in the window, dB. tangents
    `[M, D, H, W, C]`: the tangent spaces at the basis images, of a class that is a manifold of dimension D; the D
    leading eigenvectors are compared with them, and the error with that of projecting on them, D sigma^2. `add(n)` is
    called after n of the `num_measures` are made.

    Returns numbers and arrays: `curve.*` (fields of `PsnrCurve`), `curve.best` (dB, of the oracle or the projection),
    `slope.*`, `basis.*` (as of `survey`, without the axis of noise levels), and `tangents` and `angles` (radians).
    """
    curve_key, slope_key, basis_key = jax.random.split(key, 3)
    curve = psnr_curve(denoise, images, settings.sigmas, curve_key, batch_size=settings.batch_size)
    add(len(settings.curve_db))

    def fits(per_image):
        return [
            slopes.fit_slope(curve.input_psnr, per_image, slope_key, selected=selected, resamples=settings.bootstrap)
            for selected in windows(curve.input_psnr, settings.window_db)
        ]

    slope, in_window = fits(curve.per_image)
    table, basis = survey(denoise, basis_images, [sigma], settings.top, basis_key, num=settings.probes, add=add)
    arrays = {f"curve.{name}": value for name, value in curve._asdict().items()}
    arrays |= {f"slope.{name}": getattr(slope, name) for name in ("local", "local_input_psnr", "selected")}
    arrays |= {f"basis.{name}": each if name == "clean" else each[0] for name, each in basis.items()}
    best_slope, shortfall, known, tangent = None, None, None, None
    if oracle is not None:
        best = -10 * np.log10(oracle.mean(1))
        best_fits = fits(-10 * np.log10(oracle))
        known = {
            "num_images": oracle.shape[1],
            "slope": _line(best_fits[0], curve.input_psnr),
            "slope_in_window": _line(best_fits[1], curve.input_psnr),
            "gap_to_oracle": float((best - curve.psnr_of_mean)[in_window.selected].mean()),
        }
        best_slope = best_fits[0].slope
        arrays |= {"curve.best": best, "slope.best": best_fits[0].local}
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
        "sigma": float(sigma),
        "nominal_slope": None if alpha is None else slopes.contour_slope(alpha),
        "best_slope": best_slope,
        "slope": _line(slope, curve.input_psnr),
        "slope_in_window": _line(in_window, curve.input_psnr),
        "oracle": known,
        "shortfall": shortfall,
        "tangent": tangent,
        # Over images: a class with few parameters has as few directions that are not removed.
        "trace": float(np.mean([row["trace"] for row in table])),
        "bases": table,
    }
    return numbers, arrays


def num_measures(settings: Settings, basis_images: int, oracle_images: int) -> int:
    """Returns how many steps `measure`, and the oracle before it, count."""
    return len(settings.curve_db) + basis_images + oracle_images


def windows(input_psnr: np.ndarray, window_db: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which points of a curve each of the two slopes is fitted to, bool `[S]`."""
    between = (input_psnr >= window_db[0] - 1e-6) & (input_psnr <= window_db[1] + 1e-6)
    return slopes.window(input_psnr), between


def _line(slope: slopes.Slope, input_psnr: np.ndarray) -> dict[str, float]:
    return {
        "value": slope.slope,
        "standard_error": slope.standard_error,
        "intercept": slope.intercept,
        "from_db": float(input_psnr[slope.selected].min()),
        "to_db": float(input_psnr[slope.selected].max()),
    }
