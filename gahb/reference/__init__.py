"""Denoisers without training: linear filters, shrinkage in a fixed basis, and the exact optimum of a finite set."""

from gahb.reference.bases import Basis, dct, wavelet
from gahb.reference.contour import contour_variances, wiener_mse
from gahb.reference.gaussian import Covariance, covariance_mse, covariance_wiener, fit_covariance
from gahb.reference.patches import equivariant, local
from gahb.reference.posterior import dominant, empirical, jacobian, jacobian_product, weights
from gahb.reference.shrinkage import oracle, oracle_error, soft_error, soft_threshold
from gahb.reference.stationary import Prior, expected_mse, fit, wiener

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
