"""Colours of flow and pictures of two images."""

import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax.figures import sheets


def test_flow_colours():
    directions = np.linspace(0, 2 * np.pi, 9)[:8]
    flow = np.stack([np.cos(directions), np.sin(directions)], -1)[None] * 5
    colours = sheets.flow_colours(flow, longest=5)
    assert colours.shape == (1, 8, 3) and colours.min() >= 0 and colours.max() <= 1
    apart = np.linalg.norm(colours[0, :, None] - colours[0], axis=-1) + np.eye(8)
    assert apart.min() > 0.15  # eight directions can be told apart
    np.testing.assert_allclose(sheets.flow_colours(np.zeros((1, 1, 2))), 1, atol=1e-3)  # rest is white
    longer = sheets.flow_colours(flow * 9, longest=5)
    np.testing.assert_allclose(longer, colours, atol=1e-6)
    half = sheets.flow_colours(flow / 2, longest=5)
    assert (np.ptp(half, axis=-1) < np.ptp(colours, axis=-1)).all()


def test_unknown_flow_is_gray():
    flow = np.zeros((1, 3, 2))
    flow[0, 0], flow[0, 1] = np.nan, 4
    colours = sheets.flow_colours(flow, known=np.asarray([[True, True, False]]))
    np.testing.assert_allclose(colours[0, [0, 2]], [sheets.UNKNOWN] * 2, atol=1e-6)
    assert np.ptp(colours[0, 1]) > 0.1
    with pytest.raises(InputError, match=r"flow: expected \[H, W, 2\]"):
        sheets.flow_colours(np.zeros((2, 3, 3)))


def test_longest_leaves_outliers_out():
    flow = np.zeros((10, 20, 2))
    flow[..., 0] = 3
    flow[0, 0] = 500
    assert sheets.longest_of(flow) == 3
    assert sheets.longest_of(flow * 0.01) == 1
    assert sheets.longest_of(flow, np.zeros((10, 20), bool)) == 1


def test_wheel_is_the_key_of_the_colours():
    wheel = sheets.wheel(64)
    assert (wheel[0, 0] == 1).all()
    x, y = 50, 20
    place = (np.asarray([x, y]) + 0.5) / 64 * 2 - 1
    np.testing.assert_allclose(wheel[y, x], sheets.flow_colours(place[None, None], longest=1)[0, 0], atol=1e-6)


def test_two_images_in_one():
    first, second = np.zeros((4, 8, 3)), np.ones((4, 8, 3))
    board = sheets.checkerboard(first, second, squares=4)
    np.testing.assert_array_equal(board[0, :, 0], [0, 0, 1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(board[2, :, 0], [1, 1, 0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(sheets.blend(first, second)[0, 0], [0, 1, 1])
    assert np.ptp(sheets.blend(second, second), axis=-1).max() == 0
    with pytest.raises(InputError, match="images: expected two of one shape"):
        sheets.blend(first, second[:2])
    np.testing.assert_allclose(sheets.unit(np.full((2, 2), 51, np.uint8)), np.full((2, 2, 3), 0.2))
    np.testing.assert_allclose(sheets.marked(second, np.zeros((4, 8), bool))[0, 0], sheets.UNKNOWN)


def test_numbers_beyond_an_image_are_refused():
    bright, bytes_ = np.full((4, 4, 3), 200.0, np.float32), np.full((4, 4, 3), 51, np.uint8)
    for draw in (sheets.unit, lambda image: sheets.blend(image, image)):
        np.testing.assert_allclose(draw(bytes_), 0.2, rtol=1e-6)
        with pytest.raises(InputError, match="divide by 255"):
            draw(bright)
        with pytest.raises(InputError, match="NaN"):
            draw(np.full((4, 4, 3), np.nan, np.float32))
