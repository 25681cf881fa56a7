"""Uniform frames are found, masks are checked."""

import numpy as np
import pytest
import skimage.data

from common.errors import InputError
from diffmatch_jax.model import masks


def test_a_round_view_in_a_black_frame():
    image = skimage.data.astronaut()
    y, x = np.mgrid[:512, :512]
    inside = (y - 256) ** 2 + (x - 256) ** 2 < 230**2
    noise = np.random.default_rng(0).integers(0, 4, image.shape)
    view = np.where(inside[..., None], np.maximum(image, 20), noise).astype(np.uint8)
    found = masks.frame(view)
    assert (found == ~inside).mean() > 0.999
    np.testing.assert_array_equal(masks.frame((view / 255).astype(np.float32)), found)


def test_bars_above_and_below():
    image = np.full((60, 80, 3), 17, np.uint8)
    image[10:50] = skimage.data.astronaut()[:40, :80]
    expected = np.ones((60, 80), bool)
    expected[10:50] = False
    np.testing.assert_array_equal(masks.frame(image), expected)


@pytest.mark.parametrize("image", [skimage.data.astronaut(), skimage.data.brick()[..., None]], ids=["photo", "texture"])
def test_a_photograph_has_none(image):
    assert not masks.frame(image).any()


@pytest.mark.parametrize("contrast", [0.2, 0.05])
def test_a_picture_of_low_contrast_is_no_frame(contrast):
    image = skimage.data.astronaut()
    faint = (np.array([40, 130, 200]) + contrast * (image - image.mean())).clip(0, 255).round().astype(np.uint8)
    assert masks.frame(faint).mean() < 0.03


def test_a_constant_image_counts_whole():
    assert not masks.frame(np.full((20, 20, 3), 128, np.uint8)).any()


def test_a_given_mask():
    image = np.zeros((2, 4, 5, 3), np.uint8)
    mask = np.zeros((4, 5), bool)
    mask[1:, 2:] = True
    made = masks.of(image, mask, "source_mask")
    assert made.shape == (2, 4, 5, 1) and made.dtype == np.float32
    np.testing.assert_array_equal(made[1, ..., 0], mask)
    np.testing.assert_array_equal(masks.of(image, mask.astype(int), "source_mask"), made)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((5, 4), bool), "source_mask: expected shape [4, 5], as the image, got [5, 4]"),
        (np.full((4, 5), 255), "source_mask: expected booleans, or 0 and 1, got int64"),
        ([[1, 0], [1]], "source_mask: expected an array, got setting an array element with a sequence"),
        (np.ma.masked_array(np.ones((4, 5)), np.eye(4, 5)), "source_mask: expected an array without a mask, got 4 of"),
        (np.zeros((4, 5), bool), "source_mask: expected at least one pixel that counts, got none"),
    ],
)
def test_a_wrong_mask_is_refused(mask, message):
    with pytest.raises(InputError) as error:
        masks.of(np.zeros((1, 4, 5, 3), np.uint8), mask, "source_mask")
    assert str(error.value).startswith(message)
