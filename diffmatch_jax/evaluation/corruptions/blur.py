"""Blurs of ImageNet-C; lengths are those of 224 x 224 times `scale`."""

from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage, signal

DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))  # radius of the disk, blur of its edge
GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))  # blur, largest shift, rounds of swaps
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # length is 2 radius, standard deviation of its fading
ZOOM = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))  # first factor left out, and step


def convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns `x [H, W, ...]` under a kernel of odd sides, mirrored about its outermost centres."""
    height, width = (side // 2 for side in kernel.shape)
    padded = np.pad(x, [(height, height), (width, width), *[(0, 0)] * (x.ndim - 2)], mode="reflect")
    kernel = kernel.reshape(*kernel.shape, *[1] * (x.ndim - 2)).astype(x.dtype)
    return signal.oaconvolve(padded, kernel, mode="valid", axes=(0, 1))


def smooth(x: np.ndarray, sigma: float) -> np.ndarray:
    """Returns `x [H, W, ...]` under a Gaussian."""
    return ndimage.gaussian_filter(x, (sigma, sigma, *[0] * (x.ndim - 2)), mode="mirror")


def defocus(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Averages over a disk."""
    radius, edge = (scale * each for each in DEFOCUS[severity - 1])
    reach = int(np.ceil(radius + 4 * edge)) + 1
    at = np.arange(-reach, reach + 1)
    disk = ndimage.gaussian_filter(np.clip(radius + 0.5 - np.hypot(*np.meshgrid(at, at)), 0, 1), edge)
    return convolve(x, disk / disk.sum())


def swapped(size: tuple[int, ...], most: int, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """Returns pixel numbers `[H, W]` after each was swapped with one at most `most` rows and columns off.

    Pixels 2 most + 1 apart cannot meet, so those of one phase of that grid are swapped at once.
    """
    height, width = size
    order = np.arange(height * width).reshape(size)
    for _ in range(rounds):
        by = rng.integers(-most, most + 1, size=(*size, 2))
        for top in range(2 * most + 1):
            for left in range(2 * most + 1):
                rows, columns = np.mgrid[top : height : 2 * most + 1, left : width : 2 * most + 1]
                others = by[rows, columns]
                there = np.clip(rows + others[..., 0], 0, height - 1), np.clip(columns + others[..., 1], 0, width - 1)
                order[rows, columns], order[there] = order[there], order[rows, columns]
    return order


def resized(x: np.ndarray, size: tuple[int, ...], how: Image.Resampling) -> np.ndarray:
    """Returns `x [H, W, C]` at `size` (height, width) by one of Pillow's filters, float32."""
    channels = np.moveaxis(np.asarray(x, np.float32), -1, 0)
    pictures = [Image.fromarray(np.ascontiguousarray(each)).resize((size[1], size[0]), how) for each in channels]
    return np.stack([np.asarray(each) for each in pictures], -1)


def glass(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Swaps neighbours at random between two blurs: pixels of an image of 224 x 224, `scale` times larger cells here.

    A pixel moves as its cell does, and keeps its place within it. A smaller image is enlarged meanwhile.
    """
    sigma, most, rounds = GLASS[severity - 1]
    height, width = x.shape[:2]
    cells = round(height / scale), round(width / scale)
    if scale < 1:
        large = glass(resized(x, cells, Image.Resampling.BILINEAR), severity, rng, 1.0)
        return resized(large, (height, width), Image.Resampling.BOX)
    order = swapped(cells, most, rounds, rng)
    down, right = order // cells[1] - np.arange(cells[0])[:, None], order % cells[1] - np.arange(cells[1])
    rows, columns = np.arange(height), np.arange(width)
    mine = np.ix_(*((2 * at + 1) * count // (2 * len(at)) for at, count in zip((rows, columns), cells, strict=True)))
    at = rows[:, None] + down[mine] * (height / cells[0]), columns + right[mine] * (width / cells[1])
    x = smooth(x, sigma * scale)
    moved = [ndimage.map_coordinates(x[..., c], at, order=1, mode="nearest") for c in range(x.shape[-1])]
    return smooth(np.stack(moved, -1), sigma * scale)


def line(length: float, sigma: float, angle: float) -> np.ndarray:
    """Returns the kernel of a streak: a half Gaussian of `length` pixels along `angle`, with its centroid at 0."""
    steps = max(2, int(np.ceil(length)) + 1)
    along = np.linspace(0, length, steps)
    weights = np.exp(-0.5 * (along / sigma) ** 2)
    weights /= weights.sum()
    x, y = (direction * (along - along @ weights) for direction in (np.cos(angle), np.sin(angle)))
    reach = int(np.ceil(length)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - right - (x - left)) * np.abs(1 - down - (y - top))
            np.add.at(kernel, (top + down + reach, left + right + reach), weights * share)
    return kernel


def motion(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Smears along a direction within 45 degrees of the horizontal."""
    radius, sigma = MOTION[severity - 1]
    angle = np.radians(rng.uniform(-45, 45))
    return convolve(x, line(2 * radius * scale, sigma * scale, angle))


def zoom(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Averages the image and enlargements of it about its middle; content moves outward by half the largest one."""
    last, step = ZOOM[severity - 1]
    factors = np.arange(1, last, step)
    total = x.copy()
    middle: Any = (np.asarray(x.shape[:2]) - 1) / 2
    for factor in factors:
        for channel in range(x.shape[-1]):
            total[..., channel] += ndimage.affine_transform(
                x[..., channel], np.full(2, 1 / factor), middle * (1 - 1 / factor), order=1, mode="mirror"
            )
    return total / (len(factors) + 1)
