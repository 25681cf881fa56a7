"""Images that are generated, and the rule by which Kadkhodaie et al. (ICLR 2024) split and repeat theirs."""

import numpy as np
from jaxtyping import Int

from gahb.datasets import calpha, manifolds

__all__ = ["authors_split", "calpha", "manifolds", "tiled"]


def authors_split(
    n: int, *, size: int, batch_size: int, swap: bool
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]:
    """Returns (train, test) indices by the rule of Kadkhodaie et al. (ICLR 2024), whose order is that of the data.

    The training set is the first min(size, n // 2) examples, with `swap` the last; the test set comes from the other
    end and is cut to one batch.
    """
    count = min(size, n // 2)
    first, last = np.arange(count), np.arange(n - count, n)
    train, test = (last, first) if swap else (first, last)
    return train, test[:batch_size]


def tiled(indices: Int[np.ndarray, " n"], total: int) -> Int[np.ndarray, " total"]:
    """Returns the indices repeated floor(total / len(indices)) times, the authors' epoch for small training sets."""
    return np.tile(indices, total // len(indices))
