"""The pyramid, images prepared for it, and its weights from files."""

import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax.model import features, weights
from diffmatch_jax.model.features import CONVS, MEAN, STD

LEGACY = Path(__file__).parent / "data" / "vgg_legacy.pth"


def state_dict(width=2, beyond=True):
    rng, tensors, inputs = np.random.default_rng(0), {}, 3
    for name, number in CONVS.items():
        outputs = width * int(name[4])
        tensors[f"features.{number}.weight"] = rng.normal(size=(outputs, inputs, 3, 3)).astype(np.float32) / 3
        tensors[f"features.{number}.bias"] = rng.normal(size=outputs).astype(np.float32)
        inputs = outputs
    if beyond:
        tensors["features.24.weight"] = np.zeros((4, inputs, 3, 3), np.float32)
        tensors["classifier.0.bias"] = np.zeros(4, np.float32)
    return tensors


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


def test_prepared_images():
    image = np.random.default_rng(0).integers(0, 256, (1, 30, 21, 3), np.uint8)
    both = features.prepared(image, fine=64, coarse=16)
    assert both.fine.shape == (1, 64, 64, 3) and both.coarse.shape == (1, 16, 16, 3)
    np.testing.assert_allclose(both.coarse.mean(), image.mean() / 255, atol=0.01)  # nothing is skipped
    gray = features.prepared(image[..., :1], fine=64, coarse=16)
    np.testing.assert_allclose(gray.fine[..., 2], both.fine[..., 0], atol=1e-6)
    unit = features.prepared(image.astype(np.float32) / 255, fine=64, coarse=16)
    np.testing.assert_allclose(unit.fine, both.fine, atol=1e-6)
    with pytest.raises(InputError, match=r"images: expected \[B, H, W, 1 or 3\]"):
        features.prepared(image[0])
    np.testing.assert_allclose(features.normalise(jnp.asarray(MEAN) + jnp.asarray(STD)), np.ones(3), atol=1e-6)


def test_levels_of_any_pyramid():
    def pyramid(images):
        return [images[:, :: 2**i, :: 2**i] for i in range(5)]

    images = features.Prepared(jnp.ones((1, 64, 64, 3)), jnp.zeros((1, 32, 32, 3)))
    maps, second = features.both_stages(pyramid, images)
    assert [each.shape[1] for each in maps] == [16, 8, 4, 2]
    assert [float(each.mean()) for each in maps] == [1, 1, 0, 0]
    assert second.shape[1] == 32
    for got, want in zip(features.stage1_maps(pyramid, images), maps, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(features.stage2_map(pyramid, images), second)


def test_vgg_is_a_frozen_pytree():
    params = weights.convert_vgg(state_dict())
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(1, 16, 32, 3)), jnp.float32)
    traces = []

    @jax.jit
    def run(pyramid, images):
        traces.append(1)
        return pyramid(images)

    levels = run(features.vgg(params), images)
    assert [each.shape for each in levels] == [(1, 16 >> i, 32 >> i, 2 * max(i, 1)) for i in range(5)]
    run(features.vgg(jax.tree.map(lambda leaf: 2 * leaf, params)), images)
    assert len(traces) == 1  # other weights, the same program
    want = features.pyramid(params, features.normalise(images))
    np.testing.assert_allclose(levels[4], want[4], atol=1e-5)
    gradient = jax.grad(lambda params: features.vgg(params)(images)[1].sum())(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_weights_from_a_file(tmp_path):
    path = tmp_path / "vgg.safetensors"
    tensors = state_dict()
    digest = write(path, tensors)
    params = weights.load_vgg(path, sha256=[digest])
    assert list(params) == list(CONVS)
    np.testing.assert_array_equal(params["conv3_2"]["kernel"], tensors["features.12.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(params["conv4_3"]["bias"], tensors["features.21.bias"])
    assert weights.load_vgg(path, sha256=None).keys() == params.keys()
    with pytest.raises(InputError, match=r"expected torchvision's vgg16-397923af.pth \(397923af.*got sha256 " + digest):
        weights.load_vgg(path)
    with pytest.raises(InputError, match="got nothing there"):
        weights.load_vgg(tmp_path / "vgg.pth")


def test_weights_in_the_published_format():
    """PyTorch's format before 1.6, with the whole trunk and a classifier (see make_vgg.py)."""
    params = weights.load_vgg(LEGACY, sha256=None)
    assert list(params) == list(CONVS)
    for name, number in CONVS.items():
        inputs = 3 if number == 0 else 1
        want = np.arange(9.0 * inputs).reshape(inputs, 3, 3, 1).transpose(1, 2, 0, 3) + number
        np.testing.assert_array_equal(params[name]["kernel"], want)
        assert params[name]["bias"] == [-number]


def test_wrong_weights():
    missing = state_dict(beyond=False)
    del missing["features.7.bias"]
    with pytest.raises(InputError, match="1 missing: features.7.bias"):
        weights.convert_vgg(missing)
    with pytest.raises(InputError, match="1 unexpected: features.1.weight"):
        weights.convert_vgg(state_dict() | {"features.1.weight": np.zeros(2, np.float32)})
    narrow = state_dict()
    narrow["features.5.weight"] = narrow["features.5.weight"][:, :1]
    with pytest.raises(InputError, match=r"features.5.weight expected \[4, 2, 3, 3\], got \[4, 1, 3, 3\]"):
        weights.convert_vgg(narrow)
    broken = state_dict()
    broken["features.0.bias"][0] = np.nan
    with pytest.raises(InputError, match="features.0.bias: expected finite numbers"):
        weights.convert_vgg(broken)


def test_sides_that_do_not_halve():
    with pytest.raises(InputError, match="multiples of 16, got 24 x 32"):
        features.pyramid({}, jnp.zeros((1, 24, 32, 3)))
