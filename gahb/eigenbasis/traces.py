"""Sums over the whole spectrum of a denoiser's Jacobian: trace, squares, asymmetry, and the risk and noise they imply.

Each is exact when no key is given, from d products and without the d x d matrix, or else an estimate from a few random
probes with its standard error. Memory is that of `block` images.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Real

from common.arrays import AnyArray
from common.errors import choice, input_error, whole_number
from common.prng import as_key
from gahb.denoisers import Denoiser
from gahb.eigenbasis.linear import Linearisation, in_blocks, jvp, linearise, ratio, require_finite, unit_images, vjp

METHODS = ("hutchinson", "hutch++")


class Estimate(NamedTuple):
    """A number, its standard error (0 if exact) and the number of products J v or J^T v."""

    value: float
    error: float
    products: int


class EffectiveDimension(NamedTuple):
    """The number of dimensions that a denoiser keeps, measured twice."""

    trace: Estimate  # tr J = sum of the shrinkage factors; sigma^2 tr J is the error of an optimal denoiser
    squares: Estimate  # ||J||^2 = sum of the squared singular values; sigma^2 ||J||^2 is the noise that is left


class Sums(NamedTuple):
    """All estimates of this module at one image, from the same products."""

    dimension: EffectiveDimension
    asymmetry: Estimate
    sure: Estimate


def trace(
    denoise: Denoiser,
    y: Real[AnyArray, "*one height width channels"],
    *,
    key: jax.Array | None = None,
    num: int = 64,
    method: str = "hutchinson",
    block: int = 16,
) -> Estimate:
    """Returns tr J at `y [H, W, C]`: the divergence of the denoiser, exact without a `key`, else from `num` products.

    "hutchinson" averages <v, J v> over random signs v. "hutch++" (Meyer, Musco, Musco, Woodruff 2021) takes the trace
    on J times num/3 probes exactly and the rest like that: better where few eigenvalues carry most of the trace.
    Raises `InputError` for fewer than 2 probes (6 for "hutch++") or an empty block, `RunError` where the Jacobian is
    not finite.

    >>> trace(lambda y: y / 2, jnp.ones((2, 2, 1)))
    Estimate(value=2.0, error=0.0, products=4)
    """
    return _trace(linearise(denoise, y), key=key, num=num, method=method, block=block)


def effective_dimension(
    denoise: Denoiser,
    y: Real[AnyArray, "*one height width channels"],
    *,
    key: jax.Array | None = None,
    num: int = 64,
    block: int = 16,
) -> EffectiveDimension:
    """Returns tr J and ||J||^2 (Frobenius) at `y`, both from the same products; exact without a `key`.

    >>> found = effective_dimension(lambda y: y / 2, jnp.ones((2, 2, 1)))
    >>> found.trace.value, found.squares.value
    (2.0, 1.0)
    """
    return _dimension(*_probe(_dimension_forms, linearise(denoise, y), key, num, block), exact=key is None)


def asymmetry(
    denoise: Denoiser,
    y: Real[AnyArray, "*one height width channels"],
    *,
    key: jax.Array | None = None,
    num: int = 64,
    block: int = 16,
) -> Estimate:
    """Returns ||J - J^T|| / ||J + J^T|| (Frobenius) at `y`: 0 for the Jacobian of an optimal denoiser.

    Exact without a `key`; else a ratio of two averages over the same probes, its error to first order.

    >>> round(asymmetry(lambda y: jnp.cumsum(y, axis=2), jnp.ones((1, 2, 1))).value, 3)  # of [[1, 0], [1, 1]]
    0.447
    """
    return _asymmetry(*_probe(_asymmetry_forms, linearise(denoise, y), key, num, block), exact=key is None)


def sure(
    denoise: Denoiser,
    y: Real[AnyArray, "*one height width channels"],
    sigma: float,
    *,
    key: jax.Array | None = None,
    num: int = 64,
    method: str = "hutchinson",
    block: int = 16,
) -> Estimate:
    """Returns Stein's unbiased estimate of the mean squared error per pixel, from a noisy image alone.

    SURE = (2 sigma^2 tr J + ||y - f(y)||^2) / d - sigma^2; its mean over the noise is that of ||f(y) - x||^2 / d. The
    error is that of the trace alone (see `trace` for `key`, `num`, `method`), not the spread over noise.

    >>> round(sure(lambda y: y / 2, jnp.ones((2, 2, 1)), 0.1).value, 4)
    0.25
    """
    linear = linearise(denoise, y)
    return _sure(linear, sigma, _trace(linear, key=key, num=num, method=method, block=block))


def implied_sigma(
    denoise: Denoiser,
    y: Real[AnyArray, "*one height width channels"],
    *,
    key: jax.Array | None = None,
    num: int = 64,
    method: str = "hutchinson",
    block: int = 16,
) -> Estimate:
    """Returns the noise level that a blind denoiser assumes in `y [H, W, C]`, in intensity units.

    sigma^2 = ||y - f(y)||^2 / (d - tr J): an optimal denoiser's error is sigma^2 tr J, and this is the sigma for which
    Stein's estimate (see `sure`) agrees. The error is that of the trace alone (see `trace` for `key`, `num`, `method`).
    NaN where d <= tr J, as for the identity, which assumes no noise at all.

    >>> round(implied_sigma(lambda y: y / 2, jnp.ones((2, 2, 1))).value, 3)
    0.707
    """
    linear = linearise(denoise, y)
    divergence = _trace(linear, key=key, num=num, method=method, block=block)
    left = linear.size - divergence.value
    if left <= 0:
        return Estimate(float("nan"), float("nan"), divergence.products)
    sigma = float(np.sqrt(_moved(linear) / left))
    return Estimate(sigma, sigma * divergence.error / (2 * left), divergence.products)


def sums_of(linear: Linearisation, sigma: float, *, key: jax.Array, num: int = 64, block: int = 16) -> Sums:
    """Returns the estimates of a linearised denoiser that the functions above give, from `num` pairs of products."""
    forms, products = _probe(_all_forms, linear, key, num, block)
    dimension = _dimension(forms[:, :2], products, exact=False)
    return Sums(dimension, _asymmetry(forms[:, 2:], products, exact=False), _sure(linear, sigma, dimension.trace))


def _trace(linear: Linearisation, *, key, num, method, block) -> Estimate:
    choice("method", method, METHODS)
    if key is not None and method == "hutch++":
        return _hutch_plus_plus(linear, as_key(key), num, block)
    forms, products = _probe(_trace_form, linear, key, num, block)
    return _reduce(forms[:, 0], exact=key is None, products=products)


def _dimension(forms, products, *, exact) -> EffectiveDimension:
    return EffectiveDimension(*(_reduce(forms[:, i], exact=exact, products=products) for i in range(2)))


def _asymmetry(forms, products, *, exact) -> Estimate:
    odd, even = forms.mean(0)
    value, error = np.sqrt(ratio(odd, even)), 0.0
    if not exact and 0 < value < float("inf"):
        spread = (forms[:, 0] - value**2 * forms[:, 1]).std(ddof=1) / np.sqrt(len(forms))
        error = float(spread / even / (2 * value))
    return Estimate(float(value), error, 2 * products)


def _sure(linear: Linearisation, sigma, divergence: Estimate) -> Estimate:
    value = (2 * sigma**2 * divergence.value + _moved(linear)) / linear.size - sigma**2
    return Estimate(float(value), 2 * sigma**2 * divergence.error / linear.size, divergence.products)


def _moved(linear: Linearisation) -> float:
    return np.square(np.asarray(linear.y, np.float64) - np.asarray(linear.value, np.float64)).sum()


def _probe(forms, linear: Linearisation, key, num: int, block: int) -> tuple[np.ndarray, int]:
    """Evaluates quadratic forms at every unit image or at `num` random signs: `[n, number of forms]`, float64."""
    if key is not None:
        key = as_key(key)
        whole_number("num", num, least=2)
    count = linear.size if key is None else num
    block = min(whole_number("block", block), count)
    parts = []
    for start in range(0, count, block):
        if key is None:
            v = unit_images(linear, start, block)
        else:
            v = _signs(key, start, block, linear.y.shape, linear.y.dtype)
        parts.append(np.asarray(forms(linear, v), np.float64).T[: count - start])
    forms = np.concatenate(parts)
    require_finite(forms)
    return forms, count


def _reduce(samples: np.ndarray, *, exact: bool, products: int) -> Estimate:
    if exact:
        return Estimate(float(samples.sum()), 0.0, products)
    return Estimate(float(samples.mean()), float(samples.std(ddof=1) / np.sqrt(len(samples))), products)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _signs(key, start, count, shape, dtype):
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(start + jnp.arange(count))
    return jax.vmap(lambda each: jax.random.rademacher(each, shape, dtype))(keys)


def _inner(a, b):
    return (a * b).sum((1, 2, 3))


@jax.jit
def _trace_form(linear, v):
    return (_inner(v, jvp(linear, v)),)


@jax.jit
def _dimension_forms(linear, v):
    moved = jvp(linear, v)
    return _inner(v, moved), _inner(moved, moved)


@jax.jit
def _asymmetry_forms(linear, v):
    return _all_forms(linear, v)[2:]


@jax.jit
def _all_forms(linear, v):
    forward, backward = jvp(linear, v), vjp(linear, v)
    odd, even = forward - backward, forward + backward
    return _inner(v, forward), _inner(forward, forward), _inner(odd, odd), _inner(even, even)


def _hutch_plus_plus(linear: Linearisation, key, num: int, block: int) -> Estimate:
    if whole_number("num", num) < 6:
        raise input_error("num", expected="at least 6 products for hutch++", got=num, fix="use 64 or so")
    whole_number("block", block)
    rank = num // 3
    rest = num - 2 * rank
    sketch_key, probe_key = jax.random.split(key)
    shape, size = linear.y.shape, linear.size

    def apply(rows):
        moved = in_blocks(jvp, linear, rows, min(block, len(rows)))
        require_finite(moved)
        return moved

    def signs(each, count):
        return np.asarray(_signs(each, 0, count, shape, linear.y.dtype), np.float64).reshape(count, size)

    basis = np.linalg.qr(apply(signs(sketch_key, rank)).T)[0]
    inside = float((basis.T * apply(basis.T)).sum())
    probes = signs(probe_key, rest)
    probes -= (probes @ basis) @ basis.T
    outside = _reduce((probes * apply(probes)).sum(1), exact=False, products=num)
    return outside._replace(value=inside + outside.value)
