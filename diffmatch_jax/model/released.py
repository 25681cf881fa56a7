"""The released models of DiffMatch where they differ from ours; nothing else knows of these differences.

Their maps are resized with the outermost centres aligned (`ALIGNMENT`), images are shrunk by means over whole pixels,
features are interpolated before they are normalised, and training pairs move and displace objects by other rules.
`features.compat="released"` selects all of it.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from common.errors import input_error
from diffmatch_jax.model import cost_volume
from diffmatch_jax.model.diffusion import Process
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
        looked_up = cost_volume.unit(cost_volume.interpolate(neighbours, fraction))
        return jnp.einsum("bhwijc,bhwc->bhwij", looked_up, part, precision="highest")

    return cost_volume.compare_around(source, cost_volume.unit(target), positions, cosines, radius=radius, rows=rows)


def object_motion(
    size: tuple[int, ...], *, rotation: float, scale: float, translation: tuple[float, float]
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


def linear_process(steps: int = 1000) -> Process:
    """Returns betas from 0.1 / T to 20 / T in equal steps (Ho et al., NeurIPS 2020); T > 20."""
    if steps <= 20:
        raise input_error("steps", expected="more than 20", got=steps, fix="use Process.cosine")
    return Process.of_betas(np.linspace(0.1 / steps, 20 / steps, steps, dtype=np.float64))


def respaced(process: Process, keep: str | Sequence[int]) -> Process:
    """Returns the process of some levels alone, with the same marginals there: beta = 1 - ab_k / ab_before.

    `keep` is as in `kept_levels`. Fewer levels of a long process do not end in pure noise as a short one does.
    """
    kept = kept_levels(len(process), keep)
    bars = process.alphas_bar[kept]
    return Process(tuple(1 - bars / np.append(1.0, bars[:-1])), tuple(np.asarray(process.times)[kept]))


def kept_levels(steps: int, keep: str | Sequence[int]) -> np.ndarray:
    """Returns the sorted levels of 0..steps-1 to keep.

    "ddimN": every s-th from 0, s the smallest stride that gives N. Numbers (a sequence, or text with commas): as many
    equal sections, each with that many levels evenly from its first to its last. Raises `InputError` if none fit.
    """
    if isinstance(keep, str) and keep.startswith("ddim"):
        (count,) = _counts(keep.removeprefix("ddim"), keep)
        for stride in range(1, steps + 1):
            if len(range(0, steps, stride)) == count:
                return np.arange(0, steps, stride)
        fix = f'use "{count}", which needs no stride'
        raise input_error("keep", expected=f"a count that a stride through {steps} levels gives", got=keep, fix=fix)
    counts = _counts(keep, keep) if isinstance(keep, str) else [int(each) for each in keep]
    levels, start = [], 0
    for section, count in enumerate(counts):
        length = steps // len(counts) + (section < steps % len(counts))
        if not 1 <= count <= length:
            raise input_error(
                "keep", expected=f"1 to {length} levels of a section of {length}", got=count, fix="ask for fewer"
            )
        stride, place = (length - 1) / (count - 1) if count > 1 else 1.0, 0.0
        for _ in range(count):
            levels.append(start + round(place))
            place += stride  # added up, not multiplied: ties are rounded as the released samplers do
        start += length
    return np.asarray(sorted(set(levels)))


def _counts(text: str, keep: object) -> list[int]:
    try:
        return [int(each) for each in text.strip("[] ").split(",")]
    except ValueError:
        fix = 'write "ddim5", "5" or "10,15,20"'
        raise input_error(
            "keep", expected="a count of levels, or counts of sections", got=f'"{keep}"', fix=fix
        ) from None
