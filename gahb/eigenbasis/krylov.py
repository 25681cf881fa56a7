"""Largest eigenvalues of a symmetric operator that is known by its products alone: thick-restarted block Lanczos.

The loop runs on the host and calls one compiled product a step: convolutions inside a compiled loop can be many times
slower than outside on CPUs. Every new block is orthogonalised twice against the whole basis.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from common.errors import RunError, input_error


class Ritz(NamedTuple):
    """What `largest` found; residuals ||S e - value e|| are relative to the largest absolute eigenvalue seen."""

    values: np.ndarray  # [k] descending, float64
    vectors: jax.Array  # [k, d] orthonormal rows
    residuals: np.ndarray  # [k]
    products: int  # with single vectors
    converged: bool  # whether every residual is below the tolerance


def basis_size(size: int, k: int, *, block: int, itemsize: int = 4, max_bytes: int = 2**30) -> int:
    """Returns how many vectors of length `size` to keep: 10 k if they fit `max_bytes`, at least k + 8 blocks."""
    return min(size, max(k + 8 * block, min(10 * k, max_bytes // (itemsize * size))))


def largest(
    product: Callable[[jax.Array], jax.Array],
    size: int,
    k: int,
    *,
    key: jax.Array,
    tolerance: float,
    block: int,
    max_basis: int,
    max_products: int,
    dtype: jnp.dtype = jnp.float32,
) -> Ritz:
    """Returns the `k` algebraically largest eigenpairs of a symmetric `product([block, size]) -> [block, size]`.

    An eigenvalue that occurs more than `block` times may be found fewer times than that. Memory is that of
    `max_basis + k` vectors (twice that at a restart). Stops after `max_products` with what there is.
    Raises `InputError` if `max_basis` has no room for k + 3 blocks or exceeds `size`, `RunError` if a product is not
    finite.
    """
    if not k + 3 * block <= max_basis <= size:
        got = f"k={k}, block={block}, max_basis={max_basis}, d={size}"
        raise input_error("max_basis", expected="k + 3 block <= max_basis <= d", got=got, fix="use the dense route")
    eps = float(jnp.finfo(dtype).eps)
    basis, matrix = jnp.zeros((max_basis, size), dtype), np.zeros((max_basis, max_basis))
    newest = _replace(basis, jnp.zeros((block, size), dtype), np.ones(block, bool), jax.random.fold_in(key, 0))
    basis = _place(basis, newest, 0)
    filled, products, scale = block, 0, 0.0
    due_at = k
    cycle, settled, before = 0, 0, np.full(k, np.inf)
    while True:
        image = product(newest)
        products += block
        new, *small = _expand(basis, image)
        coefficients, lengths, coupling = (np.asarray(each, np.float64) for each in small)
        if not np.isfinite(coefficients).all():
            raise RunError("product: expected finite numbers, got others; look at the image and at the weights")
        rows = slice(filled - block, filled)
        matrix[:filled, rows] = coefficients[:, :filled].T
        matrix[rows, :filled] = coefficients[:, :filled]
        matrix[rows, rows] = (matrix[rows, rows] + matrix[rows, rows].T) / 2
        scale = max(scale, float(np.sqrt(np.square(coefficients).sum(1) + np.square(coupling).sum(1)).max()))
        lost = lengths <= 30 * eps * scale
        coupling = np.where(lost, 0, coupling)
        if lost.any() and not cycle:
            cycle = max(products, 4 * block)
        full = filled + block > max_basis
        if filled >= k and (products >= due_at or full or products >= max_products):
            kept = min(k + (filled - k) // 2, max_basis - 2 * block) if full else k
            values, mixes = scipy.linalg.eigh(matrix[:filled, :filled], subset_by_index=[filled - kept, filled - 1])
            values, mixes = values[::-1], mixes[:, ::-1]
            scale = max(scale, float(np.abs(values).max()))
            residuals = np.linalg.norm(mixes[rows, :k].T @ coupling, axis=1) / (scale or 1.0)
            if cycle and np.abs(values[:k] - before).max() > tolerance * scale:
                # The space became invariant. What it lacks, equal eigenvalues say, comes from new starts, each of which
                # closes after as many products as the first; they go on until one has changed nothing.
                before, settled = values[:k], products + cycle
            converged = bool((residuals <= tolerance).all()) and (products >= settled or filled == size)
            if converged or products >= max_products:
                mix = np.zeros((k, max_basis))
                mix[:, :filled] = mixes[:, :k].T
                return Ritz(values[:k], _combine(basis, mix.astype(dtype)), residuals, products, converged)
            due_at = products + _wait(residuals.max(), tolerance, block, filled)
        if lost.any():
            new = _replace(basis, new, lost, jax.random.fold_in(key, products))
        if full:
            mix = np.zeros((max_basis, max_basis))
            mix[:kept, :filled] = mixes.T
            basis = _combine(basis, mix.astype(dtype))
            matrix[:] = 0
            matrix[range(kept), range(kept)] = values
            filled = kept
        basis = _place(basis, new, filled)
        newest, filled = new, filled + block


def _wait(worst: float, tolerance: float, block: int, filled: int) -> int:
    """Returns how many products to take before looking again: residuals stay large for long and then fall at once.

    A look is an eigenvalue problem on the host, which for hundreds of vectors takes as long as a product.
    """
    return max(block, filled // (16 if worst > 8 * tolerance else 96))


# One row times a transposed matrix is slow on CPUs, the matrix times a column is not.
def _dot(a, b):
    return jnp.matmul(a, b, precision="highest")


@jax.jit
def _expand(basis, image):
    """Splits `image [b, d]`: new orthonormal rows, its coefficients on the basis, and its coupling to the new rows."""
    coefficients = _dot(basis, image.T).T
    rest = image - _dot(coefficients, basis)
    again = _dot(basis, rest.T).T
    rest = rest - _dot(again, basis)
    q, r = jnp.linalg.qr(rest.T)
    left, lengths, right = jnp.linalg.svd(r.T)
    return _dot(right, q.T), coefficients + again, lengths, left * lengths


@jax.jit
def _replace(basis, rows, lost, key):
    """Puts random directions, orthonormal to the basis and to the other rows, where `lost`."""
    kept = jnp.where(lost[:, None], 0, rows)
    fresh = jax.random.normal(key, rows.shape, rows.dtype)
    for _ in range(3):
        fresh = fresh - _dot(_dot(basis, fresh.T).T, basis)
        fresh = fresh - _dot(_dot(fresh, kept.T), kept)
        fresh = jnp.linalg.qr(fresh.T)[0].T
    return jnp.where(lost[:, None], fresh, rows)


@jax.jit
def _combine(basis, mix):
    return _dot(mix, basis)


_place = jax.jit(lambda basis, rows, start: jax.lax.dynamic_update_slice(basis, rows, (start, 0)), donate_argnums=0)
