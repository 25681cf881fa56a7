"""Noise of ImageNet-C, independent for each pixel and channel."""

import numpy as np

GAUSSIAN = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation
SHOT = (60, 25, 12, 5, 3)  # photons of a white pixel
IMPULSE = (0.03, 0.06, 0.09, 0.17, 0.27)  # fraction of values replaced


def gaussian(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Adds normal noise."""
    return x + GAUSSIAN[severity - 1] * rng.standard_normal(x.shape)


def shot(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Counts photons, Poisson."""
    photons = SHOT[severity - 1]
    return rng.poisson(x * photons) / photons


def impulse(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Replaces values by 0 or 1, as often one as the other."""
    hit, white = rng.random((2, *x.shape))
    return np.where(hit < IMPULSE[severity - 1], white < 0.5, x)
