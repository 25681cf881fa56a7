"""Embeddings of time and classes by their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from common.networks.layers import NoiseEmbedding, one_hot, positional

TIMES = np.array([0.0, 0.3, 17.0, 999.0], np.float32)


@pytest.mark.parametrize("endpoint", [False, True])
def test_positional(endpoint):
    got = positional(jnp.asarray(TIMES), 8, highest=100.0, endpoint=endpoint)
    frequencies = 100.0 ** -(np.arange(4) / (3 if endpoint else 4))
    phase = TIMES[:, None].astype(np.float64) * frequencies
    np.testing.assert_allclose(got, np.concatenate([np.cos(phase), np.sin(phase)], 1), atol=2e-4)
    odd = positional(jnp.asarray(TIMES), 9, highest=100.0, endpoint=endpoint)
    np.testing.assert_array_equal(odd, np.pad(got, ((0, 0), (0, 1))))


def test_fourier():
    time = jnp.asarray(TIMES[:3])
    layer = NoiseEmbedding(512)
    variables = layer.init(jax.random.key(0), time)
    assert set(variables) == {"stats"}  # nothing to be trained
    frequencies = np.asarray(variables["stats"]["frequencies"], np.float64)
    assert frequencies.std() == pytest.approx(16, rel=0.2)
    phase = 2 * np.pi * TIMES[:3, None].astype(np.float64) * frequencies
    want = np.concatenate([np.cos(phase), np.sin(phase)], 1)
    np.testing.assert_allclose(layer.apply(variables, time)[:2], want[:2], atol=1e-4)
    half = layer.apply(variables, time.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    with pytest.raises(InputError, match='embedding: expected one of "fourier", "positional", got "sines"'):
        NoiseEmbedding(8, "sines").init(jax.random.key(0), time)


def test_classes():
    want = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0]], np.float32)
    np.testing.assert_array_equal(one_hot(jnp.array([1, -1, 0]), 3, jnp.float32), want)
    np.testing.assert_array_equal(one_hot(want.astype(np.float64), 3, jnp.float32), want)
    assert one_hot(None, 0, jnp.float32) is None


@pytest.mark.parametrize(
    ("labels", "num_classes", "reason"),
    [
        (None, 3, "expected labels of 3 classes, got none; give one a sample"),
        (np.zeros(2, np.int32), 0, "expected none, since the network has no classes"),
        (np.zeros((2, 4), np.float32), 3, r"expected \[B\] or \[B, 3\], got \[2, 4\]"),
        (np.zeros(3, np.float32), 3, r"expected \[B\] or \[B, 3\], got \[3\]"),
    ],
)
def test_classes_that_do_not_fit(labels, num_classes, reason):
    with pytest.raises(InputError, match=reason):
        one_hot(labels, num_classes, jnp.float32)
