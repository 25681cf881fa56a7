"""Inception-v3 against PyTorch's numbers (see make_inception.py), its peculiarities, and the files it is read from."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from common.errors import InputError
from common.networks import inception
from tests.common.networks import inception_weights

DATA = Path(__file__).parent / "data" / "inception.npz"


def write(path, tensors):
    """Writes a safetensors file; returns its checksum."""
    header, start = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [start, start + array.nbytes]}
        start += array.nbytes
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + b"".join(each.tobytes() for each in tensors.values())
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def tensors():
    return inception_weights.state_dict()


@pytest.fixture(scope="module")
def params(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    return inception.load(path, sha256=[write(path, tensors)])


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA) as stored:
        return dict(stored)


@pytest.mark.parametrize("resize", inception.RESIZES)
def test_features_are_pytorchs(params, golden, resize):
    images = inception_weights.images()
    resized = np.asarray(inception.resized(images.astype(np.float32), resize=resize))
    assert resized.shape == (2, 299, 299, 3)
    np.testing.assert_allclose(resized[:, ::23, ::23], golden[f"resized.{resize}"], atol=1e-3)
    found = np.asarray(inception.features(params, images, resize=resize))
    np.testing.assert_allclose(found, golden[resize], rtol=1e-4, atol=2e-5)
    # The two differ by far more than that.
    other = golden["tf1" if resize == "half_pixel" else "half_pixel"]
    assert np.abs(found - other).max() > 1e-2


@pytest.mark.parametrize("resize", inception.RESIZES)
def test_kinds_of_images(resize):
    images = inception_weights.images()
    found = np.asarray(inception.prepared(images, resize=resize))
    as_float = inception.prepared((images / 255).astype(np.float32), resize=resize)
    np.testing.assert_allclose(as_float, found, atol=1e-5)
    gray = images[..., :1]
    repeated = inception.prepared(np.repeat(gray, 3, -1), resize=resize)
    np.testing.assert_array_equal(inception.prepared(gray, resize=resize), repeated)
    lowest, highest = (-1, 127 / 128) if resize == "tf1" else (-1, 1)
    black, white = (np.full((1, 9, 9, 3), value, np.uint8) for value in (0, 255))
    np.testing.assert_allclose(inception.prepared(black, resize=resize), lowest, atol=1e-6)
    np.testing.assert_allclose(inception.prepared(white, resize=resize), highest, atol=1e-6)


def test_number_of_parameters(params):
    assert len(params) == 94
    folded = sum(each.size for each in jax.tree.leaves(params))
    # Every channel's normalisation is one offset here: 21,768,352 in all, without the classifier.
    assert folded == sum(np.prod((*kernel, a, b)) + a for _, a, b, kernel in inception_weights.layers()) == 21_768_352
    assert {(conv.name, conv.out, inner, conv.kernel) for conv, inner in inception.convolutions()} == set(
        inception_weights.layers()
    )


def test_average_pools_leave_padding_out_of_the_count():
    x = np.arange(16.0, dtype=np.float32).reshape(1, 4, 4, 1)
    found = np.asarray(inception._pool(x, "average", 1))[0, ..., 0]
    assert found[0, 0] == np.mean([0, 1, 4, 5])
    assert found[0, 1] == np.mean([0, 1, 2, 4, 5, 6])
    assert found[1, 1] == np.mean([0, 1, 2, 4, 5, 6, 8, 9, 10])
    np.testing.assert_allclose(inception._pool(np.ones((1, 5, 7, 2), np.float32), "average", 1), 1, rtol=1e-6)


def test_the_last_block_pools_by_maximum_also_below_zero():
    x = np.arange(-16.0, 0, dtype=np.float32).reshape(1, 4, 4, 1)
    found = np.asarray(inception._pool(x, "maximum", 1))[0, ..., 0]
    assert found[0, 0] == x[0, 1, 1, 0] and found[3, 3] == -1
    assert [block[-1].pool for block in inception.BLOCKS] == [
        "average", "average", "average", "maximum", "average", "average", "average", "average", "maximum", "average",
        "maximum",
    ]  # fmt: skip
    assert np.asarray(inception._pool(np.zeros((1, 35, 35, 1), np.float32), "maximum", 2)).shape == (1, 17, 17, 1)


@pytest.mark.parametrize("length", [1, 2, 32, 299, 600])
def test_resizing_samples_where_it_says(length):
    ramp = np.arange(length, dtype=np.float32)
    image = np.broadcast_to(ramp[:, None, None], (length, length, 1))[None]
    out = np.arange(299)
    places = {"tf1": out * length / 299, "half_pixel": (out + 0.5) * length / 299 - 0.5}
    for resize, place in places.items():
        found = np.asarray(inception.resized(image, resize=resize))[0, :, 0, 0]
        np.testing.assert_allclose(found, np.clip(place, 0, length - 1), atol=1e-4 * length)


def script_name(name):
    """Returns the TorchScript file's module for a name of torchvision's, written down anew."""
    stem = {"Conv2d_1a_3x3": "conv", "Conv2d_2a_3x3": "conv_1", "Conv2d_2b_3x3": "conv_2"}
    stem |= {"Conv2d_3b_1x1": "conv_3", "Conv2d_4a_3x3": "conv_4"}
    if name in stem:
        return stem[name]
    block, branch = name.removeprefix("Mixed_").split(".")
    number = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"].index(block)
    here = "mixed" + f"_{number}" * (number > 0)
    short = {
        "branch1x1": "conv",
        "branch3x3": "conv",
        "branch_pool": "tower_2.conv",
        "branch3x3_2a": "tower.mixed.conv",
        "branch3x3_2b": "tower.mixed.conv_1",
        "branch3x3dbl_3a": "tower_1.mixed.conv",
        "branch3x3dbl_3b": "tower_1.mixed.conv_1",
    }
    if branch in short:
        return f"{here}.{short[branch]}"
    kind, index = branch.rsplit("_", 1)
    first = {"branch5x5": "tower", "branch7x7": "tower", "branch3x3": "tower", "branch7x7dbl": "tower_1"}
    first |= {"branch7x7x3": "tower_1", "branch3x3dbl": "tower" if block == "6a" else "tower_1"}
    return f"{here}.{first[kind]}.conv" + f"_{int(index) - 1}" * (int(index) > 1)


@pytest.mark.parametrize("parts", [("beta", "mean", "var"), ("bias", "running_mean", "running_var")])
def test_names_of_the_torchscript_file(tensors, tmp_path, parts):
    renamed = {"output.weight": tensors["fc.weight"], "CONSTANTS.c0": np.ones(1, np.float32)}
    plain = dict(tensors)
    for name, outputs, *_ in inception_weights.layers():
        plain[f"{name}.bn.weight"] = np.ones(outputs, np.float32)
        there = f"layers.{script_name(name)}"
        renamed[f"{there}.weight"] = tensors[f"{name}.conv.weight"]
        for theirs, ours in zip(parts, ("bias", "running_mean", "running_var"), strict=True):
            renamed[f"{there}.{theirs}"] = tensors[f"{name}.bn.{ours}"]
    found, want = (
        inception.load(tmp_path / name, sha256=[write(tmp_path / name, each)])
        for name, each in (("script.safetensors", renamed), ("plain.safetensors", plain))
    )
    jax.tree.map(np.testing.assert_array_equal, found, want)


def test_wrong_files_are_refused(tmp_path, tensors):
    with pytest.raises(InputError, match="nowhere.pth: expected a checkpoint file, got nothing there"):
        inception.load(tmp_path / "nowhere.pth")
    path = tmp_path / "weights.safetensors"
    digest = write(path, {"a": np.ones(3, np.float32)})
    with pytest.raises(InputError) as raised:
        inception.load(path)
    for each in (*inception.PUBLISHED, *inception.PUBLISHED.values(), f"got sha256 {digest}; download it again"):
        assert each in str(raised.value)
    with pytest.raises(
        InputError, match="expected the 470 tensors of the network, got 470 missing: .*; 1 unexpected: a"
    ):
        inception.load(path, sha256=[digest])


def test_wrong_images_are_refused(params):
    with pytest.raises(InputError, match=r"images: expected \[B, H, W, 1 or 3\], got \[2, 8, 8, 4\]"):
        inception.features(params, np.zeros((2, 8, 8, 4), np.uint8))
    with pytest.raises(InputError, match='resize: expected one of "tf1", "half_pixel", got "bicubic"'):
        inception.features(params, np.zeros((2, 8, 8, 3), np.uint8), resize="bicubic")
