"""The leading eigenpairs and singular triples of a denoiser's Jacobian, without the Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np

from common.errors import choice, within
from common.prng import as_key
from gahb.denoisers import Denoiser
from gahb.eigenbasis.dense import Eigenbasis, SingularBasis, jacobian, singular_basis, symmetric_basis
from gahb.eigenbasis.krylov import Ritz, basis_size, largest
from gahb.eigenbasis.linear import Linearisation, linearise, normal, pull, push, symmetric

METHODS = ("auto", "dense", "krylov")
DENSE_SIZE = 400  # d up to which "auto" builds the matrix


def top_k(
    denoise: Denoiser,
    y: jax.Array,
    k: int,
    *,
    tolerance: float = 1e-3,
    method: str = "auto",
    block: int = 2,
    key: jax.Array | None = None,
    max_basis: int | None = None,
    max_products: int | None = None,
) -> Eigenbasis:
    """Returns the `k` largest shrinkage factors of a denoiser at `y [H, W, C]` or `[1, H, W, C]`, and where they act.

    (lambda_k, e_k) are the eigenpairs of S = (J + J^T) / 2, J = df/dy; f(y) = sum_k lambda_k <y, e_k> e_k for a
    bias-free denoiser with a symmetric Jacobian (Kadkhodaie et al., ICLR 2024, equation 7). Works for any denoiser, the
    library's or yours, and any number of channels.

    tolerance: of every residual, relative to the largest absolute eigenvalue. method: "krylov" needs products only and
    keeps `max_basis` images (default: 10 k of them or 1 GiB); "dense" builds J; "auto" is dense for small images only.
    block: vectors per product; an eigenvalue that occurs more often than that may be found too few times, and a device
    with many cores has larger blocks almost for free. key: of the random start. max_products: stops there (default: 20
    times `max_basis`) with `converged` False. Raises `InputError` for impossible numbers.
    """
    key = as_key(0 if key is None else key)
    linear = linearise(denoise, y)
    if _dense(method, linear.size, k, block):
        return symmetric_basis(jacobian(denoise, y), linear.y.shape, k)
    ritz = _largest(symmetric, linear, k, tolerance, block, key, max_basis, max_products)
    vectors = np.asarray(ritz.vectors).reshape(k, *linear.y.shape)
    return Eigenbasis(ritz.values, vectors, ritz.residuals, ritz.products, ritz.converged)


def top_singular(
    denoise: Denoiser,
    y: jax.Array,
    k: int,
    *,
    tolerance: float = 1e-3,
    method: str = "auto",
    block: int = 2,
    key: jax.Array | None = None,
    max_basis: int | None = None,
    max_products: int | None = None,
) -> SingularBasis:
    """Returns the `k` largest singular values of the Jacobian at `y`, with left and right vectors.

    The right vectors come from J^T J by the same solver, the values and left ones from the singular values of J
    restricted to them, so that small ones lose no digits. Arguments as in `top_k`.
    """
    key = as_key(0 if key is None else key)
    linear = linearise(denoise, y)
    if _dense(method, linear.size, k, block):
        return singular_basis(jacobian(denoise, y), linear.y.shape, k)
    # A residual of J^T J, relative to its largest eigenvalue, is larger in terms of J by value_1 / value_k.
    ritz = _largest(normal, linear, k, tolerance / 4, block, key, max_basis, max_products)
    start = np.asarray(ritz.vectors, np.float64)
    moved = _in_blocks(push, linear, start, block)
    left, values, mix = np.linalg.svd(moved.T, full_matrices=False)
    right = mix @ start
    back = _in_blocks(pull, linear, left.T, block)
    residuals = np.linalg.norm(back - values[:, None] * right, axis=1) / (values[0] or 1.0)
    images = [x.reshape(k, *linear.y.shape) for x in (left.T, right)]
    return SingularBasis(values, *images, residuals, ritz.products + k, bool((residuals <= tolerance).all()))


def _dense(method: str, size: int, k: int, block: int) -> bool:
    choice("method", method, METHODS)
    within("k", k, 1, size, what=", the number of pixels times channels")
    within("block", block, 1)
    return method == "dense" or (method == "auto" and (size <= DENSE_SIZE or k + 8 * block > size))


def _largest(product, linear: Linearisation, k, tolerance, block, key, max_basis, max_products) -> Ritz:
    shape, dtype = linear.y.shape, linear.y.dtype
    room = max_basis or basis_size(linear.size, k, block=block, itemsize=dtype.itemsize)
    return largest(
        lambda rows: product(linear, rows.reshape(-1, *shape)).reshape(rows.shape),
        linear.size,
        k,
        key=key,
        tolerance=tolerance,
        block=block,
        max_basis=room,
        max_products=max_products or 20 * room,
        dtype=dtype,
    )


def _in_blocks(product, linear: Linearisation, rows: np.ndarray, block: int) -> np.ndarray:
    """Applies a product to `rows [n, d]`, `block` at a time; float64 on the host."""
    parts = []
    for start in range(0, len(rows), block):
        part = np.zeros((block, linear.size))
        taken = rows[start : start + block]
        part[: len(taken)] = taken
        images = jnp.asarray(part.reshape(block, *linear.y.shape), linear.y.dtype)
        parts.append(np.asarray(product(linear, images), np.float64).reshape(block, -1)[: len(taken)])
    return np.concatenate(parts)
