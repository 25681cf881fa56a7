"""The fifteen corruptions of ImageNet-C at five severities, for images of any size.

Types and tables are those of Hendrycks & Dietterich (ICLR 2019) and were made for 224 x 224. Here every length (blur,
shift, flake, block) is `scale` = sqrt(H W) / 224 times as long, so that a large image looks like an enlarged small one;
noise stays per pixel, JPEG keeps its blocks of 8. In images of less than about 32 pixels a side blurs and shifts become
shorter than a pixel, and change little (a defocus below 10 pixels nothing). Nothing is resized on the way, and every
draw comes from a seed. Different from the published code: glass blur swaps everywhere and really swaps; motion blur is
centred, so that it moves nothing; frost is drawn by `weather.frost_texture`, not a photograph of frost; elastic moves
positions once, in one interpolation, and says where to.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.arrays import as_images
from common.errors import choice, input_error
from common.io.results import as_unit
from diffmatch_jax.evaluation.corruptions import blur, digital, noise, weather

# In the published order.
KINDS: dict[str, Callable] = {
    "gaussian_noise": noise.gaussian,
    "shot_noise": noise.shot,
    "impulse_noise": noise.impulse,
    "defocus_blur": blur.defocus,
    "glass_blur": blur.glass,
    "motion_blur": blur.motion,
    "zoom_blur": blur.zoom,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg,
}
SEVERITIES = (1, 2, 3, 4, 5)
LEAST = 2  # pixels along a side: one alone has no inside to move in


class Corrupted(NamedTuple):
    """A corrupted image `[H, W, C]`, and for elastic_transform the `flow [H, W, 2]` from it into the original.

    Pixel p shows what the original has at p + flow(p); None where nothing moved. `truth.compose` takes it into account.
    """

    image: np.ndarray
    flow: np.ndarray | None


def corrupt(image: np.ndarray, kind: str, severity: int, seed: int | Sequence[int] | jax.Array) -> Corrupted:
    """Returns `image [H, W, 1 or 3]` corrupted: bytes stay bytes, floating point in [0, 1] becomes float32.

    A function of image, kind, severity and seed (one or more integers, or a JAX key) alone; the same seed gives the
    same draws at all severities. Raises `InputError` for other kinds, severities, shapes, or sides below 2 pixels.
    """
    image = np.asarray(image)
    choice("kind", kind, KINDS)
    if severity not in SEVERITIES:
        raise input_error("severity", expected="1, 2, 3, 4 or 5", got=severity, fix="5 is the strongest")
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or min(image.shape[:2]) < LEAST:
        expected = f"[H, W, 1 or 3] of at least {LEAST} x {LEAST} pixels"
        raise input_error(
            "image", expected=expected, got=list(image.shape), fix="give one image at a time, enlarged if tiny"
        )
    bytes_in = image.dtype == np.uint8
    x = as_unit(image if bytes_in else as_images(image, "image", batch=False, beyond=0.0))
    scale = float(np.sqrt(x.shape[0] * x.shape[1]) / 224)
    result = KINDS[kind](x, severity, generator(seed, kind), scale)
    out, flow = result if isinstance(result, tuple) else (result, None)
    out = np.clip(out, 0, 1)
    return Corrupted(np.round(out * 255).astype(np.uint8) if bytes_in else out.astype(np.float32), flow)


def generator(seed: int | Sequence[int] | jax.Array, kind: str) -> np.random.Generator:
    """Returns the source of random numbers of one image and kind; raises `InputError` for other seeds."""
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        seed = jax.random.key_data(seed)
    numbers = np.ravel(seed)
    if not np.issubdtype(numbers.dtype, np.integer) or (numbers < 0).any():
        raise input_error("seed", expected="at least 0, a whole number or several", got=seed, fix="use 0")
    return np.random.default_rng([*numbers.tolist(), list(KINDS).index(kind)])
