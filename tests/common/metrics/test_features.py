"""Features in chunks: the same on any number of devices and after any stop; statistics from sources and from files."""

import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from common.data.source import ArraySource
from common.errors import InputError
from common.metrics import distances, features

IMAGES = np.random.default_rng(0).integers(0, 256, (37, 8, 6, 3), np.uint8)
SOURCE = ArraySource({"image": IMAGES}, label="noise")
RANDOM = features.random_features(channels=3, widths=(4, 5))


def test_pixels_are_the_images():
    found = features.extract(features.pixels(), SOURCE, num=5, batch_size=2)
    np.testing.assert_allclose(found, IMAGES[:5].reshape(5, -1) / 255, rtol=1e-6)
    assert found.dtype == np.float32


def test_random_features_by_hand():
    extractor = features.random_features(channels=1, widths=(3,))
    (kernel,) = extractor.params
    image = np.zeros((1, 4, 4, 1), np.float32) + 0.75
    # Stride 2 on 4x4 pads one row and column at the end only: four places, of which one is whole.
    parts = [
        np.maximum(0.5 * np.asarray(kernel)[:rows, :columns].sum((0, 1, 2)), 0) for rows in (3, 2) for columns in (3, 2)
    ]
    np.testing.assert_allclose(
        features.extract(extractor, ArraySource({"image": image}))[0], np.mean(parts, 0), rtol=1e-5
    )
    other = features.random_features(channels=1, widths=(3,), seed=1)
    assert not np.allclose(other.params[0], kernel) and other.identity != extractor.identity
    # Deeper ones get the mean of every layer.
    assert features.extract(RANDOM, SOURCE, num=2).shape == (2, 9)


@pytest.mark.parametrize("extractor", [features.pixels(), RANDOM], ids=["pixels", "random"])
def test_chunks_hold_what_memory_would(tmp_path, extractor):
    told = []
    store, whole = features.extract_to(tmp_path, extractor, SOURCE, batch_size=4, chunk_rows=8, add=told.append)
    assert whole and sum(told) == 37 and store.num_chunks(37) == 5
    in_memory = features.extract(extractor, SOURCE, batch_size=5)
    np.testing.assert_allclose(store.load("features", 37), in_memory, rtol=1e-5, atol=1e-6)
    found = features.statistics(store, 37)
    np.testing.assert_allclose(distances.gaussian(found).covariance, np.cov(in_memory.T), rtol=1e-4, atol=1e-7)
    assert features.statistics(store, 10).count == 10


def test_stopped_and_resumed_is_the_same_bytes(tmp_path):
    how = {"batch_size": 4, "chunk_rows": 8}
    features.extract_to(tmp_path / "whole", RANDOM, SOURCE, **how)
    for _ in range(20):
        polls = iter([False] * 3 + [True] * 100)
        _, whole = features.extract_to(tmp_path / "parts", RANDOM, SOURCE, should_stop=lambda p=polls: next(p), **how)
        if whole:
            break
    assert whole
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()


SCRIPT = """
import sys, pathlib, jax
sys.path.insert(0, sys.argv[3])
import test_features as t
assert jax.local_device_count() == int(sys.argv[1])
t.features.extract_to(pathlib.Path(sys.argv[2]), t.RANDOM, t.SOURCE, batch_size=4, chunk_rows=8)
"""


@pytest.mark.parametrize("devices", [2, 4])
def test_any_number_of_devices_gives_the_same_bytes(tmp_path, devices):
    features.extract_to(tmp_path / "one", RANDOM, SOURCE, batch_size=4, chunk_rows=8)
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.getcwd(),
    }
    arguments = [str(devices), tmp_path / "many", pathlib.Path(__file__).parent]
    subprocess.run([sys.executable, "-c", SCRIPT, *arguments], env=environment, check=True)
    assert len(list((tmp_path / "one").iterdir())) == 6
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes(), path.name


def test_features_of_others_are_refused(tmp_path):
    features.extract_to(tmp_path, RANDOM, SOURCE, num=3)
    with pytest.raises(InputError, match='expected rows of {"features": "pixels"'):
        features.extract_to(tmp_path, features.pixels(), SOURCE, num=3)
    with pytest.raises(InputError, match="got those of"):
        features.extract_to(tmp_path, RANDOM, ArraySource({"image": IMAGES[::-1]}), num=3)
    with pytest.raises(InputError, match="num: expected 1 to 37, the images there are, got 38"):
        features.extract_to(tmp_path, RANDOM, SOURCE, num=38)


def test_float_images_count_as_they_are():
    as_float = ArraySource({"image": (IMAGES / np.float32(255)).astype(np.float32)})
    for extractor in (features.pixels(), RANDOM):
        both = [features.extract(extractor, each, num=4) for each in (SOURCE, as_float)]
        np.testing.assert_allclose(*both, rtol=1e-5, atol=1e-6)
    assert jnp.allclose(features.pixels().apply((), IMAGES[:1])[0, 0], IMAGES[0, 0, 0, 0] / 255)
