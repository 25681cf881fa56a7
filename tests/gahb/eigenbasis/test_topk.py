"""Leading eigenpairs and singular triples of known matrices and of networks, with and without the matrix."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gahb
from common.errors import InputError, RunError
from gahb import eigenbasis
from gahb.eigenbasis import krylov
from gahb.networks import BFCNN, init

_SPEC = importlib.util.spec_from_file_location("matrices", Path(__file__).with_name("matrices.py"))
matrices = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(matrices)
SHAPE, SIZE = matrices.SHAPE, matrices.SIZE


def rows(vectors):
    return np.asarray(vectors, np.float64).reshape(len(vectors), -1)


def true_residuals(matrix, basis):
    part = (matrix + matrix.T) / 2
    vectors = rows(basis.vectors)
    return (
        np.linalg.norm(vectors @ part - basis.values[:, None] * vectors, axis=1)
        / np.abs(np.linalg.eigvalsh(part)).max()
    )


@pytest.mark.parametrize(
    ("name", "max_basis"), [*((name, None) for name in matrices.spectra()), ("decaying", 40), ("clustered", 40)]
)
def test_known_spectra(name, max_basis):
    values = matrices.spectra()[name]
    matrix = matrices.symmetric(values)
    found = eigenbasis.top_k(
        matrices.linear(matrix), matrices.image(), 6, method="krylov", tolerance=1e-5, max_basis=max_basis
    )
    assert found.converged and found.values.shape == (6,) and found.vectors.shape == (6, *SHAPE)
    np.testing.assert_allclose(found.values, values[:6], atol=1e-5)
    np.testing.assert_allclose(rows(found.vectors) @ rows(found.vectors).T, np.eye(6), atol=1e-5)
    actual = true_residuals(matrix, found)
    assert (actual <= 2e-5).all() and (found.residuals <= 1e-5).all()
    np.testing.assert_allclose(found.residuals, actual, atol=5e-6)
    assert (np.diff(found.values) <= 0).all()


def test_subspace_of_a_cluster():
    values = matrices.spectra()["clustered"]
    q = matrices.orthogonal()
    found = eigenbasis.top_k(matrices.linear((q * values) @ q.T), matrices.image(), 8, method="krylov", tolerance=1e-5)
    cluster = q.T[2:8].reshape(6, *SHAPE)
    assert np.cos(eigenbasis.principal_angles(found.vectors[2:], cluster)).min() > 0.999999
    assert np.cos(eigenbasis.principal_angles(found.vectors[:2], q.T[:2].reshape(2, *SHAPE))).min() > 0.999999


@pytest.mark.parametrize("matrix", [np.eye(SIZE), np.zeros((SIZE, SIZE)), -np.eye(SIZE)], ids=["one", "zero", "minus"])
def test_every_direction_alike(matrix):
    found = eigenbasis.top_k(matrices.linear(matrix), matrices.image(), 5, method="krylov")
    assert found.converged
    np.testing.assert_allclose(found.values, matrix[0, 0], atol=1e-6)
    np.testing.assert_allclose(rows(found.vectors) @ rows(found.vectors).T, np.eye(5), atol=1e-5)


def test_equal_eigenvalues_beyond_the_block_appear_when_the_space_closes():
    values = np.zeros(SIZE)
    values[:7] = 1
    found = eigenbasis.top_k(
        matrices.linear(matrices.symmetric(values)), matrices.image(), 9, method="krylov", block=2, tolerance=1e-4
    )
    np.testing.assert_allclose(found.values, values[:9], atol=1e-5)


def test_nonsymmetric_matrix_has_the_basis_of_its_symmetric_part_and_its_own_singular_values():
    rng = np.random.default_rng(3)
    matrix = matrices.symmetric(0.9 ** np.arange(SIZE)) + 0.02 * rng.normal(size=(SIZE, SIZE))
    denoise, y = matrices.linear(matrix), matrices.image()
    dense = eigenbasis.top_k(denoise, y, 6, method="dense")
    want = np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1][:6]
    np.testing.assert_allclose(dense.values, want, atol=1e-5)
    free = eigenbasis.top_k(denoise, y, 6, method="krylov", tolerance=1e-5, block=3)
    np.testing.assert_allclose(free.values, want, atol=1e-5)
    assert np.cos(eigenbasis.principal_angles(free.vectors, dense.vectors)).min() > 0.99999

    left, values, right = np.linalg.svd(matrix)
    assert abs(values[0] - want[0]) > 1e-3
    for method in ("dense", "krylov"):
        found = eigenbasis.top_singular(denoise, y, 6, method=method, tolerance=1e-5)
        assert found.converged
        np.testing.assert_allclose(found.values, values[:6], atol=1e-5)
        for got, exact in ((found.left, left.T[:6]), (found.right, right[:6])):
            np.testing.assert_allclose(rows(got) @ rows(got).T, np.eye(6), atol=1e-5)
            assert np.cos(eigenbasis.principal_angles(got, exact.reshape(6, *SHAPE))).min() > 0.99999
        pairs = np.einsum("ki,ij,kj->k", rows(found.left), matrix, rows(found.right))
        np.testing.assert_allclose(pairs, found.values, atol=1e-5)  # both signs belong together
        actual = np.linalg.norm(rows(found.left) @ matrix - found.values[:, None] * rows(found.right), axis=1)
        np.testing.assert_allclose(found.residuals, actual / values[0], atol=2e-6)


def test_small_singular_values_keep_their_digits():
    values = np.concatenate([[1.0, 0.05, 0.01], np.zeros(SIZE - 3)])
    q, p = matrices.orthogonal(0), matrices.orthogonal(1)
    found = eigenbasis.top_singular(
        matrices.linear((q * values) @ p.T), matrices.image(), 3, method="krylov", tolerance=1e-5
    )
    np.testing.assert_allclose(found.values, values[:3], atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_dense_and_matrix_free_agree_on_a_network_of_any_channels(channels):
    network = BFCNN(num_kernels=4, num_layers=4, channels=channels, gain_init="unit")
    y = jax.random.uniform(jax.random.key(1), (1, 8, 12, channels))
    denoise = gahb.denoiser(init(network, jax.random.key(0), y), network)
    dense = eigenbasis.top_k(denoise, y, 10, method="dense")
    free = eigenbasis.top_k(denoise, y, 10, method="krylov", tolerance=1e-4, max_basis=60)
    np.testing.assert_allclose(free.values, dense.values, atol=1e-4 * dense.values[0])
    assert np.cos(eigenbasis.principal_angles(free.vectors, dense.vectors)).min() > 0.999
    assert free.vectors.shape == (10, 8, 12, channels)
    assert eigenbasis.homogeneity(denoise, y) < 1e-5
    matrix = eigenbasis.jacobian(denoise, y)
    np.testing.assert_allclose(matrix, eigenbasis.jacobian(denoise, y, mode="reverse", block=7), atol=1e-5)
    value = np.asarray(denoise(y)).reshape(-1)
    np.testing.assert_allclose(matrix @ np.asarray(y).reshape(-1), value, atol=1e-5 * np.abs(value).max())


def test_double_precision_reaches_double_accuracy():
    with jax.enable_x64(True):
        values = matrices.spectra()["decaying"]
        matrix = jnp.asarray(matrices.symmetric(values))
        denoise = jax.tree_util.Partial(matrices._apply, matrix)
        y = matrices.image().astype(np.float64)
        found = eigenbasis.top_k(denoise, y, 5, method="krylov", tolerance=1e-11)
    np.testing.assert_allclose(found.values, values[:5], atol=1e-13)
    assert found.converged and found.vectors.dtype == np.float64


def test_another_checkpoint_compiles_nothing():
    traces = []

    def denoise(matrix, y):
        traces.append(1)
        return matrices._apply(matrix, y)

    y = matrices.image()
    for seed in range(3):
        matrix = matrices.symmetric(matrices.spectra()["decaying"], seed).astype(np.float32)
        eigenbasis.top_k(jax.tree_util.Partial(denoise, matrix), y, 3, method="krylov")
        if seed == 0:
            first = len(traces)
    assert len(traces) == first + 2  # the shapes are checked anew, without compiling
    assert eigenbasis.linear._linearise._cache_size() >= 1


def test_the_same_key_gives_the_same_and_another_key_agrees():
    denoise, y = matrices.linear(matrices.symmetric(matrices.spectra()["decaying"])), matrices.image()
    one, two = (eigenbasis.top_k(denoise, y, 4, method="krylov", key=jax.random.key(0)) for _ in range(2))
    np.testing.assert_array_equal(one.vectors, two.vectors)
    other = eigenbasis.top_k(denoise, y, 4, method="krylov", key=jax.random.key(1))
    assert not np.array_equal(one.vectors, other.vectors)
    np.testing.assert_allclose(one.values, other.values, atol=1e-5)


def test_stopping_early_is_reported():
    denoise, y = matrices.linear(matrices.symmetric(matrices.spectra()["negative"])), matrices.image()
    found = eigenbasis.top_k(denoise, y, 4, method="krylov", tolerance=1e-6, max_products=10)
    assert not found.converged and found.products == 10 and found.residuals.max() > 1e-6


def test_auto_takes_the_matrix_for_small_images_only():
    values = matrices.spectra()["decaying"]
    small = eigenbasis.top_k(matrices.linear(matrices.symmetric(values)), matrices.image(), 3)
    assert small.products == SIZE
    large = np.linspace(1, 0, 432)
    y = matrices.image(shape=(12, 12, 3))
    found = eigenbasis.top_k(lambda y: y * large.reshape(y.shape[1:]).astype(np.float32), y, 3, tolerance=1e-4)
    assert found.products < 432
    np.testing.assert_allclose(found.values, large[:3], atol=1e-5)


def test_the_basis_fits_its_budget():
    assert krylov.basis_size(10**6, 50, block=2, max_bytes=4 * 10**6 * 300) == 300
    assert krylov.basis_size(6400, 50, block=2) == 500
    assert krylov.basis_size(10**9, 50, block=2) == 66
    assert krylov.basis_size(100, 50, block=2) == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k: expected 1 to 144"),
        ({"k": 145}, "k: expected 1 to 144"),
        ({"block": 0}, "block: expected at least 1"),
        ({"k": 2.0}, r"k: expected a whole number, 1 to 144, got 2.0; use 2$"),
        ({"k": "2"}, "k: expected a whole number"),
        ({"block": 1.5}, "block: expected a whole number, at least 1"),
        ({"max_products": 0}, "max_products: expected at least 1"),
        ({"tolerance": 0}, "tolerance: expected a positive number"),
        ({"start": np.zeros((3, 4, 4, 1))}, r"start: expected images \[n, 6, 8, 3\], got \[3, 4, 4, 1\]"),
        ({"method": "kryolv"}, 'did you mean "krylov"'),
        ({"max_basis": 8}, "max_basis: expected k \\+ 3 block <= max_basis <= d"),
        ({"y": np.zeros((2, *SHAPE), np.float32)}, "y: expected one image"),
        ({"y": np.zeros(SHAPE, np.int32)}, r"y: expected bytes \(uint8\) or floats"),
        ({"denoise": lambda y: y[..., :1]}, "denoise: expected an output like its input"),
        ({"denoise": 3}, "denoise: expected a function"),
    ],
)
def test_mistakes(change, message):
    call = {"denoise": lambda y: y, "y": matrices.image(), "k": 4, "method": "krylov", **change}
    with pytest.raises(InputError, match=message):
        eigenbasis.top_k(**call)


def not_a_number(y):
    return y * jnp.nan


def infinite_slope(y):
    """Finite, with a Jacobian that is not."""
    return jnp.sqrt(jnp.abs(y - y[:, :1, :1]))


@pytest.mark.parametrize("denoise", [not_a_number, infinite_slope])
@pytest.mark.parametrize(
    "call",
    [
        *(lambda f, y, m=method: eigenbasis.top_k(f, y, 3, method=m) for method in ("dense", "krylov")),
        *(lambda f, y, m=method: eigenbasis.top_singular(f, y, 3, method=m) for method in ("dense", "krylov")),
        eigenbasis.jacobian,
        eigenbasis.trace,
        eigenbasis.asymmetry,
        lambda f, y: eigenbasis.trace(f, y, key=0, num=12, method="hutch++"),
        lambda f, y: eigenbasis.implied_sigma(f, y),
    ],
)
def test_numbers_that_are_not_finite_are_one_error(call, denoise):
    with pytest.raises(RunError, match="product: expected finite numbers"):
        call(denoise, matrices.image())


@pytest.mark.parametrize("function", [eigenbasis.jacobian, eigenbasis.trace, eigenbasis.asymmetry])
def test_an_empty_block(function):
    with pytest.raises(InputError, match="block: expected at least 1, got 0; use 1 or more"):
        function(lambda y: y, matrices.image(), block=0)


def test_a_jacobian_too_large_is_refused():
    with pytest.raises(InputError, match="use top_k"):
        eigenbasis.jacobian(lambda y: y, matrices.image(), max_bytes=1000)


def test_example_for_a_denoiser_of_your_own():
    def denoise(y):  # any function of [B, H, W, C]
        return (y + jnp.roll(y, 1, axis=1) + jnp.roll(y, -1, axis=1)) / 3

    basis = eigenbasis.top_k(denoise, jnp.ones((32, 24, 1)), k=10)
    # What is constant along each of the 24 columns comes through whole: an eigenvalue far more frequent than a block.
    np.testing.assert_allclose(basis.values, 1, atol=1e-5)
    assert np.abs(basis.vectors - basis.vectors.mean(1, keepdims=True)).max() < 1e-3
