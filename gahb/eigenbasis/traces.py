"""Sums over the whole spectrum of a denoiser's Jacobian: trace, squares, asymmetry, and the risk estimate they give.

Each is exact when no key is given, from d products and without the d x d matrix, or else an estimate from a few random
probes with its standard error. Memory is that of `block` images.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.errors import choice, input_error
from common.prng import as_key
from gahb.denoisers import Denoiser
from gahb.eigenbasis.linear import Linearisation, linearise, pull, push, unit_images

METHODS = ("hutchinson", "hutch++")


class Estimate(NamedTuple):
    """A number, its standard error (0 if exact) and how many products J v or J^T v it took."""

    value: float
    error: float
    products: int


class EffectiveDimension(NamedTuple):
    """How many dimensions a denoiser keeps, measured twice."""

    trace: Estimate  # tr J = sum of the shrinkage factors; sigma^2 tr J is the error of an optimal denoiser
    squares: Estimate  # ||J||^2 = sum of the squared singular values; sigma^2 ||J||^2 is the noise that is left


def trace(
    denoise: Denoiser,
    y: jax.Array,
    *,
    key: jax.Array | None = None,
    num: int = 64,
    method: str = "hutchinson",
    block: int = 16,
) -> Estimate:
    """Returns tr J at `y [H, W, C]`: the divergence of the denoiser, exact without a `key`, else from `num` products.

    "hutchinson" averages <v, J v> over random signs v. "hutch++" (Meyer, Musco, Musco, Woodruff 2021) takes the trace
    on J times num/3 probes exactly and the rest like that: better where few eigenvalues carry most of the trace.
    Raises `InputError` for fewer than 2 probes (6 for "hutch++").
    """
    choice("method", method, METHODS)
    key = None if key is None else as_key(key)
    linear = linearise(denoise, y)
    if key is not None and method == "hutch++":
        return _hutch_plus_plus(linear, key, num, block)
    forms, products = _probe(_trace_form, linear, key, num, block)
    return _reduce(forms[:, 0], exact=key is None, products=products)


def effective_dimension(
    denoise: Denoiser, y: jax.Array, *, key: jax.Array | None = None, num: int = 64, block: int = 16
) -> EffectiveDimension:
    """Returns tr J and ||J||^2 (Frobenius) at `y`, both from the same products; exact without a `key`."""
    forms, products = _probe(_dimension_forms, linearise(denoise, y), key, num, block)
    exact = key is None
    return EffectiveDimension(*(_reduce(forms[:, i], exact=exact, products=products) for i in range(2)))


def asymmetry(
    denoise: Denoiser, y: jax.Array, *, key: jax.Array | None = None, num: int = 64, block: int = 16
) -> Estimate:
    """Returns ||J - J^T|| / ||J + J^T|| (Frobenius) at `y`: 0 for the Jacobian of an optimal denoiser.

    Exact without a `key`; else a ratio of two averages over the same probes, its error to first order.
    """
    forms, products = _probe(_asymmetry_forms, linearise(denoise, y), key, num, block)
    odd, even = forms.mean(0)
    if even == 0:
        return Estimate(0.0 if odd == 0 else float("inf"), 0.0, 2 * products)
    ratio = np.sqrt(odd / even)
    error = 0.0
    if key is not None and ratio > 0:
        spread = (forms[:, 0] - ratio**2 * forms[:, 1]).std(ddof=1) / np.sqrt(len(forms))
        error = float(spread / even / (2 * ratio))
    return Estimate(float(ratio), error, 2 * products)


def sure(
    denoise: Denoiser,
    y: jax.Array,
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
    """
    linear = linearise(denoise, y)
    divergence = trace(denoise, y, key=key, num=num, method=method, block=block)
    moved = np.square(np.asarray(linear.y, np.float64) - np.asarray(linear.value, np.float64)).sum()
    value = (2 * sigma**2 * divergence.value + moved) / linear.size - sigma**2
    return Estimate(float(value), 2 * sigma**2 * divergence.error / linear.size, divergence.products)


def _probe(forms, linear: Linearisation, key, num: int, block: int) -> tuple[np.ndarray, int]:
    """Evaluates quadratic forms at every unit image or at `num` random signs: `[n, number of forms]`, float64."""
    if key is not None:
        key = as_key(key)
    if key is not None and num < 2:
        raise input_error("num", expected="at least 2 probes", got=num, fix="use 64 or so")
    count = linear.size if key is None else num
    block = min(block, count)
    parts = []
    for start in range(0, count, block):
        if key is None:
            v = unit_images(linear, start, block)
        else:
            v = _signs(key, start, block, linear.y.shape, linear.y.dtype)
        parts.append(np.asarray(forms(linear, v), np.float64).T[: count - start])
    return np.concatenate(parts), count


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
    return (_inner(v, push(linear, v)),)


@jax.jit
def _dimension_forms(linear, v):
    moved = push(linear, v)
    return _inner(v, moved), _inner(moved, moved)


@jax.jit
def _asymmetry_forms(linear, v):
    forward, backward = push(linear, v), pull(linear, v)
    odd, even = forward - backward, forward + backward
    return _inner(odd, odd), _inner(even, even)


def _hutch_plus_plus(linear: Linearisation, key, num: int, block: int) -> Estimate:
    if num < 6:
        raise input_error("num", expected="at least 6 products for hutch++", got=num, fix="use 64 or so")
    rank = num // 3
    rest = num - 2 * rank
    sketch_key, probe_key = jax.random.split(key)
    shape, size = linear.y.shape, linear.size

    def apply(rows):
        """J times `rows [n, d]`, float64 on the host."""
        parts = []
        for start in range(0, len(rows), block):
            part = np.zeros((min(block, len(rows)), size))
            taken = rows[start : start + block]
            part[: len(taken)] = taken
            images = jnp.asarray(part.reshape(-1, *shape), linear.y.dtype)
            parts.append(np.asarray(push(linear, images), np.float64).reshape(len(part), size)[: len(taken)])
        return np.concatenate(parts)

    def signs(each, count):
        return np.asarray(_signs(each, 0, count, shape, linear.y.dtype), np.float64).reshape(count, size)

    basis = np.linalg.qr(apply(signs(sketch_key, rank)).T)[0]
    inside = float((basis.T * apply(basis.T)).sum())
    probes = signs(probe_key, rest)
    probes -= (probes @ basis) @ basis.T
    outside = _reduce((probes * apply(probes)).sum(1), exact=False, products=num)
    return outside._replace(value=inside + outside.value)
