"""Corruptions: closed forms, statistics, and what all fifteen promise at every size."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from common.errors import InputError
from diffmatch_jax.evaluation import corruptions
from diffmatch_jax.evaluation.corruptions import KINDS, blur, corrupt, digital, noise, weather

SIZE = (56, 72)


def picture(size=SIZE, seed=0):
    """An image with edges, waves and texture, float in [0, 1]."""
    y, x = np.mgrid[: size[0], : size[1]] / 50
    rng = np.random.default_rng(seed)
    waves = 0.5 + 0.2 * np.stack([np.sin(9 * x), np.cos(7 * y + x), np.sin(5 * x * y)], -1)
    squares = 0.3 * ((np.floor(4 * x) + np.floor(4 * y)) % 2)[..., None]
    return np.clip(waves + squares - 0.15 + 0.08 * rng.standard_normal((*size, 3)), 0, 1).astype(np.float32)


def distances(kind, image, seeds=(1,)):
    """Returns the mean distance from the original at severities 1 to 5."""
    return np.array(
        [
            np.mean([np.abs(corrupt(image, kind, severity, seed).image - image).mean() for seed in seeds])
            for severity in corruptions.SEVERITIES
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_stronger_is_further_away(kind):
    image = picture()
    found = distances(kind, image, seeds=(1, 2, 3))
    assert found.min() > 0.002
    if kind == "elastic_transform":
        # The published table has large affine shifts at 1 and 2, and small fast wobbles at 3, 4 and 5.
        assert found[1] > found[0] > found[3] and found[4] > found[3] > found[2]
    elif kind == "snow":
        # The published settings 3 and 4 differ in the threshold alone, 4 and larger flakes against a higher one.
        assert (np.diff(found[[0, 1, 2, 4]]) > 0).all() and found[3] > found[1]
    elif kind == "frost":
        # The image's share falls as the texture's rises: what grows is how much of the picture is frost.
        black, gray = (np.full((*SIZE, 3), value, np.float32) for value in (0, 0.1))
        both = [[corrupt(each, kind, severity, 1).image.mean() for each in (black, gray)] for severity in range(1, 6)]
        share = [frost / with_gray for frost, with_gray in both]
        assert (np.diff(share) > 0).all() and found.min() > 0.1
    else:
        assert (np.diff(found) > 0).all(), found


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides(kind):
    image = picture()
    first, again = (corrupt(image, kind, 4, (3, 1)).image for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = corrupt(image, kind, 4, (3, 2)).image
    drawn = kind not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert (np.abs(other - first).max() > 1e-3) == drawn
    key = jax.random.key(5)
    np.testing.assert_array_equal(
        corrupt(image, kind, 4, key).image, corrupt(image, kind, 4, jax.random.key_data(key)).image
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (32, 117), (95, 33), (2, 2), (5, 7), (2, 40)])
def test_any_size_and_type(kind, size):
    image = picture(size)
    for severity in (1, 5):
        found = corrupt(image, kind, severity, 0)
        assert found.image.shape == image.shape and found.image.dtype == np.float32
        assert found.image.min() >= 0 and found.image.max() <= 1 and np.isfinite(found.image).all()
        assert (found.flow is not None) == (kind == "elastic_transform")
    octets = np.round(image * 255).astype(np.uint8)
    found = corrupt(octets, kind, 3, 0).image
    assert found.dtype == np.uint8
    # The same as for the floating-point image of these bytes, to rounding.
    np.testing.assert_allclose(corrupt(octets / 255, kind, 3, 0).image * 255, found, atol=0.501)
    assert corrupt(image[..., :1], kind, 3, 0).image.shape == (*size, 1)


@pytest.mark.parametrize("kind", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform"])
def test_a_large_image_looks_like_a_small_one_enlarged(kind):
    """Distances from the original stay what they were, since all lengths grow with the image."""
    rng = np.random.default_rng(2)
    coarse = rng.uniform(size=(14, 14, 3))
    small, large = (np.clip(enlarged(coarse, side), 0, 1).astype(np.float32) for side in (112, 336))
    near, far = (
        np.mean([np.abs(corrupt(image, kind, 3, seed).image - image).mean() for seed in range(3)])
        for image in (small, large)
    )
    np.testing.assert_allclose(far, near, rtol=0.25)


def enlarged(coarse, side):
    return ndimage.zoom(coarse, (side / len(coarse), side / len(coarse), 1), order=1, mode="nearest", grid_mode=True)


@pytest.mark.parametrize("severity", corruptions.SEVERITIES)
def test_noise_statistics(severity):
    """Before clipping: deviation of the Gaussian, mean and variance of photons, share of impulses."""
    gray = np.full((200, 200, 3), 0.5, np.float32)
    rng = np.random.default_rng(0)
    found = noise.gaussian(gray, severity, rng, 1.0) - gray
    np.testing.assert_allclose([found.mean(), found.std()], [0, noise.GAUSSIAN[severity - 1]], atol=3e-3)
    found = noise.shot(gray, severity, rng, 1.0)
    photons = noise.SHOT[severity - 1]
    np.testing.assert_allclose([found.mean(), found.var()], [0.5, 0.5 / photons], rtol=0.03)
    np.testing.assert_allclose(found * photons, np.round(found * photons), atol=1e-9)
    found = noise.impulse(gray, severity, rng, 1.0)
    share = noise.IMPULSE[severity - 1]
    np.testing.assert_allclose([(found == 1).mean(), (found == 0).mean()], share / 2, rtol=0.05)
    # Pixels and channels are independent.
    found = noise.gaussian(gray, severity, rng, 1.0) - gray
    assert abs(np.corrcoef(found[..., 0].ravel(), found[..., 1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(found[1:].ravel(), found[:-1].ravel())[0, 1]) < 0.02


def test_contrast_and_brightness_closed_forms():
    image = picture()
    mean = image.mean((0, 1))
    for severity, factor in enumerate((0.4, 0.3, 0.2, 0.1, 0.05), 1):
        found = corrupt(image, "contrast", severity, 0).image
        np.testing.assert_allclose(found, mean + factor * (image - mean), atol=1e-6)
    colours = np.zeros((32, 32, 3), np.float32)
    colours[:, :8], colours[:, 8:16], colours[:, 16:24] = (0.4, 0.2, 0.0), (0.1, 0.1, 0.1), (0.9, 0.45, 0.9)
    found = corrupt(colours, "brightness", 3, 0).image
    # Value + 0.3 with hue and saturation kept; black turns gray.
    want = [(0.7, 0.35, 0.0), (0.4, 0.4, 0.4), (1.0, 0.5, 1.0), (0.3, 0.3, 0.3)]
    np.testing.assert_allclose(found[0, 4::8], want, atol=1e-6)


def test_blurs_keep_constants_and_the_middle():
    flat = np.full((40, 50, 3), 0.3, np.float32)
    for kind in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate"):
        np.testing.assert_allclose(corrupt(flat, kind, 5, 0).image, 0.3, atol=1e-5, err_msg=kind)
    point = np.zeros((61, 61, 1), np.float32)
    point[30, 30] = 1
    for kind in ("defocus_blur", "motion_blur"):
        found = corrupt(point, kind, 5, 3).image[..., 0].astype(np.float64)
        np.testing.assert_allclose(found.sum(), 1, rtol=1e-3)
        centroid = [(found * at).sum() / found.sum() for at in np.mgrid[:61, :61]]
        np.testing.assert_allclose(centroid, 30, atol=0.05, err_msg=kind)
    std = [np.sqrt((blur.line(20.0, 9.0, angle) * (at - 21) ** 2).sum())
              for angle, at in ((0.0, np.mgrid[:43, :43][1]), (np.pi / 2, np.mgrid[:43, :43][0]))]  # fmt: skip
    along = np.linspace(0, 20, 21)
    weights = np.exp(-0.5 * (along / 9) ** 2) / np.exp(-0.5 * (along / 9) ** 2).sum()
    want = np.sqrt(weights @ along**2 - (weights @ along) ** 2)
    np.testing.assert_allclose(std, want, rtol=0.02)


def test_glass_swaps():
    """Nothing is lost, and nothing goes further than its rounds allow."""
    order = blur.swapped((23, 31), 2, 1, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(order.ravel()), np.arange(23 * 31))
    moved = np.stack([order // 31 - np.arange(23)[:, None], order % 31 - np.arange(31)])
    assert (moved != 0).any(0).mean() > 0.8
    # A pixel may be passed on, but mostly it is where its one swap took it.
    assert (np.abs(moved).max(0) <= 2).mean() > 0.4


def test_zoom_keeps_the_middle_and_pixelate_has_blocks():
    wave = np.zeros((33, 47, 1), np.float32)
    wave[16, 23] = 1
    found = corrupt(wave, "zoom_blur", 5, 0).image
    assert np.unravel_index(found.argmax(), found.shape) == (16, 23, 0)
    image = picture((224, 224))
    found = corrupt(image, "pixelate", 5, 0).image
    blocks = image.reshape(56, 4, 56, 4, 3).mean((1, 3))
    np.testing.assert_allclose(found, blocks.repeat(4, 0).repeat(4, 1), atol=1e-5)
    large = corrupt(np.repeat(np.repeat(image, 2, 0), 2, 1), "pixelate", 5, 0).image
    np.testing.assert_allclose(large, found.repeat(2, 0).repeat(2, 1), atol=1e-5)


def test_clouds_and_frost():
    rng = np.random.default_rng(0)
    field = weather.clouds((50, 90), 1.4, rng)
    assert field.shape == (50, 90) and field.min() >= 0 and field.max() <= 1 and field.std() > 0.05
    # Finer clouds are fainter, all the more with a larger decay.
    rough = [
        np.abs(np.diff(weather.clouds((64, 64), decay, np.random.default_rng(1)), axis=1)).mean() for decay in (1.4, 2)
    ]
    assert rough[0] > 1.5 * rough[1]
    ice = weather.frost_texture((60, 80), rng, 0.3)
    assert ice.shape == (60, 80, 3) and 0.3 < ice.mean() < 0.6 and ice.std() > 0.15
    assert (ice.mean((0, 1))[2] > ice.mean((0, 1))[0]) and ice.min() >= 0 and ice.max() <= 1
    # At severity 5, 0.6 of the image and 0.75 of the texture.
    black, gray = (np.full((60, 80, 3), value, np.float32) for value in (0.0, 0.2))
    np.testing.assert_allclose(
        corrupt(gray, "frost", 5, 2).image, np.minimum(corrupt(black, "frost", 5, 2).image + 0.12, 1), atol=1e-5
    )


@pytest.mark.parametrize(("height", "width"), [(48, 70), (5, 7)])
def test_elastic_ground_truth_is_exact(height, width):
    """On ramps, which interpolation does not change, the picture says itself where its pixels come from."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    ramps = np.stack([x / (width - 1), y / (height - 1), 0 * x], -1)
    for severity in corruptions.SEVERITIES:
        found = corrupt(ramps, "elastic_transform", severity, 11)
        np.testing.assert_allclose(found.image[..., 0] * (width - 1), x + found.flow[..., 0], atol=1e-4)
        np.testing.assert_allclose(found.image[..., 1] * (height - 1), y + found.flow[..., 1], atol=1e-4)
        assert np.abs(found.flow).max() > 0.2 * height / 48
    np.testing.assert_allclose(digital.ELASTIC[4], (29.28, 2.44, 4.88), atol=1e-9)


