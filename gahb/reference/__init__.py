"""Denoisers without training: linear filters, shrinkage in a fixed basis, and the exact optimum of a finite set."""

from gahb.reference.gaussian import (
    Covariance,
    Prior,
    contour_variances,
    covariance_mse,
    covariance_wiener,
    expected_mse,
    fit,
    fit_covariance,
    wiener,
    wiener_mse,
)
from gahb.reference.posterior import dominant, empirical, equivariant, jacobian, jacobian_product, local, weights
from gahb.reference.shrinkage import Basis, dct, oracle, oracle_error, soft_error, soft_threshold, wavelet

__all__ = [
    "Basis",
    "Covariance",
    "Prior",
    "contour_variances",
    "covariance_mse",
    "covariance_wiener",
    "dct",
    "dominant",
    "empirical",
    "equivariant",
    "expected_mse",
    "fit",
    "fit_covariance",
    "jacobian",
    "jacobian_product",
    "local",
    "oracle",
    "oracle_error",
    "soft_error",
    "soft_threshold",
    "wavelet",
    "weights",
    "wiener",
    "wiener_mse",
]
