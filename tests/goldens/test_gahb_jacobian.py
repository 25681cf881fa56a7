"""The Jacobian of a denoiser and its decompositions against numbers of the original code."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gahb
from gahb import eigenbasis
from gahb.network import apply

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


def images(columns, shape=(16, 16, 1)):
    return np.moveaxis(columns, -1, 0).reshape(-1, *shape)


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
    assert_abs(rest[row * 16 + column].reshape(16, 16), d["row"], 1e-5)
    assert_rel(rest @ np.asarray(y).reshape(-1), d["f_residual"].reshape(-1), 1e-10 if double else 1e-5)
    if not double:
        return

    basis = eigenbasis.symmetric_basis(matrix, (16, 16, 1))
    assert_abs(basis.values, d["sym_eigvals"], 1e-10)
    same = np.abs(np.einsum("khwc,khwc->k", basis.vectors[:16], images(d["sym_eigvecs_top16"])))
    assert same.min() >= 0.999
    singular = eigenbasis.singular_basis(matrix, (16, 16, 1))
    assert_abs(singular.values, d["sing_vals"], 1e-10)
    left = np.einsum("khwc,khwc->k", singular.left[:8], images(d["left_sv_top8"]))
    right = np.einsum("khwc,khwc->k", singular.right[:8], images(d["right_sv_top8"]))
    assert np.abs(left).min() >= 0.999
    np.testing.assert_allclose(left, right, atol=1e-8)
    parts = singular.values[:8, None, None, None] * singular.left[:8]
    weights = np.einsum("khwc,hwc->k", singular.right[:8], np.asarray(y[0]))
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
    found = eigenbasis.top_k(denoise, y, 16, method="krylov", tolerance=1e-4)
    assert found.converged and (found.residuals <= 1e-4).all()
    assert_abs(found.values, d["sym_eigvals"][:16], 1e-4)
    assert np.cos(eigenbasis.principal_angles(found.vectors, images(d["sym_eigvecs_top16"]))).min() >= 0.999
    same = np.abs(np.einsum("khwc,khwc->k", found.vectors, images(d["sym_eigvecs_top16"])))
    assert same.min() >= 0.999

    singular = eigenbasis.top_singular(denoise, y, 8, method="krylov", tolerance=1e-4)
    assert_abs(singular.values, d["sing_vals"][:8], 1e-4)
    assert np.cos(eigenbasis.principal_angles(singular.left, images(d["left_sv_top8"]))).min() >= 0.999
    assert np.cos(eigenbasis.principal_angles(singular.right, images(d["right_sv_top8"]))).min() >= 0.999
    assert eigenbasis.homogeneity(denoise, y) < 1e-5


def test_sums(golden):
    d = golden("gahb", "jacobian")
    y = nhwc(d["y"])
    _, _, denoise = denoiser_of(golden)
    trace, squares = eigenbasis.effective_dimension(denoise, y, block=64)
    assert trace.value == pytest.approx(float(d["trace_denoiser"]), rel=1e-5)
    assert squares.value == pytest.approx(float(d["frob2"]), rel=1e-5)
    key = jax.random.key(0)
    exact, drawn = eigenbasis.asymmetry(denoise, y, block=64), eigenbasis.asymmetry(denoise, y, key=key, block=64)
    assert exact.value == pytest.approx(float(d["asym_ratio"]), rel=1e-4)
    assert abs(drawn.value - exact.value) < 4 * drawn.error < 0.1
    value = np.asarray(jnp.square(y - denoise(y)).sum(), np.float64)
    estimate = eigenbasis.sure(denoise, y, 0.1, block=64)
    assert estimate.value == pytest.approx((0.02 * float(d["trace_denoiser"]) + value) / 256 - 0.01, rel=1e-5)
