"""Conditional samples: from a painting, from the known pixels of an image, or guided by another model.

Given position x and data x1 the velocity of a bridge is Gaussian, so before an evaluation it may be drawn anew, given
an image that is to be approached ("sampling with conditions"). The network is the unconditional one.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Real, Shaped

from common.arrays import SIGNED, AnyArray, as_images, as_mask, as_numbers
from common.errors import input_error
from phase_bridge import bridge as bridges
from phase_bridge.bridge import Bridge
from phase_bridge.processes import Process, beside, join, split
from phase_bridge.sampling import Model, sample


class Condition(NamedTuple):
    """The image that steers, which of its pixels are known, and for how long; made by `stroke` and `inpainting`.

    start: the fraction of the image in the first velocity. fraction: of the steps, from the first, before which the
    velocity is drawn.
    """

    image: jax.Array  # [B or 1, ..., C], on the scale of the data
    known: jax.Array | None = None  # [B or 1, ..., C or 1], 1 where the image counts; None: everywhere
    start: float = 0.0
    fraction: float = 0.0

    def check(self, process: Process, shape: tuple[int, ...]) -> None:
        """Raises `InputError` unless samples of `shape` along `process` can be steered."""
        if process.name != "bridge":
            raise input_error("condition", expected="none but for a Bridge", got="one", fix="use a Bridge")
        if not _fits(self.image.shape, shape):
            expected, got = f"one or more of shape {shape}", self.image.shape
            raise input_error("condition.image", expected=expected, got=got, fix="match the samples")

    def rows(self, b: Bridge, times: np.ndarray) -> np.ndarray:
        """Returns the inputs of `impose` at each of N evaluations `[N, 5]`: on, c_x, c_v, slope and spread of v."""
        n = np.arange(len(times))
        on = n < np.floor(self.fraction * len(times))
        c_x, c_v = bridges.mean_coefficients(b, times)
        xx, xv, _ = bridges.covariance(b, times)
        return np.stack([on, c_x, c_v, xv / xx, bridges.cholesky(b, times)[2]], -1)

    def begin(self, m: jax.Array) -> jax.Array:
        """Mixes the image into the velocity of the first state, v <- (1 - start) v + start y ("init-v")."""
        x, v = split(m)
        return join(x, (1 - self.start) * v + self.start * self.image.astype(v.dtype))

    def impose(self, noise, keys, n, row, m, estimate):
        """Returns m `[B, ..., 2C]` with a new velocity, v ~ N(c_v y + (Sigma_xv / Sigma_xx)(x - c_x y), L_vv^2).

        y is the image, and `estimate` where pixels are unknown.
        """
        on, c_x, c_v, slope, spread = row
        x, v = split(m)
        y = jnp.broadcast_to(self.image, x.shape).astype(x.dtype)
        if self.known is not None:
            y = jnp.where(self.known > 0, y, estimate)
        new = c_v * y + slope * (x - c_x * y) + spread * noise(keys, n, 2, x)
        return join(x, jnp.where(on > 0, new, v))

    def finish(self, x: jax.Array) -> jax.Array:
        """Returns samples `[B, ..., C]` with known pixels at those of the image."""
        return x if self.known is None else jnp.where(self.known > 0, self.image.astype(x.dtype), x)


def stroke(
    image: Real[AnyArray, "one_or_batch *spatial channels"], *, start: float = 0.0, fraction: float = 0.25
) -> Condition:
    """Steers by a painting `[B or 1, H, W, C]`: "dyn-v" by `fraction` of the steps, "init-v" by `start` = 0.1.

    image: bytes, or floats in [-1, 1]; points `[B or 1, C]` may be of any range. Raises `InputError` for fractions
    outside [0, 1] and for what is no image.

    >>> stroke(np.zeros((1, 2, 2, 1), np.float32)).fraction
    0.25
    """
    for name, value in {"start": start, "fraction": fraction}.items():
        if not 0 <= value <= 1:
            raise input_error(name, expected="a fraction from 0 to 1", got=value, fix="the paper's are 0.1 and 0.25")
    return Condition(_image(image), None, float(start), float(fraction))


def inpainting(
    image: Real[AnyArray, "one_or_batch *spatial channels"],
    known: Shaped[AnyArray, "one_or_batch *spatial one_or_channels"],
) -> Condition:
    """Keeps pixels of `image [B or 1, H, W, C]` where `known [B or 1, H, W, C or 1]` is 1 (or true), makes the rest.

    image: as of `stroke`. Before every evaluation, unknown pixels stand at the data estimate of the step before; at the
    end known pixels are set to the image, exactly. Raises `InputError` if the shapes do not fit or nothing is known.

    >>> inpainting(np.zeros((1, 2, 2, 1), np.float32), np.array([[[[1], [0]], [[0], [0]]]])).known.sum().item()
    1.0
    """
    image, known = _image(image), jnp.asarray(as_mask(known, "known"), jnp.float32)
    if not _fits(known.shape[1:], image.shape[1:]):
        expected = f"a mask for images {image.shape}"
        raise input_error("known", expected=expected, got=known.shape, fix="one entry a pixel")
    if not bool(known.any()):
        raise input_error("known", expected="zeros and ones, not all zero", got="zeros alone", fix="1 is a known pixel")
    return Condition(image, known, 0.0, 1.0)


def painting(images: np.ndarray, cells: int) -> np.ndarray:
    """Returns images `[N, H, W, C]` in which each of `cells` x `cells` squares has its mean colour."""
    count, height, width, channels = images.shape
    side = height // cells, width // cells
    means = images.reshape(count, cells, side[0], cells, side[1], channels).mean((2, 4))
    return means.repeat(side[0], axis=1).repeat(side[1], axis=2)


def around_hole(size: int, fraction: float) -> np.ndarray:
    """Returns a mask `[1, size, size, 1]`, 0 in a central square of side `fraction` of the picture and 1 around it."""
    known = np.ones((1, size, size, 1), np.float32)
    side = max(1, round(fraction * size))
    start = (size - side) // 2
    known[:, start : start + side, start : start + side] = 0
    return known


def _fits(part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Returns whether an array of shape `part` can stand, repeated, for one of shape `whole`."""
    return len(part) == len(whole) and all(one in (1, all_) for one, all_ in zip(part, whole, strict=True))


