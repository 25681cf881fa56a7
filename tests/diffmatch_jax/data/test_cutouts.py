"""Objects from files in COCO's layout, and the source that brings them to the images."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from common.data.source import ArraySource
from common.errors import InputError
from diffmatch_jax.data import objects
from diffmatch_jax.data.objects import Cutout, WithObjects, read_coco
from diffmatch_jax.data.warps import Pair


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A list with a red square, a green triangle of two polygons, a crowd and a tiny thing; returns list and folder."""
    folder = tmp_path_factory.mktemp("coco")
    red, green = np.full((2, 120, 160, 3), 90, np.uint8)
    red[20:80, 30:90] = (255, 0, 0)
    green[60:120, 100:160] = (0, 255, 0)
    for name, image in (("a.png", red), ("b.png", green)):
        Image.fromarray(image).save(folder / name)
    square = [30, 20, 90, 20, 90, 80, 30, 80]
    halves = [[100, 60, 160, 60, 160, 120], [100, 60, 100, 120, 160, 120]]
    listed = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "annotations": [
            {"image_id": 7, "iscrowd": 0, "area": 3600, "bbox": [30, 20, 60, 60], "segmentation": [square]},
            {"image_id": 9, "iscrowd": 0, "area": 3600, "bbox": [100, 60, 60, 60], "segmentation": halves},
            {"image_id": 9, "iscrowd": 1, "area": 9000, "bbox": [0, 0, 99, 99], "segmentation": {"counts": []}},
            {"image_id": 7, "iscrowd": 0, "area": 1200, "bbox": [0, 0, 5, 5], "segmentation": [[0, 0, 5, 0, 5, 5]]},
        ],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(listed))
    return path, folder


def test_objects_are_cut_along_their_outlines(coco):
    found = read_coco(*coco, side=64)
    assert found.image.shape == (2, 64, 64, 3) and found.mask.shape == (2, 64, 64)
    for row, channel in enumerate((0, 1)):
        cover = found.mask[row] / 255
        # 60 of 66 pixels along each side, around the middle.
        np.testing.assert_allclose(cover.sum(), (64 * 60 / 66) ** 2, rtol=0.03)
        centre = [(cover * at).sum() / cover.sum() for at in np.mgrid[:64, :64]]
        np.testing.assert_allclose(centre, 31.5, atol=0.2)
        inside = found.image[row][cover == 1].astype(int)
        assert (inside[:, channel] > 200).mean() > 0.97
        assert not found.mask[row][[0, -1]].any() and not found.mask[row][:, [0, -1]].any()
    # The second object touches the photograph's corner: its square repeats the edge there.
    one = read_coco(*coco, side=64, most=1, seed=1)
    assert one.mask.shape == (1, 64, 64)


def test_a_source_brings_an_object_to_every_image(coco):
    found = read_coco(*coco, side=16)
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 4, 4, 3), np.uint8)
    source = WithObjects(ArraySource({"image": images}), found)
    assert len(source) == 5 and source.name(2) == "arrays[2]" and source.num_random == 1
    index = np.arange(150, dtype=np.int32) % 5
    random = np.random.default_rng(0).integers(0, 2**31 - 1, (150, 1), np.int32)
    examples = source.read(index, random)
    np.testing.assert_array_equal(examples["image"][:, 0, 0, 0], index)
    np.testing.assert_array_equal(examples["object_image"], found.image[random[:, 0] % 2])
    np.testing.assert_array_equal(examples["object_mask"], found.mask[random[:, 0] % 2])
    kept = source.on_device()
    taken = jax.jit(kept.gather)(kept.arrays, index, random)
    assert taken.keys() == examples.keys()
    for name, want in examples.items():
        np.testing.assert_array_equal(taken[name], want)
        assert taken[name].dtype == want.dtype
    np.testing.assert_array_equal(source.read([3])["object_mask"][0], source[3]["object_mask"])
    assert source.nbytes == images.nbytes + found.image.nbytes + found.mask.nbytes
    again = WithObjects(ArraySource({"image": images}), found)
    other = WithObjects(ArraySource({"image": images[:4]}), found)
    assert source.fingerprint == again.fingerprint != other.fingerprint and repr(source) == repr(again)


def test_bytes_can_be_pasted(coco):
    """As they come from the device's arrays: of 255 the colours and how much the mask covers."""
    found = read_coco(*coco, side=32)
    gray, none = np.full((40, 48, 3), 0.3, np.float32), np.zeros((), np.int32)
    pair = Pair(gray, gray, np.ones((40, 48, 2), np.float32), np.ones((40, 48), bool), none, none)
    cutout = Cutout(found.image[0], found.mask[0])
    got = jax.tree.map(np.asarray, jax.jit(objects.paste_cutout)(jax.random.key(3), pair, cutout))
    moved = (got.flow != 1).any(-1)
    assert moved.any() and got.target.max() <= 1 + 1e-5 and got.target.min() >= -1e-5
    # A pixel of the object is covered by half at least, of a red that fades a little along its edge.
    assert (got.target[moved][:, 0] > 0.45).all() and np.median(got.target[moved][:, 1]) < 0.05
    np.testing.assert_allclose(got.target[0, 0] if not moved[0, 0] else got.target[-1, -1], 0.3, atol=1e-6)


def test_mistakes(coco, tmp_path):
    path, folder = coco
    with pytest.raises(InputError, match="expected COCO's list of instances, got FileNotFoundError"):
        read_coco(tmp_path / "none.json", folder)
    (tmp_path / "other.json").write_text('{"images": []}')
    with pytest.raises(InputError, match="expected COCO's list of instances, got KeyError"):
        read_coco(tmp_path / "other.json", folder)
    with pytest.raises(InputError, match="expected objects of more than 4000 pixels, got none"):
        read_coco(path, folder, least_area=4000)
    with pytest.raises(InputError, match="a.png: expected a photograph of the list"):
        read_coco(path, tmp_path)
    listed = json.loads(path.read_text())
    for name, value in (("segmentation", [[0, 0, 5, 0, 5, 5, 0]]), ("bbox", [30, 20, 60]), ("bbox", None)):
        changed = [dict(listed["annotations"][0], **{name: value})]
        (tmp_path / "odd.json").write_text(json.dumps({**listed, "annotations": changed}))
        with pytest.raises(InputError, match="odd.json, image 7: expected a box x, y, width, height and polygons"):
            read_coco(tmp_path / "odd.json", folder)
