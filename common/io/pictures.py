"""Pixel-exact pictures: arrays in [0, 1] to PNG files, and grids of them."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common.io.files import write_atomically


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Returns values in [0, 1] as 0..255, rounded to nearest; what lies outside is clipped, what is no number is 0.

    Bytes stay as they are.
    """
    if np.asarray(image).dtype == np.uint8:
        return np.asarray(image)
    image = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def as_unit(image: np.ndarray) -> np.ndarray:
    """Returns float32 intensities: bytes are divided by 255, floats stay as they are."""
    image = np.asarray(image)
    return image / np.float32(255) if image.dtype == np.uint8 else image.astype(np.float32)


def png_bytes(image: np.ndarray) -> bytes:
    """Returns the PNG of an image `[H, W]`, `[H, W, 1]` or `[H, W, 3]`, in [0, 1] or bytes."""
    pixels = to_uint8(image)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        raise ValueError(f"image: expected [H, W], [H, W, 1] or [H, W, 3], got {pixels.shape}")
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def save_png(path: str | os.PathLike, image: np.ndarray) -> Path:
    """Writes `image` (`[H, W, C]` in [0, 1]) as a PNG, in one atomic step, and returns the path."""
    return write_atomically(path, png_bytes(image))


def grid(images: np.ndarray, *, columns: int | None = None, gap: int = 2, scale: int = 1) -> np.ndarray:
    """Returns images `[N, H, W, C]` in [0, 1] side by side in rows of `columns` (default: nearly square), on white.

    Bytes are brought to [0, 1].
    `gap` is the space between them in pixels; each pixel is repeated `scale` times in both directions first.
    """
    images = as_unit(images).repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = images.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), np.float32)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def strip(rows: Sequence[np.ndarray], *, gap: int = 2, scale: int = 1) -> np.ndarray:
    """Returns one grid with a row for each array `[N, H, W, C]` (all of one shape)."""
    return grid(np.concatenate(rows), columns=len(rows[0]), gap=gap, scale=scale)
