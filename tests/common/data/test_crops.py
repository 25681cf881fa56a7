import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.data import source
from common.data.crops import Crops
from common.data.source import ImageList
from common.data.wrappers import SkipBad, SkipBudget
from common.errors import InputError


def numbered(*shapes, channels=1, known=None):
    """Images whose pixels tell which image, row and column they are."""
    pictures = []
    for index, (height, width) in enumerate(shapes):
        row, column = np.mgrid[:height, :width]
        layers = (
            [np.full_like(row, index), row, column][:channels] if channels == 3 else [40 * index + 6 * row + column]
        )
        pictures.append(np.stack(layers, axis=-1).astype(np.uint8))
    return ImageList(pictures, names=[f"{index}" for index in range(len(shapes))], label="numbered", known=known)


def corners(elements):
    return [tuple(int(value) for value in element["image"][0, 0]) for element in elements]


def test_every_crop_of_every_image_comes_once():
    data = Crops(numbered((5, 7), (9, 4), (3, 8), channels=3), size=4, seed=3)
    assert len(data) == 2 * 4 + 6 * 1
    elements = source.read(data, range(len(data)))
    expected = [(0, row, column) for row in range(2) for column in range(4)] + [(1, row, 0) for row in range(6)]
    assert sorted(corners(elements)) == expected
    for element in elements:
        image = element["image"]
        assert image.shape == (4, 4, 3)
        np.testing.assert_array_equal(image[..., 1] - image[0, 0, 1], np.mgrid[:4, :4][0])
        np.testing.assert_array_equal(image[..., 2] - image[0, 0, 2], np.mgrid[:4, :4][1])
    np.testing.assert_array_equal(data[5]["image"], elements[5]["image"])
    np.testing.assert_array_equal(data.shapes()[2], [4, 4, 3])


def test_any_run_of_elements_is_spread_by_area():
    data = Crops(numbered((60, 60), (30, 100), (25, 25), channels=3), size=20, seed=0)
    image = np.asarray(corners(source.read(data, range(400))))[:, 0]
    areas = np.asarray([41 * 41, 11 * 81, 6 * 6])
    expected = 400 * areas / areas.sum()
    counts = np.bincount(image, minlength=3)
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # 2 degrees of freedom, one in a thousand


def test_the_order_depends_on_the_seed_and_nothing_else():
    images = numbered((12, 12), channels=3)
    orders = [corners(source.read(Crops(images, size=3, seed=seed), range(100))) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert Crops(images, size=3, seed=1).fingerprint != Crops(images, size=3, seed=2).fingerprint
    assert Crops(images, size=3, seed=1).fingerprint != Crops(images, size=4, seed=1).fingerprint


@pytest.mark.parametrize("channels", [1, 3])
def test_the_device_cuts_what_the_host_cuts(channels):
    data = Crops(numbered((5, 7), (9, 4), (6, 6), channels=channels), size=4, seed=11)
    held = data.resident()
    assert held.nbytes >= data.nbytes == (35 + 36 + 36) * channels
    indices = np.asarray([0, 5, 5, len(data) - 1, 3], np.int32)
    taken = jax.jit(held.take)(held.arrays, jnp.asarray(indices))["image"]
    assert taken.dtype == jnp.uint8
    np.testing.assert_array_equal(taken, source.fetch(data, indices)["image"])


def test_the_device_cuts_what_the_host_cuts_after_a_bad_image_of_another_size():
    images = numbered((9, 4), (30, 30), (5, 7), channels=3, known={1: "torn"})
    data = Crops(SkipBad(images, SkipBudget(1)), size=4, seed=0)
    every = np.arange(len(data))
    host = source.fetch(data, every)["image"]
    assert set(host[:, 0, 0, 0]) == {0, 2}  # image 2 stands in for image 1
    held = data.resident()
    np.testing.assert_array_equal(held.take(held.arrays, jnp.asarray(every))["image"], host)


def test_unreadable_images_without_a_size_are_never_drawn():
    class Scanned:
        fingerprint = "scanned"

        def __len__(self):
            return 2

        def __getitem__(self, index):
            assert index == 1
            return {"image": np.zeros((5, 5, 1), np.uint8)}

        def shapes(self):
            return np.asarray([[0, 0, 0], [5, 5, 1]])

    assert len(Crops(Scanned(), size=4, seed=0)) == 4


def test_too_large_crops_are_refused():
    with pytest.raises(InputError, match="config.data.size: expected at most 5, the images' size, got 6"):
        Crops(numbered((5, 7), (9, 4)), size=6, seed=0)


class Vast:
    """More crops than 32 bits can number, without any pixels."""

    fingerprint = "vast"

    def __len__(self):
        return 3000

    def __getitem__(self, index):
        # A view of one byte: the picture takes no memory. Its value tells which third it comes from.
        return {"image": np.broadcast_to(np.uint8(index // 1000), (2000, 2000, 1))}

    def shapes(self):
        return np.broadcast_to(np.asarray([2000, 2000, 1]), (3000, 3))


def test_vast_sets_are_drawn_uniformly_and_only_streamed():
    data = Crops(Vast(), size=8, seed=5)
    assert len(data) == 2**31 - 1
    third = np.asarray(corners(source.read(data, range(2**31 - 1 - 900, 2**31 - 1))))[:, 0]
    assert ((np.bincount(third, minlength=3) - 300) ** 2 / 300).sum() < 13.8
    np.testing.assert_array_equal(data[17]["image"], Crops(Vast(), size=8, seed=5)[17]["image"])
    assert data.nbytes is None
    with pytest.raises(InputError, match="config.data.placement: expected 'stream'"):
        data.resident()
