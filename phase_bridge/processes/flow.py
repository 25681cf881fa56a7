"""Flow matching on straight paths x_t = (1 - t) e + t x1 (Lipman et al., ICLR 2023), noise at 0 and data at 1."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from common.errors import input_error
from phase_bridge.processes.base import Process


@dataclass(frozen=True)
class Flow(Process):
    """The velocity of the flow is E[x1 - e | x_t] = (E[x1 | x_t] - x_t) / (1 - t)."""

    name: ClassVar[str] = "flow"
    parts: ClassVar[int] = 1
    first: ClassVar[float] = 0.0
    last: ClassVar[float] = 1.0

    def mean(self, t):
        return (t,)

    def factor(self, t):
        return (1 - t,)

    def flow(self, t):
        return ((-1 / (1 - t),),), (1 / (1 - t),)

    def time_at(self, sigma):
        return 1 / (1 + sigma)


def couple(x1: jax.Array, noise: jax.Array, *, size: int) -> jax.Array:
    """Returns `x1 [B, ...]` reordered within groups of `size`, so that sum |x1_i - noise_i|^2 is least in each.

    Tong et al., TMLR 2024; Pooladian et al., ICML 2023. The assignment is computed exactly, on the host. Raises
    `InputError` unless the batch consists of whole groups.
    """
    count = x1.shape[0]
    if size < 2 or count % size:
        fix = "use a divisor of the batch size on each device, or 0"
        raise input_error("coupling", expected=f"at least 2, and a divisor of {count} examples", got=size, fix=fix)
    groups = [each.reshape(count // size, size, -1) for each in (x1, noise)]
    order = jax.pure_callback(_assign, jax.ShapeDtypeStruct((count // size, size), jnp.int32), *groups)
    return jnp.take_along_axis(groups[0], order[..., None], axis=1).reshape(x1.shape)


def _assign(x1, noise) -> np.ndarray:
    pairs = zip(np.asarray(x1), np.asarray(noise), strict=True)
    return np.stack([linear_sum_assignment(cdist(b, a, "sqeuclidean"))[1] for a, b in pairs]).astype(np.int32)
