"""The orientation of a picture from its metadata, read without decoding pixels and without trusting other tags.

Pillow parses every tag when it is asked for one, and fails on the odd ones that cameras and editors write.
"""

import re
import struct
import zlib
from typing import BinaryIO

from PIL import Image

TRANSPOSED = (5, 6, 7, 8)  # orientations that exchange height and width

_TAG = 0x0112
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # EXIF type -> struct format
_XMP = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])""")
_XMP_BYTES = 2**20  # of a compressed XMP text that are read


def orientation(image: Image.Image, file: BinaryIO) -> int:
    """Returns the EXIF orientation (1 to 8, 1 = upright) of an opened image that is not decoded yet.

    EXIF comes first, wherever in the file it stands, then XMP. `file` is what `image` reads from; its position stays.
    """
    if image.format == "TIFF":
        stored = image.tag_v2.get(_TAG)
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
            if tag == _TAG and kind in _INTEGERS and number:
                form = order + _INTEGERS[kind]
                inline = number * struct.calcsize(form) <= 4
                place = entry + 8 if inline else struct.unpack_from(f"{order}I", block, entry + 8)[0]
                (value,) = struct.unpack_from(form, block, place)
                return value if 1 <= value <= 8 else 0
    except struct.error:  # an offset beyond the block
        pass
    return 0


def _raw_profile(image: Image.Image) -> bytes:
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
