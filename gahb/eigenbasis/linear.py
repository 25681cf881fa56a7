"""The Jacobian of a denoiser at one image: as a linear map, as a matrix while it fits, and its bases.

Products with J, its transpose and its symmetric part; the matrix, built in blocks of products and decomposed in
float64; and what a basis says about an image: coefficients, shrinkage, truncation, angles to a subspace, pictures.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.tree_util import Partial
from jaxtyping import Array, Float, Real

from common.arrays import AnyArray, as_images, as_numbers
from common.errors import RunError, choice, input_error, whole_number
from gahb.denoisers import Callback, Denoiser, as_denoiser


class Linearisation(NamedTuple):
    """A denoiser at the image y: its value there and the products with its Jacobian J = df/dy.

    A pytree; the denoiser is evaluated once, and a product costs about as much as one more evaluation.
    """

    y: Float[Array, "height width channels"]  # [H, W, C]
    value: Float[Array, "height width channels"]  # f(y) [H, W, C]
    forward: Partial  # v [n, H, W, C] -> J v
    backward: Partial  # u [n, H, W, C] -> J^T u

    @property
    def size(self) -> int:
        """Number of pixels times channels, d."""
        return self.y.size


def linearise(denoise: Denoiser, y: Real[AnyArray, "*one height width channels"]) -> Linearisation:
    """Linearises any denoiser `[B, H, W, C] -> [B, H, W, C]` at one image `y [H, W, C]` or `[1, H, W, C]`.

    All products are computed at the highest precision. Another checkpoint of the same network compiles nothing anew.
    y: noisy, on the scale of [0, 1]; bytes are taken to [0, 1]. Raises `InputError` for more than one image, other
    integers, floats in 0..255, NaN, or an output of another shape; `RunError` for an output that is not finite.

    >>> linearise(lambda y: y**2, jnp.full((1, 2, 1), 0.5)).value.ravel().tolist()
    [0.25, 0.25]
    """
    denoise, y = as_denoiser(denoise), as_numbers(y, "y")
    if y.ndim == 4:
        if len(y) != 1:
            got = list(np.shape(y))
            raise input_error("y", expected="one image [H, W, C]", got=got, fix="analyse images one at a time")
        y = y[0]
    y = jnp.asarray(as_images(y, "y", noisy=True, batch=False))
    output = jax.eval_shape(denoise, jax.ShapeDtypeStruct((1, *y.shape), y.dtype))
    if output.shape != (1, *y.shape) or output.dtype != y.dtype:
        got = f"{output.dtype} {list(output.shape)}"
        fix = "wrap it as a function of the noisy image alone, of one type throughout"
        raise input_error("denoise", expected=f"an output like its input, {y.dtype} {[1, *y.shape]}", got=got, fix=fix)
    if isinstance(denoise.func, Callback):
        products = denoise.func.products()
        linear = Linearisation(y, denoise(y[None])[0], *(Partial(each, y) for each in products))
    else:
        value, pull_back = _linearise(denoise, y)
        linear = Linearisation(y, value, Partial(_forward, y, pull_back), Partial(_backward, pull_back))
    require_finite(linear.value)
    return linear


def require_finite(values: np.ndarray | jax.Array) -> None:
    """Raises `RunError` unless all `values` of a denoiser, or of products with its Jacobian, are finite."""
    if not np.isfinite(values).all():
        raise RunError(
            "denoise or its Jacobian product: expected finite numbers, got others; check the image and the weights"
        )


@jax.jit
def _linearise(denoise, y):
    with jax.default_matmul_precision("highest"):
        return jax.vjp(lambda y: denoise(y[None])[0], y)


def _forward(y, pull_back, v):
    # Transposing the transpose needs no second linearisation and works where only a vjp is defined.
    transpose = jax.linear_transpose(lambda u: pull_back(u)[0], y)
    return jax.vmap(lambda each: transpose(each)[0])(v)


def _backward(pull_back, u):
    return jax.vmap(lambda each: pull_back(each)[0])(u)


@jax.jit
def jvp(linear: Linearisation, v: Float[Array, "n height width channels"]) -> Float[Array, "n height width channels"]:
    """Returns J v for each of `v [n, H, W, C]`.

    >>> linear = linearise(lambda y: jnp.cumsum(y, axis=2), jnp.ones((1, 2, 1)))  # J = [[1, 0], [1, 1]]
    >>> jvp(linear, jnp.ones((1, 1, 2, 1))).ravel().tolist()
    [1.0, 2.0]
    """
    with jax.default_matmul_precision("highest"):
        return linear.forward(v)


@jax.jit
def vjp(linear: Linearisation, u: Float[Array, "n height width channels"]) -> Float[Array, "n height width channels"]:
    """Returns J^T u for each of `u [n, H, W, C]`.

    >>> linear = linearise(lambda y: jnp.cumsum(y, axis=2), jnp.ones((1, 2, 1)))  # J = [[1, 0], [1, 1]]
    >>> vjp(linear, jnp.ones((1, 1, 2, 1))).ravel().tolist()
    [2.0, 1.0]
    """
    with jax.default_matmul_precision("highest"):
        return linear.backward(u)


@jax.jit
def symmetric(
    linear: Linearisation, v: Float[Array, "n height width channels"]
) -> Float[Array, "n height width channels"]:
    """Returns S v = (J v + J^T v) / 2 for each of `v [n, H, W, C]`.

    >>> linear = linearise(lambda y: jnp.cumsum(y, axis=2), jnp.ones((1, 2, 1)))  # J = [[1, 0], [1, 1]]
    >>> symmetric(linear, jnp.ones((1, 1, 2, 1))).ravel().tolist()
    [1.5, 1.5]
    """
    return (jvp(linear, v) + vjp(linear, v)) / 2


@jax.jit
def normal(
    linear: Linearisation, v: Float[Array, "n height width channels"]
) -> Float[Array, "n height width channels"]:
    """Returns J^T J v for each of `v [n, H, W, C]`."""
    return vjp(linear, jvp(linear, v))


def unit_images(linear: Linearisation, start: int, count: int) -> jax.Array:
    """Returns `count` images that are 1 at one pixel each, the first at flat index `start`; zeros beyond the last."""
    flat = np.zeros((count, linear.size), linear.y.dtype)
    inside = min(count, linear.size - start)
    flat[np.arange(inside), start + np.arange(inside)] = 1
    return jnp.asarray(flat.reshape(count, *linear.y.shape))


def homogeneity(denoise: Denoiser, y: Real[AnyArray, "*one height width channels"]) -> float:
    """Returns ||J y - f(y)|| / ||f(y)||: 0 up to rounding for bias-free denoisers, for which f(a y) = a f(y).

    Where f(y) = 0, the ratio is 0 if J y is zero too, else infinite.

    >>> homogeneity(lambda y: y / 2, jnp.ones((1, 2, 1))), homogeneity(lambda y: y + 1, jnp.ones((1, 2, 1)))
    (0.0, 0.5)
    """
    return homogeneity_of(linearise(denoise, y))


def homogeneity_of(linear: Linearisation) -> float:
    moved = np.asarray(jvp(linear, linear.y[None])[0], np.float64)
    value = np.asarray(linear.value, np.float64)
    return ratio(np.linalg.norm(moved - value), np.linalg.norm(value))


def ratio(a: Any, b: Any) -> float:
    """Returns a / b of two numbers that are not negative; 0 / 0 counts as 0."""
    if b == 0:
        return 0.0 if a == 0 else float("inf")
    return float(a / b)


def in_blocks(product, linear: Linearisation, rows: np.ndarray, block: int) -> np.ndarray:
    """Applies `product(linear, images)` to `rows [n, d]`, `block` at a time; float64 on the host."""
    moved = []
    for start in range(0, len(rows), block):
        padded = np.zeros((block, linear.size))
        taken = rows[start : start + block]
        padded[: len(taken)] = taken
        images = jnp.asarray(padded.reshape(block, *linear.y.shape), linear.y.dtype)
        moved.append(np.asarray(product(linear, images), np.float64).reshape(block, -1)[: len(taken)])
    return np.concatenate(moved)


class Eigenbasis(NamedTuple):
    """Eigenpairs of S = (J + J^T) / 2; residuals ||S e - value e|| are relative to the largest absolute eigenvalue."""

    values: Float[np.ndarray, " k"]  # [k] shrinkage factors, descending, float64
    vectors: Float[np.ndarray, "k height width channels"]  # [k, H, W, C] orthonormal images
    residuals: Float[np.ndarray, " k"]  # [k]
    products: int  # evaluations of S v for one v (the dense route: of J v)
    converged: bool  # residuals within the tolerance, and no larger eigenvalue is left out


class SingularBasis(NamedTuple):
    """J = sum_k value_k left_k right_k^T; residuals ||J^T left - value right|| are relative to the largest value."""

    values: Float[np.ndarray, " k"]  # [k] descending, float64
    left: Float[np.ndarray, "k height width channels"]  # [k, H, W, C] orthonormal images, in the output
    right: Float[np.ndarray, "k height width channels"]  # [k, H, W, C] orthonormal images, in the input
    residuals: Float[np.ndarray, " k"]  # [k]
    products: int  # evaluations of J v or J^T v for one v, in pairs
    converged: bool  # residuals within the tolerance, and no larger singular value is left out


def jacobian(
    denoise: Denoiser,
    y: Real[AnyArray, "*one height width channels"],
    *,
    block: int = 64,
    mode: str = "forward",
    max_bytes: int = 2**31,
) -> Float[np.ndarray, "d d"]:
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


def symmetric_basis(matrix: Float[np.ndarray, "d d"], shape: tuple[int, ...], k: int | None = None) -> Eigenbasis:
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


def singular_basis(matrix: Float[np.ndarray, "d d"], shape: tuple[int, ...], k: int | None = None) -> SingularBasis:
    """Returns the `k` largest (default: all) singular values and vectors of a Jacobian `[d, d]` of `shape` images.

    >>> singular_basis(np.array([[0.0, 2.0], [1.0, 0.0]]), (1, 2, 1)).values.tolist()
    [2.0, 1.0]
    """
    matrix = np.asarray(matrix, np.float64)
    left, values, right = np.linalg.svd(matrix)
    left, values, right = left[:, :k], values[:k], right[:k]
    residuals = np.linalg.norm(matrix.T @ left - right.T * values, axis=0) / (values[0] or 1.0)
    return SingularBasis(values, left.T.reshape(-1, *shape), right.reshape(-1, *shape), residuals, len(matrix), True)


class Shrinkage(NamedTuple):
    """Factors of a basis and the coefficients of an image in it; float64 `[k]`."""

    values: Float[np.ndarray, " k"]  # lambda_k
    noisy: Float[np.ndarray, " k"]  # <y, e_k>
    clean: Float[np.ndarray, " k"] | None  # <x, e_k>


def shrinkage(
    basis: Eigenbasis,
    y: Real[AnyArray, "*one height width channels"],
    x: Real[AnyArray, "*one height width channels"] | None = None,
) -> Shrinkage:
    """Returns the factors of a basis with the coefficients of the noisy image `y [H, W, C]` and of a clean `x`.

    >>> basis = symmetric_basis(np.diag([0.5, 1.0]), (1, 2, 1))
    >>> shrunk = shrinkage(basis, np.array([[[3.0], [4.0]]]))
    >>> shrunk.values.tolist(), abs(shrunk.noisy).tolist()
    ([1.0, 0.5], [4.0, 3.0])
    """
    return Shrinkage(basis.values, coefficients(basis, y), None if x is None else coefficients(basis, x))


def coefficients(basis: Eigenbasis, image: Real[AnyArray, "*one height width channels"]) -> Float[np.ndarray, " k"]:
    """Returns <image, e_k> `[k]` for an image `[H, W, C]` or `[1, H, W, C]`, float64; bytes count as [0, 1].

    >>> basis = symmetric_basis(np.diag([0.5, 1.0]), (1, 2, 1))
    >>> abs(coefficients(basis, np.array([[[3.0], [4.0]]]))).tolist()
    [4.0, 3.0]
    """
    rows = _rows(basis.vectors)
    flat = np.asarray(as_numbers(image, "image"), np.float64).reshape(-1)
    if flat.size != rows.shape[1]:
        shape = list(basis.vectors.shape[1:])
        raise input_error(
            "image", expected=f"an image {shape}", got=list(np.shape(image)), fix="use the image of the basis"
        )
    return rows @ flat


def truncate(
    basis: Eigenbasis, y: Real[AnyArray, "*one height width channels"], terms: Sequence[int]
) -> Float[np.ndarray, "terms height width channels"]:
    """Returns f_n(y) = sum_{k <= n} lambda_k <y, e_k> e_k for each n of `terms`: `[len(terms), H, W, C]`, float64.

    Raises `InputError` for more terms than the basis has.

    >>> basis = symmetric_basis(np.diag([0.5, 1.0]), (1, 2, 1))
    >>> truncate(basis, np.array([[[3.0], [4.0]]]), [1, 2]).reshape(2, 2).tolist()
    [[0.0, 4.0], [1.5, 4.0]]
    """
    if not len(terms) or min(terms) < 0 or max(terms) > len(basis.values):
        expected = f"numbers from 0 to {len(basis.values)}"
        raise input_error("terms", expected=expected, got=list(terms), fix="ask top_k for more vectors")
    addends = (basis.values * coefficients(basis, y))[:, None] * _rows(basis.vectors)
    sums = np.concatenate([np.zeros((1, addends.shape[1])), np.cumsum(addends, axis=0)])
    return sums[list(terms)].reshape(len(terms), *basis.vectors.shape[1:])


def count_above(basis: Eigenbasis, threshold: float) -> int:
    """Returns the number of factors above `threshold`; raises `InputError` where an incomplete basis has no other.

    >>> basis = symmetric_basis(np.diag([0.5, 1.0]), (1, 2, 1))
    >>> count_above(basis, 0.7)
    1
    """
    count = int((basis.values > threshold).sum())
    if count == len(basis.values) < basis.vectors[0].size:
        got = f"{basis.values[-1]:.4g} as the smallest of {count}"
        raise input_error(
            "threshold", expected="a factor below it among those known", got=got, fix="ask top_k for more"
        )
    return count


def principal_angles(
    vectors: Float[AnyArray, "k height width channels"], others: Float[AnyArray, "m height width channels"]
) -> Float[np.ndarray, " angles"]:
    """Returns the angles, radians and ascending, between the spans of `[k, H, W, C]` and `[m, H, W, C]`.

    Neither has to be orthonormal: a tangent space may be given by the derivatives of an image by its parameters. All
    min(k, m) angles are 0 where one span lies in the other.

    >>> horizontal, vertical = np.eye(2).reshape(2, 1, 1, 2, 1)
    >>> np.degrees(principal_angles(horizontal, horizontal + vertical)).round(3).tolist()
    [45.0]
    """
    return scipy.linalg.subspace_angles(_rows(vectors).T, _rows(others).T)[::-1]


def pictures(vectors: Float[AnyArray, "k height width channels"]) -> Float[np.ndarray, "k height width channels"]:
    """Returns vectors `[k, H, W, C]` as images in [0, 1] for display: zero is 0.5, the largest pixel 1.

    The sign of an eigenvector has no meaning; the one that makes its largest pixel positive is shown.

    >>> pictures(np.array([[[[1.0], [-0.5]]]])).ravel().tolist()
    [1.0, 0.25]
    """
    rows = _rows(vectors)
    peak = rows[np.arange(len(rows)), np.abs(rows).argmax(1)]
    shown = 0.5 + 0.5 * rows / np.where(peak == 0, 1, peak)[:, None]
    return shown.reshape(vectors.shape).astype(np.float32)


def _rows(vectors: AnyArray) -> np.ndarray:
    return np.asarray(vectors, np.float64).reshape(len(vectors), -1)
