"""Repeated and clustered eigenvalues: every copy is found with the default arguments, or the result says it is not."""

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial

from gahb import eigenbasis
from gahb.eigenbasis.krylov import doubt

_SPEC = importlib.util.spec_from_file_location("matrices", Path(__file__).with_name("matrices.py"))
matrices = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(matrices)
SIZE = matrices.SIZE


def filtering(gain, y):
    """A translation-invariant filter [n, n]: each gain occurs for up to 8 frequencies."""
    return jnp.fft.ifft2(jnp.fft.fft2(y, axes=(1, 2)) * gain[..., None], axes=(1, 2)).real.astype(y.dtype)


def squared_frequencies(size):
    frequency = np.fft.fftfreq(size, 1 / size)
    return frequency[:, None] ** 2 + frequency**2


def low_pass(size, width=0.05):
    return np.exp(-width * squared_frequencies(size))


def power_law_wiener(size, sigma=0.1, exponent=2.0):
    power = np.maximum(squared_frequencies(size), 0.5) ** (-exponent / 2)
    return power / (power + 5 * sigma**2)


@pytest.mark.parametrize(
    ("gain", "k", "method"),
    [
        (low_pass(24), 21, "auto"),
        (low_pass(24), 21, "krylov"),
        (low_pass(24), 50, "krylov"),
        (power_law_wiener(32), 30, "auto"),
        (low_pass(64, 0.02), 21, "auto"),
    ],
    ids=["low-pass", "low-pass krylov", "low-pass 50", "wiener", "low-pass 64"],
)
def test_filters(gain, k, method):
    denoise = Partial(filtering, jnp.asarray(gain, jnp.float32))
    found = eigenbasis.top_k(denoise, np.full((*gain.shape, 1), 0.5, np.float32), k, method=method)
    assert found.converged
    np.testing.assert_allclose(found.values, np.sort(gain.reshape(-1))[::-1][:k], atol=1e-5)
    vectors = found.vectors.reshape(k, -1)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(k), atol=1e-4)
    moved = np.asarray(filtering(gain.astype(np.float32), found.vectors.astype(np.float32))).reshape(k, -1)
    assert np.linalg.norm(moved - found.values[:, None] * vectors, axis=1).max() < 1.1e-3 * gain.max()


def assert_largest(values, k, atol=1e-5, tolerance=1e-3, **how):
    values = np.sort(values)[::-1]
    matrix = matrices.symmetric(values)
    found = eigenbasis.top_k(matrices.linear(matrix), matrices.image(), k, method="krylov", tolerance=tolerance, **how)
    assert found.converged
    np.testing.assert_allclose(found.values, values[:k], atol=atol)
    vectors = found.vectors.reshape(k, -1)
    residuals = np.linalg.norm(vectors @ matrix - found.values[:, None] * vectors, axis=1) / np.abs(values).max()
    assert residuals.max() < 1.1 * tolerance + 1e-5  # the scale that is known is a little below the largest value


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize(
    ("values", "k"),
    [
        (np.repeat([1.0, 0.0], [30, SIZE - 30]), 40),
        (np.repeat([1.0, 0.0], [30, SIZE - 30]), 12),
        (np.concatenate([np.ones(20), np.linspace(0.8, 0, SIZE - 20)]), 20),
        (np.concatenate([np.full(6, 1.2), np.linspace(1.1, -3, SIZE - 6)]), 6),
        (np.concatenate([np.full(16, 1.2), np.ones(9), np.full(3, 0.9), np.linspace(0.7, -0.2, SIZE - 28)]), 28),
        (np.concatenate([1 + 1e-6 * np.arange(12), np.linspace(0.6, 0, SIZE - 12)]), 12),
    ],
    ids=["projection", "part of a projection", "ones and a tail", "negative tail", "planted 16", "cluster"],
)
def test_spectra(values, k, block):
    # A residual r leaves an error of up to r^2 / gap; r is relative to the largest absolute value, 3 in one case.
    worst = (1e-3 * np.abs(values).max()) ** 2 / 0.1
    assert_largest(values, k, atol=max(worst, 1e-5), block=block)


