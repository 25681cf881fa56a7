"""Denoisers that are known matrices, and the bases these have."""

import jax
import numpy as np
from jax.tree_util import Partial

SHAPE = (6, 8, 3)
SIZE = 144


def linear(matrix):
    """The denoiser y -> matrix y."""
    return Partial(_apply, np.asarray(matrix, np.float32))


def _apply(matrix, y):
    rows = jax.numpy.matmul(y.reshape(len(y), -1), matrix.T, precision="highest")
    return rows.reshape(y.shape)


def orthogonal(seed=0, size=SIZE):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def symmetric(values, seed=0):
    q = orthogonal(seed, len(values))
    return (q * values) @ q.T


def spectra():
    """Descending eigenvalues, by what is hard about them."""
    decaying = 1.2 * 0.93 ** np.arange(SIZE)
    clustered = np.concatenate([np.full(2, 1.1), 1.0 + 1e-4 * np.arange(6)[::-1], np.linspace(0.6, 0, SIZE - 8)])
    indefinite = np.concatenate([[0.9, 0.5, 0.2], np.linspace(0.05, -0.3, SIZE - 4), [-2.0]])
    rank_deficient = np.concatenate([[1.0, 1.0, 0.5], np.zeros(SIZE - 3)])
    negative = np.linspace(-0.1, -1.0, SIZE)
    names = ("decaying", "clustered", "indefinite", "rank_deficient", "negative")
    return dict(zip(names, (decaying, clustered, indefinite, rank_deficient, negative), strict=True))


def image(seed=1, shape=SHAPE):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)
