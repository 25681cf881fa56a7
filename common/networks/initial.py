"""Initial weights: every leaf says how it is distributed, and one draw serves all leaves of a network."""

import contextvars
import dataclasses
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.core import meta

from common.method import Variables

_noting = contextvars.ContextVar("noting", default=False)


@dataclasses.dataclass(frozen=True)
class Scaled:
    """An initialiser in the form of Flax's: `mean` plus `scale` times U(-1, 1), or times N(0, 1) if `normal`."""

    scale: float
    normal: bool = False
    mean: float = 0.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        if _noting.get():
            return _Noted(jnp.zeros(shape, dtype), self)
        if self.scale == 0:
            return jnp.full(shape, self.mean, dtype)
        draw = jax.random.normal if self.normal else _uniform
        return self.mean + self.scale * draw(key, shape, dtype)


class _Noted(struct.PyTreeNode, meta.AxisMetadata):
    """A leaf beside its distribution; Flax takes the leaf out wherever a module reads it."""

    value: Any
    how: Scaled = struct.field(pytree_node=False)

    def unbox(self):
        return self.value

    def replace_boxed(self, val):
        return self.replace(value=val)

    def add_axis(self, index, params):
        return self

    def remove_axis(self, index, params):
        return self


def constant(value: float) -> Scaled:
    """Returns the initialiser that fills with `value`."""
    return Scaled(0.0, mean=value)


def normal(shape: tuple[int, ...], gain: float = 1.0) -> Scaled:
    """Returns N(0, `gain`^2) whatever the shape."""
    return Scaled(gain, normal=True)


def fan_in(shape: tuple[int, ...], gain: float = 1.0) -> Scaled:
    """Returns U(-b, b), b = `gain` / sqrt(fan-in), for a kernel `[..., I, O]`."""
    return Scaled(gain / math.sqrt(math.prod(shape[:-1])))


def xavier(shape: tuple[int, ...], gain: float = 1.0) -> Scaled:
    """Returns U(-b, b), b = `gain` sqrt(6 / (fan-in + fan-out)) (Glorot), for a kernel `[..., I, O]`."""
    return Scaled(gain * math.sqrt(6 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1]))))


def initialise(network: nn.Module, key: jax.Array, *inputs: Any) -> Variables:
    """Draws `params` and `stats` of a network for inputs like `inputs` (only shapes and types matter).

    The distributions are those of `network.init`, but leaves that are `Scaled` share one draw: a draw for each of the
    hundreds of weights of a U-Net takes minutes to compile.
    """
    token = _noting.set(True)
    try:
        # A function of its own, so that no trace made without notes is reused.
        noted = jax.eval_shape(lambda *inputs: network.init(key, *inputs), *inputs)
    finally:
        _noting.reset(token)
    leaves, structure = jax.tree.flatten(noted, is_leaf=_is_noted)
    filled: list[Any] = [None] * len(leaves)
    for is_normal, draw in ((False, _uniform), (True, jax.random.normal)):
        places = [i for i, leaf in enumerate(leaves) if _is_noted(leaf) and leaf.how.normal is is_normal]
        sizes = [math.prod(leaves[i].value.shape) if leaves[i].how.scale else 0 for i in places]
        numbers = draw(jax.random.fold_in(key, is_normal), (sum(sizes),), jnp.float32)
        # Cut on the host, unless this is traced: a program with so many results takes seconds to compile.
        numbers = numbers if isinstance(numbers, jax.core.Tracer) else np.asarray(numbers)
        for i, size, end in zip(places, sizes, itertools.accumulate(sizes), strict=True):
            shape, how = leaves[i].value.shape, leaves[i].how
            part = numbers[end - size : end].reshape(shape) if size else np.zeros(shape, np.float32)
            filled[i] = jnp.asarray(how.mean + how.scale * part, leaves[i].value.dtype)
    if any(leaf is None for leaf in filled):
        zeros = [None if each is None else jnp.zeros(jnp.shape(each), each.dtype) for each in inputs]
        drawn = jax.tree.leaves(jax.jit(network.init)(key, *zeros))
        filled = [each if leaf is None else leaf for leaf, each in zip(filled, drawn, strict=True)]
    tree = jax.tree.unflatten(structure, filled)
    return Variables(tree["params"], tree.get("stats", {}))


def _is_noted(leaf) -> bool:
    return isinstance(leaf, _Noted)


def _uniform(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -1, 1)
