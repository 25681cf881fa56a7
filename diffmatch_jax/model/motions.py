"""Several motions in one pair: each cell follows the fit with which most matches around it agree.

One smooth flow passes over what moves on its own, however robust it is. Affine flows are found one after another among
the mutual matches that none of those before explains (sequential RANSAC: Torr, Phil. Trans. R. Soc. A, 1998), each is
fitted to the matches near it, and the cells choose.
"""

import jax
import jax.numpy as jnp
from jax import lax

from diffmatch_jax.model import robust_fit
from diffmatch_jax.model.resize import blur

NEAR = 3.0  # cells from a global affine flow, one deviation, within which matches count
BETTER = 1.02  # times as many matches must agree with the fit that starts from it
MOST = 3  # motions beside the first
FEWEST = 20.0  # matches that a later motion must explain and none before it does
EXPLAINED = 1.5  # cells from a motion within which a match is explained by it
REACH = 3.0  # cells between the matches of a sample, one deviation
VOTERS = 1.5  # cells around, one deviation, whose matches vote for a motion
LEAD = 0.05  # of the votes, by which a later motion must be ahead of the first


def robust(flow: jax.Array, weight: jax.Array, *, sigma: float) -> jax.Array:
    """Returns the fit to matches `[B, h, w, 2]` that more of them agree with: from zero, or from a global affine flow.

    The latter starts from `robust_fit.affine_flow` and is kept where 2 % more of the mutual matches lie within a cell
    of it.
    """
    start, found = robust_fit.affine_flow(flow, weight)
    # Both fits in one program.
    both = jnp.concatenate([flow, flow - start]), jnp.concatenate([weight, weight * _near(flow, start)])
    plain, rest = jnp.split(robust_fit.fit(*both, sigma=sigma), 2)
    other = start + rest

    def agreeing(fit):
        return (weight * (((flow - fit) ** 2).sum(-1) < 1)).sum((-2, -1))

    better = found & (agreeing(other) > BETTER * agreeing(plain))
    return jnp.where(better[:, None, None, None], other, plain)


def _near(flow: jax.Array, start: jax.Array) -> jax.Array:
    """Returns how much matches count for a fit that starts from a flow, exp(-d^2 / 2 s^2), s = 3 cells."""
    return jnp.exp(-0.5 * ((flow - start) ** 2).sum(-1) / NEAR**2)


def piecewise(flow: jax.Array, weight: jax.Array, first: jax.Array, *, sigma: float) -> jax.Array:
    """Returns the flow `[B, h, w, 2]` of the motion that each cell follows; `first` where no other is ahead of it.

    Args:
      flow, weight: matches `[B, h, w, 2]`, in cells, and how mutual they are `[B, h, w]`.
      first: the fit to them.
      sigma: cells around a place that the fits of the other motions go through.

    The votes of a motion are the mutual matches within a cell of it, averaged over a Gaussian window of 1.5 cells; a
    later one must lead by 0.05 and explain at least 20 matches that those before it do not.
    """

    def one(pair):
        flow, weight, first = (each[None] for each in pair)

        def further(left, number):
            start, found = robust_fit.affine_flow(flow, left, reach=REACH, seed=number)

            def fitted():
                return start + robust_fit.fit(flow - start, weight * _near(flow, start), sigma=sigma)

            # Most pairs have one motion, and are spared the fits.
            fit = lax.cond(found[0], fitted, lambda: first)
            kept = found[0] & (_agreed(flow, left, fit).sum() >= FEWEST)
            votes = jnp.where(kept, _votes(flow, weight, fit) - LEAD, -1.0)
            unexplained = left * _far(flow, fit) * _far(flow, start)
            return jnp.where(found[0], unexplained, left), (fit, votes)

        left = weight * _far(flow, first)
        _, (fits, votes) = lax.scan(further, left, jnp.arange(1, MOST + 1))
        fits = jnp.concatenate([first[None], fits])
        votes = jnp.concatenate([_votes(flow, weight, first)[None], votes])
        return jnp.take_along_axis(fits, votes.argmax(0)[None, ..., None], 0)[0, 0]

    return lax.map(one, (flow, weight, first))


def _far(flow: jax.Array, fit: jax.Array) -> jax.Array:
    return ((flow - fit) ** 2).sum(-1) > EXPLAINED**2


def _agreed(flow: jax.Array, weight: jax.Array, fit: jax.Array) -> jax.Array:
    return weight * (((flow - fit) ** 2).sum(-1) < 1)


def _votes(flow: jax.Array, weight: jax.Array, fit: jax.Array) -> jax.Array:
    return jax.vmap(lambda each: blur(each[..., None], VOTERS, reach=4 * VOTERS)[..., 0])(_agreed(flow, weight, fit))
