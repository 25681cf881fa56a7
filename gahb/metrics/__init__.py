"""Measures of denoisers: error against noise, memorisation and generalisation, distance to known optima."""

from gahb.metrics.generalisation import (
    bootstrap,
    distance_ratio,
    level_weights,
    memorised_fraction,
    squared_distances,
    standardised,
    times,
    trajectories,
    two_nearest,
)
from gahb.metrics.psnr import (
    PsnrCurve,
    clustered_error,
    contour_slope,
    denoise_at,
    evaluate,
    fit_slope,
    manifold_mse,
    manifold_psnr,
    oracle_mse,
    psnr_curve,
    window,
)
from gahb.metrics.score_machines import best_windows, explained, implied_noise, machines

__all__ = [
    "PsnrCurve",
    "best_windows",
    "bootstrap",
    "clustered_error",
    "contour_slope",
    "denoise_at",
    "distance_ratio",
    "evaluate",
    "explained",
    "fit_slope",
    "implied_noise",
    "level_weights",
    "machines",
    "manifold_mse",
    "manifold_psnr",
    "memorised_fraction",
    "oracle_mse",
    "psnr_curve",
    "squared_distances",
    "standardised",
    "times",
    "trajectories",
    "two_nearest",
    "window",
]
