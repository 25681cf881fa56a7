"""The fraction of a trained denoiser that empirical score machines explain, and the noise level a blind one implies.

Kamb and Ganguli, "An analytic theory of creativity in convolutional diffusion models", arXiv 2412.20292: the optimum
for a finite training set, restricted to a window around each pixel (local), and to one rule for all places (equivariant
local). A Wiener filter fitted to the same images is the control: agreement that needs no training image in particular.

The implied noise comes from the residual and the trace of the Jacobian. An optimal denoiser f of y = x + sigma z obeys
E ||y - f(y)||^2 = sigma^2 (d - E tr J(y)), d the number of pixels and channels: both sides of
E ||x - f(y)||^2 = E [||y - f(y)||^2 + 2 sigma^2 tr J - d sigma^2] (Stein) and = sigma^2 E tr J (Miyasawa). A blind
denoiser that acts as the optimum for the level sigma_hat hence implies

    sigma_hat^2 = ||y - f(y)||^2 / (d - tr J(y)).

The sampler of Kadkhodaie and Simoncelli takes ||y - f(y)||^2 / d instead, which is lower by the fraction tr J / d.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Real

from common.arrays import AnyArray, as_images
from common.errors import input_error
from common.prng import as_key
from gahb.denoisers import Denoiser, as_denoiser, denoised
from gahb.eigenbasis.linear import linearise
from gahb.eigenbasis.traces import trace
from gahb.reference import empirical, equivariant, fit, local, wiener

NAMES = ("empirical", "local", "equivariant", "wiener")

Machine = Callable[[float], Denoiser]  # sigma -> denoiser that knows it


class Explained(NamedTuple):
    """Explained fractions of a denoiser at `S` noise levels on `N` images; at most 1, below 0 for worse than nothing.

    With f the denoiser and g the machine, over the pixels of an image: `output` is 1 - ||f - g||^2 / ||f - mean f||^2,
    which any good denoiser passes in weak noise; `residual` is 1 - ||f - g||^2 / ||y - f||^2, the fraction of the
    score, which any good denoiser passes in strong noise. `output_of_sums`, `residual_of_sums [S]` sum numerator and
    denominator over the images first.
    """

    sigma: np.ndarray  # [S] noise standard deviation, intensity units
    output: np.ndarray  # [S, N]
    residual: np.ndarray  # [S, N]
    output_of_sums: np.ndarray  # [S]
    residual_of_sums: np.ndarray  # [S]


def explained(
    denoise: Denoiser,
    machine: Machine,
    images: Real[AnyArray, "images height width channels"],
    sigmas: Sequence[float] | np.ndarray,
    key: jax.Array,
) -> Explained:
    """Compares a blind denoiser with `machine(sigma)` on noisy versions of `images [N, H, W, C]`.

    images: bytes, or floats in [0, 1]; else `InputError`. The noise of image i at level s is drawn from
    fold_in(fold_in(key, s), i), as in `gahb.metrics.psnr_curve`, so that all machines see the same noisy images.
    """
    key, images, denoise = as_key(key), as_images(images, "images"), as_denoiser(denoise)
    sums = []
    for s, sigma in enumerate(sigmas):
        noisy = _noisy(images, jnp.asarray(sigma, float), jax.random.fold_in(key, s))
        output = _apply(denoise, noisy)
        sums.append(_sums(noisy, output, _apply(as_denoiser(machine(float(sigma))), noisy)))
    apart, spread, removed = np.moveaxis(np.asarray(sums, np.float64), 1, 0)
    return Explained(
        sigma=np.asarray(sigmas, np.float64),
        output=_fraction(apart, spread),
        residual=_fraction(apart, removed),
        output_of_sums=_fraction(apart.sum(1), spread.sum(1)),
        residual_of_sums=_fraction(apart.sum(1), removed.sum(1)),
    )


def best_windows(
    denoise: Denoiser,
    training: Real[AnyArray, "training height width channels"],
    images: Real[AnyArray, "images height width channels"],
    sigmas: Sequence[float] | np.ndarray,
    key: jax.Array,
    *,
    windows: Sequence[int],
) -> list[int]:
    """Returns for each level the window of `windows` whose local machine explains most of the denoiser's output.

    Kamb and Ganguli choose the window by the network too: measure on other images than `images`, on which it was
    chosen.
    """
    if not windows:
        raise input_error("windows", expected="at least one odd number", got="none", fix="for example (3, 7, 11)")
    found = [
        explained(denoise, lambda sigma, window=window: local(training, sigma, patch=window), images, sigmas, key)
        for window in windows
    ]
    best = np.argmax([each.output_of_sums for each in found], axis=0)
    return [int(windows[i]) for i in best]


def machines(
    training: Real[AnyArray, "training height width channels"],
    windows: Mapping[float, int],
    *,
    equivariant_images: int | None = None,
) -> dict[str, Machine]:
    """Returns the machines of a training set `[N, H, W, C]` by name (`NAMES`), each a function of sigma.

    windows: sigma -> side of the window of the two local machines, odd pixels. equivariant_images: the equivariant
    machine, whose cost grows with N (H W)^2, uses that many training images, the first ones (None: all).
    """
    prior = fit(training)
    return {
        "empirical": lambda sigma: empirical(training, sigma),
        "local": lambda sigma: local(training, sigma, patch=windows[sigma]),
        "equivariant": lambda sigma: equivariant(training[:equivariant_images], sigma, patch=windows[sigma]),
        "wiener": lambda sigma: wiener(prior, sigma),
    }


@jax.jit
def _noisy(clean, sigma, key):
    clean = jnp.asarray(clean)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(clean), dtype=jnp.uint32))
    z = jax.vmap(lambda key: jax.random.normal(key, clean.shape[1:], clean.dtype))(keys)
    return clean + sigma.astype(clean.dtype) * z


@jax.jit
def _apply(denoise, y):
    return denoised(denoise, y)


@jax.jit
def _sums(noisy, output, estimate):
    centred = output - output.mean((1, 2, 3), keepdims=True)
    return [jnp.square(each).sum((1, 2, 3)) for each in (output - estimate, centred, noisy - output)]


def _fraction(apart: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return 1 - np.divide(apart, whole, out=np.full(np.shape(apart), np.nan), where=whole > 0)


class ImpliedNoise(NamedTuple):
    """Noise levels of noisy images, intensity units; `S` true levels, `N` images."""

    sigma: np.ndarray  # [S] true
    implied: np.ndarray  # [S, N] by residual and trace; NaN where tr J >= d
    residual: np.ndarray  # [S, N] ||y - f(y)|| / sqrt(d), the sampler's
    trace: np.ndarray  # [S, N] tr J
    implied_of_means: np.ndarray  # [S] from the means over images of ||y - f(y)||^2 and of d - tr J


def implied_noise(
    denoise: Denoiser,
    images: Real[AnyArray, "images height width channels"],
    sigmas,
    key: jax.Array,
    *,
    num: int | None = 32,
    block: int = 16,
) -> ImpliedNoise:
    """Measures the implied level on noisy versions of `images [N, H, W, C]` at every level of `sigmas [S]`.

    images: bytes, or floats in [0, 1]; else `InputError`. num: random probes of each trace (None: exact). block: probes
    at once. Noise and probes of image i at level s come from fold_in(fold_in(key, s), i).
    """
    key, images = as_key(key), as_images(images, "images")
    size = images[0].size
    removed, traces = np.zeros((2, len(sigmas), len(images)))
    for s, sigma in enumerate(sigmas):
        for i, clean in enumerate(images):
            own = jax.random.fold_in(jax.random.fold_in(key, s), i)
            noisy = jnp.asarray(clean) + sigma * jax.random.normal(own, clean.shape, clean.dtype)
            linear = linearise(denoise, noisy)
            removed[s, i] = np.square(np.asarray(linear.y, np.float64) - np.asarray(linear.value, np.float64)).sum()
            probes = {} if num is None else {"key": jax.random.fold_in(own, 1), "num": num}
            traces[s, i] = trace(denoise, noisy, block=block, **probes).value
    return ImpliedNoise(
        sigma=np.asarray(sigmas, np.float64),
        implied=_root(removed, size - traces),
        residual=np.sqrt(removed / size),
        trace=traces,
        implied_of_means=_root(removed.mean(1), size - traces.mean(1)),
    )


def _root(removed: np.ndarray, dimensions: np.ndarray) -> np.ndarray:
    left = dimensions > 0
    return np.sqrt(np.divide(removed, dimensions, out=np.full(removed.shape, np.nan), where=left))
