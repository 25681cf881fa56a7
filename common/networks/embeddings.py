"""Features of the noise level, or time, that a U-Net is conditioned on; always in float32 or better."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.errors import choice, input_error
from common.networks.initial import Scaled

KINDS = ("fourier", "positional")


def positional(time: jax.Array, features: int, *, highest: float = 10_000.0, endpoint: bool = False) -> jax.Array:
    """Returns [cos(t w), sin(t w)], w_k = highest^(-k / half), k < half = features // 2; `[B] -> [B, features]`.

    `endpoint` divides k by half - 1 instead, so that the lowest is 1 / highest; an odd `features` ends with a zero.
    """
    time = jnp.asarray(time)
    time = time.astype(jnp.promote_types(time.dtype, jnp.float32))
    half = features // 2
    k = jnp.arange(half, dtype=time.dtype)
    phase = time[:, None] * jnp.exp(-math.log(highest) * k / (half - endpoint))
    zero = jnp.zeros((len(time), features % 2), time.dtype)
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase), zero], axis=-1)


class NoiseEmbedding(nn.Module):
    """The time as waves, `[B] -> [B, features]`.

    `kind` "fourier": [cos(2 pi f t), sin(2 pi f t)] at fixed random frequencies f ~ `scale` N(0, 1), kept in `stats`;
    "positional": `positional` with the given `endpoint`.
    """

    features: int
    kind: str = "fourier"
    scale: float = 16.0
    endpoint: bool = False

    @nn.compact
    def __call__(self, time: jax.Array) -> jax.Array:
        choice("embedding", self.kind, KINDS)
        if self.kind == "positional":
            return positional(time, self.features, endpoint=self.endpoint)
        time = time.astype(jnp.promote_types(time.dtype, jnp.float32))
        frequencies = self.variable("stats", "frequencies", self._draw).value
        # Phases reach 300 rad: half precision would destroy them.
        phase = time[:, None] * (2 * math.pi * frequencies.astype(time.dtype))
        return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)

    def _draw(self):
        return Scaled(self.scale, normal=True)(self.make_rng("params"), (self.features // 2,))


def one_hot(labels: jax.Array | None, num_classes: int, dtype) -> jax.Array | None:
    """Returns classes as `[B, num_classes]`, given as such or as integers `[B]` (-1 is no class, all zeros).

    None for a network without classes; raises `InputError` if labels are given to one, or not given to the others.
    """
    if labels is None and num_classes == 0:
        return None
    if labels is None or num_classes == 0:
        got = "none" if labels is None else f"labels of shape {list(jnp.shape(labels))}"
        expected = f"labels of {num_classes} classes" if num_classes else "none, since the network has no classes"
        raise input_error(
            "labels",
            expected=expected,
            got=got,
            fix="use a network made for them" if labels is not None else "give one a sample, -1 for no class",
        )
    labels = jnp.asarray(labels)
    if jnp.issubdtype(labels.dtype, jnp.integer) and labels.ndim == 1:
        return jax.nn.one_hot(labels, num_classes, dtype=dtype)
    if labels.shape[-1:] != (num_classes,) or labels.ndim != 2:
        got = list(labels.shape)
        raise input_error(
            "labels", expected=f"[B] or [B, {num_classes}]", got=got, fix="give class numbers or one-hot rows"
        )
    return labels.astype(dtype)
