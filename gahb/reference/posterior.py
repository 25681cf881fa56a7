"""The denoiser that memorises: the exact posterior mean when the prior is a finite set of images.

f(y) = sum_i w_i(y) x_i, w = softmax(-||y - x_i||^2 / (2 sigma^2)); its Jacobian is Cov_w[x] / sigma^2. It has the least
error on the set itself of all denoisers, and its score is that of the set's noisy empirical distribution.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from common.arrays import as_numbers
from common.errors import input_error
from gahb.reference.checks import as_noisy, as_set, check_shape, check_sigma
from gahb.reference.streaming import NEVER, Blocks, in_blocks, joined, softmax_mean


def empirical(images: np.ndarray, sigma: float | Sequence[float] | jax.Array, *, block: int = 256) -> Partial:
    """Returns the posterior mean under the set `images [N, H, W, C]`: a denoiser that knows `sigma`.

    With several levels `sigma [S]` it is blind, the mean under every (image, level) being equally likely beforehand:
    w_i = sum_s s^-d exp(-||y - x_i||^2 / (2 s^2)), the optimum of a blind network that is trained on the set with these
    levels. All images are compared with every `y`, `block` of them at once; distances are sums of squared differences,
    not differences of sums. As sigma -> 0 it returns the nearest image, as sigma -> infinity the mean.
    Raises `InputError` for sigma <= 0, block < 1, and images that are neither bytes nor floats in [0, 1].

    >>> images = np.array([[[[0.0]]], [[[1.0]]]])
    >>> empirical(images, 0.5)(jnp.full((1, 1, 1, 1), 0.5)).item()
    0.5
    """
    images = as_set(images)
    check_sigma(sigma, several=True)
    return Partial(_Posterior(len(images)), in_blocks(images, block), jnp.atleast_1d(jnp.asarray(sigma, float)))


def weights(posterior: Partial, y: jax.Array) -> jax.Array:
    """Returns the posterior probability of each image given `y [B, H, W, C]`, `[B, N]`, for an `empirical` denoiser.

    >>> images = np.array([[[[0.0]]], [[[1.0]]]])
    >>> weights(empirical(images, 0.5), jnp.full((1, 1, 1, 1), 0.5)).tolist()
    [[0.5, 0.5]]
    """
    return _probabilities(posterior, as_noisy(y, _parts(posterior)[0].images.shape[2:]))


@jax.jit
def _probabilities(posterior, y):
    blocks, sigmas, count = _parts(posterior)
    return joined(_weights(blocks, sigmas, y)[0], count)


def dominant(posterior: Partial, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the most probable image given each of `y [B, H, W, C]`: its index `[B]` and its probability `[B]`.

    >>> images = np.array([[[[0.0]]], [[[1.0]]]])
    >>> index, probability = dominant(empirical(images, 0.1), jnp.full((1, 1, 1, 1), 0.9))
    >>> index.tolist(), probability.round(3).tolist()
    ([1], [1.0])
    """
    return _dominant(posterior, as_noisy(y, _parts(posterior)[0].images.shape[2:]))


@jax.jit
def _dominant(posterior, y):
    blocks, sigmas, count = _parts(posterior)
    w = joined(_weights(blocks, sigmas, y)[0], count)
    return w.argmax(1), w.max(1)


def jacobian_product(posterior: Partial, y: jax.Array, v: jax.Array) -> jax.Array:
    """Returns J(y) v for `y, v [B, H, W, C]`, image by image, in closed form; J is symmetric if sigma is one number.

    For a known sigma J v = sum_i w_i <x_i - f, v> (x_i - f) / sigma^2. Never holds a matrix; two passes over the set.

    >>> images = np.array([[[[0.0]]], [[[1.0]]]])
    >>> jacobian_product(empirical(images, 0.5), jnp.full((1, 1, 1, 1), 0.5), jnp.ones((1, 1, 1, 1))).round(3).item()
    1.0
    """
    y = as_noisy(y, _parts(posterior)[0].images.shape[2:])
    v = jnp.asarray(as_numbers(v, "v"))
    if v.shape != y.shape:
        raise input_error(
            "v", expected=f"the shape of y, {list(y.shape)}", got=list(v.shape), fix="give one for each y"
        )
    return _jacobian_product(posterior, y, v)


