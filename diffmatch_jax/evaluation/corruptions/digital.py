"""Changes of ImageNet-C that cameras and codecs make; lengths are those of 224 x 224 times `scale`."""

import io

import numpy as np
from PIL import Image
from scipy import ndimage

from diffmatch_jax.evaluation.corruptions.blur import resized
from diffmatch_jax.model.resize import blur

CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)  # factor
# Gain and width of the blurred noise, and the largest shift of three points; they were multiples of 244, not 224.
ELASTIC = tuple(
    tuple(244 * each for each in row)
    for row in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
)
PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)  # fraction of rows and columns that is left
JPEG = (25, 18, 15, 10, 7)  # quality


def contrast(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Pulls every channel to its mean."""
    mean = x.mean((0, 1), keepdims=True)
    return mean + CONTRAST[severity - 1] * (x - mean)


def pixelate(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Averages over square blocks, in small images no smaller ones than at 224 pixels."""
    share = PIXELATE[severity - 1] / max(scale, 1)
    small = resized(x, tuple(max(1, round(side * share)) for side in x.shape[:2]), Image.Resampling.BOX)
    return resized(small, x.shape[:2], Image.Resampling.NEAREST)


def jpeg(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Goes through a JPEG file."""
    data, stream = np.round(x * 255).astype(np.uint8), io.BytesIO()
    Image.fromarray(data if data.shape[-1] == 3 else data[..., 0]).save(stream, "JPEG", quality=JPEG[severity - 1])
    return np.asarray(Image.open(stream)).reshape(x.shape).astype(np.float32) / 255


def elastic(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Moves positions by blurred noise and then by an affine map; returns the image and the flow into the original.

    Positions outside are mirrored about the outermost centres, in the flow too: p shows the original at p + flow(p).
    """
    gain, width, most = ELASTIC[severity - 1]
    matrix = _affine(x.shape[:2], most * scale, rng)
    size = x.shape[:2]
    pixels = np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), -1).astype(np.float64)
    # Blurred noise falls with the blur: the square of `scale` makes displacements `scale` times as long.
    noise = gain * scale**2 * blur(rng.uniform(-1, 1, (*size, 2)), width * scale, reach=3 * width * scale)
    moved = (pixels + noise) @ matrix[:, :2].T + matrix[:, 2]
    moved = mirrored(moved, np.asarray([size[1] - 1, size[0] - 1]))
    at = moved[..., 1], moved[..., 0]
    image = np.stack([ndimage.map_coordinates(x[..., c], at, order=1, mode="mirror") for c in range(x.shape[-1])], -1)
    return image, (moved - pixels).astype(np.float32)


def mirrored(positions: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Returns positions folded into 0 .. last."""
    return last - np.abs(last - positions % (2 * last))


def _affine(size: tuple[int, ...], most: float, rng: np.random.Generator) -> np.ndarray:
    """Returns the map of new to old positions `[2, 3]` that has three points moved by U(-most, most) in x and y."""
    middle, arm = np.asarray([size[1], size[0]]) / 2, min(size) / 3
    old = middle + arm * np.asarray([(1, 1), (1, -1), (-1, -1)])
    while True:
        new = old + rng.uniform(-most, most, old.shape)
        area = np.linalg.det(np.diff(new, axis=0)) / np.linalg.det(np.diff(old, axis=0))
        # Nearly flat or turned over, there would be no picture left to match.
        if area > 0.25:
            return np.linalg.solve(np.c_[new, np.ones(3)], old).T
