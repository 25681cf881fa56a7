"""Pairs: resizing with their flow, sparse matches, subsets."""

import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax.evaluation.datasets import record


def example(flow, mask=None, source=None, shape=(12, 16)):
    image = np.zeros((*shape, 3), np.uint8)
    source = image if source is None else source
    return record.Example("a", source, image, flow.astype(np.float32), np.ones(shape, bool) if mask is None else mask)


def test_resized_flow_keeps_positions():
    """An affine flow between images of different sizes: relative positions are those of before."""
    target, source = (12, 16), (24, 20)
    places = record.centres(target)
    positions = places @ np.asarray([[1.1, 0.05], [-0.1, 1.4]]) + [0.7, 2.3]
    before = example(positions - places, source=np.zeros((*source, 3), np.uint8))
    after = record.resized(before, 8)
    assert after.target.shape == (6, 8, 3) and after.source.shape == (8, 7, 3)
    middle = record.centres((6, 8)) * 2 + 0.5  # of the four pixels that became one
    want = middle @ np.asarray([[1.1, 0.05], [-0.1, 1.4]]) + [0.7, 2.3]
    want = (want + 0.5) * [7 / 20, 8 / 24] - 0.5
    np.testing.assert_allclose(record.centres((6, 8)) + after.flow, want, atol=1e-5)
    assert record.resized(before, 24) is before


def test_resized_mask_needs_more_than_half_of_a_pixel():
    flow, mask = np.full((12, 16, 2), 3.0), np.ones((12, 16), bool)
    mask[0:2, 0] = False  # half of the pixel at the corner
    mask[0:2, 2] = mask[0, 3] = False  # three quarters of its neighbour
    flow[~mask] = np.inf  # must not be mixed in
    after = record.resized(example(flow, mask), 8)
    assert not after.mask[0, 0] and not after.mask[0, 1] and after.mask[0, 2]
    np.testing.assert_allclose(after.flow[after.mask], 1.5, atol=1e-6)


def test_scattered_matches():
    places = np.asarray([[1.4, 0.5], [2.5, 1.5], [5.0, 1.0], [-0.6, 0.0], [1.4, 0.0]])
    sources = places + [[1, 2], [3, 4], [5, 6], [7, 8], [-1, 0]]
    flow, mask = record.scattered(places, sources, (3, 5))
    assert mask.sum() == 2
    np.testing.assert_allclose(flow[0, 1], [-1, 0], atol=1e-6)  # the later one of two, half to even
    np.testing.assert_allclose(flow[2, 2], [3, 4])
    assert (flow[~mask] == 0).all()


def test_images():
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    half = record.resized_image(image, (9, 6))
    assert half.dtype == np.uint8 and abs(float(half.mean()) - image.mean()) < 3
    skipped = record.resized_image(image, (3, 4), antialias=False)
    np.testing.assert_array_equal(skipped, image[1::3, 1::3])  # a third: exactly the middle of three pixels
    assert record.resized_image(image, (9, 12)) is image


def test_subset_is_spread():
    data = record.make("d", [(f"p{i}", "g") for i in range(10)], lambda i: i, content=[])
    few = record.subset(data, 4)
    assert few.names == ("p0", "p3", "p6", "p9") and few.load(1) == 3 and len(few.groups) == 4
    assert few.fingerprint not in (data.fingerprint, record.subset(data, 3).fingerprint)
    assert record.subset(data, 99) is data
    with pytest.raises(InputError, match="count: expected at least 1"):
        record.subset(data, 0)
    with pytest.raises(InputError, match="data d: expected at least one pair"):
        record.make("d", [], lambda i: i, content=[])
