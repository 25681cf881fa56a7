"""Files of flow: Middlebury's `.flo` and `.pfm`, and the PNG of 16 bits a channel in which KITTI publishes flow."""

import re
import struct
import zlib
from pathlib import Path

import numpy as np

from common.errors import input_error
from common.io.files import write_atomically

_MAGIC = b"PIEH"  # the bytes of the number 202021.25
UNKNOWN = 1e9  # larger values mark pixels without flow (Baker et al., IJCV 2011)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_AGAIN = "check that it was unpacked completely"


def read_flo(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns flow `[H, W, 2]` (float32, pixels) and where it is known `[H, W]`; raises `InputError` if damaged."""
    data = _bytes(path)
    if data[:4] != _MAGIC or len(data) < 12:
        raise input_error(str(path), expected="a .flo file", got="another kind of file", fix=_AGAIN)
    width, height = struct.unpack("<ii", data[4:12])
    if width < 1 or height < 1 or len(data) - 12 != 8 * width * height:
        got = f"{width} x {height} in {len(data)} bytes"
        raise input_error(str(path), expected="12 bytes and 8 a pixel", got=got, fix=_AGAIN)
    flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2)
    with np.errstate(invalid="ignore"):
        known = np.all(np.abs(flow) < UNKNOWN, axis=-1)
    return np.where(known[..., None], flow, 0).astype(np.float32), known


def write_flo(path: str | Path, flow: np.ndarray, known: np.ndarray | None = None) -> Path:
    """Writes flow `[H, W, 2]` in pixels as a `.flo` file, unknown pixels as 1e10, and returns the path."""
    flow = np.asarray(flow, "<f4")
    if flow.ndim != 3 or flow.shape[-1] != 2:
        raise input_error("flow", expected="[H, W, 2]", got=list(flow.shape), fix="give one pair's flow")
    if known is not None:
        flow = np.where(np.asarray(known, bool)[..., None], flow, np.float32(1e10)).astype("<f4")
    height, width = flow.shape[:2]
    return write_atomically(path, _MAGIC + struct.pack("<ii", width, height) + flow.tobytes())


def read_pfm(path: str | Path) -> np.ndarray:
    """Returns the numbers `[H, W]` (float32, first row on top) of a gray PFM file; raises `InputError` if damaged."""
    data = _bytes(path)
    header = re.match(rb"Pf\s+(\d+)\s+(\d+)\s+([-+]?)[\d.]+(?:[eE][-+]?\d+)?\s", data)
    if header is None:
        raise input_error(str(path), expected="a gray PFM file", got="another kind of file", fix=_AGAIN)
    width, height, little = int(header[1]), int(header[2]), header[3] == b"-"
    if len(data) - header.end() != 4 * width * height or not width * height:
        got = f"{width} x {height} in {len(data)} bytes"
        raise input_error(str(path), expected=f"{header.end()} bytes and 4 a pixel", got=got, fix=_AGAIN)
    # The sign of the scale is the order of the bytes; rows go from the bottom to the top.
    numbers = np.frombuffer(data, "<f4" if little else ">f4", offset=header.end()).reshape(height, width)
    return numbers[::-1].astype(np.float32)


def read_kitti(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns flow `[H, W, 2]` = (value - 2^15) / 64 of red and green, and where it is known, by blue, `[H, W]`.

    Raises `InputError` for anything but a PNG of three channels of 16 bits.
    """
    values = read_deep_png(path)
    known = values[..., 2] > 0
    flow = (values[..., :2].astype(np.float32) - 2**15) / 64
    return np.where(known[..., None], flow, 0), known


def read_deep_png(path: str | Path) -> np.ndarray:
    """Returns a PNG of three channels of 16 bits as uint16 `[H, W, 3]` (Pillow would give 8 bits).

    Raises `InputError` for other kinds, interlaced or damaged files.
    """
    data = _bytes(path)
    try:
        header, packed = _chunks(data)
        width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
        if (depth, colour, interlace) != (16, 2, 0):
            raise ValueError(f"{depth} bits, colour type {colour}, interlace {interlace}")
        stride = 6 * width
        raw = zlib.decompressobj().decompress(packed, height * (stride + 1))
        rows = np.frombuffer(raw, np.uint8).reshape(height, stride + 1)
        if rows[:, 0].max() > 4:
            raise ValueError("an unknown filter")
    except (ValueError, IndexError, struct.error, zlib.error) as error:
        expected = "a PNG of three channels of 16 bits, not interlaced"
        raise input_error(str(path), expected=expected, got=error, fix=_AGAIN) from None
    return _unfiltered(rows[:, 1:].reshape(height, width, 6), rows[:, 0]).view(">u2").astype(np.uint16)


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    """Returns the header and all compressed data of a PNG."""
    if not data.startswith(_SIGNATURE):
        raise ValueError("no PNG")
    place, header, packed = len(_SIGNATURE), b"", []
    while place + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        content = data[place + 8 : place + 8 + length]
        if len(content) < length:
            raise ValueError("a file that ends too early")
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            packed.append(content)
        place += length + 12
    return header, b"".join(packed)


def _unfiltered(filtered: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Undoes the filters (PNG specification, section 9) of `filtered [H, W, 6]`, whose rows have `kinds [H]`.

    A pixel needs those to the left, above and between: so all pixels of an anti-diagonal are done at once.
    """
    height, width, count = filtered.shape
    found = np.zeros((height + 1, width + 1, count), np.int16)
    for diagonal in range(height + width - 1):
        y = np.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        x = diagonal - y
        left, up, corner = found[y + 1, x], found[y, x + 1], found[y, x]
        away = [np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)]
        paeth = np.where((away[0] <= away[1]) & (away[0] <= away[2]), left, np.where(away[1] <= away[2], up, corner))
        options = np.stack([np.zeros_like(left), left, up, (left + up) // 2, paeth])
        guess = options[kinds[y], np.arange(len(y))]
        found[y + 1, x + 1] = (filtered[y, x] + guess) & 255
    return np.ascontiguousarray(found[1:, 1:].astype(np.uint8))


def _bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise input_error(str(path), expected="a file", got=error.strerror, fix="check the path") from None
