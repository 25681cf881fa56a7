"""Optimal errors of classes in closed form, and the slopes of PSNR curves.

PSNRs are in dB with peak 1, noise levels in intensity units. Everything is float64 on the host.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from common.errors import input_error
from gahb.datasets.manifolds import DIMENSIONS
from gahb.reference.checks import check_sigma

__all__ = ["DIMENSIONS", "Slope", "contour_slope", "fit_slope", "manifold_mse", "manifold_psnr", "oracle_mse", "window"]


class Slope(NamedTuple):
    """A line through the points of a PSNR curve that `selected` marks."""

    slope: float  # dB after denoising per dB before
    standard_error: float  # over resampled images; NaN for one image
    intercept: float  # dB at an input PSNR of 0
    local: np.ndarray  # [S - 1] slopes between neighbouring points of the whole curve, by increasing input PSNR
    local_input_psnr: np.ndarray  # [S - 1] the middles of these intervals
    selected: np.ndarray  # [S] bool, in the order of the points as given


def contour_slope(alpha: float) -> float:
    """Returns the nominal slope alpha / (alpha + 1) of C^alpha images (Kadkhodaie et al., section 4.1).

    It is the minimax rate for a contour of regularity alpha between regions without detail. It is no bound for the
    images of `gahb.datasets.calpha`: their backgrounds of power |k|^(-2 alpha) alone have the slope (alpha - 1) /
    alpha, and `gahb.reference.gaussian` computes what the class costs at least.
    """
    return alpha / (alpha + 1)


def manifold_mse(sigma: np.ndarray | float, *, dimension: int) -> np.ndarray:
    """Returns D sigma^2, the squared error (summed over pixels) of projecting on D tangent directions.

    It is that of the best denoiser as sigma goes to 0 (Kadkhodaie et al., section 4.2); `DIMENSIONS` has D by class.
    Raises `InputError` unless every sigma is a positive number.
    """
    check_sigma(sigma, several=True)
    return dimension * np.square(np.asarray(sigma, np.float64))


def manifold_psnr(input_psnr: np.ndarray | float, *, dimension: int, pixels: int) -> np.ndarray:
    """Returns the PSNR that belongs to `manifold_mse`: a line of slope 1 and intercept 10 log10(pixels / dimension)."""
    return np.asarray(input_psnr, np.float64) + 10 * np.log10(pixels / dimension)


def oracle_mse(
    energy: Float[np.ndarray, "... coefficients"], sigma: Float[np.ndarray, " levels"] | float
) -> Float[np.ndarray, "levels ..."]:
    """Returns sum_k sigma^2 c_k^2 / (c_k^2 + sigma^2) for `energy [..., K]` = c_k^2 and `sigma [S]`, `[S, ...]`.

    The error of the best shrinkage in one fixed basis. With c_k^2 = k^-(alpha + 1) its PSNR has the slope
    alpha / (alpha + 1) at small noise. Raises `InputError` unless every sigma is a positive number.
    """
    check_sigma(sigma, several=True)
    energy = np.asarray(energy, np.float64)
    variances = np.square(np.asarray(sigma, np.float64))
    return np.stack([(variance * energy / (energy + variance)).sum(-1) for variance in np.ravel(variances)])


def window(
    input_psnr: Float[np.ndarray, " levels"], *, least: float = 17.0, skip: int = 2
) -> Bool[np.ndarray, " levels"]:
    """Returns which points a slope is fitted to, bool `[S]`: those from `least` dB on but for the `skip` highest.

    The line is an asymptote for small noise; but networks are hardly trained on the very smallest, so that these points
    are left out.
    """
    input_psnr = np.asarray(input_psnr, np.float64)
    rank = np.argsort(np.argsort(-input_psnr, kind="stable"))
    return (input_psnr >= least) & (rank >= skip)


def fit_slope(
    input_psnr: Float[np.ndarray, " levels"],
    per_image: Float[np.ndarray, "levels images"],
    key: jax.Array,
    *,
    selected: Bool[np.ndarray, " levels"] | None = None,
    resamples: int = 1000,
) -> Slope:
    """Fits 10 log10(1 / mean squared error) against the input PSNR by least squares.

    `input_psnr [S]` and `per_image [S, N]` are PSNRs as `gahb.metrics.psnr_curve` gives them; the mean is over squared
    errors, not over dB. `selected [S]` marks the points of the fit (default: `window(input_psnr)`). The standard error
    is that of `resamples` fits to images resampled with replacement, the same ones at every level. Raises `InputError`
    for shapes that do not fit and for fewer than two different points.
    """
    input_psnr, per_image = np.asarray(input_psnr, np.float64), np.asarray(per_image, np.float64)
    if per_image.ndim != 2 or input_psnr.shape != per_image.shape[:1] or per_image.shape[1] == 0:
        expected = f"[S, N] for input_psnr [S] = {list(input_psnr.shape)}"
        raise input_error("per_image", expected=expected, got=list(per_image.shape), fix="give one row for each level")
    selected = window(input_psnr) if selected is None else np.asarray(selected, bool)
    if selected.shape != input_psnr.shape or len(np.unique(input_psnr[selected])) < 2:
        got = f"{np.count_nonzero(selected)} of {len(input_psnr)}"
        raise input_error(
            "selected", expected="at least 2 different input PSNRs", got=got, fix="use more levels, or select others"
        )
    error = 10 ** (-per_image / 10)
    count = error.shape[1]
    slope, intercept = _line(input_psnr[selected], -10 * np.log10(error[selected].mean(1)))
    order = np.argsort(input_psnr, kind="stable")
    x, y = input_psnr[order], -10 * np.log10(error[order].mean(1))
    chosen = np.asarray(jax.random.randint(key, (resamples, count), 0, count)) if count > 1 else []
    slopes = [_line(input_psnr[selected], -10 * np.log10(error[selected][:, each].mean(1)))[0] for each in chosen]
    with np.errstate(divide="ignore", invalid="ignore"):
        local = np.diff(y) / np.diff(x)
    return Slope(
        slope=slope,
        standard_error=float(np.std(slopes, ddof=1)) if len(slopes) > 1 else float("nan"),
        intercept=intercept,
        local=local,
        local_input_psnr=(x[1:] + x[:-1]) / 2,
        selected=selected,
    )


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    return slope, float(y.mean() - slope * x.mean())
