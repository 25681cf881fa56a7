"""Patch posteriors: what remains of the memorising optimum when a denoiser sees each pixel through a window only.

A pixel's estimate is the posterior mean of the centre of its patch, the prior being the patches of a finite set: those
at the same place (`local`), or at every place (`equivariant`). Kamb & Ganguli, arXiv 2412.20292, call the scores of
these denoisers the local and the equivariant local score machine; see also Niedoba et al., arXiv 2411.19339.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from common.errors import choice, input_error
from gahb.reference.checks import as_noisy, as_set, check_count, check_sigma
from gahb.reference.streaming import NEVER, in_blocks, softmax_mean

BOUNDARIES = ("cut", "wrap")


def local(
    images: np.ndarray, sigma: float | jax.Array, *, patch: int, boundary: str = "cut", block: int = 64
) -> Partial:
    """Returns f_p(y) = sum_i w_i,p x_i,p with w_p = softmax_i(-||y - x_i||^2 in the window of p / (2 sigma^2)).

    images: the set `[N, H, W, C]`, bytes or floats in [0, 1], of which `block` are compared at once. patch: side of the
    window around each pixel, odd; it goes with sigma, large for strong noise, so make one denoiser per level. boundary:
    "cut" compares only the part of the window that lies in the image (a window of at least 2 H - 1 sees all of it,
    which gives `empirical`), "wrap" closes the image to a torus. Raises `InputError` for what cannot be compared.

    >>> images = np.array([[[[0.0], [1.0]]], [[[1.0], [0.0]]]])
    >>> local(images, 0.1, patch=1)(jnp.ones((1, 1, 2, 1))).round(3).ravel().tolist()  # one pixel from each image
    [1.0, 1.0]
    """
    images = _checked(images, sigma, patch, boundary)
    _, height, width, _ = images.shape
    windows = tuple(jnp.asarray(_window(length, patch, boundary), float) for length in (height, width))
    return Partial(_local, in_blocks(images, block), windows, jnp.asarray(sigma, float))


def equivariant(
    images: np.ndarray, sigma: float | jax.Array, *, patch: int, boundary: str = "cut", block: int = 1
) -> Partial:
    """Returns f_p(y) = sum_i,q w_i,q x_i,q with w = softmax_i,q(-||y around p - x_i around q||^2 / (2 sigma^2)).

    As `local`, with the patches of all places q of all images. boundary: with "wrap" it commutes with cyclic shifts;
    with "cut" a pixel whose window is cut by the border is compared with those places only whose window is cut in the
    same way, as a network sees that borders are near. `y` may have another size than `images` if neither is smaller
    than the window. The work grows with (H W)^2 N, memory with (H W)^2 `block`; the images of a batch go one by one.

    >>> images = np.array([[[[0.0], [1.0]]]])
    >>> equivariant(images, 0.1, patch=1)(jnp.ones((1, 1, 2, 1))).round(3).ravel().tolist()  # the second pixel twice
    [1.0, 1.0]
    """
    images = _checked(images, sigma, patch, boundary)
    settings = _Equivariant(int(patch), boundary)
    # Around the mean, where the products that the distances are made of are small.
    centre = np.asarray(images).mean(dtype=np.float64)
    return Partial(settings, in_blocks(images, block), jnp.asarray(centre, float), jnp.asarray(sigma, float))


def _local(blocks, windows, sigma, y):
    return _local_mean(blocks, windows, sigma, as_noisy(y, blocks.images.shape[2:]))


@jax.jit
def _local_mean(blocks, windows, sigma, y):
    dtype = jnp.promote_types(y.dtype, jnp.float32)
    rows, columns, sigma = (x.astype(dtype) for x in (*windows, sigma))
    noisy = y.astype(dtype)

    def score(block):
        square = jnp.square(noisy[:, None] - block.images.astype(dtype)).sum(-1)
        distance = jnp.einsum("ki,lj,bnij->bnkl", rows, columns, square, precision="highest")
        return jnp.where(block.valid[:, None, None], -distance / (2 * sigma**2), NEVER)

    def combine(weights, block):
        return jnp.einsum("bnij,nijc->bijc", weights, block.images.astype(dtype), precision="highest")

    return softmax_mean(blocks, score, combine, y.shape, dtype).astype(y.dtype)


def _window(length, patch, boundary):
    """Row p holds ones at the pixels in the window of p, float64 `[length, length]`."""
    places = np.arange(length)
    apart = np.abs(places[:, None] - places)
    if boundary == "wrap":
        apart = np.minimum(apart, length - apart)
    return (apart <= patch // 2).astype(np.float64)


@dataclasses.dataclass(frozen=True)
class _Equivariant:
    patch: int
    boundary: str

    def __call__(self, blocks, centre, sigma, y):
        channels = blocks.images.shape[-1]
        return self._mean(blocks, centre, sigma, as_noisy(y, (None, None, channels)))

    @functools.partial(jax.jit, static_argnums=0)
    def _mean(self, blocks, centre, sigma, y):
        shape = blocks.images.shape[2:]
        if y.ndim != 4 or y.shape[-1] != shape[-1] or (y.shape[1:] != shape and min(y.shape[1:3]) < self.patch):
            expected = f"[B, H, W, {shape[-1]}] with H, W at least {self.patch}, or {list(shape)}"
            raise input_error("y", expected=expected, got=list(y.shape), fix="use larger images or a smaller patch")
        if y.shape[1:] != shape and min(shape[:2]) < self.patch:
            raise input_error(
                "y", expected=f"[B, {', '.join(map(str, shape))}]", got=list(y.shape), fix="use a smaller patch"
            )
        dtype = jnp.promote_types(y.dtype, jnp.float32)
        centre, sigma = centre.astype(dtype), sigma.astype(dtype)
        places = [self._cuts(*size) for size in (y.shape[1:3], shape[:2])]
        alike = jnp.asarray(places[0][:, None] == places[1]) if self.boundary == "cut" else True
        same_number = shape[0] * shape[1]

        def estimate(one):
            query = self._patches(one[None] - centre)

            def score(block):
                key = self._patches(block.images.astype(dtype) - centre)
                product = jnp.matmul(query, key.T, precision="highest")
                distance = jnp.square(query).sum(1)[:, None] + jnp.square(key).sum(1) - 2 * product
                counts = jnp.repeat(block.valid, same_number)
                if self.boundary == "cut":
                    counts = counts & jnp.tile(alike, (1, len(block.valid)))
                return jnp.where(counts, -jnp.maximum(distance, 0) / (2 * sigma**2), NEVER)

            def combine(weights, block):
                pixels = block.images.reshape(-1, shape[-1]).astype(dtype)
                return jnp.matmul(weights, pixels, precision="highest")

            return softmax_mean(blocks, score, combine, (len(query), shape[-1]), dtype).reshape(one.shape)

        return lax.map(estimate, y.astype(dtype)).astype(y.dtype)

    def _patches(self, images):
        """Returns the windows of every pixel, `[n, H, W, C] -> [n H W, patch^2 C]`, zero outside if they are cut."""
        reach = np.arange(self.patch) - self.patch // 2
        for axis in (1, 3):
            length = images.shape[axis]
            places = np.arange(length)[:, None] + reach
            inside = np.ones_like(places, bool) if self.boundary == "wrap" else (places >= 0) & (places < length)
            # Rows first, [n, H, P, W, C], then columns, [n, H, P, W, P, C].
            taken = jnp.take(images, places % length, axis=axis)
            shape = [1] * taken.ndim
            shape[axis : axis + 2] = inside.shape
            images = jnp.where(inside.reshape(shape), taken, 0)
        count, height, _, width, _, channels = images.shape
        return images.transpose(0, 1, 3, 2, 4, 5).reshape(count * height * width, -1)

    def _cuts(self, height, width):
        """Numbers the ways in which borders cut the windows of an image, `[H W]`; equal numbers, equal ways."""
        reach, number = self.patch // 2, np.zeros((height, width), int)
        for axis, length in enumerate((height, width)):
            places = np.arange(length)
            way = np.minimum(places, reach) * (reach + 1) + np.minimum(length - 1 - places, reach)
            number = number * (reach + 1) ** 2 + np.expand_dims(way, 1 - axis)
        return number.ravel()


def _checked(images, sigma, patch, boundary):
    images = as_set(images)
    check_sigma(sigma)
    choice("boundary", boundary, BOUNDARIES)
    check_count("patch", patch)
    if patch % 2 == 0:
        raise input_error("patch", expected="an odd number of pixels", got=patch, fix="it has a centre then")
    if boundary == "wrap" and patch > min(images.shape[1:3]):
        expected = f"at most the side of the image, {min(images.shape[1:3])}"
        raise input_error("patch", expected=expected, got=patch, fix='use a smaller one or boundary="cut"')
    return images
