"""The Jacobian of a denoiser as a matrix, while it fits: built in blocks of products, decomposed in float64."""

from typing import NamedTuple

import jax
import numpy as np

from common.errors import choice, input_error, whole_number
from gahb.denoisers import Denoiser
from gahb.eigenbasis.linear import Linearisation, jvp, linearise, require_finite, unit_images, vjp


class Eigenbasis(NamedTuple):
    """Eigenpairs of S = (J + J^T) / 2; residuals ||S e - value e|| are relative to the largest absolute eigenvalue."""

    values: np.ndarray  # [k] shrinkage factors, descending, float64
    vectors: np.ndarray  # [k, H, W, C] orthonormal images
    residuals: np.ndarray  # [k]
    products: int  # evaluations of S v for one v (the dense route: of J v)
    converged: bool  # residuals within the tolerance, and no larger eigenvalue is left out


class SingularBasis(NamedTuple):
    """J = sum_k value_k left_k right_k^T; residuals ||J^T left - value right|| are relative to the largest value."""

    values: np.ndarray  # [k] descending, float64
    left: np.ndarray  # [k, H, W, C] orthonormal images, in the output
    right: np.ndarray  # [k, H, W, C] orthonormal images, in the input
    residuals: np.ndarray  # [k]
    products: int  # evaluations of J v or J^T v for one v, in pairs
    converged: bool  # residuals within the tolerance, and no larger singular value is left out


def jacobian(
    denoise: Denoiser, y: jax.Array, *, block: int = 64, mode: str = "forward", max_bytes: int = 2**31
) -> np.ndarray:
    """Returns J `[d, d]` of any denoiser at one image `y [H, W, C]` or `[1, H, W, C]`; J[i, j] = d f_i / d y_j.

    Pixels are numbered row by row, channels fastest. mode: "forward" makes `block` columns at a time, "reverse" rows;
    both give the same. Raises `InputError` where the matrix would pass `max_bytes`, `RunError` where it is not finite.

    >>> jacobian(lambda y: jax.numpy.cumsum(y, axis=2), np.ones((1, 2, 1), np.float32)).tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """
    choice("mode", mode, ("forward", "reverse"))
    whole_number("block", block)
    return jacobian_of(linearise(denoise, y), block=block, mode=mode, max_bytes=max_bytes)


def jacobian_of(linear: Linearisation, *, block: int = 64, mode: str = "forward", max_bytes: int = 2**31) -> np.ndarray:
    """Returns J `[d, d]` of a linearised denoiser; see `jacobian`."""
    size, dtype = linear.size, np.dtype(linear.y.dtype)
    if size**2 * dtype.itemsize > max_bytes:
        got = f"{size} x {size} numbers"
        raise input_error(
            "y", expected=f"a Jacobian of at most {max_bytes} bytes", got=got, fix="use top_k, which needs none"
        )
    product = jvp if mode == "forward" else vjp
    rows = np.empty((size, size), dtype)
    block = min(block, size)
    for start in range(0, size, block):
        moved = np.asarray(product(linear, unit_images(linear, start, block))).reshape(block, size)
        rows[start : start + block] = moved[: size - start]
    require_finite(rows)
    return rows.T if mode == "forward" else rows


def symmetric_basis(matrix: np.ndarray, shape: tuple[int, ...], k: int | None = None) -> Eigenbasis:
    """Returns the `k` largest (default: all) eigenpairs of (J + J^T) / 2 of a Jacobian `[d, d]` of `shape` images.

    >>> symmetric_basis(np.diag([0.25, 0.75]), (1, 2, 1)).values.tolist()
    [0.75, 0.25]
    """
    matrix = np.asarray(matrix, np.float64)
    symmetric = (matrix + matrix.T) / 2
    values, vectors = np.linalg.eigh(symmetric)
    scale = np.abs(values).max() or 1.0
    values, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]
    residuals = np.linalg.norm(symmetric @ vectors - vectors * values, axis=0) / scale
    return Eigenbasis(values, vectors.T.reshape(-1, *shape), residuals, len(matrix), True)


def singular_basis(matrix: np.ndarray, shape: tuple[int, ...], k: int | None = None) -> SingularBasis:
    """Returns the `k` largest (default: all) singular values and vectors of a Jacobian `[d, d]` of `shape` images.

    >>> singular_basis(np.array([[0.0, 2.0], [1.0, 0.0]]), (1, 2, 1)).values.tolist()
    [2.0, 1.0]
    """
    matrix = np.asarray(matrix, np.float64)
    left, values, right = np.linalg.svd(matrix)
    left, values, right = left[:, :k], values[:k], right[:k]
    residuals = np.linalg.norm(matrix.T @ left - right.T * values, axis=0) / (values[0] or 1.0)
    return SingularBasis(values, left.T.reshape(-1, *shape), right.reshape(-1, *shape), residuals, len(matrix), True)