@jax.jit
def _jacobian_product(posterior, y, v):
    blocks, sigmas, _ = _parts(posterior)
    mean = _mean(blocks, sigmas, y).reshape(len(y), -1)
    w, precision = _weights(blocks, sigmas, y)
    v, offset = v.reshape(len(v), -1), mean - y.reshape(len(y), -1)

    def add(total, block):
        images, w, precision = block
        away = images.reshape(1, len(images), -1) - mean[:, None]
        along = _dot("bnd,bd->bn", away, v) + (offset * v).sum(1, keepdims=True)
        return total + _dot("bn,bnd->bd", w * precision * along, away), None

    total = jnp.zeros_like(mean)
    return lax.scan(add, total, (blocks.images.astype(mean.dtype), w, precision))[0].reshape(y.shape)


def jacobian(posterior: Partial, y: jax.Array) -> jax.Array:
    """Returns the Jacobians of an `empirical` denoiser at `y [B, H, W, C]`, `[B, d, d]`, in closed form.

    >>> images = np.array([[[[0.0]]], [[[1.0]]]])
    >>> jacobian(empirical(images, 0.5), jnp.full((1, 1, 1, 1), 0.5)).round(3).tolist()
    [[[1.0]]]
    """
    return _jacobian(posterior, as_noisy(y, _parts(posterior)[0].images.shape[2:]))


@jax.jit
def _jacobian(posterior, y):
    blocks, sigmas, _ = _parts(posterior)
    mean = _mean(blocks, sigmas, y).reshape(len(y), -1)
    w, precision = _weights(blocks, sigmas, y)

    def add(total, block):
        images, w, precision = block
        away = images.reshape(1, len(images), -1) - mean[:, None]
        weighted = (w * precision)[..., None] * away
        return (total[0] + _dot("bnd,bne->bde", weighted, away), total[1] + weighted.sum(1)), None

    size = mean.shape[1]
    start = (jnp.zeros((len(y), size, size), mean.dtype), jnp.zeros_like(mean))
    spread, drift = lax.scan(add, start, (blocks.images.astype(mean.dtype), w, precision))[0]
    # The second term is zero where sigma is known: the weighted deviations from the mean then add up to nothing.
    return spread + drift[:, :, None] * (mean - y.reshape(len(y), -1))[:, None]


@dataclasses.dataclass(frozen=True)
class _Posterior:
    count: int  # of images, without what fills up the last block

    def __call__(self, blocks, sigmas, y):
        y = as_noisy(y, blocks.images.shape[2:])
        return _mean(blocks, sigmas, y).astype(y.dtype)


@jax.jit
def _mean(blocks, sigmas, y):
    check_shape(y, blocks.images.shape[2:])
    dtype = jnp.promote_types(y.dtype, jnp.float32)
    flat = y.reshape(len(y), -1).astype(dtype)

    def score(block):
        return _logits(*block, sigmas, flat)[0]

    def combine(weights, block):
        return _dot("bn,nd->bd", weights, block.images.reshape(len(block.images), -1).astype(dtype))

    return softmax_mean(blocks, score, combine, flat.shape, dtype).reshape(y.shape)


def _logits(images, valid, sigmas, flat):
    """Returns log weights `[B, n]` up to a common constant, and the posterior mean of 1 / sigma^2 given each image."""
    sigmas = sigmas.astype(flat.dtype)
    distance = jnp.square(flat[:, None] - images.reshape(1, len(images), -1).astype(flat.dtype)).sum(-1)
    each = -distance[..., None] / (2 * sigmas**2) - flat.shape[1] * jnp.log(sigmas / sigmas[0])
    logits = jnp.where(valid, jax.nn.logsumexp(each, -1), NEVER)
    return logits, (jax.nn.softmax(each, -1) / sigmas**2).sum(-1)


def _weights(blocks, sigmas, y):
    """Returns posterior probabilities and precisions of all images, block by block, `[K, B, n]` each."""
    check_shape(y, blocks.images.shape[2:])
    flat = y.reshape(len(y), -1).astype(jnp.promote_types(y.dtype, jnp.float32))
    logits, precision = lax.map(lambda block: _logits(*block, sigmas, flat), blocks)
    return jax.nn.softmax(logits, axis=(0, 2)), precision


def _parts(posterior) -> tuple[Blocks, jax.Array, int]:
    if not isinstance(posterior, Partial) or not isinstance(posterior.func, _Posterior):
        got, fix = type(posterior).__name__, "make one of the set, gahb.reference.empirical(images, sigma)"
        raise input_error("posterior", expected="a denoiser made by empirical(...)", got=got, fix=fix)
    return *posterior.args, posterior.func.count


def _dot(subscripts, *operands):
    return jnp.einsum(subscripts, *operands, precision="highest")
