"""Reading and fitting single images: decoding upright, gray, central squares, resizing. Pillow is used here only."""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from common.arrays import as_images
from common.data.source import MAX_PIXELS
from common.errors import one_line

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)

# The formats of SUFFIXES. Others can cut deeper pixels to 8 bits unnoticed, or start a program (EPS).
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM")
_GRAY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB")
_DEEP_RAW_MODE = re.compile(r";(12|16|32|64)")
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_SAMPLE_FORMAT = 256, 257, 258, 339
_TRANSPOSED = (5, 6, 7, 8)  # orientations that exchange height and width

_ORIENTATION = 0x0112
_EXIF_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # EXIF type -> struct format
_XMP = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])""")
_XMP_BYTES = 2**20  # of a compressed XMP text that are read

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# _check compares the size with its own limit, and no metadata but the orientation is read.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*ImagePlugin")


class Header(NamedTuple):
    """The header of a file: `shape` (height, width, 1 or 3), zeros and a `reason` if unreadable."""

    shape: tuple[int, int, int]
    reason: str = ""


def header(data: bytes | Path, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Reads the size of an encoded image, upright as its orientation asks, without decoding it.

    What `decode` refuses for its kind or size has a `reason` here too.
    """
    try:
        with _open(data, max_pixels) as (image, turn):
            width, height = _stored_size(image)
            if turn in _TRANSPOSED:
                width, height = height, width
            return Header((height, width, 1 if image.mode in _GRAY_MODES else 3))
    except ValueError as error:
        return Header((0, 0, 0), str(error))


