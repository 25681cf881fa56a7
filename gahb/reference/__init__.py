"""Denoisers that need no training: linear filters, shrinkage in a fixed basis, and the exact optimum of a finite set."""

from gahb.reference.stationary import Prior, expected_mse, fit, wiener

__all__ = ["Prior", "expected_mse", "fit", "wiener"]
