"""Random changes of colour, contrast, sharpness and noise: what may differ between two pictures of the same scene.

Pure functions of a key and one image `[H, W, 3]` in [0, 1]. No pixel moves, so a pair's flow stays exact.

Local wobbles of the target, so that flow is not smooth everywhere: a random displacement inside a few small blobs.

The displaced target shows at p what it showed at p + d(p), so the mapping is looked up there too and stays exact.
"""

from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np

from common.errors import input_error
from diffmatch_jax.data.warps import Pair
from diffmatch_jax.model.flow import flow_of, mapping_of, sample, within
from diffmatch_jax.model.resize import blur

LUMA = (0.299, 0.587, 0.114)

# Two axes of colour, orthogonal to gray: hue turns their plane.
_RED_GREEN = np.array([1, -1, 0]) / np.sqrt(2)
_YELLOW_BLUE = np.array([1, 1, -2]) / np.sqrt(6)

_RADIUS = 4  # of the blur's kernel, pixels: two standard deviations of the widest one


@dataclass(frozen=True)
class Photometric:
    """Strengths of photometric changes; hashable. Numbers are ends of uniform laws; a fraction of 0 changes nothing.

    share: probability that a picture is changed at all; brightness: added, U(-, +); contrast: ln of the factor about
    the picture's mean, U(-, +); fade: probability that a further factor, 10^U(-1.3, 0), makes it much weaker; gamma: ln
    of the exponent, U(-, +); saturation: factor 1 + U(-, +); hue: degrees, U(-, +); blur: standard deviation in pixels,
    U(0, .), at most 2; noise: standard deviation, U(0, .), in a share `noisy` of the changed pictures.
    """

    share: float = 1.0
    brightness: float = 0.15
    contrast: float = 0.4
    fade: float = 0.2
    gamma: float = 0.4
    saturation: float = 0.5
    hue: float = 20.0
    blur: float = 1.0
    noise: float = 0.4
    noisy: float = 0.5

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            most = {"share": 1, "fade": 1, "noisy": 1, "blur": _RADIUS / 2}.get(field.name, np.inf)
            if not 0 <= value <= most:
                expected = f"0 to {most:g}" if np.isfinite(most) else "a number of at least 0"
                raise input_error(f"photometric.{field.name}", expected=expected, got=value, fix=f"use {field.default}")


def change(key: jax.Array, image: jax.Array, settings: Photometric) -> jax.Array:
    """Returns `image [H, W, 3]` in [0, 1] changed at random and rounded to bytes, as a file would hold it."""
    keys = dict(zip((field.name for field in fields(settings)), jax.random.split(key, 10), strict=True))

    def spread(name: str) -> jax.Array:
        most = getattr(settings, name)
        return jax.random.uniform(keys[name], minval=-most, maxval=most)

    def coin(name: str) -> jax.Array:
        return jax.random.uniform(keys[name]) < getattr(settings, name)

    x = image
    if settings.blur:
        x = blurred(x, jax.random.uniform(keys["blur"], maxval=settings.blur))
    if settings.gamma:
        x = jnp.maximum(x, 1e-6) ** jnp.exp(spread("gamma"))
    if settings.saturation or settings.hue:
        x = coloured(x, saturation=1 + spread("saturation"), hue=spread("hue"))
    of_fade, of_factor = jax.random.split(keys["fade"])
    keys["fade"] = of_fade
    weaker = jnp.where(coin("fade"), 10 ** jax.random.uniform(of_factor, minval=-1.3, maxval=0.0), 1)
    x = contrasted(x, jnp.exp(spread("contrast")) * weaker) + spread("brightness")
    if settings.noise and settings.noisy:
        of_level, of_noise = jax.random.split(keys["noise"])
        level = jax.random.uniform(of_level, maxval=settings.noise) * coin("noisy")
        x = jnp.clip(x, 0, 1) + level * jax.random.normal(of_noise, x.shape)
    return jnp.where(coin("share"), as_bytes(x), image)


def as_bytes(image: jax.Array) -> jax.Array:
    """Returns the nearest image that 8 bits a channel hold: clipped to [0, 1], rounded to multiples of 1/255."""
    return jnp.round(jnp.clip(image, 0, 1) * 255) / 255


def contrasted(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns mean + factor (image - mean), with each channel's mean over `image [H, W, C]`."""
    mean = image.mean((-3, -2), keepdims=True)
    return mean + factor * (image - mean)


def coloured(image: jax.Array, *, saturation: jax.Array | float = 1.0, hue: jax.Array | float = 0.0) -> jax.Array:
    """Returns `image [..., 3]` with its colour, the part that is not gray, scaled and turned by `hue` degrees.

    The luma stays: what colour adds to it is taken away in gray.
    """
    angle = jnp.radians(hue)
    one, other = np.float32(_RED_GREEN), np.float32(_YELLOW_BLUE)
    plane, turn = np.outer(one, one) + np.outer(other, other), np.outer(other, one) - np.outer(one, other)
    mixed = saturation * (jnp.cos(angle) * plane + jnp.sin(angle) * turn)
    # The increment to a gray that keeps the luma; a matrix product of so few columns would be slow.
    gray = np.outer(np.ones(3, np.float32), np.asarray(LUMA, np.float32))
    matrix = gray + (np.eye(3, dtype=np.float32) - gray) @ mixed
    channels = [image[..., i] for i in range(3)]
    return jnp.stack([sum(matrix[i, j] * channels[j] for j in range(3)) for i in range(3)], -1)


def blurred(image: jax.Array, sigma: jax.Array | float) -> jax.Array:
    """Returns `image [H, W, C]` convolved with a Gaussian of standard deviation `sigma` pixels; the edge is repeated.

    `sigma` may be traced and 0; the kernel ends 4 pixels from its middle.
    """
    away = np.arange(-_RADIUS, _RADIUS + 1)
    weights = jnp.exp(-0.5 * (away / jnp.maximum(sigma, 1e-3)) ** 2)
    weights = weights / weights.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (_RADIUS, _RADIUS)
        wide, length = jnp.pad(image, pad, mode="edge"), image.shape[axis]
        parts = [jax.lax.slice_in_dim(wide, i, i + length, axis=axis) for i in range(2 * _RADIUS + 1)]
        image = sum((weight * part for weight, part in zip(weights, parts, strict=True)), jnp.zeros_like(image))
    return image


_TRIES = 8  # places drawn for each blob until one shows something the source has
_CUT = 4.0  # a Gaussian ends at so many standard deviations


@dataclass(frozen=True)
class Wobbles:
    """Number, size and strength of blobs; hashable. Lengths are fractions of the longer side.

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


def blobs(centres: jax.Array, sigmas: jax.Array, size: tuple[int, ...], *, used=None) -> jax.Array:
    """Returns the sum of blobs clip(2 exp(-r^2 / 2 sigma^2), 0, 1), at most 1, `[H, W]`.

    centres `[n, 2]` (x, y) and sigmas `[n]` in pixels, `used [n]` leaves some out.
    """
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
