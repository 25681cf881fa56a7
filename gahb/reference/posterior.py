"""The denoiser that memorises: the exact posterior mean when the prior is a finite set of images.

f(y) = sum_i w_i(y) x_i, w = softmax(-||y - x_i||^2 / (2 sigma^2)); its Jacobian is Cov_w[x] / sigma^2. It has the least
error on the set itself of all denoisers, and its score is that of the set's noisy empirical distribution.

Patch posteriors are what remains of it when a denoiser sees each pixel through a window only: a pixel's estimate is the
posterior mean of the centre of its patch, the prior being the patches of a finite set: those
at the same place (`local`), or at every place (`equivariant`). Kamb & Ganguli, arXiv 2412.20292, call the scores of
these denoisers the local and the equivariant local score machine; see also Niedoba et al., arXiv 2411.19339.

Means under softmax weights over sets that are too large for one array are exact, block by block.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Real

from common.arrays import AnyArray, as_numbers
from common.errors import choice, input_error
from gahb.denoisers import as_noisy, as_set, check_count, check_shape, check_sigma

NEVER = -1e30  # the logit of what must not count; a number, so that differences of two are none of infinities


class Blocks(NamedTuple):
    """A set of N images: `images [K, n, H, W, C]`, filled up with zeros that are not `valid [K, n]`."""

    images: jax.Array
    valid: jax.Array


def in_blocks(images: AnyArray, block: int) -> Blocks:
    """Splits `images [N, H, W, C]` into blocks of at most `block` images of nearly equal length.

    Raises `InputError` unless `block` is a whole number of at least 1.
    """
    check_count("block", block)
    count = -(-len(images) // block)
    length = -(-len(images) // count)
    filled = jnp.zeros((count * length, *images.shape[1:]), float).at[: len(images)].set(images)
    valid = jnp.arange(count * length) < len(images)
    return Blocks(filled.reshape(count, length, *images.shape[1:]), valid.reshape(count, length))


def joined(blocks: jax.Array, count: int) -> jax.Array:
    """Returns `[K, B, n] -> [B, count]`, what was computed block by block side by side."""
    return jnp.moveaxis(blocks, 0, 1).reshape(blocks.shape[1], -1)[:, :count]


def softmax_mean(
    blocks: Any,
    score: Callable[[Any], jax.Array],
    combine: Callable[[jax.Array, Any], jax.Array],
    shape: tuple[int, ...],
    dtype: Any,
) -> jax.Array:
    """Returns sum_i w_i v_i, w = softmax of the logits over all blocks, as an array of `shape [Q..., C]`.

    `score(block)` returns the logits with the members of the block on axis 1 `[Q0, n, Q1...]`, `combine(w, block)` the
    sum of w_i v_i over them. One pass; the largest logit so far is carried along (a streaming log-sum-exp). Derivatives
    compute each block anew instead of storing it.
    """

    @jax.checkpoint
    def fold(carry, block):
        top, total, mean = carry
        logits = score(block)
        new = lax.stop_gradient(jnp.maximum(top, logits.max(1)))
        weights = jnp.exp(logits - jnp.expand_dims(new, 1))
        old = jnp.exp(top - new)
        return (new, old * total + weights.sum(1), old[..., None] * mean + combine(weights, block)), None

    start = (jnp.full(shape[:-1], NEVER, dtype), jnp.zeros(shape[:-1], dtype), jnp.zeros(shape, dtype))
    _, total, mean = lax.scan(fold, start, blocks)[0]
    return mean / total[..., None]


def empirical(
    images: Real[AnyArray, "images height width channels"],
    sigma: float | Sequence[float] | jax.Array,
    *,
    block: int = 256,
) -> Partial:
    """Returns the posterior mean under the set `images [N, H, W, C]`: a denoiser that knows `sigma`.

    With several levels `sigma [S]` it is blind, the mean under every (image, level) being equally likely beforehand:
    w_i = sum_s s^-d exp(-||y - x_i||^2 / (2 s^2)), the optimum of a blind network that is trained on the set with these
    levels. All images are compared with every `y`, `block` of them at once; distances are sums of squared differences,
    not differences of sums. As sigma -> 0 it returns the nearest image, as sigma -> infinity the mean.
    Raises `InputError` for sigma <= 0, block < 1, and images that are neither bytes nor floats in [0, 1].

    >>> images = np.array([[[[0.0]]], [[[1.0]]]])
    >>> empirical(images, 0.5)(jnp.full((1, 1, 1, 1), 0.5)).item()
    0.5
    """
    images = as_set(images)
    check_sigma(sigma, several=True)
    return Partial(_Posterior(len(images)), in_blocks(images, block), jnp.atleast_1d(jnp.asarray(sigma, float)))


def weights(posterior: Partial, y: Real[AnyArray, "batch height width channels"]) -> Float[Array, "batch images"]:
    """Returns the posterior probability of each image given `y [B, H, W, C]`, `[B, N]`, for an `empirical` denoiser.

    >>> images = np.array([[[[0.0]]], [[[1.0]]]])
    >>> weights(empirical(images, 0.5), jnp.full((1, 1, 1, 1), 0.5)).tolist()
    [[0.5, 0.5]]
    """
    return _probabilities(posterior, as_noisy(y, _parts(posterior)[0].images.shape[2:]))


@jax.jit
def _probabilities(posterior, y):
    blocks, sigmas, count = _parts(posterior)
    return joined(_weights(blocks, sigmas, y)[0], count)


def dominant(
    posterior: Partial, y: Real[AnyArray, "batch height width channels"]
) -> tuple[Int[Array, " batch"], Float[Array, " batch"]]:
    """Returns the most probable image given each of `y [B, H, W, C]`: its index `[B]` and its probability `[B]`.

    >>> images = np.array([[[[0.0]]], [[[1.0]]]])
    >>> index, probability = dominant(empirical(images, 0.1), jnp.full((1, 1, 1, 1), 0.9))
    >>> index.tolist(), probability.round(3).tolist()
    ([1], [1.0])
    """
    return _dominant(posterior, as_noisy(y, _parts(posterior)[0].images.shape[2:]))


@jax.jit
def _dominant(posterior, y):
    blocks, sigmas, count = _parts(posterior)
    w = joined(_weights(blocks, sigmas, y)[0], count)
    return w.argmax(1), w.max(1)


def jacobian_product(
    posterior: Partial,
    y: Real[AnyArray, "batch height width channels"],
    v: Float[AnyArray, "batch height width channels"],
) -> Float[Array, "batch height width channels"]:
    """Returns J(y) v for `y, v [B, H, W, C]`, image by image, in closed form; J is symmetric if sigma is one number.

    For a known sigma J v = sum_i w_i <x_i - f, v> (x_i - f) / sigma^2. Never holds a matrix; two passes over the set.

    >>> images = np.array([[[[0.0]]], [[[1.0]]]])
    >>> jacobian_product(empirical(images, 0.5), jnp.full((1, 1, 1, 1), 0.5), jnp.ones((1, 1, 1, 1))).round(3).item()
    1.0
    """
    y = as_noisy(y, _parts(posterior)[0].images.shape[2:])
    v = jnp.asarray(as_numbers(v, "v"))
    if v.shape != y.shape:
        raise input_error(
            "v", expected=f"the shape of y, {list(y.shape)}", got=list(v.shape), fix="give one for each y"
        )
    return _jacobian_product(posterior, y, v)


@jax.jit
def _jacobian_product(posterior, y, v):
    blocks, sigmas, _ = _parts(posterior)
    mean = _mean(blocks, sigmas, y).reshape(len(y), -1)
    w, precision = _weights(blocks, sigmas, y)
    v, offset = v.reshape(len(v), -1), mean - y.reshape(len(y), -1)

    def add(total, block):
        images, w, precision = block
        away = images.reshape(1, len(images), -1) - mean[:, None]
        along = _dot("bnd,bd->bn", away, v) + (offset * v).sum(1, keepdims=True)
        return total + _dot("bn,bnd->bd", w * precision * along, away), None

    total = jnp.zeros_like(mean)
    return lax.scan(add, total, (blocks.images.astype(mean.dtype), w, precision))[0].reshape(y.shape)


def jacobian(posterior: Partial, y: Real[AnyArray, "batch height width channels"]) -> Float[Array, "batch d d"]:
    """Returns the Jacobians of an `empirical` denoiser at `y [B, H, W, C]`, `[B, d, d]`, in closed form.

    >>> images = np.array([[[[0.0]]], [[[1.0]]]])
    >>> jacobian(empirical(images, 0.5), jnp.full((1, 1, 1, 1), 0.5)).round(3).tolist()
    [[[1.0]]]
    """
    return _jacobian(posterior, as_noisy(y, _parts(posterior)[0].images.shape[2:]))


@jax.jit
def _jacobian(posterior, y):
    blocks, sigmas, _ = _parts(posterior)
    mean = _mean(blocks, sigmas, y).reshape(len(y), -1)
    w, precision = _weights(blocks, sigmas, y)

    def add(total, block):
        images, w, precision = block
        away = images.reshape(1, len(images), -1) - mean[:, None]
        weighted = (w * precision)[..., None] * away
        return (total[0] + _dot("bnd,bne->bde", weighted, away), total[1] + weighted.sum(1)), None

    size = mean.shape[1]
    start = (jnp.zeros((len(y), size, size), mean.dtype), jnp.zeros_like(mean))
    spread, drift = lax.scan(add, start, (blocks.images.astype(mean.dtype), w, precision))[0]
    # The second term is zero where sigma is known: the weighted deviations from the mean then add up to nothing.
    return spread + drift[:, :, None] * (mean - y.reshape(len(y), -1))[:, None]


@dataclasses.dataclass(frozen=True)
class _Posterior:
    count: int  # of images, without what fills up the last block

    def __call__(self, blocks, sigmas, y):
        y = as_noisy(y, blocks.images.shape[2:])
        return _mean(blocks, sigmas, y).astype(y.dtype)


@jax.jit
def _mean(blocks, sigmas, y):
    check_shape(y, blocks.images.shape[2:])
    dtype = jnp.promote_types(y.dtype, jnp.float32)
    flat = y.reshape(len(y), -1).astype(dtype)

    def score(block):
        return _logits(block[0], block[1], sigmas, flat)[0]

    def combine(weights, block):
        return _dot("bn,nd->bd", weights, block.images.reshape(len(block.images), -1).astype(dtype))

    return softmax_mean(blocks, score, combine, flat.shape, dtype).reshape(y.shape)


def _logits(images, valid, sigmas, flat):
    """Returns log weights `[B, n]` up to a common constant, and the posterior mean of 1 / sigma^2 given each image."""
    sigmas = sigmas.astype(flat.dtype)
    distance = jnp.square(flat[:, None] - images.reshape(1, len(images), -1).astype(flat.dtype)).sum(-1)
    each = -distance[..., None] / (2 * sigmas**2) - flat.shape[1] * jnp.log(sigmas / sigmas[0])
    logits = jnp.where(valid, jax.nn.logsumexp(each, -1), NEVER)
    return logits, (jax.nn.softmax(each, -1) / sigmas**2).sum(-1)


def _weights(blocks, sigmas, y):
    """Returns posterior probabilities and precisions of all images, block by block, `[K, B, n]` each."""
    check_shape(y, blocks.images.shape[2:])
    flat = y.reshape(len(y), -1).astype(jnp.promote_types(y.dtype, jnp.float32))
    logits, precision = lax.map(lambda block: _logits(block[0], block[1], sigmas, flat), blocks)
    return jax.nn.softmax(logits, axis=(0, 2)), precision


def _parts(posterior) -> tuple[Blocks, jax.Array, int]:
    if not isinstance(posterior, Partial) or not isinstance(posterior.func, _Posterior):
        got, fix = type(posterior).__name__, "make one of the set, gahb.reference.empirical(images, sigma)"
        raise input_error("posterior", expected="a denoiser made by empirical(...)", got=got, fix=fix)
    return *posterior.args, posterior.func.count


def _dot(subscripts, *operands):
    return jnp.einsum(subscripts, *operands, precision="highest")


BOUNDARIES = ("cut", "wrap")


def local(
    images: Real[AnyArray, "images height width channels"],
    sigma: float | jax.Array,
    *,
    patch: int,
    boundary: str = "cut",
    block: int = 64,
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
    images: Real[AnyArray, "images height width channels"],
    sigma: float | jax.Array,
    *,
    patch: int,
    boundary: str = "cut",
    block: int = 1,
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
