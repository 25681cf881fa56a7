import io

import numpy as np
import pytest
from PIL import Image

from common.data import images
from common.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)


def encoded(array, kind="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, **options)
    return out.getvalue()


def test_lossless_files_come_back_exactly():
    np.testing.assert_array_equal(images.decode(encoded(RGB)), RGB)
    np.testing.assert_array_equal(images.decode(encoded(RGB[:, :, 0])), RGB[:, :, :1])
    assert images.header(encoded(RGB)) == images.Header((6, 9, 3))
    assert images.header(encoded(RGB[:, :, 0])).shape == (6, 9, 1)


def test_palettes_and_transparency_become_colours():
    picture = Image.fromarray(RGB).quantize(4)
    out = io.BytesIO()
    picture.save(out, "PNG")
    np.testing.assert_array_equal(images.decode(out.getvalue()), np.asarray(picture.convert("RGB")))
    clear = np.concatenate([RGB, np.full((6, 9, 1), 7, np.uint8)], axis=-1)
    np.testing.assert_array_equal(images.decode(encoded(clear)), RGB)


def test_orientation_is_applied_to_pixels_and_size():
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: show it turned by 90 degrees clockwise
    data = encoded(RGB, exif=turned)
    np.testing.assert_array_equal(images.decode(data), np.rot90(RGB, k=-1))
    assert images.header(data).shape == (9, 6, 3)


def test_damage_is_told():
    data = encoded(np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8), "JPEG")
    with pytest.raises(ValueError, match="damaged image .*truncated"):
        images.decode(data[: len(data) // 2])
    assert images.header(data[: len(data) // 2]).shape == (64, 64, 3)
    for broken in (b"", b"no image at all"):
        with pytest.raises(ValueError, match="no image that can be read"):
            images.decode(broken)
        assert images.header(broken) == images.Header((0, 0, 0), "no image that can be read")


def test_deep_pixels_are_refused():
    data = encoded(np.arange(12, dtype=np.uint16).reshape(3, 4))
    with pytest.raises(ValueError, match="more than 8 bits a channel"):
        images.decode(data)
    assert "more than 8 bits" in images.header(data).reason


def test_gray_is_the_plain_mean_rounded_to_nearest():
    every = np.stack(np.meshgrid(*[np.arange(0, 256, 5, dtype=np.uint8)] * 3), axis=-1).reshape(-1, 1, 3)
    mean = every.astype(np.float64).mean(axis=-1, keepdims=True)
    got = images.gray(every)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.rint(mean))
    assert np.abs(got - mean).max() < 0.34
    exact = images.gray(every.astype(np.float32))
    assert exact.dtype == np.float32
    np.testing.assert_allclose(exact, mean, rtol=1e-6)


def test_channels():
    gray = RGB[:, :, :1]
    np.testing.assert_array_equal(images.as_channels(gray, 3), np.concatenate([gray] * 3, axis=-1))
    assert images.as_channels(gray, 1) is gray
    assert images.as_channels(RGB, 3) is RGB
    for shape in ((4, 4), (4, 4, 4)):
        with pytest.raises(ValueError, match=r"expected shape \[H, W, 1\] or \[H, W, 3\]"):
            images.as_channels(np.zeros(shape), 1)


def test_central_square():
    image = np.arange(5 * 8).reshape(5, 8, 1)
    np.testing.assert_array_equal(images.central_square(image), image[:, 1:6])
    np.testing.assert_array_equal(images.central_square(image, 4), image[0:4, 2:6])
    with pytest.raises(ValueError, match="expected at least 6x6 pixels, got 5x8"):
        images.central_square(image, 6)


def test_the_square_of_the_face_experiments():
    image = np.zeros((218, 178, 1), np.uint8)
    image[29:-29, 9:-9] = 1
    assert images.central_square(image, 160).all()
    assert images.central_square(image, 160).size == image.sum()


def test_resizing_keeps_constants_and_removes_what_would_alias():
    for dtype, value in ((np.uint8, 137), (np.float32, 0.537)):
        constant = np.full((40, 40, 3), value, dtype)
        np.testing.assert_allclose(images.resize(constant, 10), np.full((10, 10, 3), value, dtype), rtol=1e-6)
    stripes = np.zeros((64, 64, 1), np.float32)
    stripes[:, ::2] = 1
    assert images.resize(stripes, 16).std() < 0.03  # every other column would give 0.5 without a widened filter
    assert images.resize(RGB, 4).dtype == np.uint8
    assert images.resize(RGB, 4).shape == (4, 4, 3)
    assert images.resize(RGB[:, :, :1], 4).shape == (4, 4, 1)


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.full((8, 8, 3), 200.0, np.float32), "divide by 255"),
        (np.full((8, 8, 1), np.nan, np.float32), "64 of 64 that are NaN or infinite"),
        (np.full((8, 8, 1), 200, np.int32), "divide by 255"),
    ],
)
def test_other_numbers_are_not_resized(array, got):
    for size in (4, 8):
        with pytest.raises(InputError, match=got):
            images.resize(array, size)


def test_float_and_byte_images_are_resized_alike_within_the_range():
    image = np.random.default_rng(2).integers(60, 196, (24, 24, 3)).astype(np.uint8)
    bytes_, floats = images.resize(image, 9), images.resize(image / np.float32(255), 9)
    np.testing.assert_allclose(bytes_ / 255, floats, atol=1.5 / 255)  # Pillow rounds after each of its two passes
    edges = np.float32([[0, 1]] * 24).repeat(12, axis=1)[:, :, None]
    assert images.resize(edges, 7).min() == 0  # the cubic overshoots
    assert images.resize(edges, 7).max() == 1
    same = images.resize(image[:9, :9], 9)
    np.testing.assert_array_equal(same, image[:9, :9])


def test_shrinking_keeps_proportions_and_smaller_images():
    wide = np.tile(np.linspace(0, 255, 40).astype(np.uint8)[None, :, None], (20, 1, 3))
    found = images.shrink(wide, 20)
    assert found.shape == (10, 20, 3)
    np.testing.assert_allclose(found[:, 2:-2], wide.reshape(10, 2, 20, 2, 3).mean((1, 3))[:, 2:-2], atol=2)
    assert images.shrink(wide, 40) is wide
    assert images.shrink(np.zeros((100, 1, 1), np.float32), 10).shape == (10, 1, 1)
