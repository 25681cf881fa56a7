"""The last step on the images' own pixels: exact pyramids, and flows brought back to a known truth."""

import numpy as np
import pytest
from scipy import ndimage

from diffmatch_jax.model import native


def texture(height, width, seed=0):
    """Returns a smooth random image `[height, width, 1]` in [0, 1]."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    image = sum(scale * ndimage.gaussian_filter(noise, scale) for scale in (1.5, 3, 6))
    return (0.5 + 0.12 * image / image.std()).clip(0, 1)[..., None].astype(np.float32)


def seen(source, place):
    """Returns the source `[H, W, 1]` at places `[h, w, 2]`, by cubic splines."""
    return ndimage.map_coordinates(source[..., 0], [place[..., 1], place[..., 0]], order=3, mode="nearest")[..., None]


def pixels(height, width):
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(float)


def ones(image):
    return np.ones((*image.shape[:2], 1), np.float32)


def refined(source, target, flow, *, source_mask=None, target_mask=None):
    masks = (ones(x) if mask is None else mask for x, mask in ((source, source_mask), (target, target_mask)))
    return native.refined(source, target, np.asarray(flow, np.float32), *masks)


def test_an_affine_flow_is_halved_and_doubled():
    place = pixels(10, 14)
    flow = place @ [[0.1, -0.2], [0.3, 0.05]] + [3, -4]
    half = native._halved(flow) / 2
    # A pixel of the half lies at 2 x + 1/2, and its flow is half as long.
    np.testing.assert_allclose(half, ((2 * pixels(5, 7) + 0.5) @ [[0.1, -0.2], [0.3, 0.05]] + [3, -4]) / 2)
    np.testing.assert_allclose(2 * native._doubled(half, (10, 14))[1:-1, 1:-1], flow[1:-1, 1:-1], atol=1e-12)
    assert native._halved(np.arange(15.0).reshape(3, 5)).shape == (2, 3)
    assert native._doubled(np.ones((2, 3)), (3, 5)).shape == (3, 5)


@pytest.mark.parametrize(
    ("linear", "size"),
    [
        ([[1.0, 0.03], [-0.02, 0.98]], (150, 170)),
        ([[0.0, -1.0], [1.0, 0.0]], (150, 150)),  # a quarter turn
        ([[2.0, 0.0], [0.0, 2.0]], (150, 150)),  # the source shows it at twice the size
        ([[1.0, 0.0], [0.0, 1.0]], (60, 300)),  # two tiles
    ],
)
def test_a_flow_is_brought_to_the_truth(linear, size):
    """It starts up to 1.5 pixels off, and the source is darker and of half the contrast."""
    source = texture(340, 340)
    place = (pixels(*size) - np.asarray(size[::-1]) / 2) @ np.transpose(linear) + 170
    target = seen(source, place)
    flow = place - pixels(*size)
    off = 1.1 * np.stack([np.sin(place[..., 1] / 30), np.cos(place[..., 0] / 40)], -1) * np.sqrt(np.linalg.det(linear))
    found = refined(0.1 + 0.5 * source, target, flow + off)
    before, after = (np.linalg.norm(each - flow, axis=-1)[4:-4, 4:-4] for each in (flow + off, found))
    assert before.mean() > 0.8
    assert after.mean() < 0.12 and np.quantile(after, 0.95) < 0.3


def test_nothing_moves_without_evidence():
    flat, flow = np.full((90, 90, 3), 77, np.uint8), np.full((90, 90, 2), 1.3, np.float32)
    np.testing.assert_array_equal(refined(flat, flat, flow), flow)
    # Unrelated images hardly agree better anywhere else, and no place moves farther than a level may.
    one, other = texture(90, 90, seed=1), texture(90, 90, seed=2)
    assert np.linalg.norm(refined(one, other, flow) - flow, axis=-1).max() <= native.FARTHEST + 1e-5


def test_masked_pixels_neither_move_nor_count():
    source = texture(120, 120)
    target, flow = seen(source, pixels(120, 120) + [0.8, 0]), np.zeros((120, 120, 2))
    mask = ones(target)
    mask[:, 60:] = 0
    found = refined(source, target, flow, target_mask=mask)
    np.testing.assert_array_equal(found[:, 60:], 0)
    away = np.linalg.norm(found - [0.8, 0], axis=-1)[8:-8, 8:50]
    assert away.mean() < 0.05 and away.max() < 0.25
    spoilt = np.where(mask > 0, target, texture(120, 120, seed=3))
    np.testing.assert_allclose(refined(source, spoilt, flow, target_mask=mask), found, atol=1e-4)
    assert (refined(source, target, flow, source_mask=0 * ones(source)) == 0).all()


def test_an_image_stays_on_itself():
    image = texture(100, 300)
    assert np.abs(refined(image, image, np.zeros((100, 300, 2)))).max() < 1e-3
