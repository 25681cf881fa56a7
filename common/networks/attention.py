"""Self-attention over the pixels of an image, by the platform's fused kernel where it has one."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from common.errors import input_error
from common.networks.layers import Conv, GroupNorm

_BLOCK = 1024  # queries at a time, so that the matrix of weights of a large image is never whole in memory


def attend(q: jax.Array, k: jax.Array, v: jax.Array, *, fused: bool = True) -> jax.Array:
    """Returns softmax(q k^T / sqrt(D)) v for `q, k, v [B, T, heads, D]`; the softmax is in float32 or better.

    With `fused`, half-precision inputs on an NVIDIA GPU go through cuDNN, which has neither `vmap` nor forward-mode
    derivatives; everything else is plain JAX with all of them.
    """
    if fused and _has_fused(q):
        return lax.platform_dependent(q, k, v, cuda=_fused, default=_plain)
    return _plain(q, k, v)


def _has_fused(q: jax.Array) -> bool:
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    # Asked before tracing the kernel's call, which raises where no such device is.
    return half and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128 and jax.default_backend() == "gpu"


def _fused(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


def _plain(q, k, v):
    length = q.shape[1]
    if length <= _BLOCK or length % _BLOCK:
        return _weighted(q, k, v)
    blocks = jnp.moveaxis(q.reshape(q.shape[0], length // _BLOCK, _BLOCK, *q.shape[2:]), 1, 0)
    out = lax.map(jax.checkpoint(lambda block: _weighted(block, k, v)), blocks)
    return jnp.moveaxis(out, 0, 1).reshape(q.shape)


def _weighted(q, k, v):
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=dtype)
    weights = jax.nn.softmax(logits * q.shape[-1] ** -0.5, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


class SelfAttention(nn.Module):
    """The attention branch of a block: norm, queries, keys and values of all `heads`, `attend`, projection.

    `x [B, H, W, C] -> [B, H, W, C]`, without the sum with x. The channels of `qkv` are ordered by kind (query, key,
    value), then head, then channel of the head.
    """

    heads: int
    eps: float
    min_group: int = 4
    rule: str = "fan_in"
    gain: float = 1.0  # of queries, keys and values
    last_gain: float = 0.0  # of the projection
    fused: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        if channels % self.heads:
            got = f"{self.heads} for {channels}"
            raise input_error(
                "heads", expected="a number that divides the channels", got=got, fix="set heads or channels"
            )
        h = GroupNorm(self.eps, self.min_group, name="norm")(x)
        h = Conv(3 * channels, 1, self.rule, self.gain, dtype=self.dtype, name="qkv")(h)
        h = h.reshape(batch, height * width, 3, self.heads, channels // self.heads)
        h = attend(h[:, :, 0], h[:, :, 1], h[:, :, 2], fused=self.fused).reshape(x.shape)
        return Conv(channels, 1, self.rule, self.last_gain, dtype=self.dtype, name="proj")(h)
