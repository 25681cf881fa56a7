"""What a basis says about an image: coefficients, shrinkage, truncation, angles to a subspace, pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg

from common.arrays import as_numbers
from common.errors import input_error
from gahb.eigenbasis.dense import Eigenbasis


class Shrinkage(NamedTuple):
    """How each coefficient of an image is shrunk; float64 `[k]`."""

    values: np.ndarray  # lambda_k
    noisy: np.ndarray  # <y, e_k>
    clean: np.ndarray | None  # <x, e_k>


def shrinkage(basis: Eigenbasis, y: np.ndarray, x: np.ndarray | None = None) -> Shrinkage:
    """Returns the factors of a basis with the coefficients of the noisy image `y [H, W, C]` and of a clean `x`.

    >>> from gahb.eigenbasis import symmetric_basis
    >>> basis = symmetric_basis(np.diag([0.5, 1.0]), (1, 2, 1))
    >>> shrunk = shrinkage(basis, np.array([[[3.0], [4.0]]]))
    >>> shrunk.values.tolist(), abs(shrunk.noisy).tolist()
    ([1.0, 0.5], [4.0, 3.0])
    """
    return Shrinkage(basis.values, coefficients(basis, y), None if x is None else coefficients(basis, x))


def coefficients(basis: Eigenbasis, image: np.ndarray) -> np.ndarray:
    """Returns <image, e_k> `[k]` for an image `[H, W, C]` or `[1, H, W, C]`, float64; bytes count as [0, 1].

    >>> from gahb.eigenbasis import symmetric_basis
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


def truncate(basis: Eigenbasis, y: np.ndarray, terms: Sequence[int]) -> np.ndarray:
    """Returns f_n(y) = sum_{k <= n} lambda_k <y, e_k> e_k for each n of `terms`: `[len(terms), H, W, C]`, float64.

    Raises `InputError` for more terms than the basis has.

    >>> from gahb.eigenbasis import symmetric_basis
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

    >>> from gahb.eigenbasis import symmetric_basis
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


def principal_angles(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the angles, radians and ascending, between the spans of `[k, H, W, C]` and `[m, H, W, C]`.

    Neither has to be orthonormal: a tangent space may be given by the derivatives of an image by its parameters. All
    min(k, m) angles are 0 where one span lies in the other.

    >>> horizontal, vertical = np.eye(2).reshape(2, 1, 1, 2, 1)
    >>> np.degrees(principal_angles(horizontal, horizontal + vertical)).round(3).tolist()
    [45.0]
    """
    return scipy.linalg.subspace_angles(_rows(vectors).T, _rows(others).T)[::-1]


def pictures(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors `[k, H, W, C]` as images in [0, 1] for display: zero is 0.5, the largest pixel 1.

    The sign of an eigenvector has no meaning; the one that makes its largest pixel positive is shown.

    >>> pictures(np.array([[[[1.0], [-0.5]]]])).ravel().tolist()
    [1.0, 0.25]
    """
    rows = _rows(vectors)
    peak = rows[np.arange(len(rows)), np.abs(rows).argmax(1)]
    shown = 0.5 + 0.5 * rows / np.where(peak == 0, 1, peak)[:, None]
    return shown.reshape(vectors.shape).astype(np.float32)


def _rows(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors, np.float64).reshape(len(vectors), -1)
