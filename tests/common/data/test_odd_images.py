"""Pictures of every depth, colour model and size, with odd metadata, and damaged: the right pixels or a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from common.data import images

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore:Image size")  # pytest resets the filters

RGB = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
DEEP = np.random.default_rng(1).integers(0, 2**16, (7, 9, 4)).astype(np.uint16)
TURN_6 = ("H", 0x0112, 3, [6])  # shown turned by 90 degrees clockwise


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows, *, colour, bits, late=b"", palette=b"", size=None):
    """A PNG of the packed `rows`, with the chunks `late` behind its pixels."""
    height, width = size
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    plte = chunk(b"PLTE", palette) if palette else b""
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + plte + data + late + chunk(b"IEND", b"")


def png16(channels):
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    return png([row[:, :channels].astype(">u2").tobytes() for row in DEEP], colour=colour, bits=16, size=(7, 9))


def tiff(planes, *, bits, photometric, planar=1, sample_format=None, extra=None, tags=()):
    """A little-endian TIFF of one strip a plane; `tags` are (struct format, tag, type, values)."""
    spp = len(planes[0][0]) if planar == 1 else len(planes)
    strips = [np.asarray(planes).tobytes()] if planar == 1 else [plane.tobytes() for plane in planes]
    entries = [
        *[("H", tag, 3, [value]) for tag, value in ((256, 9), (257, 7), (259, 1), (262, photometric), (277, spp))],
        *[("H", tag, 3, [value]) for tag, value in ((278, 7), (284, planar))],
        ("H", 258, 3, [bits] * spp),
        *([("H", 339, 3, [sample_format] * spp)] if sample_format else []),
        *([("H", 338, 3, [extra])] if extra is not None else []),
        ("I", 279, 4, [len(strip) for strip in strips]),
        *tags,
    ]
    where = 8 + 2 + 12 * (len(entries) + 1) + 4
    later = sum(max(0, len(values) * struct.calcsize(form)) for form, _, _, values in entries) + 4 * len(strips)
    offsets = [where + later + sum(map(len, strips[:number])) for number in range(len(strips))]
    return b"II*\0" + struct.pack("<I", 8) + directory([*entries, ("I", 273, 4, offsets)], 8, later) + b"".join(strips)


def directory(entries, start, later=0):
    """An image file directory at offset `start`, little-endian, with its values behind it (padded to `later`)."""
    body, values = b"", b""
    where = start + 2 + 12 * len(entries) + 4
    for form, tag, kind, numbers in sorted(entries, key=lambda entry: entry[1]):
        data = numbers if form == "s" else struct.pack(f"<{len(numbers)}{form}", *numbers)
        count = len(data) if form == "s" else len(numbers) // (2 if kind in (5, 10) else 1)
        place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", where + len(values))
        values += data if len(data) > 4 else b""
        body += struct.pack("<HHI", tag, kind, count) + place
    return struct.pack("<H", len(entries)) + body + bytes(4) + values.ljust(later, b"\0")


def exif(*entries):
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory(entries, 8)


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def both(data):
    """The decoded image, after checking that the header says the same of it."""
    array = images.decode(data)
    assert images.header(data) == images.Header(array.shape)
    assert array.dtype == np.uint8
    return array


@pytest.mark.parametrize(
    "data",
    [
        *[png16(channels) for channels in (1, 2, 3, 4)],
        tiff(DEEP[:, :, :1], bits=16, photometric=1),
        tiff(DEEP[:, :, :3], bits=16, photometric=2),
        tiff(DEEP[:, :, :3].transpose(2, 0, 1), bits=16, photometric=2, planar=2),
        tiff(DEEP, bits=16, photometric=2, extra=2),
        tiff(DEEP, bits=16, photometric=5),
        tiff(DEEP[:, :, :1].astype(np.float32), bits=32, photometric=1, sample_format=3),
        tiff(DEEP[:, :, :1].astype(np.uint32), bits=32, photometric=1),
        b"P6 3 2 65535\n" + bytes(36),
        b"P6 3 2 1000\n" + bytes(36),
        b"P5 3 2 300\n" + bytes(12),
        b"P3 2 1 1000\n 1 2 3 999 1000 5",
        b"Pf\n3 2\n-1.0\n" + bytes(24),
    ],
)
def test_more_than_8_bits_are_refused_whatever_the_format(data):
    with pytest.raises(ValueError, match=r"^more than 8 bits a channel \(mode .*\); save it with 8 bits$"):
        images.decode(data)
    assert images.header(data).reason.startswith("more than 8 bits a channel")


def test_8_bits_in_the_same_formats_come_back_exactly():
    rows = [row.tobytes() for row in RGB]
    alpha = np.concatenate([RGB, RGB[:, :, :1]], axis=-1)
    planes = RGB.transpose(2, 0, 1)
    for data in (
        png(rows, colour=2, bits=8, size=(7, 9)),
        png([row.tobytes() for row in alpha], colour=6, bits=8, size=(7, 9)),
        tiff(RGB, bits=8, photometric=2),
        tiff(planes, bits=8, photometric=2, planar=2),
        tiff(alpha, bits=8, photometric=2, extra=2),
        b"P6 9 7 255\n" + RGB.tobytes(),
        saved(Image.fromarray(RGB), "BMP"),
        saved(Image.fromarray(RGB), "WEBP", lossless=True),
    ):
        np.testing.assert_array_equal(both(data), RGB)
    for data in (
        tiff(RGB[:, :, :1], bits=8, photometric=1),
        tiff(255 - RGB[:, :, :1], bits=8, photometric=0),
        png([row[:, :2].tobytes() for row in RGB], colour=4, bits=8, size=(7, 9)),
    ):
        np.testing.assert_array_equal(both(data), RGB[:, :, :1])


def test_few_bits_fill_the_range():
    for bits in (1, 2, 4):
        levels = np.arange(2**bits)
        row = np.packbits(np.unpackbits(levels.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes()
        data = png([row], colour=0, bits=bits, size=(1, 2**bits))
        np.testing.assert_array_equal(both(data)[0, :, 0], levels * 255 // (2**bits - 1))
    np.testing.assert_array_equal(both(b"P5 3 1 15\n" + bytes([0, 5, 15]))[0, :, 0], [0, 85, 255])
    palette = bytes([9, 8, 7, 200, 100, 50, 0, 0, 0, 255, 255, 255])
    data = png([bytes([0b00011011])], colour=3, bits=2, palette=palette, size=(1, 4))
    np.testing.assert_array_equal(both(data)[0], np.frombuffer(palette, np.uint8).reshape(4, 3))


def test_other_colour_models_become_rgb():
    ink = np.concatenate([RGB, RGB[:, :, :1] // 4], axis=-1)
    black = 255 - ink[:, :, 3:].astype(int)
    got = both(tiff(ink, bits=8, photometric=5))
    np.testing.assert_allclose(got, (255 - RGB.astype(int)) * black / 255, atol=1)
    flat = Image.fromarray(np.full((16, 16, 3), (200, 60, 30), np.uint8))
    for mode in ("CMYK", "YCbCr"):
        np.testing.assert_allclose(both(saved(flat.convert(mode), "JPEG", quality=95)), flat, atol=4)


def test_transparency_of_palettes_is_dropped():
    picture = Image.fromarray(RGB).quantize(16)
    want = np.asarray(picture.convert("RGB"))
    for transparency in (3, bytes(range(0, 160, 10))):
        np.testing.assert_array_equal(both(saved(picture, "PNG", transparency=transparency)), want)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_of_several_frames_is_read(kind):
    frames = [Image.fromarray(np.full((7, 9, 3), value, np.uint8)) for value in (40, 90, 200)]
    np.testing.assert_allclose(both(saved(frames[0], kind, save_all=True, append_images=frames[1:])), 40, atol=1)


def test_numbers_with_a_sign_are_refused():
    with pytest.raises(ValueError, match="signed or floating-point numbers"):
        images.decode(tiff(RGB[:, :, :1], bits=8, photometric=1, sample_format=2))


ODD_TAGS = {
    "unit as text": [("s", 0x0128, 2, b"inch\0")],
    "resolution as text": [("s", 0x011A, 2, b"72\0")],
    "resolution 1/0": [("I", 0x011A, 5, [72, 0])],
    "resolution -1/3": [("i", 0x011A, 10, [-1, 3])],
    "two resolutions": [("I", 0x011A, 5, [72, 1, 72, 1])],
    "model as rational": [("I", 0x0110, 5, [1, 2])],
    "positioning as text": [("s", 0x0213, 2, b"1\0")],
    "positioning as rational": [("I", 0x0213, 5, [1, 1])],
    "unit as float": [("f", 0x0128, 11, [2.0])],
    "unit as signed": [("h", 0x0128, 8, [-1])],
    "unit too large": [("I", 0x0128, 4, [70000])],
    "width as text": [("s", 0x0100, 2, b"640\0")],
    "EXIF pointer as text": [("s", 0x8769, 2, b"abc\0")],
    "EXIF pointer to nowhere": [("I", 0x8769, 4, [99999])],
    "GPS pointer to itself": [("I", 0x8825, 4, [8])],
    "GPS of 1/0": [("I", 2, 5, [37, 1, 46, 1, 1, 0])],
    "unknown type": [("I", 0x9999, 13, [5])],
    "empty": [("I", 0x011A, 5, [])],
}


@pytest.mark.parametrize("name", ODD_TAGS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_other_tags_do_not_matter(kind, name):
    block = exif(TURN_6, *ODD_TAGS[name])
    if kind == "TIFF":
        tags = [tag for tag in (TURN_6, *ODD_TAGS[name]) if tag[1] != 0x0100]
        data = tiff(RGB, bits=8, photometric=2, tags=tags)
    else:
        options = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}}[kind]
        data = saved(Image.fromarray(RGB), kind, exif=block, **options)
    without = images.decode(saved(Image.fromarray(RGB), kind, quality=95, lossless=True))
    np.testing.assert_array_equal(both(data), np.rot90(without, k=-1))


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation(turn):
    upright = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, k=-1),
        7: np.rot90(RGB, k=2).transpose(1, 0, 2),
        8: np.rot90(RGB, k=1),
    }[turn]
    tag = ("H", 0x0112, 3, [turn])
    np.testing.assert_array_equal(both(tiff(RGB, bits=8, photometric=2, tags=[tag])), upright)
    np.testing.assert_array_equal(both(saved(Image.fromarray(RGB), "PNG", exif=exif(tag))), upright)


@pytest.mark.parametrize(
    ("entries", "turned"),
    [
        ([("I", 0x0112, 4, [6])], True),
        ([("B", 0x0112, 1, [6])], True),
        ([("H", 0x0112, 3, [6, 6])], True),
        ([("H", 0x0112, 3, [6, 1, 1, 1])], True),
        ([("s", 0x0112, 2, b"6\0")], False),
        ([("H", 0x0112, 3, [0])], False),
        ([("H", 0x0112, 3, [9])], False),
        ([("H", 0x0112, 3, [])], False),
        ([], False),
    ],
)
def test_odd_orientations(entries, turned):
    data = saved(Image.fromarray(RGB), "PNG", exif=exif(*entries))
    np.testing.assert_array_equal(both(data), np.rot90(RGB, k=-1) if turned else RGB)


def test_broken_exif_blocks_leave_the_image_as_it_is():
    good = exif(TURN_6)
    for block in (
        b"Exif\0\0",
        good[:12],
        good[:20],
        b"Exif\0\0XX" + good[8:],
        good[:10] + b"\xff\xff\xff\xff" + good[14:],
    ):
        np.testing.assert_array_equal(both(saved(Image.fromarray(RGB), "PNG", exif=block)), RGB)
    np.testing.assert_array_equal(both(saved(Image.fromarray(RGB), "PNG", exif=b"Exif\0\0" + good)), np.rot90(RGB, -1))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description %s/></x:xmpmeta>'


def test_metadata_that_only_xmp_or_the_end_of_the_file_has():
    upright = np.rot90(RGB, k=-1)
    rows = [row.tobytes() for row in RGB]
    attribute, element = XMP % b'tiff:Orientation="6"', XMP % b"><tiff:Orientation>6</tiff:Orientation><a"
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + attribute
    packed = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(attribute)
    for late in (chunk(b"eXIf", exif(TURN_6)[6:]), chunk(b"iTXt", text), chunk(b"iTXt", packed)):
        np.testing.assert_array_equal(both(png(rows, colour=2, bits=8, late=late, size=(7, 9))), upright)
    for xmp in (attribute, element):
        data = saved(Image.fromarray(RGB), "WEBP", lossless=True, xmp=xmp)
        np.testing.assert_array_equal(both(data), upright)
        assert both(saved(Image.fromarray(RGB), "JPEG", xmp=xmp)).shape == upright.shape
    tag = ("s", 700, 1, attribute)
    np.testing.assert_array_equal(both(tiff(RGB, bits=8, photometric=2, tags=[tag])), upright)
    with_both = saved(Image.fromarray(RGB), "WEBP", lossless=True, xmp=attribute, exif=exif(("H", 0x0112, 3, [3])))
    np.testing.assert_array_equal(both(with_both), RGB[::-1, ::-1])  # EXIF comes first


def test_sizes_are_checked_before_decoding():
    for side in (11_000, 30_000, 2**31 - 1):
        bomb = png([b""], colour=2, bits=8, size=(side, side))
        with pytest.raises(ValueError, match=r"^more than 100000000 pixels \(.*\); .* raise config.data.max_pixels$"):
            images.decode(bomb)
        assert images.header(bomb).shape == (0, 0, 0)
    data = saved(Image.fromarray(RGB), "PNG")
    assert images.header(data, max_pixels=63).shape == images.decode(data, max_pixels=63).shape == (7, 9, 3)
    with pytest.raises(ValueError, match=r"more than 62 pixels \(7x9\)"):
        images.decode(data, max_pixels=62)
    assert "more than 62 pixels" in images.header(data, max_pixels=62).reason


def test_a_raised_limit_is_above_that_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    np.testing.assert_array_equal(images.decode(saved(Image.fromarray(RGB), "PNG"), max_pixels=63), RGB)


def test_formats_of_other_kinds_are_refused():
    for kind in ("ICO", "TGA", "PCX"):
        with pytest.raises(ValueError, match="no image that can be read"):
            images.decode(saved(Image.fromarray(RGB), kind))
    with pytest.raises(ValueError, match="no image that can be read"):
        images.decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 7\n")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM"])
def test_random_damage_gives_an_image_or_a_reason(kind):
    draw = np.random.default_rng(5)
    options = {} if kind in ("GIF", "BMP", "PPM", "TIFF") else {"exif": exif(TURN_6, *ODD_TAGS["model as rational"])}
    data = saved(Image.fromarray(draw.integers(0, 256, (24, 20, 3)).astype(np.uint8)), kind, **options)
    for _ in range(150):
        damaged = bytearray(data[: draw.integers(len(data))] if draw.random() < 0.3 else data)
        for _ in range(draw.integers(1, 5)):
            if damaged:
                damaged[draw.integers(min(len(damaged), 400))] ^= 1 << draw.integers(8)
        head = images.header(bytes(damaged), max_pixels=10**6)
        try:
            array = images.decode(bytes(damaged), max_pixels=10**6)
        except ValueError as error:
            assert str(error) and "\n" not in str(error)
        else:
            assert head == images.Header(array.shape) and array.dtype == np.uint8
