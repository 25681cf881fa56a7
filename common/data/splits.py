"""Which examples belong together: halves, subsets and held-out examples. Pure index arithmetic."""

import numpy as np

from common.data.batches import permutation
from common.errors import input_error

# What folders and arrays with a split are called, in any case; the test images are of the first group that is there.
TRAIN_NAMES = (("train", "training"),)
TEST_NAMES = (("test", "testing"), ("val", "valid", "validation"))

# Different purposes of one seed must not share an order.
_HALVES, _HELD_OUT = 101, 102


def choose(n: int, *, half: int = 0, subset: int = 0, seed: int = 0) -> np.ndarray:
    """Returns the indices of a half and of a subset of n examples.

    `half` 1 and 2 are disjoint and hold n // 2 examples each (the odd one is in neither); 0 takes all. `subset` keeps
    that many, and smaller subsets lie within larger ones (0 = all). Without either the order is that of the data.
    Raises `InputError` if there are too few examples.
    """
    if half not in (0, 1, 2):
        raise input_error("config.data.half", expected="0 (all), 1 or 2", got=half, fix="use one of them")
    if half == 0 and subset == 0:
        return np.arange(n)
    indices = permutation(n, seed=seed, purpose=_HALVES)
    if half:
        indices = indices[: n // 2] if half == 1 else indices[n // 2 : 2 * (n // 2)]
        if len(indices) == 0:
            raise input_error(
                "config.data.half", expected="at least 2 images to halve", got=n, fix="use half=0 or more images"
            )
    if not 0 <= subset <= len(indices):
        raise input_error(
            "config.data.subset",
            expected=f"0 (all) to {len(indices)}, the number of images there",
            got=subset,
            fix="use fewer, or a larger data set",
        )
    return indices[:subset] if subset else indices


def hold_out(n: int, *, fraction: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns sorted (train, test) indices; the test set is a seeded `fraction` of the examples, at least one."""
    if n < 2:
        raise input_error(
            "config.data.source", expected="at least 2 images, one of them for testing", got=n, fix="add images"
        )
    order = permutation(n, seed=seed, purpose=_HELD_OUT)
    count = max(1, round(fraction * n))
    return np.sort(order[count:]), np.sort(order[:count])