def _image(image):
    image = as_numbers(image, "image", scale=SIGNED)
    return jnp.asarray(as_images(image, "image", scale=SIGNED) if image.ndim == 4 else image)


def edited(
    model: Model, key: jax.Array, images: np.ndarray, *, cells: int, hole: float, nfe: int
) -> dict[str, np.ndarray]:
    """Returns images `[N, H, W, C]` in [-1, 1] made from paintings and around holes, and what they were made from.

    model: along a bridge, with the classes of the images if it knows any.
    """
    images = np.asarray(as_images(images, "images", scale=SIGNED))
    painted = painting(images, cells)
    known = around_hole(images.shape[1], hole)
    conditions = {"stroke": stroke(painted), "inpainting": inpainting(images, known)}
    options = {"kind": "ode", "nfe": nfe}
    made = {
        name: np.asarray(sample(model, key, images.shape, condition=each, **options)[0])
        for name, each in conditions.items()
    }
    free = np.asarray(sample(model, key, images.shape, **options)[0])
    own = {} if model.labels is None else {"labels": np.asarray(model.labels)}
    return {"original": images, "painting": painted, "known": known, "free": free, **made, **own}


def guided(model: Model, other: Model, *, scale: float, sigma_low: float = 0.0, sigma_high: float = float("inf")):
    """Returns the model D_other + scale (D_model - D_other) at noise levels from `sigma_low` to `sigma_high`.

    Classifier-free guidance (Ho & Salimans, 2022) with `other` the model without classes, in a limited interval
    (Kynkäänniemi et al., NeurIPS 2024), or autoguidance with `other` a worse model of the same data (Karras et al.,
    NeurIPS 2024). Outside of the interval, and with scale 1, it is `model`. Two network evaluations a step.
    Raises `InputError` for models along different paths and an interval that is none.

    >>> import jax.numpy as jnp, phase_bridge
    >>> path = phase_bridge.EDM()
    >>> own, other = (phase_bridge.denoiser_model(path, lambda u, sigma, a=a: a + 0 * u) for a in (1.0, 0.5))
    >>> phase_bridge.guided(own, other, scale=3.0).denoise(jnp.zeros((1, 1)), 1.0)
    Array([[2.]], dtype=float32)
    """
    if not isinstance(other, Model) or other.process != model.process:
        got = getattr(other, "process", type(other).__name__)
        raise input_error("other", expected=f"a model along {model.process}", got=got, fix="use other.along(process)")
    if not 0 <= sigma_low <= sigma_high:
        got = f"{sigma_low:g} to {sigma_high:g}"
        raise input_error("sigma_low", expected="0 <= sigma_low <= sigma_high", got=got, fix="leave both out")
    weights = (model, other, jnp.float32(scale), jnp.float32(sigma_low), jnp.float32(sigma_high))
    read = _guided_denoiser if model.denoiser and other.denoiser else _GuidedEstimate(model.process)
    return replace(
        model, read=read, weights=weights, labels=None, denoiser=model.denoiser and other.denoiser, num_classes=0
    )


def _guided_denoiser(weights, labels, u, sigma):
    del labels
    model, other, *numbers = weights
    return _combined(model.denoise(u, sigma), other.denoise(u, sigma), sigma, *numbers)


@dataclass(frozen=True)
class _GuidedEstimate:
    """`_guided_denoiser` for networks that see the states of one path."""

    process: Process

    def __call__(self, weights, labels, m, t):
        del labels
        model, other, *numbers = weights
        return _combined(model.estimate(m, t), other.estimate(m, t), self.process.noise_level(t), *numbers)


def _combined(own, other, sigma, scale, low, high):
    scale = jnp.where((sigma >= low) & (sigma <= high), scale, 1.0)
    return other + beside(scale, own) * (own - other)
