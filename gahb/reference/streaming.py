"""Means under softmax weights over sets that are too large for one array: exact, block by block."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gahb.reference.checks import check_count

NEVER = -1e30  # the logit of what must not count; a number, so that differences of two are none of infinities


class Blocks(NamedTuple):
    """A set of N images: `images [K, n, H, W, C]`, filled up with zeros that are not `valid [K, n]`."""

    images: jax.Array
    valid: jax.Array


def in_blocks(images: np.ndarray, block: int) -> Blocks:
    """Splits `images [N, H, W, C]` into blocks of at most `block` images of nearly equal length.

    Raises `InputError` unless `block` is a whole number of at least 1.
    """
    check_count("block", block)
    count = -(-len(images) // block)
    length = -(-len(images) // count)
    filled = jnp.zeros((count * length, *images.shape[1:]), float).at[: len(images)].set(images)
    valid = jnp.arange(count * length) < len(images)
    return Blocks(filled.reshape(count, length, *images.shape[1:]), valid.reshape(count, length))


def joined(blocks: jax.Array, count: int) -> jax.Array:
    """Returns `[K, B, n] -> [B, count]`, what was computed block by block side by side."""
    return jnp.moveaxis(blocks, 0, 1).reshape(blocks.shape[1], -1)[:, :count]


def softmax_mean(
    blocks: Any,
    score: Callable[[Any], jax.Array],
    combine: Callable[[jax.Array, Any], jax.Array],
    shape: tuple[int, ...],
    dtype: Any,
) -> jax.Array:
    """Returns sum_i w_i v_i, w = softmax of the logits over all blocks, as an array of `shape [Q..., C]`.

    `score(block)` returns the logits with the members of the block on axis 1 `[Q0, n, Q1...]`, `combine(w, block)` the
    sum of w_i v_i over them. One pass; the largest logit so far is carried along (a streaming log-sum-exp). Derivatives
    compute each block anew instead of storing it.
    """

    @jax.checkpoint
    def fold(carry, block):
        top, total, mean = carry
        logits = score(block)
        new = lax.stop_gradient(jnp.maximum(top, logits.max(1)))
        weights = jnp.exp(logits - jnp.expand_dims(new, 1))
        old = jnp.exp(top - new)
        return (new, old * total + weights.sum(1), old[..., None] * mean + combine(weights, block)), None

    start = (jnp.full(shape[:-1], NEVER, dtype), jnp.zeros(shape[:-1], dtype), jnp.zeros(shape, dtype))
    _, total, mean = lax.scan(fold, start, blocks)[0]
    return mean / total[..., None]