def decode(data: bytes | Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a PNG, JPEG, ... into uint8 `[H, W, C]`, C = 1 for gray files and 3 otherwise.

    The image is turned upright, transparency is dropped, and of several frames the first is read. Raises `ValueError`
    with the reason for files that are truncated, no image, deeper than 8 bits, or have more than `max_pixels` pixels.
    """
    with _open(data, max_pixels) as (image, turn):
        gray_file = image.mode in _GRAY_MODES
        if image.format == "TIFF":
            image.load_end = lambda: None  # where Pillow parses all tags again, and turns by some of them
        image.load()
        # Pillow converts palettes and alpha to RGBA alone without a warning or an error; colours stay the same.
        if image.mode in ("P", "PA", "RGBa"):
            image = image.convert("RGBA")
        elif image.mode == "La":
            image = image.convert("LA")
        image = image.convert("L" if gray_file else "RGB")
        array = np.asarray(image.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else image)
    return array[:, :, None] if array.ndim == 2 else array


@contextmanager
def _open(data: bytes | Path, max_pixels: int) -> Iterator[tuple[Any, int]]:
    """Yields an image that can be decoded exactly, and its orientation; every failure inside is a `ValueError`."""
    # Pillow's limit is one for the process and must not come before this one.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    try:
        with _stream(data) as file:
            image = _identified(file, max_pixels)
            _check(image, max_pixels)
            yield image, _orientation(image, file)
    except ValueError:
        raise
    except Exception as error:  # noqa: BLE001  damaged files make Pillow raise errors of many kinds
        raise ValueError(f"damaged image ({one_line(error)})") from None


def _stream(data: bytes | Path) -> BinaryIO:
    try:
        return io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")
    except OSError as error:
        raise ValueError(f"cannot be opened ({error.strerror})") from None


def _identified(file: BinaryIO, max_pixels: int) -> Image.Image:
    try:
        return Image.open(file, formats=_FORMATS)
    except Image.UnidentifiedImageError:
        raise ValueError("no image that can be read") from None
    except Image.DecompressionBombError:
        raise ValueError(_too_large("over twice as many", max_pixels)) from None
    except Exception as error:  # noqa: BLE001
        raise ValueError(f"cannot be opened ({one_line(error)})") from None


def _check(image: Any, max_pixels: int) -> None:
    """Raises `ValueError` for images of other kinds than 8 bits a channel, and for those that are too large."""
    width, height = _stored_size(image)
    if min(width, height) < 1:
        raise ValueError(f"no pixels ({height}x{width})")
    if width * height > max_pixels:
        raise ValueError(_too_large(f"{height}x{width}", max_pixels))
    if image.mode.startswith(("I", "F")) or _is_deep(image):
        raise ValueError(f"more than 8 bits a channel (mode {image.mode}); save it with 8 bits")
    if image.mode not in _GRAY_MODES + _COLOUR_MODES:
        raise ValueError(f"colours of the kind {image.mode}; save it as gray or RGB")
    if image.format == "TIFF" and not set(image.tag_v2.get(_TIFF_SAMPLE_FORMAT, (1,))) <= {1, 4}:
        raise ValueError("signed or floating-point numbers; save it with 8 unsigned bits a channel")


def _is_deep(image: Any) -> bool:
    """Returns whether a channel has more than 8 bits in the file, also where Pillow would cut it to 8."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_TIFF_BITS, (1,))) > 8
    if image.format in ("BMP", "DIB"):
        return False  # "BGR;16" is 16 bits for all three channels
    for tile in image.tile:
        raw, *rest = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if _DEEP_RAW_MODE.search(str(raw)) or (image.format == "PPM" and rest and max(rest) > 255):
            return True
    return False


def _stored_size(image: Any) -> tuple[int, int]:
    """Returns (width, height) as stored, before the image is turned upright."""
    if image.format == "TIFF":  # newer versions of Pillow exchange the two in `size` by some orientations
        return image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
    return image.size


def _too_large(size: str, max_pixels: int) -> str:
    return f"more than {max_pixels} pixels ({size}); remove it, or raise config.data.max_pixels"


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
    in [0, 1] are clipped to that range. Raises `InputError` for other numbers, such as floats from 0 to 255, and NaN.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if image.dtype != np.uint8:
        image = as_images(image, "image", batch=False)
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


def _orientation(image: Any, file: BinaryIO) -> int:
    """Returns the EXIF orientation (1 to 8, 1 = upright) of an opened image that is not decoded yet.

    Read without trusting other tags: Pillow parses every one when it is asked for one, and fails on the odd ones that
    cameras and editors write. EXIF comes first, wherever in the file it stands, then XMP. `file` is what `image` reads
    from; its position stays.
    """
    if image.format == "TIFF":
        stored = image.tag_v2.get(_ORIENTATION)
        stored = stored[0] if isinstance(stored, tuple) and stored else stored
        if isinstance(stored, int) and 1 <= stored <= 8:
            return stored
    late = _late_chunks(file) if image.format == "PNG" else {}
    for block in (image.info.get("exif"), _raw_profile(image), late.get(b"eXIf")):
        if found := _from_exif(block or b""):
            return found
    for text in (image.info.get("xmp"), image.info.get("XML:com.adobe.xmp"), late.get(b"iTXt")):
        if found := _XMP.search(text.encode(errors="ignore") if isinstance(text, str) else text or b""):
            return int(found[1])
    return 1


def _from_exif(block: bytes) -> int:
    """Returns the orientation in the first directory of an EXIF block, 0 if there is none that makes sense."""
    while block.startswith(b"Exif\0\0"):  # some programs write the prefix twice
        block = block[6:]
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 0
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(f"{order}HHI", block, entry)
            if tag == _ORIENTATION and kind in _EXIF_INTEGERS and number:
                form = order + _EXIF_INTEGERS[kind]
                inline = number * struct.calcsize(form) <= 4
                place = entry + 8 if inline else struct.unpack_from(f"{order}I", block, entry + 8)[0]
                (value,) = struct.unpack_from(form, block, place)
                return value if 1 <= value <= 8 else 0
    except struct.error:  # an offset beyond the block
        pass
    return 0


def _raw_profile(image: Any) -> bytes:
    """Returns the EXIF block that older programs write into PNG files as hexadecimal text."""
    text = image.info.get("Raw profile type exif")
    try:
        return bytes.fromhex("".join(text.split("\n")[3:])) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _late_chunks(file: BinaryIO) -> dict[bytes, bytes]:
    """Returns the EXIF and XMP chunks of a PNG file, also those behind the pixels, which Pillow finds by decoding."""
    found: dict[bytes, bytes] = {}
    position = file.tell()
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            break
        if kind == b"eXIf":
            found[kind] = file.read(length)
            length = 0
        elif kind == b"iTXt":
            text = file.read(length)
            length = 0
            if text.startswith(b"XML:com.adobe.xmp\0"):
                found[kind] = _international_text(text)
        file.seek(length + 4, 1)
    file.seek(position)
    return found


def _international_text(chunk: bytes) -> bytes:
    """Returns the text of an iTXt chunk: keyword, flag, method, language, translated keyword, text."""
    _, _, rest = chunk.partition(b"\0")
    text = rest[2:].split(b"\0", 2)[-1]
    if rest[:1] == b"\1":
        try:
            return zlib.decompressobj().decompress(text, _XMP_BYTES)
        except zlib.error:
            return b""
    return text
