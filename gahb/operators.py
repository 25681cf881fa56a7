"""Linear measurements of images: pairs of functions `analyze` (M^T, image -> measurement) and `synthesize` (M, back).

Both take a leading batch axis. M is an isometry on the measurements that images can have: M^T M m = m for m = M^T x,
and M is the adjoint of M^T, so M M^T projects images onto what is measured. Images are floats, of any range since all
is linear, or bytes, which are taken to [0, 1]; other integers, NaN and infinity raise `InputError`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Shaped

from common.arrays import AnyArray, as_mask, as_numbers
from common.errors import input_error
from common.prng import as_key


class Operator(NamedTuple):
    """`analyze [B, H, W, C] -> m [B, ...]` and `synthesize`, its adjoint; pytrees whose leaves are masks or bases."""

    analyze: Partial
    synthesize: Partial


def project(
    operator: Operator, x: Float[AnyArray, "batch height width channels"]
) -> Float[Array, "batch height width channels"]:
    """Returns M M^T x, the projection of `x [B, H, W, C]` onto the measured subspace.

    >>> project(pixels(np.array([[1, 0]])), jnp.ones((1, 1, 2, 1))).ravel().tolist()
    [1.0, 0.0]
    """
    return operator.synthesize(operator.analyze(x))


def synthesis() -> Operator:
    """Measures nothing: sampling from the prior.

    >>> synthesis().analyze(jnp.ones((1, 1, 2, 1))).ravel().tolist()
    [0.0, 0.0]
    """
    return Operator(Partial(_nothing), Partial(_nothing))


def pixels(mask: Shaped[AnyArray, "height width *channels"]) -> Operator:
    """Keeps the pixels where `mask` (`[H, W]`, `[H, W, 1]` or `[H, W, C]`, zeros and ones or booleans) is one.

    Raises `InputError` for other numbers.

    >>> pixels(np.array([[1, 0]])).analyze(jnp.ones((1, 1, 2, 1))).ravel().tolist()
    [1.0, 0.0]
    """
    mask = jnp.asarray(as_mask(mask, "mask"))
    if mask.ndim not in (2, 3):
        fix = "give the mask of one image, which all of a batch share"
        raise input_error("mask", expected="[H, W] or [H, W, C]", got=list(mask.shape), fix=fix)
    multiply = Partial(_multiply, mask[..., None] if mask.ndim == 2 else mask)
    return Operator(multiply, multiply)


def inpainting(shape: tuple[int, ...], *, box: tuple[int, int, int, int]) -> Operator:
    """Blanks a block of an image of `shape (H, W, C)`; `box` is (centre row, centre column, height, width).

    As in the released code, rows from centre - floor(height / 2) up to, not including, centre + floor(height / 2) are
    lost, one fewer than an odd height; so for columns. `hole` blanks just the pixels asked for.

    >>> float(inpainting((8, 8, 1), box=(4, 4, 4, 4)).analyze(jnp.ones((1, 8, 8, 1))).sum())
    48.0
    """
    return pixels(inpainting_mask(shape, box=box))


def inpainting_mask(
    shape: tuple[int, ...], *, box: tuple[int, int, int, int]
) -> Float[np.ndarray, "height width channels"]:
    """Returns the mask of `inpainting`, float32 `[H, W, C]`, zero inside the box.

    >>> int((inpainting_mask((8, 8, 1), box=(4, 4, 3, 3)) == 0).sum())  # one row and one column fewer than 3
    4
    """
    row, column, height, width = (int(number) for number in box)
    top, left, bottom, right = row - height // 2, column - width // 2, row + height // 2, column + width // 2
    if min(top, left) < 0 or bottom > shape[0] or right > shape[1]:
        image = f"an image of {shape[0]}x{shape[1]}"
        raise input_error(
            "box", expected=f"a block inside {image}", got=tuple(box), fix="move the centre or make it smaller"
        )
    return hole_mask(shape, rows=(top, bottom), columns=(left, right))


def hole(shape: tuple[int, ...], *, rows: tuple[int, int], columns: tuple[int, int]) -> Operator:
    """Blanks rows and columns, each from the first number up to, not including, the second, of `shape (H, W, C)`.

    >>> float(hole((8, 8, 1), rows=(2, 5), columns=(3, 6)).analyze(jnp.ones((1, 8, 8, 1))).sum())
    55.0
    """
    return pixels(hole_mask(shape, rows=rows, columns=columns))


def hole_mask(
    shape: tuple[int, ...], *, rows: tuple[int, int], columns: tuple[int, int]
) -> Float[np.ndarray, "height width channels"]:
    """Returns the mask of `hole`, float32 `[H, W, C]`, zero inside; raises `InputError` for a hole outside the image.

    >>> int((hole_mask((8, 8, 1), rows=(2, 5), columns=(3, 6)) == 0).sum())
    9
    """
    for name, (low, high), length in (("rows", rows, shape[0]), ("columns", columns, shape[1])):
        if not 0 <= low <= high <= length:
            fix = "give first and last + 1"
            raise input_error(name, expected=f"numbers from 0 to {length}, in order", got=(low, high), fix=fix)
    mask = np.ones(shape, np.float32)
    mask[slice(*rows), slice(*columns)] = 0
    return mask


def random_pixels(key: jax.Array, shape: tuple[int, ...], *, fraction: float) -> Operator:
    """Keeps int(fraction H W C) values of an image of `shape (H, W, C)`, drawn for each channel independently.

    >>> operator = random_pixels(jax.random.key(0), (4, 4, 1), fraction=0.25)
    >>> float(operator.analyze(jnp.ones((1, 4, 4, 1))).sum())
    4.0
    """
    return pixels(random_mask(key, shape, fraction=fraction))


def random_mask(key: jax.Array, shape: tuple[int, ...], *, fraction: float) -> Float[Array, "height width channels"]:
    """Returns the mask of `random_pixels`, float32 `[H, W, C]`.

    >>> float(random_mask(jax.random.key(0), (4, 4, 1), fraction=0.25).sum())
    4.0
    """
    size = int(np.prod(shape))
    chosen = jax.random.permutation(as_key(key), size)[: _share(fraction, size)]
    return jnp.zeros(size).at[chosen].set(1).reshape(shape)


def super_resolution(scale: int) -> Operator:
    """Keeps `scale` times the mean of each block of scale x scale pixels; H and W must be multiples of `scale`.

    >>> super_resolution(2).analyze(jnp.ones((1, 2, 2, 1))).ravel().tolist()
    [2.0]
    """
    return Operator(Partial(_Reduce(scale)), Partial(_Repeat(scale)))


def basis(vectors: Float[AnyArray, "size k"], shape: tuple[int, ...]) -> Operator:
    """Projects an image of `shape (H, W, C)` on the orthonormal columns of `vectors [H * W * C, K]`; m is `[B, K]`.

    >>> basis(jnp.eye(4)[:, :2], (2, 2, 1)).analyze(jnp.ones((1, 2, 2, 1))).tolist()
    [[1.0, 1.0]]
    """
    return Operator(Partial(_coefficients, vectors), Partial(_Combine(tuple(shape)), vectors))


def random_basis(key: jax.Array, shape: tuple[int, ...], *, fraction: float) -> Operator:
    """Projects on int(fraction H W C) random orthonormal vectors (the QR factor of a Gaussian matrix).

    >>> random_basis(jax.random.key(0), (4, 4, 1), fraction=0.25).analyze(jnp.ones((1, 4, 4, 1))).shape
    (1, 4)
    """
    size = int(np.prod(shape))
    return basis(jnp.linalg.qr(jax.random.normal(as_key(key), (size, _share(fraction, size))))[0], shape)


def spectral(shape: tuple[int, ...], *, fraction: float, symmetric: bool = True) -> Operator:
    """Keeps `fraction` of the frequencies, the low ones; m is complex `[B, H, W, C]`, zero elsewhere.

    The number that is kept is the nearest to `fraction` H W at which with every frequency f its mirror image -f is
    kept. `symmetric=False` is the released mask, which has the frequency -f at its edge but not +f, and the released M,
    which takes every frequency of m, so that M M^T is no projection and M no adjoint: for comparisons with earlier
    results only.

    >>> operator = spectral((8, 8, 1), fraction=0.2)
    >>> np.allclose(project(operator, jnp.ones((1, 8, 8, 1))), 1)  # a constant image has the lowest frequency alone
    True
    """
    mask = jnp.asarray(spectral_mask(shape, fraction=fraction, symmetric=symmetric))[..., None]
    return Operator(Partial(_frequencies, mask), Partial(_real_image, mask if symmetric else jnp.ones_like(mask)))


def spectral_mask(
    shape: tuple[int, ...], *, fraction: float, symmetric: bool = True
) -> Float[np.ndarray, "height width"]:
    """Returns the mask of `spectral` in FFT order, float32 `[H, W]`.

    >>> int(spectral_mask((8, 8, 1), fraction=0.2).sum())
    13
    """
    height, width = shape[:2]
    keep = (_lowest_pairs if symmetric else _released_block)(height, width, fraction) if 0 < fraction <= 1 else None
    if keep is None or keep.sum() < 2:
        image = f"{height}x{width}"
        fix = "keep more frequencies"
        raise input_error(
            "fraction", expected=f"a fraction in (0, 1] with a frequency of {image}", got=fraction, fix=fix
        )
    return keep.astype(np.float32)


def _lowest_pairs(height, width, fraction):
    """Keeps f and -f together, from the lowest on: by the larger of their two frequencies, then by their length."""
    down, across = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    index = np.arange(height * width).reshape(height, width)
    partner = np.roll(index[::-1, ::-1], (1, 1), (0, 1))
    first = np.flatnonzero(index <= partner)
    largest, length = np.maximum(abs(down), abs(across)), np.hypot(down, across)
    # Rounded, so that frequencies of one length keep their order on every machine.
    order = first[np.lexsort((first, length.flat[first].round(9), largest.flat[first].round(9)))]
    kept = np.cumsum(np.where(partner.flat[order] == order, 1, 2))
    chosen = order[: 1 + np.argmin(abs(kept - fraction * height * width))]
    keep = np.zeros(height * width, bool)
    keep[chosen] = keep[partner.flat[chosen]] = True
    return keep.reshape(height, width)


def _released_block(height, width, fraction):
    rows = round(height * fraction**0.5) // 2
    columns = round(height * width * fraction / max(rows, 1)) // 4
    return np.outer(_lowest(height, rows), _lowest(width, columns))


def _lowest(length, count):
    index = np.arange(length)
    return (index < count) | (index >= length - count)


def _share(fraction, size):
    count = int(fraction * size)
    if not 0 < count <= size:
        fix = "use a larger fraction, at most 1"
        raise input_error("fraction", expected=f"a fraction that keeps 1 to {size} numbers", got=fraction, fix=fix)
    return count


def _numbers(x):
    return jnp.asarray(as_numbers(x, "x"))


def _batch(x, shape=None):
    """Returns images `[B, H, W, C]`, of the `shape` (H, W, C or 1) of a mask; raises `InputError` for others."""
    x = _numbers(x)
    image = (None, None, None) if shape is None else (*shape[:2], None if shape[2] == 1 else shape[2])
    if x.ndim != 4 or any(want not in (None, have) for want, have in zip(image, x.shape[1:], strict=True)):
        names = ("B", *(name if want is None else str(want) for name, want in zip("HWC", image, strict=True)))
        fix = "give a batch of images of that shape, channels last"
        raise input_error("x", expected=f"[{', '.join(names)}]", got=list(x.shape), fix=fix)
    return x


def _nothing(x):
    return jnp.zeros_like(_numbers(x))


def _multiply(mask, x):
    x = _batch(x, mask.shape)
    return x * mask.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class _Reduce:
    scale: int

    def __call__(self, x):
        x = _batch(x)
        batch, height, width, channels = x.shape
        s = self.scale
        if height % s or width % s:
            fix = "crop the image"
            raise input_error("scale", expected=f"image sides divisible by {s}", got=f"{height}x{width}", fix=fix)
        return x.reshape(batch, height // s, s, width // s, s, channels).sum((2, 4)) / s


@dataclasses.dataclass(frozen=True)
class _Repeat:
    scale: int

    def __call__(self, m):
        m = _numbers(m)
        return jnp.repeat(jnp.repeat(m, self.scale, axis=1), self.scale, axis=2) / self.scale


def _coefficients(vectors, x):
    x = _numbers(x)
    return jnp.matmul(x.reshape(len(x), -1), vectors.astype(x.dtype), precision="highest")


@dataclasses.dataclass(frozen=True)
class _Combine:
    shape: tuple[int, ...]

    def __call__(self, vectors, m):
        m = _numbers(m)
        return jnp.matmul(m, vectors.astype(m.dtype).T, precision="highest").reshape(-1, *self.shape)


def _frequencies(mask, x):
    x = _batch(x, mask.shape)
    return mask.astype(x.dtype) * jnp.fft.fft2(x, axes=(1, 2), norm="ortho")


def _real_image(mask, m):
    m = jnp.asarray(m)
    m = m * mask.astype(m.real.dtype)
    return jnp.fft.ifft2(m, axes=(1, 2), norm="ortho").real
