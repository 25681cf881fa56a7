"""Frames: affine algebra in closed form, and rotated, zoomed and framed photographs found by the package's weights."""

import numpy as np
import pytest
import skimage.data
from scipy import ndimage

import diffmatch_jax
from diffmatch_jax.model import features, frames


def test_a_frame_rotates_about_the_middles_in_pixels():
    source, target = (100, 200), (100, 200)
    maps = frames.candidates(source, target)
    assert len(maps) == frames.ROTATIONS * len(frames.ZOOMS) - 1
    quarter, zoom = maps[1]  # two steps of 45 degrees, neither side shrunk
    assert zoom == 1
    middle, right = ((quarter @ [x, 0.5, 1])[:2] for x in (0.5, 0.75))
    np.testing.assert_allclose(middle, 0.5)
    # 50 pixels to the right in the frame are 50 pixels down in the source.
    np.testing.assert_allclose(right * [200, 100], [100, 100])


def moved(frame, place):
    to = place @ frame[:, :2].T + frame[:, 2]
    return to[..., :2] / to[..., 2:]


def test_flow_through_a_homography_and_back():
    frame = np.array([[0.0, -0.5, 0.8], [0.7, 0.0, 0.1], [0.2, -0.1, 1.0]])
    place = (np.stack(np.meshgrid(np.arange(6), np.arange(4)), -1) + 0.5) / [6, 4]
    found, slopes = frames.restore(np.full((1, 4, 6, 2), 0.05), frame[None])
    np.testing.assert_allclose(found[0], moved(frame, place + 0.05) - place, atol=1e-6)
    for i, step in enumerate(1e-3 * np.eye(2)):
        change = (moved(frame, place + 0.05 + step) - moved(frame, place + 0.05 - step)) / 2e-3
        np.testing.assert_allclose(slopes[0, ..., i], change, atol=1e-5)


def test_the_homography_of_matches_among_wrong_ones():
    rng = np.random.default_rng(0)
    frame = np.array([[0.9, 0.1, 0.02], [-0.15, 1.1, 0.05], [0.3, -0.2, 1.0]])
    place = (np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1) + 0.5) / 32
    flow = np.round((moved(frame, place) - place) * 32)
    weight = (rng.uniform(size=(32, 32)) < 0.6).astype(float)
    wrong = rng.uniform(size=(32, 32)) < 0.15
    flow[wrong] += rng.uniform(-6, 6, (wrong.sum(), 2))
    found = frames.homography_of(flow, weight)
    # Matches go to whole cells; half a cell is 1/64.
    assert np.abs(moved(found, place) - moved(frame, place)).max() < 0.3 / 32
    assert frames.homography_of(flow, 0 * weight) is None
    assert frames.homography_of(-2 * (place - 0.5) * [32, 0], weight) is None  # a mirror
    steep = moved(np.array([[1, 0, 0], [0, 1, 0], [-0.9, 0, 1.0]]), place)
    assert frames.homography_of((steep - place) * 32, np.ones((32, 32))) is None


def test_a_resampled_image_and_what_it_does_not_show():
    image = np.random.default_rng(0).uniform(size=(1, 32, 32, 3)).astype(np.float32)
    one = np.ones((1, 32, 32, 1), np.float32)
    images = features.Prepared(image, image[:, ::2, ::2], one, one)
    half = frames.resampled(images, np.array([[1.0, 0, 0.5], [0, 1, 0], [0, 0, 1]]))
    np.testing.assert_allclose(half.fine[:, :, :16], image[:, :, 16:], atol=1e-4)
    assert (half.mask[:, :, 17:] == 0).all() and (half.mask[:, :, :16] == 1).all()


def rotated(image, degrees, zoom):
    """Returns an image turned and zoomed about its middle, the flow from it to the image, and where that is known."""
    side = len(image)
    angle = np.deg2rad(degrees)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1)
    place = (cells - (side - 1) / 2) @ linear.T + (side - 1) / 2
    smooth = ndimage.gaussian_filter(image.astype(float), (0.5 / zoom,) * 2 + (0,)) if zoom < 1 else image.astype(float)
    turned = [ndimage.map_coordinates(smooth[..., c], [place[..., 1], place[..., 0]], order=1) for c in range(3)]
    known = ((place >= 0) & (place <= side - 1)).all(-1)
    return np.stack(turned, -1).astype(np.uint8), place - cells, known


@pytest.mark.slow
@pytest.mark.parametrize(("degrees", "zoom"), [(60, 1), (135, 1), (180, 1), (270, 1), (20, 2), (-75, 0.5)])
def test_any_rotation_and_zooms_of_two(degrees, zoom):
    image = skimage.data.astronaut()[:384, 64:448]
    target, flow, known = rotated(image, degrees, zoom)
    found = diffmatch_jax.match(image, target)
    assert np.linalg.norm(found.flow - flow, axis=-1)[known].mean() < 3


@pytest.mark.slow
def test_what_is_no_evidence_has_no_confidence():
    image, gray = skimage.data.astronaut(), np.full((256, 256, 3), 128, np.uint8)
    for source, target in ((gray, gray), (gray, image), (image, gray)):
        assert diffmatch_jax.match(source, target).confidence.max() < 0.1
    unrelated = diffmatch_jax.match(skimage.data.coffee(), image)
    assert unrelated.confidence.mean() < 0.1


@pytest.mark.slow
def test_a_static_frame_is_left_out():
    """The scene moves by (20, 12) behind a round mask that stays where it is."""
    image = skimage.data.astronaut()
    y, x = np.mgrid[:512, :512]
    view = (y - 256) ** 2 + (x - 256) ** 2 < 220**2
    source = np.where(view[..., None], np.roll(image, (12, 20), (0, 1)), 0).astype(np.uint8)
    target = np.where(view[..., None], image, 0).astype(np.uint8)
    found = diffmatch_jax.match(source, target)
    both = view & ((y + 12 - 256) ** 2 + (x + 20 - 256) ** 2 < 220**2)
    away = np.hypot(found.flow[..., 0] - 20, found.flow[..., 1] - 12)[both]
    assert away.mean() < 2 and (away > 10).mean() < 0.01
    assert found.confidence[~view].mean() < 0.05
    given = diffmatch_jax.match(source, target, source_mask=view, target_mask=view)
    assert np.hypot(given.flow[..., 0] - 20, given.flow[..., 1] - 12)[both].mean() < 2


@pytest.mark.slow
def test_an_image_matches_itself_up_to_the_border():
    image = skimage.data.astronaut()
    away = np.linalg.norm(diffmatch_jax.match(image, image).flow, axis=-1)
    border = np.ones((512, 512), bool)
    border[32:-32, 32:-32] = False
    assert away[border].mean() < 0.5 and away[~border].mean() < 0.3
