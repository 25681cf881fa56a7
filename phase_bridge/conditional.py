"""Generation given a painting or known pixels, by a model that was trained without either.

Just before evaluations the velocity is drawn anew as if the data were the given image: the position of a path hardly
knows its end for a long while, but the velocity does. Chen et al., ICLR 2024, section 4.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import SIGNED, as_images, as_numbers
from common.errors import input_error
from phase_bridge import bridge as bridges
from phase_bridge.bridge import Bridge


class Guide(NamedTuple):
    """What generation is given: the image, which of its pixels are known, and for how long it steers.

    share: of the image in the velocity at the start. fraction: of the steps, from the first, before which the velocity
    is drawn. released: with Lvv^2 for its standard deviation, where it is Lvv.
    """

    image: jax.Array  # [B or 1, ..., C], on the scale of the data
    known: jax.Array | None = None  # [B or 1, ..., C or 1], 1 where the image counts; None: everywhere
    share: float = 0.0
    fraction: float = 0.0
    released: bool = False


def stroke(image: jax.Array, *, start: float = 0.0, fraction: float = 0.25, released: bool = False) -> Guide:
    """Steers by a painting `[B or 1, H, W, C]`: "dyn-v" by `fraction` of the steps, "init-v" by `start` = 0.1.

    image: bytes, or floats in [-1, 1]; points `[B or 1, C]` may be of any range. Raises `InputError` for shares outside
    [0, 1] and for what is no image.
    """
    _check_shares(start=start, fraction=fraction)
    return Guide(_image(image), None, float(start), float(fraction), bool(released))


def inpainting(image: jax.Array, known: jax.Array, *, released: bool = False) -> Guide:
    """Keeps pixels of `image [B or 1, H, W, C]` where `known [B or 1, H, W, C or 1]` is 1 (or true), makes the rest.

    image: as of `stroke`. Before every evaluation, unknown pixels stand at the data estimate of the step before. Raises
    `InputError` if the shapes do not fit or nothing is known.
    """
    image, known = _image(image), jnp.asarray(known, jnp.float32)
    if not fits(known.shape[1:], image.shape[1:]):
        raise input_error(
            "known", expected=f"a mask for images {image.shape}", got=known.shape, fix="one entry a pixel"
        )
    if not bool(((known == 0) | (known == 1)).all()) or not bool(known.any()):
        raise input_error(
            "known", expected="zeros and ones, not all zero", got="something else", fix="1 is a known pixel"
        )
    return Guide(image, known, 0.0, 1.0, bool(released))


def draw_velocity(b: Bridge, x, x1, t, noise, *, released: bool = False):
    """Draws v given position x and data x1 at t, from standard normal `noise`, all `[..., C]`.

    v ~ N(c_v x1 + (Sigma_xv / Sigma_xx)(x - c_x x1), L_vv^2); `released`: the original takes the variance for the
    standard deviation.
    """
    centre, std = bridges.conditional_velocity(b, x, x1, t)
    return centre + (std**2 if released else std) * noise


def rows(b: Bridge, guide: Guide, times: np.ndarray) -> np.ndarray:
    """Returns what `impose` needs at each of N evaluations `[N, 5]`: on or off, c_x, c_v, slope and spread of v."""
    n = np.arange(len(times))
    on = n < np.floor(guide.fraction * len(times))
    c_x, c_v = bridges.mean_coefficients(b, times)
    xx, xv, _ = bridges.covariance(b, times)
    std = bridges.cholesky(b, times)[2]
    return np.stack([on, c_x, c_v, xv / xx, std**2 if guide.released else std], -1)


def impose(image, known, noise, keys, n, row, m, estimate):
    """Draws the velocity of m `[B, ..., 2C]` as `draw_velocity` does, with unknown pixels from `estimate`."""
    on, c_x, c_v, slope, spread = row
    x, v = bridges.split(m)
    y = jnp.broadcast_to(image, x.shape).astype(x.dtype)
    if known is not None:
        y = jnp.where(known > 0, y, estimate)
    drawn = c_v * y + slope * (x - c_x * y) + spread * noise(keys, n, 2, x)
    return bridges.join(x, jnp.where(on > 0, drawn, v))


def begin(guide: Guide, m: jax.Array) -> jax.Array:
    """Mixes the image into the velocity of the first state, v <- (1 - share) v + share y ("init-v")."""
    x, v = bridges.split(m)
    return bridges.join(x, (1 - guide.share) * v + guide.share * guide.image.astype(v.dtype))


def fits(part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Tells whether an array of shape `part` can stand, repeated, for one of shape `whole`."""
    return len(part) == len(whole) and all(one in (1, all_) for one, all_ in zip(part, whole, strict=True))


def _image(image):
    check = as_images if np.ndim(image) == 4 else as_numbers
    return jnp.asarray(check(image, "image", scale=SIGNED))


def _check_shares(**shares):
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise input_error(name, expected="a share between 0 and 1", got=value, fix="the paper's are 0.1 and 0.25")
