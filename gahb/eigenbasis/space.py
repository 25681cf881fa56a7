"""A growing orthonormal basis of vectors, and a symmetric operator projected on it.

The basis is on the device, the projected matrix on the host. Blocks of rows come in chains: a chain goes on with the
directions that the operator adds to the basis. A chain that is abandoned leaves a coupling to directions outside the
basis, which counts in the residuals until the basis grows into these.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from gahb.eigenbasis.linear import require_finite

ROWS = 64  # arrays have multiples of this many rows, so that few shapes are compiled


class Loose(NamedTuple):
    """What the operator adds to the basis at the end of an abandoned chain: `rows` times `directions`."""

    rows: np.ndarray  # [filled, block]
    directions: jax.Array  # [block, size]


class Space:
    """Basis of at most `most` vectors of length `size`, in blocks of `block`; see the module."""

    def __init__(self, size: int, block: int, most: int, key: jax.Array, dtype: jnp.dtype):
        self.size, self.block, self.most = size, block, most
        self.filled = self.products = 0
        self.closed = False  # whether the operator added nothing to the newest block's chain
        self.norm = 0.0  # a lower bound of the operator's
        self._key, self._dtype, self._begun = key, dtype, 0
        self._basis = jnp.zeros((ROWS, size), dtype)
        self._matrix = np.zeros((0, 0))
        self._loose: list[Loose] = []

    @property
    def full(self) -> bool:
        """Whether there is no room for another block."""
        return self.filled + self.block > self.most

    def begin(self, guess: jax.Array | None = None) -> None:
        """Starts a chain with random vectors, or with random mixtures of the rows of `guess`."""
        key = jax.random.fold_in(self._key, self._begun)
        self._begun += 1
        if guess is None:
            rows = jax.random.normal(key, (self.block, self.size), self._dtype)
        else:
            rows = _dot(jax.random.normal(key, (self.block, len(guess)), self._dtype), jnp.asarray(guess, self._dtype))
        self._place(_orthonormal(self._basis, rows))

    def extend(self) -> None:
        """Goes on with the chain of the newest block."""
        self._place(self._next)

    def advance(self, product: Callable[[jax.Array], jax.Array], eps: float) -> None:
        """Applies the operator to the newest block. Raises `RunError` if the result is not finite."""
        self._next, *small = _expand(self._basis, product(self._newest))
        coefficients, lengths, coupling = (np.asarray(each, np.float64) for each in small)
        self.products += self.block
        require_finite(coefficients)
        rows, filled = slice(self.filled - self.block, self.filled), self.filled
        self._matrix[:, rows] = coefficients[:, :filled].T
        self._matrix[rows] = coefficients[:, :filled]
        self._matrix[rows, rows] = (self._matrix[rows, rows] + self._matrix[rows, rows].T) / 2
        self.norm = max(self.norm, float(np.sqrt(np.square(coefficients).sum(1) + np.square(coupling).sum(1)).max()))
        lost = lengths <= 30 * eps * self.norm
        self._coupling = np.where(lost, 0, coupling)
        self.closed = bool(lost.all())
        if lost.any() and not self.closed:
            key = jax.random.fold_in(jax.random.fold_in(self._key, self._begun), self.products)
            self._next = _replace(self._basis, self._next, lost, key)

    def decompose(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the `count` largest Ritz values, descending, and their vectors in the basis `[filled, count]`."""
        values, mixes = scipy.linalg.eigh(
            self._matrix, subset_by_index=[self.filled - count, self.filled - 1], check_finite=False
        )
        return values[::-1], mixes[:, ::-1]

    def chain_values(self, first: int) -> tuple[np.ndarray, float]:
        """Returns the Ritz values of the chain that begins at row `first`, ascending, and the residual of the last."""
        values, mixes = scipy.linalg.eigh(self._matrix[first:, first:], check_finite=False)
        return values, float(np.linalg.norm(mixes[-self.block :, -1] @ self._coupling))

    def lowest(self) -> float:
        """Returns the smallest Ritz value."""
        return float(scipy.linalg.eigvalsh(self._matrix, subset_by_index=[0, 0], check_finite=False)[0])

    def residuals(self, mixes: np.ndarray) -> np.ndarray:
        """Returns the residuals of pairs `mixes [filled, n]`, and those that abandoned chains alone leave: `[2, n]`."""
        own = mixes[self.filled - self.block :].T @ self._coupling
        if not self._loose:
            return np.stack([np.linalg.norm(own, axis=1), np.zeros(len(own))])
        loose = np.hstack([mixes.T @ each.rows for each in self._loose])
        # The basis may have grown into the directions that were left.
        rest = np.concatenate([np.asarray(_outside(self._basis, each.directions)) for each in self._loose])
        rest = loose @ rest.astype(np.float64)
        whole = own @ np.asarray(self._next, np.float64) + rest
        return np.stack([np.linalg.norm(whole, axis=1), np.linalg.norm(rest, axis=1)])

    def abandon(self) -> None:
        """Leaves the chain of the newest block as it is."""
        if self._coupling.any():
            rows = np.zeros((self.filled, self.block))
            rows[self.filled - self.block :] = self._coupling
            self._loose.append(Loose(rows, self._next))

    def resume(self) -> None:
        """Goes on with the abandoned chain that was left first."""
        self._place(_orthonormal(self._basis, self._loose.pop(0).directions))

    def restart(self, values: np.ndarray, mixes: np.ndarray) -> None:
        """Puts the Ritz vectors `mixes [filled, n]` in the place of the basis."""
        self._basis = self._mixed(mixes)
        self._loose = [each._replace(rows=mixes.T @ each.rows) for each in self._loose]
        self._matrix, self.filled = np.diag(values), len(values)

    def vectors(self, mixes: np.ndarray) -> jax.Array:
        """Returns the Ritz vectors `mixes [filled, n]` as rows `[n, size]`."""
        return self._mixed(mixes)[: len(mixes.T)]

    def _mixed(self, mixes):
        whole = np.zeros((len(self._basis), len(self._basis)))
        whole[: len(mixes.T), : len(mixes)] = mixes.T
        return _combine(self._basis, jnp.asarray(whole, self._dtype))

    def _place(self, rows):
        start = self.filled
        self.filled += self.block
        if self.filled > len(self._basis):
            more = min(len(self._basis), -(-self.most // ROWS) * ROWS - len(self._basis))
            self._basis = jnp.concatenate([self._basis, jnp.zeros((more, self.size), self._dtype)])
        self._basis, self._newest = _write(self._basis, rows, start), rows
        self._matrix = np.pad(self._matrix, (0, self.block))
        self._loose = [each._replace(rows=np.pad(each.rows, ((0, self.block), (0, 0)))) for each in self._loose]


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
def _outside(basis, rows):
    return rows - _dot(_dot(basis, rows.T).T, basis)


@jax.jit
def _orthonormal(basis, rows):
    """Returns orthonormal rows that span what `rows` adds to the basis."""
    for _ in range(3):
        rows = jnp.linalg.qr(_outside(basis, rows).T)[0].T
    return rows


@jax.jit
def _replace(basis, rows, lost, key):
    """Puts random directions, orthonormal to the basis and to the other rows, where `lost`."""
    kept = jnp.where(lost[:, None], 0, rows)
    fresh = jax.random.normal(key, rows.shape, rows.dtype)
    for _ in range(3):
        fresh = _outside(basis, fresh)
        fresh = fresh - _dot(_dot(fresh, kept.T), kept)
        fresh = jnp.linalg.qr(fresh.T)[0].T
    return jnp.where(lost[:, None], fresh, rows)


@jax.jit
def _combine(basis, mix):
    return _dot(mix, basis)


_write = jax.jit(lambda basis, rows, start: jax.lax.dynamic_update_slice(basis, rows, (start, 0)), donate_argnums=0)
