"""A residual perceptron for data without a grid, such as points of the plane; time enters every layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from common.errors import choice, input_error
from common.networks.layers import Scaled, one_hot

EMBEDDINGS = ("log", "raw", "sinusoidal")


class ResidualMLP(nn.Module):
    """`h = silu(W_0 [x, e])`, `depth` times `h = silu(h + W_i [h, e])`, then `W [h, e]`, e being the embedded time.

    The toy network of Chen et al. (2024, "Generative modeling with phase stochastic bridges"): width 128, depth 20 and
    `embedding="log"`, e = ln(time), 333,828 parameters in the plane. "raw" passes the time as it is; "sinusoidal" gives
    sines and cosines of it at `num_frequencies` frequencies, from half a period to `highest` periods a unit of time.
    Hidden weights are drawn as PyTorch's linear layers draw them, the last layer begins at zero.

    Called with `x [B, ..., C]`, `time` `[]` or `[B]` (above 0 for "log"), and `labels` or None: one-hot `[B, K]`, or
    for a network of `num_classes` also integers `[B]`, of which -1 is no class. Returns `[B, ..., features]`.
    Products are computed in `dtype`, the embedding and the result in float32 or better.
    """

    features: int
    width: int = 128
    depth: int = 20
    embedding: str = "log"
    num_frequencies: int = 8
    highest: float = 16.0
    num_classes: int = 0
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, time: jax.Array, labels: jax.Array | None = None, keys: jax.Array | None = None
    ) -> jax.Array:
        del keys  # there is no dropout to switch on
        e = embed(time, kind=self.embedding, num_frequencies=self.num_frequencies, highest=self.highest)
        e = jnp.broadcast_to(e, (x.shape[0], e.shape[-1]))
        if self.num_classes:
            labels = one_hot(labels, self.num_classes, e.dtype)
        if labels is not None:
            e = jnp.concatenate([e, labels.astype(e.dtype)], axis=-1)
        e = jnp.broadcast_to(e.reshape(x.shape[0], *([1] * (x.ndim - 2)), -1), (*x.shape[:-1], e.shape[-1]))
        e = e.astype(jnp.promote_types(x.dtype, e.dtype))
        h = nn.silu(_Joined(self.width, dtype=self.dtype, name="layer_0")(x, e))
        for i in range(1, self.depth + 1):
            h = nn.silu(h + _Joined(self.width, dtype=self.dtype, name=f"layer_{i}")(h, e))
        out = _Joined(self.features, dtype=self.dtype, zero=True, name=f"layer_{self.depth + 1}")(h, e)
        return out.astype(jnp.promote_types(x.dtype, jnp.float32))


def embed(time: jax.Array, *, kind: str, num_frequencies: int = 8, highest: float = 16.0) -> jax.Array:
    """Returns features `[1, E]` of one time or `[B, E]` of many; raises `InputError` for a `kind` that is none."""
    time = jnp.atleast_1d(jnp.asarray(time))[:, None]
    time = time.astype(jnp.promote_types(time.dtype, jnp.float32))
    if kind == "log":
        return jnp.log(time)
    if kind == "raw":
        return time
    choice("embedding", kind, EMBEDDINGS)
    if num_frequencies < 1 or highest < 0.5:
        got = f"{num_frequencies} up to {highest:g}"
        raise input_error("frequencies", expected="at least one, up to 0.5 or more", got=got, fix="use 8 up to 16")
    periods = jnp.geomspace(0.5, highest, num_frequencies, dtype=time.dtype)
    phase = 2 * jnp.pi * time * periods
    return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)


class _Joined(nn.Module):
    """A linear layer of `[h, e]`, without building the joined array."""

    features: int
    dtype: jnp.dtype | None = None
    zero: bool = False

    @nn.compact
    def __call__(self, h: jax.Array, e: jax.Array) -> jax.Array:
        fan_in = h.shape[-1] + e.shape[-1]
        draw = Scaled(0.0 if self.zero else fan_in**-0.5)
        kernel = self.param("kernel", draw, (fan_in, self.features))
        bias = self.param("bias", draw, (self.features,))
        h, e, kernel, bias = promote_dtype(h, e, kernel, bias, dtype=self.dtype)
        return h @ kernel[: h.shape[-1]] + e @ kernel[h.shape[-1] :] + bias
