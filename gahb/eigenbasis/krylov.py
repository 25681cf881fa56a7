"""Largest eigenvalues of a symmetric operator that is known by its products alone: thick-restarted block Lanczos.

A Krylov space of b starting vectors holds at most b eigenvectors of an eigenvalue, for any multiplicity. Converged
pairs are therefore verified: a chain of fresh random vectors, orthogonal to the whole basis, either shows a Ritz value
above the k-th one, which then joins the basis, or makes it improbable that one is left (`doubt`).

`scipy.sparse.linalg.eigsh` misses copies of repeated eigenvalues and would need such a verification too, which goes on
with the same basis here. Operator of size 1024 with a cheap product, k = 50, 2 cores, warm: 184 products and 0.1 s of
CPU here, verified; 154 products and 0.03 s there, not verified. `lobpcg_standard` takes k products an iteration.

The loop runs on the host and calls one compiled product a step: convolutions inside a compiled loop can be many times
slower than outside on CPUs. Every new block is orthogonalised twice against the whole basis. The basis (`Space`) grows
on the device, the matrix projected on it on the host. Blocks of rows come in chains: a chain goes on with the
directions that the operator adds to the basis. A chain that is abandoned leaves a coupling to directions outside the
basis, which counts in the residuals until the basis grows into these.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.stats

from common.arrays import AnyArray
from common.errors import input_error
from gahb.eigenbasis.linear import require_finite

ROWS = 64  # arrays have multiples of this many rows, so that few shapes are compiled


class Loose(NamedTuple):
    """The part of the operator outside the basis at the end of an abandoned chain: `rows` times `directions`."""

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
        """True where another block does not fit."""
        return self.filled + self.block > self.most

    def begin(self, guess: AnyArray | None = None) -> None:
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
        # Of abandoned directions only what is outside of the basis counts: Ritz vectors that go are coupled to none
        # that stay, and a chain that goes on with a direction has to cover the whole of what is left over.
        self._loose = [Loose(mixes.T @ each.rows, _outside(self._basis, each.directions)) for each in self._loose]
        self._basis = self._mixed(mixes)
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


FAILURE = 1e-3  # probability with which the verification may miss an eigenvalue
MARGIN = 0.1  # by how much a missed eigenvalue may exceed the k-th one, in tolerances


class Ritz(NamedTuple):
    """Result of `largest`; residuals ||S e - value e|| are relative to the largest absolute eigenvalue seen."""

    values: np.ndarray  # [k] descending, float64
    vectors: jax.Array  # [k, d] orthonormal rows
    residuals: np.ndarray  # [k]
    products: int  # with single vectors
    converged: bool  # whether every residual is below the tolerance and no larger eigenvalue is left


def basis_size(size: int, k: int, *, block: int, itemsize: int = 4, max_bytes: int = 2**30) -> int:
    """Returns the number of vectors of length `size` to keep: 10 k or k + 100 in `max_bytes`, at least k + 8 blocks."""
    return min(size, max(k + 8 * block, min(max(10 * k, k + 100), max_bytes // (itemsize * size))))


def doubt(value: float, ritz: np.ndarray, steps: int, *, block: int, size: int, lowest: float) -> float:
    """Returns the probability that a block Krylov space would not show an eigenvalue of at least `value`.

    ritz: Ritz values after `steps` steps from `block` random vectors, all below `value`; size, lowest: dimension and
    smallest eigenvalue of the operator. A Chebyshev polynomial p of degree steps - 1, |p| <= 1 on [lowest, t], weighs
    the eigenvector by p(value)^2. With a squared overlap w of a mixture of the random vectors with the eigenvector, the
    largest Ritz value is at least t - (t - lowest) / (1 + w p(value)^2) for every t < value. So w is at most the
    smallest (top - lowest) / ((t - top) p(value)^2), and w size ~ chi^2 of `block` degrees of freedom.
    """
    top = float(ritz.max())
    if top >= value:
        return 1.0
    t = np.linspace(top, value, 66)[1:-1]
    width = np.maximum(t - lowest, 1e-30)
    degree = np.arccosh(1 + 2 * (value - t) / width) * (steps - 1)
    gain = np.cosh(np.minimum(degree, 300.0)) ** 2
    overlap = np.min(max(top - lowest, 0.0) / ((t - top) * gain))
    return float(scipy.stats.chi2.cdf(overlap * size, block))


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
    start: AnyArray | None = None,
    dtype: jnp.dtype = jnp.float32,
) -> Ritz:
    """Returns the `k` algebraically largest eigenpairs of a symmetric `product([block, size]) -> [block, size]`.

    Converged means that all residuals are at most `tolerance` and that, with probability 1 - `FAILURE`, no eigenvalue
    that exceeds the k-th by `MARGIN` tolerances was missed, however often the eigenvalues occur. start: `[n, size]`, a
    guess of the eigenvectors; the first block is a random mixture of them. Memory is that of `max_basis + k` vectors
    (twice that at a restart). Stops after `max_products` with the pairs known by then.
    Raises `InputError` if `max_basis` has no room for k + 3 blocks or exceeds `size`, `RunError` if a product is not
    finite.
    """
    if not k + 3 * block <= max_basis <= size:
        got = f"k={k}, block={block}, max_basis={max_basis}, d={size}"
        raise input_error("max_basis", expected="k + 3 block <= max_basis <= d", got=got, fix="use the dense route")
    eps = float(jnp.finfo(dtype).eps)
    room = max_basis - min(k + (max_basis - k) // 2, max_basis - 2 * block)  # rows that are free after a restart
    space = Space(size, block, max_basis, key, dtype)
    space.begin(start)
    scale, due_at, history = 0.0, k, []
    chain: _Chain | None = None  # the verifying one; None while the pairs converge
    while True:
        space.advance(product, eps)
        scale = max(scale, space.norm)
        stopped = space.products >= max_products
        verdict = (
            "" if chain is None else chain.verdict(space, max(MARGIN * tolerance, 30 * eps) * scale, tolerance * scale)
        )
        if verdict == "found":
            chain, due_at, history = None, space.products, []
        waits = verdict == "open" if chain else space.products < due_at
        if space.filled < k or (waits and not (space.full or space.closed or stopped)):
            space.begin() if space.closed else space.extend()
            continue

        values, mixes = space.decompose(min(space.filled, max(k, max_basis - room)))
        scale = max(scale, float(np.abs(values).max()))
        residuals, loose = space.residuals(mixes[:, :k]) / (scale or 1.0)
        small = bool((residuals <= tolerance).all())
        verified = space.filled == size or (verdict == "proved" and chain is not None and values[k - 1] <= chain.level)
        if stopped or (small and verified):
            return Ritz(values[:k], space.vectors(mixes[:, :k]), residuals, space.products, small and verified)
        if small:
            # Chains err independently of each other, until one shows a larger value.
            before = chain.doubt if chain and values[k - 1] <= chain.level else 1.0
            space.abandon()
            lowest = space.lowest()
            if max_basis - space.filled < max(room // 2, 2 * block):
                space.restart(values, mixes)
            chain = _Chain(space.filled, float(values[k - 1]), lowest, before)
            space.begin()
            continue
        chain = None
        history.append((space.products, float(residuals.max())))
        due_at = space.products + _wait(history, tolerance, block)
        # If couplings of abandoned chains alone keep the residuals large, the first of these chains goes on.
        resumes = loose.max() > tolerance / 2 and (residuals**2 - loose**2).max() < loose.max() ** 2 / 4
        if resumes:
            space.abandon()
        if space.full:
            space.restart(values, mixes)
        space.resume() if resumes else space.extend()


class _Chain:
    """The verification by one chain of fresh vectors: whether it has shown an eigenvalue above the k-th, or none is."""

    def __init__(self, first: int, value: float, lowest: float, before: float):
        self._first, self._value, self._lowest, self._before = first, value, lowest, before
        self._due_at = 0
        self.level = value  # the largest value that may go unnoticed
        self.doubt = before  # probability that a larger one did, in this chain and those before

    def verdict(self, space: Space, margin: float, tolerance: float) -> str:
        """Returns "found", "proved" (none is left), "copy" (of the k-th itself: begin another chain) or "open"."""
        self.level = self._value + margin
        if space.products < self._due_at and not (space.full or space.closed):
            return "open"
        steps = (space.filled - self._first) // space.block
        self._due_at = space.products + steps * space.block // 8
        own, residual = space.chain_values(self._first)
        if own[-1] > self.level:
            return "found"
        size = space.size - self._first
        own_doubt = doubt(self.level, own, steps, block=space.block, size=size, lowest=self._lowest)
        self.doubt = self._before * own_doubt
        if space.closed or self.doubt <= FAILURE:
            return "proved"
        # The gap behind the k-th value opens once the basis holds all its copies.
        return "copy" if own[-1] > self._value - 10 * margin and residual <= tolerance else "open"


def _wait(history: list[tuple[int, float]], tolerance: float, block: int) -> int:
    """Returns the number of products until the next decomposition; one of hundreds of vectors costs a product's time.

    history: products and largest residual at the decompositions so far, whose logarithm is extrapolated.
    """
    products, worst = history[-1]
    wait = products // 8
    if len(history) > 1 and worst < history[-2][1]:
        speed = np.log(history[-2][1] / worst) / (products - history[-2][0])
        wait = min(wait, 0.7 * np.log(worst / tolerance) / speed)
    return max(block, int(wait))
