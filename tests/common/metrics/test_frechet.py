"""Frechet distances where they are known, moments in parts, and statistics files."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.metrics.distances import (
    Gaussian,
    frechet_distance,
    gaussian,
    merge,
    merged,
    moments,
    read_statistics,
    write_statistics,
)


def covariance(dimensions, seed, rank=None):
    root = np.random.default_rng(seed).normal(size=(dimensions, rank or dimensions))
    return root @ root.T


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), dimensions=st.integers(1, 8))
def test_against_the_matrix_square_root(seed, dimensions):
    rng = np.random.default_rng(seed)
    a = Gaussian(rng.normal(size=dimensions), covariance(dimensions, seed) + 0.1 * np.eye(dimensions))
    b = Gaussian(rng.normal(size=dimensions), covariance(dimensions, seed + 100) + 0.1 * np.eye(dimensions))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    want = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(want, rel=1e-8)
    turn = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))[0]
    turned = [Gaussian(turn @ each.mean + 3, turn @ each.covariance @ turn.T) for each in (a, b)]
    assert frechet_distance(*turned) == pytest.approx(want, rel=1e-8)
    scaled = [Gaussian(2 * each.mean, 4 * each.covariance) for each in (a, b)]
    assert frechet_distance(*scaled) == pytest.approx(4 * want, rel=1e-8)


def test_commuting_covariances():
    a, b = Gaussian(np.zeros(3), np.diag([1.0, 4.0, 9.0])), Gaussian(np.ones(3), np.diag([4.0, 4.0, 0.0]))
    assert frechet_distance(a, b) == pytest.approx(3 + 1 + 0 + 9, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 5, 40])
def test_singular_covariances(rank):
    """Fewer samples than features is the common case; the product of such covariances has no real root by itself."""
    same = Gaussian(np.zeros(40), covariance(40, 0, rank))
    scale = np.trace(same.covariance)
    assert frechet_distance(same, same) == pytest.approx(0, abs=1e-11 * scale)
    # Supports at right angles have nothing in common.
    half = np.zeros((40, 40)), np.zeros((40, 40))
    half[0][:20, :20], half[1][20:, 20:] = covariance(20, 1, rank), covariance(20, 2, rank)
    apart = frechet_distance(Gaussian(np.zeros(40), half[0]), Gaussian(np.zeros(40), half[1]))
    assert apart == pytest.approx(np.trace(half[0] + half[1]), rel=1e-10)


def test_translate_is_the_squared_shift():
    x = np.random.default_rng(0).normal(size=(50, 60)).astype(np.float32)
    shift = np.linspace(-1, 1, 60)
    assert frechet_distance(x + shift, x.astype(np.float64)) == pytest.approx(np.square(shift).sum(), rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 29), max_size=4, unique=True), offset=st.sampled_from([0.0, 1e6]))
def test_moments_in_parts(cuts, offset):
    x = np.random.default_rng(1).normal(size=(30, 4)) + offset
    whole = moments(x)
    parts = merged(iter(np.split(x, sorted(cuts))))
    assert parts.count == 30
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(parts.scatter, whole.scatter, rtol=1e-6 if offset else 1e-12, atol=1e-13)
    np.testing.assert_allclose(gaussian(parts).covariance, np.cov(x.T), rtol=1e-6, atol=1e-12)
    backwards = merge(moments(x[10:]), moments(x[:10]))
    np.testing.assert_allclose(backwards.scatter, whole.scatter, rtol=1e-6, atol=1e-13)


def test_statistics_files(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 5))
    path = write_statistics(tmp_path / "reference.npz", x, about="thirty points")
    found = read_statistics(path)
    np.testing.assert_array_equal(found.mean, gaussian(x).mean)
    np.testing.assert_array_equal(found.covariance, gaussian(x).covariance)
    assert found.count == 30 and frechet_distance(x, found) == pytest.approx(0, abs=1e-12)
    np.savez(tmp_path / "edm.npz", mu=np.zeros(5, np.float32), sigma=np.eye(5, dtype=np.float32))
    edm = read_statistics(tmp_path / "edm.npz")
    assert edm.count is None and edm.mean.dtype == np.float64 and frechet_distance(x, edm) > 0
    np.testing.assert_array_equal(write_and_read(tmp_path, edm).covariance, np.eye(5))


def write_and_read(tmp_path, of):
    return read_statistics(write_statistics(tmp_path / "again.npz", of))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mean": np.zeros(2)}, "expected arrays mu and sigma, got mean"),
        (
            {"mu": np.zeros(2), "sigma": np.eye(3)},
            r"expected mu \[D\] and sigma \[D, D\], got mu \(2,\), sigma \(3, 3\)",
        ),
        ({"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "expected finite numbers"),
        ({"mu": np.zeros(2), "sigma": np.array([[1, 0.5], [0, 1]])}, "expected sigma to be a covariance"),
        ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "expected sigma to be a covariance"),
        (
            {"mu": np.array([{}]), "sigma": np.eye(2)},
            "expected reference statistics, got Object arrays cannot be loaded",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_statistics(tmp_path / "bad.npz")


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="features: expected 3 features as in the reference, got 2"):
        frechet_distance(np.eye(2), np.eye(3))
    with pytest.raises(InputError, match="features: expected at least 2 vectors, got 1"):
        gaussian(np.zeros((1, 3)))
    with pytest.raises(InputError, match="features: expected finite numbers, got 1 of 2 rows without"):
        moments(np.array([[np.inf, 1], [0, 1]]))
    with pytest.raises(InputError, match="features: expected at least one set"):
        merged([])
    with pytest.raises(InputError, match="nowhere.npz: expected reference statistics, got"):
        read_statistics(tmp_path / "nowhere.npz")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04cut")
    with pytest.raises(InputError, match="cut.npz: expected reference statistics, got"):
        read_statistics(tmp_path / "cut.npz")
