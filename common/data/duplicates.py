"""Near-duplicate images: those whose coarse block means correlate above a threshold with an earlier image's."""

from typing import Literal

import numpy as np

from common.arrays import as_numbers

_BLOCK = 1024  # images compared with as many others at once; memory is _BLOCK**2 floats


def block_means(images: np.ndarray, *, grid: int = 20) -> np.ndarray:
    """Returns the means over square blocks of `[N, H, W, C]`, as float32 vectors `[N, D]` of zero mean and unit length.

    A block is floor(H / grid) pixels high and wide (at least 1), so 80x80 images become 20x20; a rest below one block
    is left out. uint8 and float images give the same up to rounding. A constant image becomes a zero vector. Raises
    `InputError` for integers of other widths, and for NaN and infinity.
    """
    count, height, width, channels = images.shape
    side = max(1, height // grid)
    rows, columns = height // side, width // side
    out = np.empty((count, rows * columns * channels), np.float32)
    for start in range(0, count, _BLOCK):
        part = images[start : start + _BLOCK, : rows * side, : columns * side]
        part = part if part.dtype == np.uint8 else as_numbers(part, "images")
        means = part.reshape(-1, rows, side, columns, side, channels).mean(axis=(2, 4), dtype=np.float32)
        flat = means.reshape(len(part), -1)
        flat = flat - flat.mean(axis=1, keepdims=True)
        norms = np.linalg.norm(flat, axis=1, keepdims=True)
        out[start : start + _BLOCK] = flat / np.where(norms > 1e-6 * np.abs(means).max(initial=1.0), norms, np.inf)
    return out


def distinct(
    vectors: np.ndarray, *, threshold: float = 0.95, rule: Literal["any", "kept"] = "any", block: int = _BLOCK
) -> np.ndarray:
    """Returns the sorted indices of the images that stay, given the unit vectors `[N, D]` of `block_means`.

    Image i goes if |<v_i, v_j>| > threshold for an earlier j: any earlier one (rule "any", that of Kadkhodaie et al.,
    ICLR 2024), or only one that itself stays (rule "kept", so that a chain of small changes loses less). Negatives of
    an image count as duplicates. Compares block by block: the N x N matrix is never held.
    """
    keep = np.ones(len(vectors), bool)
    for start in range(0, len(vectors), block):
        stop = min(start + block, len(vectors))
        mine = vectors[start:stop]
        for other in range(0, start, block):
            others = vectors[other : other + block]
            if rule == "kept":
                others = others[keep[other : other + block]]
            if len(others):
                keep[start:stop] &= np.abs(mine @ others.T).max(axis=1) <= threshold
        close = np.tril(np.abs(mine @ mine.T) > threshold, k=-1)
        if rule == "any":
            keep[start:stop] &= ~close.any(axis=1)
        else:
            for row in range(len(mine)):
                keep[start + row] &= not (close[row] & keep[start:stop]).any()
    return np.flatnonzero(keep)
