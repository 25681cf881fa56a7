"""The released models of DiffMatch where they differ from ours; nothing else knows of these differences.

Their maps are resized with the outermost centres aligned (`ALIGNMENT`), images are shrunk by means over whole pixels,
features are interpolated before they are normalised, and training pairs move and displace objects by other rules.
`features.compat="released"` selects all of it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from diffmatch_jax.model import cost_volume
from diffmatch_jax.model.features import Prepared, as_rgb
from diffmatch_jax.model.resize import adaptive_mean, resize

NAME = "released"
ALIGNMENT = "corner"


def prepared(images: jax.Array, *, fine: int = 512, coarse: int = 256) -> Prepared:
    """Returns images `[B, H, W, 1 or 3]` at both sizes: the fine one interpolated, the coarse one by means."""
    x = as_rgb(images)
    return Prepared(resize(x, (fine, fine)), adaptive_mean(x, (coarse, coarse)))


def local_features(
    source: jax.Array, target: jax.Array, positions: jax.Array, *, radius: int = 4, rows: int = 4
) -> jax.Array:
    """Returns cosines as `cost_volume.local_features` does, of features that are normalised after interpolation.

    One cell outside the source that is ill-conditioned.
    """

    def cosines(neighbours: jax.Array, part: jax.Array, fraction: jax.Array) -> jax.Array:
        looked_up = cost_volume.unit(cost_volume.between(neighbours, fraction))
        return jnp.einsum("bhwijc,bhwc->bhwij", looked_up, part, precision="highest")

    return cost_volume.around(source, cost_volume.unit(target), positions, cosines, radius=radius, rows=rows)


def object_motion(
    size: tuple[int, int], *, rotation: float, scale: float, translation: tuple[float, float]
) -> np.ndarray:
    """Returns the matrix `[3, 3]` of an object's motion, see `data.warps.object_motion`.

    The object is shifted, then turned about the middle of the image of `size`, then scaled about a quarter of it.
    """
    height, width = size
    cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    turn = np.array([[cosine, sine], [-sine, cosine]])
    shift = np.eye(3)
    shift[:2, 2] = translation
    scaling = _about(scale * np.eye(2), np.array([width, height]) * 0.25)
    return scaling @ _about(turn, np.array([width / 2, height / 2])) @ shift


def _about(linear: np.ndarray, middle: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, middle - linear @ middle
    return matrix
