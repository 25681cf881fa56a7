"""Coefficients, truncation, counts, angles and pictures of a basis."""

import numpy as np
import pytest

from common.errors import InputError
from gahb.eigenbasis import Eigenbasis, coefficients, count_above, pictures, principal_angles, shrinkage, truncate

SHAPE = (4, 3, 2)


def basis(k=24):
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0]
    return Eigenbasis(np.linspace(1.1, -0.2, 24)[:k], q.T[:k].reshape(k, *SHAPE), np.zeros(k), 24, True)


def image(seed=1):
    return np.random.default_rng(seed).uniform(size=SHAPE)


def test_coefficients_rebuild_the_image():
    whole, y, x = basis(), image(1), image(2)
    rebuilt = np.einsum("k,khwc->hwc", coefficients(whole, y), whole.vectors)
    np.testing.assert_allclose(rebuilt, y, atol=1e-12)
    factors = shrinkage(whole, y[None], x)
    np.testing.assert_array_equal(factors.values, whole.values)
    np.testing.assert_allclose(factors.noisy, whole.vectors.reshape(24, -1) @ y.reshape(-1), atol=1e-12)
    np.testing.assert_allclose(factors.clean, whole.vectors.reshape(24, -1) @ x.reshape(-1), atol=1e-12)
    assert shrinkage(whole, y).clean is None


def test_truncation_ends_at_the_whole_operator():
    whole, y = basis(), image()
    rows = whole.vectors.reshape(24, -1)
    operator = (rows.T * whole.values) @ rows
    parts = truncate(whole, y, [0, 1, 24])
    assert parts.shape == (3, *SHAPE) and not parts[0].any()
    np.testing.assert_allclose(parts[2].reshape(-1), operator @ y.reshape(-1), atol=1e-12)
    np.testing.assert_allclose(parts[1].reshape(-1), whole.values[0] * rows[0] * (rows[0] @ y.reshape(-1)), atol=1e-12)


def test_counts():
    assert count_above(basis(), 0.5) == np.sum(np.linspace(1.1, -0.2, 24) > 0.5)
    assert count_above(basis(), -1) == 24
    with pytest.raises(InputError, match="ask top_k for more"):
        count_above(basis(3), 0.5)


def test_angles():
    e = np.eye(24).reshape(24, *SHAPE)
    turned = np.cos(0.3) * e[0] + np.sin(0.3) * e[5]
    np.testing.assert_allclose(principal_angles(e[:3], np.stack([turned, e[1]])), [0, 0.3], atol=1e-12)
    np.testing.assert_allclose(principal_angles(e[:2], e[2:4]), np.pi / 2)
    # Neither length nor mixing of the spanning images matters, and tiny angles are resolved.
    mixed = np.stack([5 * e[0] + 2 * e[1], e[0] - 3 * e[1]])
    np.testing.assert_allclose(principal_angles(mixed, e[:4]), 0, atol=1e-12)
    nearly = np.cos(1e-9) * e[0] + np.sin(1e-9) * e[7]
    np.testing.assert_allclose(principal_angles(e[:1], nearly[None]), 1e-9, rtol=1e-5)


def test_pictures_have_their_largest_pixel_white_and_zero_gray():
    vectors = basis().vectors.copy()
    vectors[2] = 0
    shown = pictures(vectors)
    assert shown.dtype == np.float32 and shown.shape == vectors.shape and shown.min() >= 0
    np.testing.assert_array_equal(shown[2], 0.5)
    peaks = shown.reshape(24, -1).max(1)
    np.testing.assert_allclose(np.delete(peaks, 2), 1)
    np.testing.assert_array_equal(pictures(-vectors), shown)


def test_mistakes():
    with pytest.raises(InputError, match="terms: expected numbers from 0 to 3"):
        truncate(basis(3), image(), [4])
    with pytest.raises(InputError, match=r"image: expected an image \[4, 3, 2\]"):
        coefficients(basis(), np.zeros((4, 4, 2)))
