"""The leading eigenpairs and singular triples of a denoiser's Jacobian, without the Jacobian."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Real

from common.arrays import AnyArray
from common.errors import choice, input_error, whole_number
from common.prng import as_key
from gahb.denoisers import Denoiser
from gahb.eigenbasis.krylov import Ritz, basis_size, largest
from gahb.eigenbasis.linear import (
    Eigenbasis,
    Linearisation,
    SingularBasis,
    in_blocks,
    jacobian_of,
    jvp,
    linearise,
    normal,
    singular_basis,
    symmetric,
    symmetric_basis,
    vjp,
)

METHODS = ("auto", "dense", "krylov")
DENSE_SIZE, DENSE_SLOPE = 400, 10  # "auto" builds the matrix up to d = 400 + 10 k, a rule that is not measured


def top_k(
    denoise: Denoiser,
    y: Real[AnyArray, "*one height width channels"],
    k: int,
    *,
    tolerance: float = 1e-3,
    method: str = "auto",
    block: int = 2,
    key: jax.Array | None = None,
    start: Float[AnyArray, "n height width channels"] | None = None,
    max_basis: int | None = None,
    max_products: int | None = None,
) -> Eigenbasis:
    """Returns the `k` largest shrinkage factors of a denoiser at `y [H, W, C]` or `[1, H, W, C]`, and where they act.

    (lambda_k, e_k) are the eigenpairs of S = (J + J^T) / 2, J = df/dy; f(y) = sum_k lambda_k <y, e_k> e_k for a
    bias-free denoiser with a symmetric Jacobian (Kadkhodaie et al., ICLR 2024, equation 7). Works for any denoiser, the
    library's or yours, and any number of channels.

    tolerance: of every residual, relative to the largest absolute eigenvalue. method: "krylov" needs products only and
    keeps `max_basis` images (default: 10 k or k + 100 of them, up to 1 GiB); "dense" builds J; "auto" is dense where
    that needs fewer products. block: vectors per product; devices with many cores have larger blocks almost for free.
    key: of the random start. start: images `[n, H, W, C]`, a guess of the eigenvectors, such as those at a neighbouring
    noise level. max_products: stops there (default: 20 times `max_basis`).

    `converged` is true where every residual is within the tolerance and, with probability 0.999, no eigenvalue that
    exceeds the k-th by a tenth of the tolerance was left out, however often eigenvalues occur: fresh random vectors
    search the complement of the basis. Raises `InputError` for impossible numbers, `RunError` where the denoiser or
    its Jacobian is not finite.

    >>> top_k(lambda y: y.at[:, 0].multiply(0.5), np.ones((1, 4, 4, 1)), 12).values.tolist()[-1]
    1.0
    """
    linear = linearise(denoise, y)
    return top_k_of(
        linear,
        k,
        tolerance=tolerance,
        method=method,
        block=block,
        key=key,
        start=start,
        max_basis=max_basis,
        max_products=max_products,
    )


def top_k_of(linear: Linearisation, k: int, *, method: str = "auto", block: int = 2, **settings: Any) -> Eigenbasis:
    """Returns the `k` largest shrinkage factors of a linearised denoiser; settings as in `top_k`."""
    if _dense(method, linear.size, k, block):
        return symmetric_basis(jacobian_of(linear), linear.y.shape, k)
    ritz = _largest(symmetric, linear, k, block=block, **settings)
    vectors = np.asarray(ritz.vectors).reshape(k, *linear.y.shape)
    return Eigenbasis(ritz.values, vectors, ritz.residuals, ritz.products, ritz.converged)


def top_singular(
    denoise: Denoiser,
    y: Real[AnyArray, "*one height width channels"],
    k: int,
    *,
    tolerance: float = 1e-3,
    method: str = "auto",
    block: int = 2,
    key: jax.Array | None = None,
    start: Float[AnyArray, "n height width channels"] | None = None,
    max_basis: int | None = None,
    max_products: int | None = None,
) -> SingularBasis:
    """Returns the `k` largest singular values of the Jacobian at `y`, with left and right vectors.

    The right vectors come from J^T J by the same solver, the values and left ones from the singular values of J
    restricted to them, so that small ones lose no digits. Arguments, `converged` and errors as in `top_k`; start: a
    guess of the right vectors.

    >>> top_singular(lambda y: y / 2, np.ones((2, 2, 1)), k=1).values.round(3).tolist()
    [0.5]
    """
    linear = linearise(denoise, y)
    if _dense(method, linear.size, k, block):
        return singular_basis(jacobian_of(linear), linear.y.shape, k)
    # A residual of J^T J, relative to its largest eigenvalue, is larger in terms of J by value_1 / value_k.
    ritz = _largest(
        normal,
        linear,
        k,
        tolerance=tolerance / 4,
        block=block,
        key=key,
        start=start,
        max_basis=max_basis,
        max_products=max_products,
    )
    right = np.asarray(ritz.vectors, np.float64)
    moved = in_blocks(jvp, linear, right, block)
    left, values, mix = np.linalg.svd(moved.T, full_matrices=False)
    right = mix @ right
    back = in_blocks(vjp, linear, left.T, block)
    residuals = np.linalg.norm(back - values[:, None] * right, axis=1) / (values[0] or 1.0)
    left, right = (x.reshape(k, *linear.y.shape) for x in (left.T, right))
    converged = ritz.converged and bool((residuals <= tolerance).all())
    return SingularBasis(values, left, right, residuals, ritz.products + k, converged)


def _dense(method: str, size: int, k: int, block: int) -> bool:
    choice("method", method, METHODS)
    whole_number("k", k, most=size)
    whole_number("block", block)
    return method == "dense" or (method == "auto" and (size <= DENSE_SIZE + DENSE_SLOPE * k or k + 8 * block > size))


def _largest(
    product, linear: Linearisation, k, *, block, tolerance, key, start=None, max_basis=None, max_products=None
) -> Ritz:
    shape, dtype = linear.y.shape, linear.y.dtype
    for name, value in (("max_basis", max_basis), ("max_products", max_products)):
        if value is not None:
            whole_number(name, value)
    if not tolerance > 0:
        raise input_error("tolerance", expected="a positive number", got=tolerance, fix="use 1e-3 or so")
    if start is not None:
        start = np.asarray(start, dtype)
        if start.shape[1:] != shape or not len(start):
            expected, got = f"images [n, {', '.join(map(str, shape))}]", list(start.shape)
            raise input_error("start", expected=expected, got=got, fix="pass the vectors of a basis at such an image")
        start = start.reshape(len(start), -1)
    room = max_basis or basis_size(linear.size, k, block=block, itemsize=dtype.itemsize)
    return largest(
        lambda rows: product(linear, rows.reshape(-1, *shape)).reshape(rows.shape),
        linear.size,
        k,
        key=as_key(0 if key is None else key),
        tolerance=tolerance,
        block=block,
        max_basis=room,
        max_products=max_products or 20 * room,
        start=start,
        dtype=dtype,
    )
