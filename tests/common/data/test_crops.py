import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.data import source
from common.data.fitted import Crops, Fitted, SkipBudget
from common.data.source import BadRecordError
from common.errors import InputError
from tests.common.data.raw import ImageList


def images(raw, *, limit=0):
    return Fitted(raw, lambda image: {"image": image}, label="whole", budget=SkipBudget(limit))


def numbered(*shapes, channels=3):
    """Images whose pixels tell which image, row and column they are."""
    pictures = []
    for index, (height, width) in enumerate(shapes):
        row, column = np.mgrid[:height, :width]
        layers = [np.full_like(row, index), row, column] if channels == 3 else [40 * index + 6 * row + column]
        pictures.append(np.stack(layers, axis=-1).astype(np.uint8))
    return ImageList(pictures, names=[f"{index}" for index in range(len(shapes))], label="numbered")


class Torn(ImageList):
    """Images of which number 1 cannot be read."""

    def __getitem__(self, index):
        if index == 1:
            raise BadRecordError("1", "torn")
        return super().__getitem__(index)


def torn(*shapes):
    whole = numbered(*shapes)
    return Torn(whole.images, names=whole.names, label="torn")


def corners(crops):
    return [tuple(each) for each in np.asarray(crops)[:, 0, 0].tolist()]


def randoms(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**31 - 1, (count, 2), np.int32)


def test_a_crop_is_an_aligned_part_of_its_image():
    data = Crops(images(numbered((5, 7), (9, 4), (6, 6))), size=4)
    assert len(data) == 3 and data.num_random == 2
    index = np.arange(300) % 3
    crops = data.read(index, randoms(300))["image"]
    assert crops.shape == (300, 4, 4, 3) and crops.dtype == np.uint8
    np.testing.assert_array_equal(crops[..., 0], np.broadcast_to(index[:, None, None], (300, 4, 4)))
    np.testing.assert_array_equal(crops[..., 1] - crops[:, :1, :1, 1], np.tile(np.mgrid[:4, :4][0], (300, 1, 1)))
    np.testing.assert_array_equal(crops[..., 2] - crops[:, :1, :1, 2], np.tile(np.mgrid[:4, :4][1], (300, 1, 1)))
    expected = {(0, row, column) for row in range(2) for column in range(4)} | {(1, row, 0) for row in range(6)}
    expected |= {(2, row, column) for row in range(3) for column in range(3)}
    assert set(corners(crops)) == expected


def test_every_place_is_equally_likely():
    crops = Crops(images(numbered((7, 9))), size=4).read([0] * 6000, randoms(6000))["image"]
    counts = np.unique(corners(crops), axis=0, return_counts=True)[1]
    assert len(counts) == 4 * 6
    assert ((counts - 250) ** 2 / 250).sum() < 49.7  # chi-square of 23 degrees of freedom, one in a thousand


def test_without_random_numbers_the_crop_is_the_middle():
    data = Crops(images(numbered((5, 7), (9, 4))), size=3)
    assert corners(data.read([0, 1])["image"]) == [(0, 1, 2), (1, 3, 0)]
    assert corners([data[1]["image"]]) == [(1, 3, 0)]
    with pytest.raises(IndexError):
        data[2]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_device_cuts_what_the_host_cuts(channels):
    data = Crops(images(numbered((5, 7), (9, 4), (6, 6), channels=channels)), size=4)
    held = data.on_device()
    assert data.nbytes == (35 + 36 + 36) * channels == held.arrays["pixels"].nbytes
    index, random = np.asarray([0, 1, 1, 2] * 50, np.int32), randoms(200)
    cut = jax.jit(held.gather)(held.arrays, index, random)["image"]
    assert cut.dtype == jnp.uint8
    np.testing.assert_array_equal(cut, data.read(index, random)["image"])


def test_the_device_cuts_what_the_host_cuts_after_a_bad_image_of_another_size():
    data = Crops(images(torn((9, 4), (30, 30), (5, 7)), limit=1), size=4)
    index, random = np.arange(300, dtype=np.int32) % 3, randoms(300)
    host = data.read(index, random)["image"]
    np.testing.assert_array_equal(host[:, 0, 0, 0], np.asarray([0, 2, 2])[index])  # image 2 stands in for image 1
    held = data.on_device()
    np.testing.assert_array_equal(held.gather(held.arrays, index, random)["image"], host)


def test_fixed_crops_lie_on_a_centred_grid():
    data = Crops(images(numbered((7, 9), (4, 5), (3, 9))), size=4).fixed()
    # Every second pixel; the one that is left over in 7 and 9 pixels lies below and to the right.
    expected = [(0, row, column) for row in (0, 2) for column in (0, 2, 4)] + [(1, 0, 0)]
    assert len(data) == 7
    assert corners(data.read(range(7))["image"]) == expected
    assert corners([data[6]["image"]]) == [(1, 0, 0)]
    assert corners(data.read([5, 0, 6])["image"]) == [expected[5], expected[0], expected[6]]
    assert data.name(4) == "crop 4 in 0" and data.name(6) == "crop 6 in 1"
    assert data.fixed() is data
    np.testing.assert_array_equal(source.load(data)["image"], data.read(range(7))["image"])
    wide = Crops(images(numbered((4, 11))), size=4).fixed()
    assert [corner[2] for corner in corners(wide.read(range(4))["image"])] == [0, 2, 4, 6]


def test_fixed_crops_of_a_bad_image_come_from_the_next():
    data = Crops(images(torn((4, 4), (30, 30), (4, 6)), limit=1), size=4).fixed()
    crops = data.read(range(len(data)))["image"]
    assert len(data) == 1 + 14 * 14 + 2
    assert set(crops[1:, 0, 0, 0].tolist()) == {2}


def test_fingerprints_tell_images_size_and_kind_apart():
    one, other = images(numbered((9, 9))), images(numbered((9, 8)))
    made = [Crops(one, size=3), Crops(one, size=4), Crops(other, size=3), Crops(one, size=3).fixed()]
    assert len({each.fingerprint for each in made}) == 4
    assert Crops(one, size=3).fingerprint == made[0].fingerprint


def test_too_many_pixels_are_only_streamed():
    class Vast(ImageList):
        def __getitem__(self, index):
            # A view of one byte: the picture takes no memory.
            return {"image": np.broadcast_to(np.uint8(index), (2000, 2000, 1))}

        def __len__(self):
            return 3000

        def shapes(self):
            return np.broadcast_to(np.asarray([2000, 2000, 1]), (3000, 3))

    data = Crops(images(Vast([], names=[], label="vast")), size=8)
    assert data.read([7, 200], randoms(2))["image"][:, 0, 0, 0].tolist() == [7, 200]
    assert data.nbytes is None
    with pytest.raises(InputError, match="config.data.placement: expected 'stream'"):
        data.on_device()
