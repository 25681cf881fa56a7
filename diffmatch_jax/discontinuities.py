"""Local wobbles of the target, so that flow is not smooth everywhere: a random displacement inside a few small blobs.

The displaced target shows at p what it showed at p + d(p), so the mapping is looked up there too and stays exact.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from common.errors import choice, input_error
from diffmatch_jax.matching import flow_of, mapping_of, sample, within
from diffmatch_jax.pairs import Pair
from diffmatch_jax.resize import COMPAT
from diffmatch_jax.smoothing import blur

_TRIES = 8  # places drawn for each blob until one shows something the source has
_CUT = 4.0  # a Gaussian ends at so many standard deviations


@dataclass(frozen=True)
class Wobbles:
    """How many blobs there are, how large and how strong; hashable. Lengths are shares of the longer side.

    number: of blobs, low to high; blob: their standard deviation, U(low, high); width: standard deviation of the blur
    of white noise U(-1, 1), which is U(low, high), and gain: its factor, U(low, high). The defaults are those of the
    released settings for 520 pixels; their displacements have a standard deviation of 1.6 pixels at every size.
    """

    number: tuple[int, int] = (5, 15)
    blob: tuple[float, float] = (3 / 520, 10 / 520)
    width: tuple[float, float] = (0.1, 0.14)
    gain: tuple[float, float] = (1.0, 1.4)

    def __post_init__(self):
        for name in ("number", "blob", "width", "gain"):
            low, high = getattr(self, name)
            if not (0 <= low <= high and (high > 0 or name in ("number", "gain"))):
                fix = f"use {getattr(type(self), name)}"
                raise input_error(f"discontinuities.{name}", expected="0 <= low <= high", got=[low, high], fix=fix)


def displacement(noise: jax.Array, *, sigma, gain, reach: float | None = None) -> jax.Array:
    """Returns gain * (Gaussian blur of 2 noise - 1) in pixels from `noise [H, W, 2]` in [0, 1].

    `reach`, the largest radius of the blur, is needed where sigma is traced. Without it the blur is OpenCV's, whose
    kernel has 8 sigma + 1 samples.
    """
    if reach is None:
        reach = (round(8 * float(sigma) + 1) | 1) // 2
        return gain * blur(2 * noise - 1, sigma, reach=reach)
    return gain * blur(2 * noise - 1, sigma, reach=reach, radius=_CUT * sigma)


def blobs(
    centres: jax.Array, sigmas: jax.Array, size: tuple[int, int], *, used=None, compat: str | None = None
) -> jax.Array:
    """Returns the sum of blobs clip(2 exp(-r^2 / 2 sigma^2), 0, 1), at most 1, `[H, W]`.

    centres `[n, 2]` (x, y) and sigmas `[n]` in pixels, `used [n]` leaves some out. compat="released" has rows and
    columns of the centres swapped.
    """
    if compat is not None:
        choice("compat", compat, COMPAT)
        centres = centres[:, ::-1]
    height, width = size
    x, y = (
        jnp.exp(-0.5 * ((jnp.arange(length) - place[:, None]) / sigmas[:, None]) ** 2)
        for length, place in ((width, centres[:, 0]), (height, centres[:, 1]))
    )
    each = jnp.minimum(2 * y[:, :, None] * x[:, None, :], 1)
    if used is not None:
        each = each * used[:, None, None]
    return jnp.minimum(each.sum(0), 1)


def displaced(image: jax.Array, by: jax.Array, *, outside: str = "border") -> jax.Array:
    """Returns what `image [H, W, C]` has at p + by(p), `by [H, W, 2]` in pixels."""
    return sample(image, mapping_of(by), outside=outside)


def displaced_flow(flow: jax.Array, by: jax.Array, *, outside: str = "border") -> jax.Array:
    """Returns the flow of the displaced target: the mapping at p + by(p), less p.

    Beyond the border both picture and mapping repeat their edge and so agree; the released data has zeros there.
    """
    return flow_of(displaced(mapping_of(flow), by, outside=outside))


def draw(key: jax.Array, mask: jax.Array, *, settings: Wobbles) -> jax.Array:
    """Returns a random displacement `[H, W, 2]` in pixels with blobs where the target's `mask [H, W]` holds."""
    size = mask.shape
    height, width = size
    side = max(size)
    of_noise, of_width, of_gain, of_number, of_sigma, of_place = jax.random.split(key, 6)
    (low, high), (least, most) = settings.width, settings.gain
    field = displacement(
        jax.random.uniform(of_noise, (height, width, 2)),
        sigma=side * jax.random.uniform(of_width, minval=low, maxval=high),
        gain=side * jax.random.uniform(of_gain, minval=least, maxval=most),
        reach=float(np.ceil(_CUT * side * high)),
    )
    few, many = settings.number
    number = jax.random.randint(of_number, (), few, many + 1)
    low, high = settings.blob
    sigmas = side * jax.random.uniform(of_sigma, (many,), minval=low, maxval=high)
    # Blobs fade before the border; one that is too large for that sits in the middle.
    last = jnp.asarray([width - 1, height - 1], jnp.float32)
    margin = jnp.minimum(3 * sigmas[:, None, None], last / 2)
    places = margin + jax.random.uniform(of_place, (many, _TRIES, 2)) * (last - 2 * margin)
    pixels = jnp.round(places).astype(jnp.int32)
    seen = mask[pixels[..., 1], pixels[..., 0]]
    centres = jnp.take_along_axis(places, seen.argmax(1)[:, None, None], 1)[:, 0]
    used = (jnp.arange(many) < number) & seen.any(1)
    return field * blobs(centres, sigmas, size, used=used)[..., None]


def perturb(key: jax.Array, pair: Pair, *, settings: Wobbles | None = None) -> Pair:
    """Returns the pair with a wobbled target, the flow that belongs to it, and the mask of that.

    Pixels that mix valid and invalid neighbours are invalid. Flow is interpolated between pixels: paste objects after.
    """
    by = draw(key, pair.mask, settings=settings or Wobbles())
    flow = displaced_flow(pair.flow, by)
    known = displaced(pair.mask[..., None].astype(jnp.float32), by)[..., 0]
    mask = within(mapping_of(flow), pair.source.shape[:2]) & (known > 1 - 1e-4)
    return pair._replace(target=displaced(pair.target, by), flow=flow, mask=mask)