def test_elastic_lengths_are_the_published_ones():
    """At 224 pixels, the middle half: a wobble about an affine map, of the deviation that blurred noise has."""
    flat = np.zeros((224, 224, 1), np.float32)
    for severity in (3, 5):
        gain, width, most = digital.ELASTIC[severity - 1]
        flow = corrupt(flat, "elastic_transform", severity, 1).flow[40:-40, 40:-40].astype(np.float64)
        y, x = np.mgrid[: flow.shape[0], : flow.shape[1]]
        plane = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3)
        fitted, *_ = np.linalg.lstsq(plane, flow.reshape(-1, 2), rcond=None)
        wobble = flow.reshape(-1, 2) - plane @ fitted
        np.testing.assert_allclose(wobble.std(), gain / np.sqrt(3) / (2 * width * np.sqrt(np.pi)), rtol=0.15)
        assert np.abs(plane @ fitted).max() < 3 * most


def test_mistakes():
    image = picture()
    with pytest.raises(InputError, match=r'kind: expected one of .* did you mean "glass_blur"'):
        corrupt(image, "glas_blur", 1, 0)
    with pytest.raises(InputError, match="severity: expected 1, 2, 3, 4 or 5, got 6"):
        corrupt(image, "snow", 6, 0)
    for seed in (1.5, "a", True, [0, 0.5]):
        with pytest.raises(InputError, match="seed: expected at least 0, a whole number or several, got"):
            corrupt(picture(), "snow", 1, seed=seed)
    with pytest.raises(InputError, match="seed: expected at least 0"):
        corrupt(image, "snow", 1, (-1, 3))
    for wrong in (image[:1], image[:, :1], image[..., 0], np.zeros((40, 40, 2)), image[None]):
        with pytest.raises(InputError, match=r"image: expected \[H, W, 1 or 3\] of at least 2 x 2"):
            corrupt(wrong, "snow", 1, 0)
    with pytest.raises(InputError, match=r"image: expected floats in .*, got float64 from 0 to 2"):
        corrupt(np.full((32, 32, 3), 2.0) * (np.arange(32) > 3)[:, None], "snow", 1, 0)
    with pytest.raises(InputError, match="image: expected bytes"):
        corrupt(image.astype(np.int32), "snow", 1, 0)
    with pytest.raises(InputError, match=r"divide by 255: image / 255"):
        corrupt(image * 255, "snow", 1, 0)
