"""Similarities against numpy, with ties, constant images and sets that come in blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from gahb.metrics.similarity import (
    closest,
    closest_patches,
    correlation,
    cosine,
    distance,
    one_origin,
    patches,
    unit_vectors,
)


def images(count, seed=0, shape=(6, 6, 2)):
    return np.random.default_rng(seed).uniform(size=(count, *shape)).astype(np.float32)


def test_correlation_is_pearsons():
    a, b = images(3), images(4, seed=1)
    want = np.corrcoef(np.vstack([a.reshape(3, -1), b.reshape(4, -1)]))[:3, 3:]
    np.testing.assert_allclose(correlation(a, b), want, atol=1e-5)
    inner = a.reshape(3, -1) @ b.reshape(4, -1).T
    norms = np.linalg.norm(a.reshape(3, -1), axis=1)[:, None] * np.linalg.norm(b.reshape(4, -1), axis=1)
    np.testing.assert_allclose(cosine(a, b), inner / norms, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.1, 10), shift=st.floats(-0.5, 0.5), seed=st.integers(0, 99))
def test_correlation_sees_no_affine_change(scale, shift, seed):
    a = images(2, seed)
    np.testing.assert_allclose(correlation(scale * a + np.float32(shift), a), correlation(a, a), atol=1e-4)
    np.testing.assert_allclose(correlation(-a, a), -np.asarray(correlation(a, a)), atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.5, 0.1, 1 / 3])
def test_constant_images_correlate_with_nothing(value):
    flat = np.full((1, 6, 6, 2), value, np.float32)
    np.testing.assert_array_equal(correlation(flat, images(3)), 0)
    np.testing.assert_array_equal(unit_vectors(flat.reshape(1, -1)), 0)
    faint = flat + 1e-3 * images(1)
    assert correlation(faint, faint)[0, 0] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("block", [1, 4, 5, 11, 100])
def test_closest_does_not_depend_on_blocks(block):
    a, b = images(5), images(11, seed=1)
    b[7] = 0.5 * a[3] + 0.1
    b[9] = b[7]  # a tie, which the lower index wins
    found = closest(a, b, block=block)
    whole = np.asarray(correlation(a, b))
    np.testing.assert_allclose(found.value, whole.max(1), atol=1e-6)
    np.testing.assert_array_equal(np.delete(found.index, 3), np.delete(whole.argmax(1), 3))
    assert found.index[3] in (7, 9)
    assert found.value[3] == pytest.approx(1, abs=1e-5)


def test_closest_in_ones_own_set():
    a = images(6)
    np.testing.assert_array_equal(closest(a, a, block=4).index, np.arange(6))
    other = np.asarray(correlation(a, a)) - 2 * np.eye(6)
    found = closest(a, a, block=4, skip_self=True)
    np.testing.assert_array_equal(found.index, other.argmax(1))
    np.testing.assert_allclose(found.value, other.max(1), atol=1e-6)


def test_distance_is_comparable_with_a_noise_deviation():
    a = images(2, shape=(64, 64, 1))
    noise = np.random.default_rng(3).normal(size=a.shape)
    np.testing.assert_allclose(distance(a, a + 0.2 * noise), 0.2, rtol=0.05)
    np.testing.assert_allclose(distance(a, a - np.array([0.5, 0])[:, None, None, None]), [0.5, 0], atol=1e-6)


def test_patches_are_cut_row_by_row():
    x = np.arange(2 * 7 * 5 * 1, dtype=np.float32).reshape(2, 7, 5, 1)
    cut = np.asarray(patches(x, size=2, stride=2))
    assert cut.shape == (2, 3 * 2, 4)
    np.testing.assert_array_equal(cut[1, 3], x[1, 2:4, 2:4].reshape(-1))
    # Rows beyond the last whole stride take no part, even where a patch would fit.
    assert np.asarray(patches(x, size=3, stride=2)).shape == (2, 2 * 1, 9)
    with pytest.raises(InputError, match="size: expected a patch that fits .*, got 5 with stride 2 in 7x5"):
        patches(x, size=5, stride=2)


@pytest.mark.parametrize("block", [2, 5, 50])
def test_mosaics_are_traced_to_their_parts(block):
    b = images(9, seed=1, shape=(8, 8, 1))
    copy = 0.7 * b[4] + 0.2
    mosaic = b[2].copy()
    mosaic[:, 4:] = b[6][:, 4:]
    found = closest_patches(np.stack([copy, mosaic]), b, size=4, stride=4, block=block)
    np.testing.assert_array_equal(found.index, [[4, 4, 4, 4], [2, 6, 2, 6]])
    np.testing.assert_allclose(found.value, 1, atol=1e-5)
    np.testing.assert_array_equal(one_origin(found.index), [True, False])
