"""Reading and fitting single images: decoding, gray, central squares, resizing. Pillow is used here only."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")

_GRAY_MODES = ("1", "L", "LA", "La")
_DEEP_MODES = ("I", "F")  # and every "I;16" variant
_TRANSPOSED = (5, 6, 7, 8)  # values of the EXIF orientation that exchange height and width
_ORIENTATION = 0x0112


class Header(NamedTuple):
    """What the first bytes of a file tell: `shape` (height, width, 1 or 3), zeros and a `reason` if unreadable."""

    shape: tuple[int, int, int]
    reason: str = ""


def header(data: bytes | Path) -> Header:
    """Reads the size of an encoded image, upright as its EXIF orientation asks, without decoding it."""
    try:
        with _open(data) as image:
            _check_depth(image)
            width, height = image.size
            # Without this look into `info` Pillow would decode a whole PNG in search of EXIF data.
            if "exif" in image.info and image.getexif().get(_ORIENTATION) in _TRANSPOSED:
                width, height = height, width
            return Header((height, width, 1 if image.mode in _GRAY_MODES else 3))
    except (ValueError, OSError, SyntaxError, EOFError) as error:
        return Header((0, 0, 0), str(error))


def decode(data: bytes | Path) -> np.ndarray:
    """Decodes a PNG, JPEG, ... into uint8 `[H, W, C]`, C = 1 for gray files and 3 otherwise (transparency is dropped).

    Raises `ValueError` with the reason for files that are truncated, no image, or deeper than 8 bits.
    """
    with _open(data) as image:
        _check_depth(image)
        try:
            image = ImageOps.exif_transpose(image)
            image = image.convert("L" if image.mode in _GRAY_MODES else "RGB")
        except (OSError, SyntaxError, EOFError) as error:
            raise ValueError(f"damaged image ({error})") from None
        array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def _open(data: bytes | Path) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)
    except Image.UnidentifiedImageError:
        raise ValueError("no image that can be read") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be opened ({error})") from None


def _check_depth(image: Image.Image) -> None:
    if image.mode in _DEEP_MODES or image.mode.startswith("I;"):
        raise ValueError(f"more than 8 bits a channel (mode {image.mode}); save it with 8 bits")


def gray(image: np.ndarray) -> np.ndarray:
    """Returns the plain mean over the channels, `[H, W, C] -> [H, W, 1]`, as the paper takes it (not luminance).

    uint8 stays uint8, rounded to nearest: the sum of three bytes divided by 3 is off by at most 1/3 of a gray level
    (root mean square 0.27/255, 59 dB below the range), and a data set takes a quarter of its float32 memory.
    """
    channels = image.shape[-1]
    if channels == 1:
        return image
    if image.dtype == np.uint8:
        total = image.sum(axis=-1, keepdims=True, dtype=np.uint16)
        return ((total + channels // 2) // channels).astype(np.uint8)
    return image.mean(axis=-1, keepdims=True, dtype=np.float32)


def as_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Returns the image with 1 channel (gray) or 3 (a gray image is repeated); raises `ValueError` for other counts."""
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(f"expected shape [H, W, 1] or [H, W, 3], got {list(image.shape)}")
    if channels == 1:
        return gray(image)
    return image if image.shape[-1] == 3 else np.repeat(image, 3, axis=-1)


def central_square(image: np.ndarray, side: int = 0) -> np.ndarray:
    """Returns the central square of `side` pixels (0 = the largest), `[side, side, C]`; an odd rest is cut below."""
    height, width = image.shape[:2]
    side = side or min(height, width)
    if side > min(height, width):
        raise ValueError(f"expected at least {side}x{side} pixels, got {height}x{width}")
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def resize(image: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resizes to `[height, width, C]` by Pillow's bicubic filter, which widens with the factor and prevents aliasing.

    `size` is (height, width), or one number for both. uint8 stays uint8 (rounded and clipped by Pillow); float images
    in [0, 1] are clipped to that range.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if image.shape[:2] == (height, width):
        return image
    if image.dtype == np.uint8:
        picture = Image.fromarray(image[:, :, 0] if image.shape[-1] == 1 else image)
        return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, -1)
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.clip(np.stack(planes, axis=-1), 0.0, 1.0)


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """Returns an image whose longer side has at most `size` pixels: `resize`d in proportion, or as it is."""
    longer = max(image.shape[:2])
    if longer <= size:
        return image
    height, width = (max(1, round(length * size / longer)) for length in image.shape[:2])
    return resize(image, (height, width))