def test_identity_and_a_little_noise():
    noise = np.random.default_rng(0).normal(size=(SIZE, SIZE)) / np.sqrt(SIZE)
    values = 1 + 1e-2 * np.linalg.eigvalsh(noise + noise.T)
    # Residuals are relative to the largest value, near 1; the spectrum is only 0.06 wide.
    assert_largest(values, 8, tolerance=1e-5)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    multiplicities=st.lists(st.integers(1, 16), min_size=1, max_size=4),
    gaps=st.lists(st.floats(0.03, 0.3), min_size=4, max_size=4),
    lowest=st.floats(-1, 0.2),
    extra=st.integers(0, 5),
)
def test_planted_multiplicities(multiplicities, gaps, lowest, extra):
    levels = 1.5 - np.cumsum(gaps)[: len(multiplicities)]
    planted = np.repeat(levels, multiplicities)
    tail = np.linspace(levels[-1] - 0.1, lowest - 0.5, SIZE - len(planted))
    k = min(len(planted) + extra, 60)
    assert_largest(np.concatenate([planted, tail]), k, atol=2e-5)


def test_singular_values():
    values = np.concatenate([np.full(9, 1.3), np.full(4, 1.0), np.linspace(0.7, 0, SIZE - 13)])
    matrix = (matrices.orthogonal(0) * values) @ matrices.orthogonal(1).T
    found = eigenbasis.top_singular(matrices.linear(matrix), matrices.image(), 13, method="krylov")
    assert found.converged
    np.testing.assert_allclose(found.values, values[:13], atol=1e-5)


def test_a_budget_that_ends_before_the_verification_has_not_converged():
    values = np.concatenate([np.full(9, 1.0), np.linspace(0.5, 0, SIZE - 9)])
    denoise = matrices.linear(matrices.symmetric(values))
    full = eigenbasis.top_k(denoise, matrices.image(), 3, method="krylov")
    np.testing.assert_allclose(full.values, 1, atol=1e-5)
    early = eigenbasis.top_k(denoise, matrices.image(), 3, method="krylov", max_products=full.products - 4)
    assert full.converged and not early.converged


def test_a_guess_saves_products_and_a_wrong_one_misleads_nobody():
    values = np.concatenate([1.1 - 0.02 * np.arange(10), np.linspace(0.7, 0, SIZE - 10)])
    matrix = matrices.symmetric(values)
    call = {"y": matrices.image(), "k": 10, "method": "krylov", "block": 1}
    plain = eigenbasis.top_k(matrices.linear(matrix), **call)
    guess = plain.vectors + 0.01 * np.random.default_rng(0).normal(size=plain.vectors.shape)
    near = eigenbasis.top_k(matrices.linear(matrix), start=guess, **call)
    # An invariant subspace without the leading vectors.
    far = eigenbasis.top_k(
        matrices.linear(matrix), start=matrices.orthogonal().T[5:12].reshape(7, *matrices.SHAPE), **call
    )
    for found in (plain, near, far):
        assert found.converged
        np.testing.assert_allclose(found.values, values[:10], atol=1e-5)
    assert near.products < plain.products


STEPS = 30


def lanczos(values, start):
    """The Ritz values of a diagonal matrix after 1, 2, ... `STEPS` steps from `start [n, block]`, double precision."""
    basis = block = np.linalg.qr(start)[0]
    for _ in range(STEPS - 1):
        block = values[:, None] * block
        for _ in range(2):
            block = block - basis @ (basis.T @ block)
        block = np.linalg.qr(block)[0]
        basis = np.hstack([basis, block])
    matrix = basis.T @ (values[:, None] * basis)
    return [np.linalg.eigvalsh(matrix[:count, :count]) for count in start.shape[1] * np.arange(1, STEPS + 1)]


@pytest.mark.parametrize("block", [1, 2])
def test_the_proof_errs_no_more_often_than_it_says(block):
    """An eigenvalue of 1 above a spectrum that ends at 0.8: from random starts, it is rarely ruled out unseen."""
    spectrum, level, failure = np.linspace(0, 0.8, 299), 0.95, 0.05
    rng = np.random.default_rng(0)

    def steps_to(values, failure):
        start = rng.normal(size=(len(values), block))
        for steps, ritz in enumerate(lanczos(values, start), 1):
            if ritz[-1] >= level:
                return "shown", steps
            if doubt(level, ritz, steps, block=block, size=len(values), lowest=0.0) <= failure:
                return "ruled out", steps
        return "open", STEPS

    with_it = [steps_to(np.append(spectrum, 1.0), failure)[0] for _ in range(100)]
    assert with_it.count("ruled out") <= 100 * failure and with_it.count("shown") >= 100 * (1 - failure)
    without = [steps_to(spectrum, 1e-3) for _ in range(20)]
    assert {verdict for verdict, _ in without} == {"ruled out"}
    assert 3 < np.mean([steps for _, steps in without]) < 20
