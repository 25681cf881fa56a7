"""Pictures are pixel-exact."""

import errno
import io
import re

import numpy as np
import pytest
from PIL import Image

from common.io.files import write_atomically
from common.io.results import grid, png_bytes, save_png, strip, to_uint8


def test_to_uint8_rounds_and_clips():
    values = np.array([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 0.5, 1.0, 2.0, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 0, 1, 128, 255, 255, 0, 255, 0])


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 3)])
def test_png_round_trip(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    path = save_png(tmp_path / "x.png", pixels / 255.0)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels.squeeze(-1) if shape[-1] == 1 else pixels)
    assert [each.name for each in tmp_path.iterdir()] == ["x.png"]


def test_png_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"expected \[H, W\], .* got \(3, 4, 2\)"):
        png_bytes(np.zeros((3, 4, 2)))


def test_grid_places_images():
    images = np.arange(5).reshape(5, 1, 1, 1) / 10 * np.ones((5, 2, 3, 1))
    out = grid(images, columns=2, gap=1)
    assert out.shape == (3 * 3 - 1, 2 * 4 - 1, 1)
    np.testing.assert_allclose(out[3:5, 4:7], 0.3, rtol=1e-6)
    np.testing.assert_array_equal(out[2], 1.0)
    np.testing.assert_array_equal(out[:, 3], 1.0)
    np.testing.assert_array_equal(out[6:, 4:], 1.0)
    assert grid(images).shape == (2 * 4 - 2, 3 * 5 - 2, 1)


def test_scale_repeats_pixels():
    image = np.random.default_rng(1).random((1, 2, 2, 3), np.float32)
    np.testing.assert_array_equal(grid(image, scale=3)[::3, ::3], image[0])
    np.testing.assert_array_equal(grid(image, scale=3)[2::3, 2::3], image[0])


def test_strip_is_row_by_row():
    rows = [np.full((3, 2, 2, 1), value, np.float32) for value in (0.0, 0.5)]
    out = strip(rows, gap=0)
    assert out.shape == (4, 6, 1)
    np.testing.assert_array_equal(out[:2], 0.0)
    np.testing.assert_array_equal(out[2:], 0.5)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = write_atomically(tmp_path / "a", b"old")
    with pytest.raises(TypeError):
        write_atomically(path, io.StringIO("new"))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_disk_names_the_file(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=re.escape(f"'{tmp_path}/a'")):
        write_atomically(tmp_path / "a", b"new")
    with pytest.raises(FileNotFoundError, match=re.escape(f"'{tmp_path}/none/a'")):
        write_atomically(tmp_path / "none" / "a", b"new")
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_shown_as_they_are():
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4, 1) * 10
    np.testing.assert_array_equal(to_uint8(images), images)
    unit = images / np.float32(255)
    np.testing.assert_array_equal(grid(images), grid(unit))
    assert png_bytes(images[0]) == png_bytes(unit[0])
