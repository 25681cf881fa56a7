"""The Jacobian of a denoiser and its decompositions against numbers of the original code."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gahb
from gahb import eigenbasis
from gahb.networks import apply

pytestmark = pytest.mark.usefixtures("quick_compilation")

_SPEC = importlib.util.spec_from_file_location("test_gahb", Path(__file__).with_name("test_gahb.py"))
networks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(networks)
assert_abs, assert_rel, nhwc, precision = (
    networks.assert_abs, networks.assert_rel, networks.nhwc, networks.precision,
)  # fmt: skip


def denoiser_of(golden, dtype="float32"):
    d = golden("gahb", "unetA")
    network, variables = networks.network_of(d), networks.trees(d, "sd.", dtype=dtype)
    return network, variables, gahb.denoiser(variables, network)


def images(columns, y):
    """Returns the columns of `[d, k]`, numbered as pixels, as images `[k, H, W, 1]` of the size of `y [1, H, W, 1]`."""
    return np.moveaxis(columns, -1, 0).reshape(-1, *y.shape[1:])


def count_of(d, name):
    return d[name].shape[1]


def apart(values, count, tolerance):
    """Tells which of the first `count` of falling `values` no other is near: their vectors are determined."""
    gaps = -np.diff(values[: count + 1])
    return np.minimum(np.append(np.inf, gaps)[:count], gaps) > tolerance * np.abs(values).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_jacobian(golden, dtype):
    d, double = golden("gahb", "jacobian"), dtype == "float64"
    with precision(dtype):
        y = nhwc(d["y"], dtype)
        network, variables, denoise = denoiser_of(golden, dtype)
        residual, _ = apply(network, variables, y)
        assert_rel(residual, nhwc(d["f_residual"]), 1e-10 if double else 1e-5)
        matrix = eigenbasis.jacobian(denoise, y, mode="reverse" if double else "forward")
    size = len(matrix)
    rest = np.eye(size) - matrix
    assert_abs(rest, d["J_residual_f64" if double else "J_residual"], 1e-10 if double else 1e-5)
    row, column = d["row_ij"]
    height, width = y.shape[1:3]
    assert_abs(rest[row * width + column].reshape(height, width), d["row"], 1e-5)
    assert_rel(rest @ np.asarray(y).reshape(-1), d["f_residual"].reshape(-1), 1e-10 if double else 1e-5)
    if not double:
        return

    basis = eigenbasis.symmetric_basis(matrix, y.shape[1:])
    assert_abs(basis.values, d["sym_eigvals"], 1e-10)
    top = count_of(d, "sym_eigvecs_top16")
    same = np.abs(np.einsum("khwc,khwc->k", basis.vectors[:top], images(d["sym_eigvecs_top16"], y)))
    assert same.min() >= 0.999
    singular, top = eigenbasis.singular_basis(matrix, y.shape[1:]), count_of(d, "left_sv_top8")
    assert_abs(singular.values, d["sing_vals"], 1e-10)
    left = np.einsum("khwc,khwc->k", singular.left[:top], images(d["left_sv_top8"], y))
    right = np.einsum("khwc,khwc->k", singular.right[:top], images(d["right_sv_top8"], y))
    assert np.abs(left).min() >= 0.999
    np.testing.assert_allclose(left, right, atol=1e-8)
    parts = singular.values[:top, None, None, None] * singular.left[:top]
    weights = np.einsum("khwc,hwc->k", singular.right[:top], np.asarray(y[0]))
    assert_rel(np.einsum("k,khwc->hwc", weights, parts)[..., 0], d["subspace_proj8"], 1e-8)
    values = np.linalg.eigvals(matrix)
    distance = np.abs(values[:, None] - d["eigvals_complex"][None])
    assert distance.min(0).max() < 1e-3 and distance.min(1).max() < 1e-3
    assert np.sum(basis.values) == pytest.approx(float(d["sum_lambda"]), rel=1e-9)
    assert np.sum(basis.values**2) == pytest.approx(float(d["sum_lambda2"]), rel=1e-9)


def test_matrix_free(golden):
    d = golden("gahb", "jacobian")
    y = nhwc(d["y"])
    _, _, denoise = denoiser_of(golden)
    top = count_of(d, "sym_eigvecs_top16")
    found = eigenbasis.top_k(denoise, y, top, method="krylov", tolerance=1e-4)
    assert found.converged and (found.residuals <= 1e-4).all()
    assert_abs(found.values, d["sym_eigvals"][:top], 1e-4)
    check_vectors(found.vectors, images(d["sym_eigvecs_top16"], y), d["sym_eigvals"])

    top = count_of(d, "left_sv_top8")
    singular = eigenbasis.top_singular(denoise, y, top, method="krylov", tolerance=1e-4)
    assert_abs(singular.values, d["sing_vals"][:top], 1e-4)
    check_vectors(singular.left, images(d["left_sv_top8"], y), d["sing_vals"])
    check_vectors(singular.right, images(d["right_sv_top8"], y), d["sing_vals"])
    assert eigenbasis.homogeneity(denoise, y) < 1e-5


def check_vectors(got, want, values):
    """Residuals of 1e-4 turn a vector by that over its distance to the other values; what is determined must agree."""
    count, limit = len(want), 20 * 1e-4
    inner = np.abs(np.einsum("khwc,jhwc->kj", got, want))
    single = apart(values, count, limit)
    assert single.any()
    assert np.diag(inner)[single].min() >= 0.999
    inside = values[:count] - values[count] > limit * np.abs(values).max()
    assert inside.any()
    assert np.square(inner[:, inside]).sum(0).min() >= 0.999**2


def test_sums(golden):
    d = golden("gahb", "jacobian")
    y = nhwc(d["y"])
    _, _, denoise = denoiser_of(golden)
    trace, squares = eigenbasis.effective_dimension(denoise, y, block=64)
    # A sum of terms of both signs.
    size = np.abs(d["sym_eigvals"]).sum()
    assert trace.value == pytest.approx(float(d["trace_denoiser"]), rel=1e-5, abs=1e-6 * size)
    assert squares.value == pytest.approx(float(d["frob2"]), rel=1e-5)
    key = jax.random.key(0)
    exact, drawn = eigenbasis.asymmetry(denoise, y, block=64), eigenbasis.asymmetry(denoise, y, key=key, block=64)
    assert exact.value == pytest.approx(float(d["asym_ratio"]), rel=1e-4)
    assert abs(drawn.value - exact.value) < 4 * drawn.error < 0.1 * max(1, exact.value)
    value = np.asarray(jnp.square(y - denoise(y)).sum(), np.float64)
    sigma = 0.1
    estimate = eigenbasis.sure(denoise, y, sigma, block=64)
    want = (2 * sigma**2 * float(d["trace_denoiser"]) + value) / y.size - sigma**2
    assert estimate.value == pytest.approx(want, rel=1e-5, abs=1e-7)
