"""A global affine flow through mutual matches by random sampling (Fischler & Bolles, 1981), inside a compiled program.

Least squares from zero flow follow the mean of the matches; with more wrong matches than right ones that is no start.
A sample of three matches holds none of the wrong ones with some chance, and the affine map through it is confirmed by
all matches that it explains.
"""

import jax
import jax.numpy as jnp
from jax import lax

from diffmatch_jax.matching import grid

SAMPLES = 2048
THRESHOLD = 1.5  # cells between a match and the map that explains it
MUTUAL = 0.3  # weight from which a match is sampled
FEWEST = 8  # matches that must be sampled from, and that a map must explain
REFITS = 5  # least-squares fits to the matches explained
MOST_ZOOM = 5.0  # singular values of the map lie within 1 / MOST_ZOOM and MOST_ZOOM
MOST_STRETCH = 4.0  # largest ratio of the two singular values
_AREA = 4.0  # square cells of the triangle of a sample
_TINY = 1e-6


def affine_flow(flow: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the affine flow `[B, h, w, 2]` that explains the largest weight of matches, and whether there is one.

    Args:
      flow: matches `[B, h, w, 2]`, from each cell of the target to the source, in cells.
      weight: how mutual each match is, `[B, h, w]` in [0, 1].

    Returns:
      The flow of the affine map, zero without one; and `found [B]`, False where fewer than 8 matches are mutual or are
      explained, or where the map is degenerate: it mirrors, its singular values are beyond 1/5 and 5, or they differ by
      more than a factor of 4.
    """
    height, width = flow.shape[1:3]
    cells = grid(height, width, flow.dtype).reshape(-1, 2)
    key = jax.random.key(0)

    def one(pair):
        to, mass = pair[0].reshape(-1, 2) + cells, pair[1].reshape(-1)
        mass = jnp.where(mass > MUTUAL, mass, 0)
        enough = (mass > 0).sum() >= FEWEST
        chance = jnp.where(enough, mass, 1.0)
        chosen = jax.random.choice(key, len(cells), (SAMPLES, 3), p=chance / chance.sum())
        corners, images = cells[chosen], to[chosen]
        edges, moved = corners[:, 1:] - corners[:, :1], images[:, 1:] - images[:, :1]
        area = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
        inverse = (
            jnp.stack(
                [
                    jnp.stack([edges[:, 1, 1], -edges[:, 0, 1]], -1),
                    jnp.stack([-edges[:, 1, 0], edges[:, 0, 0]], -1),
                ],
                -2,
            )
            / jnp.where(jnp.abs(area) < _TINY, 1, area)[:, None, None]
        )
        # Rows of `edges` are mapped to rows of `moved`: edges @ linear = moved.
        linear = jnp.einsum("nij,njk->nik", inverse, moved, precision="highest")
        shift = images[:, 0] - jnp.einsum("ni,nij->nj", corners[:, 0], linear, precision="highest")
        explained = ((_apply(linear, shift, cells) - to) ** 2).sum(-1) < THRESHOLD**2
        score = jnp.where((jnp.abs(area) > 2 * _AREA) & _is_sound(linear), explained @ mass, -1.0)
        best = score.argmax()

        def refit(_, maps):
            linear, shift = maps
            near = mass * (((cells @ linear + shift - to) ** 2).sum(-1) < THRESHOLD**2)
            total = jnp.maximum(near.sum(), _TINY)
            middle, moved = near @ cells / total, near @ to / total
            left, right = cells - middle, to - moved
            products = jnp.einsum("ni,nj->ij", left * near[:, None], left, precision="highest")
            products += 1e-3 * total * jnp.eye(2)
            slopes = jnp.linalg.solve(products, jnp.einsum("ni,nj->ij", left * near[:, None], right))
            return slopes, moved - middle @ slopes

        linear, shift = lax.fori_loop(0, REFITS, refit, (linear[best], shift[best]))
        away = ((cells @ linear + shift - to) ** 2).sum(-1)
        found = (
            enough & (score[best] > 0) & _is_sound(linear[None])[0] & ((mass * (away < THRESHOLD**2)).sum() >= FEWEST)
        )
        return jnp.where(found, cells @ linear + shift - cells, 0).reshape(height, width, 2), found

    return lax.map(one, (flow, weight))


def _apply(linear: jax.Array, shift: jax.Array, cells: jax.Array) -> jax.Array:
    """Returns the images `[n, cells, 2]` under n affine maps."""
    return jnp.einsum("ci,nij->ncj", cells, linear, precision="highest") + shift[:, None]


def _is_sound(linear: jax.Array) -> jax.Array:
    """Returns whether linear maps `[n, 2, 2]` keep the orientation and neither shrink nor stretch beyond reason."""
    det = linear[:, 0, 0] * linear[:, 1, 1] - linear[:, 0, 1] * linear[:, 1, 0]
    squares = (linear**2).sum((-2, -1))
    root = jnp.sqrt(jnp.maximum(squares**2 - 4 * det**2, 0))
    largest, smallest = jnp.sqrt((squares + root) / 2), jnp.sqrt(jnp.maximum((squares - root) / 2, 0))
    return (det > 0) & (largest < MOST_ZOOM) & (smallest > 1 / MOST_ZOOM) & (largest < MOST_STRETCH * smallest)
