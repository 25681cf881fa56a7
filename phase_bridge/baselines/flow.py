"""Flow matching on straight paths x_t = (1 - t) z + t x1 (Lipman et al., 2023), noise at t = 0 and data at t = 1.

The network gives the velocity E[x1 - z | x_t]. With `coupling` the noise and the data of a batch are paired anew, so
that the squares of their distances have the least sum (Tong et al., 2024; Pooladian et al., 2023).
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from common.errors import input_error
from phase_bridge.objective import Objective, beside


def objective(*, coupling: int = 0) -> Objective:
    """Returns the objective; t is uniform, the weight one, and the network's time is 1 - t.

    coupling: size of the groups of the batch within which noise and data are paired (0: as they are drawn).
    """
    return Objective(
        name="flow-ot" if coupling else "flow",
        parts=1,
        times=jax.random.uniform,
        perturb=lambda x1, z, t: beside(t, x1) * x1 + beside(1 - t, x1) * z,
        inputs=lambda x, t: x,
        label=lambda t: 1 - t,
        target=lambda x1, z, t: x1 - z,
        weight=jnp.ones_like,
        read=lambda output, x, t: output,
        couple=(lambda x1, z: couple(x1, z, size=coupling)) if coupling else None,
    )


def couple(x1: jax.Array, z: jax.Array, *, size: int) -> jax.Array:
    """Returns `x1 [B, ...]` reordered within groups of `size`, so that sum |x1_i - z_i|^2 is least in each.

    The assignment is computed exactly, on the host. Raises `InputError` unless the batch consists of whole groups.
    """
    count = x1.shape[0]
    if size < 2 or count % size:
        fix = "use a divisor of the batch size on each device, or 0"
        raise input_error("coupling", expected=f"at least 2, and a divisor of {count} examples", got=size, fix=fix)
    groups = [each.reshape(count // size, size, -1) for each in (x1, z)]
    order = jax.pure_callback(_assign, jax.ShapeDtypeStruct((count // size, size), jnp.int32), *groups)
    return jnp.take_along_axis(groups[0], order[..., None], axis=1).reshape(x1.shape)


def _assign(x1, z) -> np.ndarray:
    return np.stack([
        linear_sum_assignment(cdist(np.asarray(b), np.asarray(a), "sqeuclidean"))[1] for a, b in zip(x1, z, strict=True)
    ]).astype(np.int32)  # fmt: skip
