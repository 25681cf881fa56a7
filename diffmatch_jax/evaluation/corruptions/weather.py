"""Weather and light of ImageNet-C; lengths are those of 224 x 224 times `scale`."""

from typing import Any

import numpy as np
from scipy import ndimage, spatial

from diffmatch_jax.evaluation.corruptions.blur import convolve, line, smooth

# Mean and deviation of noise, size of flakes, threshold, radius and fading of their streaks, fraction of image left.
SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
FROST = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))  # shares of image and texture
FOG = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))  # strength, decay of finer clouds
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)  # added to the value

_ICE = np.array([0.86, 0.94, 1.0])  # colour of frost
_CRYSTALS = 14  # in a square image


def brightness(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Adds to the value of hue, saturation and value: colours are multiplied, black becomes gray."""
    value = x.max(-1, keepdims=True)
    new = np.minimum(value + BRIGHTNESS[severity - 1], 1)
    return np.where(value > 0, x * (new / np.where(value > 0, value, 1)), new)


def snow(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Whitens the image and adds streaks of bright flakes, once more turned by 180 degrees."""
    mean, deviation, size, threshold, radius, sigma, share = SNOW[severity - 1]
    height, width = x.shape[:2]
    cell = max(2.0, size * scale)
    flakes = mean + deviation * rng.standard_normal([int(np.ceil(side / cell)) + 1 for side in (height, width)])
    rows, columns = (np.arange(side) / cell for side in (height, width))
    flakes = ndimage.map_coordinates(flakes, np.meshgrid(rows, columns, indexing="ij"), order=1)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    angle = np.radians(rng.uniform(-135, -45))
    flakes = np.clip(convolve(flakes, line(2 * radius * scale, sigma * scale, angle)), 0, 1)[..., None]
    gray = x @ np.array([0.299, 0.587, 0.114]) if x.shape[-1] == 3 else x[..., 0]
    white = np.maximum(x, 1.5 * gray[..., None] + 0.5)
    return share * x + (1 - share) * white + flakes + flakes[::-1, ::-1]


def clouds(size: tuple[int, ...], decay: float, rng: np.random.Generator) -> np.ndarray:
    """Returns a fractal `[H, W]` in [0, 1] by midpoint displacement (Fournier et al., 1982) on a torus.

    The displacements of each finer level are decay^2 times smaller.
    """
    side = 1 << int(np.ceil(np.log2(max(size))))
    field, step, strength = np.zeros((1, 1)), side, 1.0
    while step >= 2:
        # Middles of squares, then of the diamonds these make with the corners.
        middles = _mean(field, [(0, 0), (-1, 0), (0, -1), (-1, -1)]) + strength * rng.uniform(-1, 1, field.shape)
        right = (field + np.roll(field, -1, 1) + middles + np.roll(middles, 1, 0)) / 4
        below = (field + np.roll(field, -1, 0) + middles + np.roll(middles, 1, 1)) / 4
        right, below = (each + strength * rng.uniform(-1, 1, field.shape) for each in (right, below))
        finer = np.empty((2 * len(field), 2 * len(field)))
        finer[::2, ::2], finer[1::2, 1::2], finer[::2, 1::2], finer[1::2, ::2] = field, middles, right, below
        field, step, strength = finer, step // 2, strength / decay**2
    field = field - field.min()
    return (field / max(field.max(), 1e-9))[: size[0], : size[1]]


def _mean(field: np.ndarray, shifts) -> np.ndarray:
    total: Any = sum(np.roll(field, shift, (0, 1)) for shift in shifts)
    return total / len(shifts)


def fog(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Adds clouds and scales back to the image's own maximum."""
    strength, decay = FOG[severity - 1]
    most = x.max()
    return (x + strength * clouds(x.shape[:2], decay, rng)[..., None]) * (most / (most + strength))


def frost(x: np.ndarray, severity: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Mixes with a texture of frost."""
    image, texture = FROST[severity - 1]
    return image * x + texture * frost_texture(x.shape[:2], rng, scale)[..., : x.shape[-1]]


def frost_texture(size: tuple[int, ...], rng: np.random.Generator, scale: float) -> np.ndarray:
    """Returns a pane with ice flowers, `[H, W, 3]`, mean about 0.45; drawn here, no photograph is used.

    The pane is divided among crystals (Voronoi cells with bent edges). Each has veins that run from its middle in six
    directions and feathers along them; clouds make the ice thick and thin, ridges and grain make it rough.
    """
    height, width = size
    unit = 224 * scale
    bend = np.stack([clouds(size, 1.5, rng), clouds(size, 1.5, rng)], -1) - 0.5
    at = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) / unit + 0.35 * bend
    extent = np.array([width, height]) / unit
    count = max(4, round(_CRYSTALS * extent.prod()))
    seeds = rng.uniform(-0.2, 1.2, (count, 2)) * extent
    distance: Any
    owner: Any
    distance, owner = spatial.KDTree(seeds).query(at, k=2)
    border = np.exp(-0.5 * ((distance[..., 1] - distance[..., 0]) / 0.01) ** 2)
    nearest = owner[..., 0]
    away = at - seeds[nearest]
    angle = np.arctan2(away[..., 1], away[..., 0]) + rng.uniform(0, 2 * np.pi, count)[nearest]
    # Within its sixth of the star, a pixel is `along` the vein and `aside` of it.
    sector = (angle + np.pi / 6) % (np.pi / 3) - np.pi / 6
    along, aside = distance[..., 0] * np.cos(sector), np.abs(distance[..., 0] * np.sin(sector))
    vein = np.exp(-aside / 0.006)
    pitch = rng.uniform(20, 70, count)[nearest]
    rough = clouds(size, 1.2, rng) - 0.5
    feather = (0.5 + 0.5 * np.cos(2 * np.pi * (pitch * (along - 0.6 * aside) + 3 * rough))) ** 2 * np.exp(-aside / 0.05)
    thick = clouds(size, 1.6, rng)
    ridge = 1 - np.abs(2 * clouds(size, 1.25, rng) - 1)
    grain = smooth(rng.standard_normal(size), 0.7 * max(scale, 1))
    ice = thick * (0.2 * border + 0.25 * vein + 0.35 * feather + 0.5 * ridge**4) + 0.6 * thick**2
    ice = ice / max(ice.std(), 1e-9) + 0.1 * grain / max(grain.std(), 1e-9)
    ice = np.clip(0.45 + 0.25 * (ice - ice.mean()), 0, 1)
    return ice[..., None] * _ICE + 0.05 * (1 - _ICE)
