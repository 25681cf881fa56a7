"""The convolution and its derivatives of every kind against those of XLA's own."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from common.networks.convolution import convolve

# Few and many channels take different ways; sizes are unequal and, once, smaller than the kernel.
SHAPES = [((2, 6, 8, 3), 3, 4), ((2, 5, 4, 16), 3, 1), ((1, 3, 5, 9), 1, 8), ((3, 2, 3, 8), 5, 2)]


def plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def cube(f, x, kernel):
    return (f(x, kernel) ** 3).sum()


WAYS = {
    "value": lambda f, x, k, g, dx, dk: f(x, k),
    "vjp": lambda f, x, k, g, dx, dk: jax.vjp(f, x, k)[1](g),
    "jvp": lambda f, x, k, g, dx, dk: jax.jvp(f, (x, k), (dx, dk))[1],
    "jvp_of_the_input": lambda f, x, k, g, dx, dk: jax.jvp(lambda x: f(x, k), (x,), (dx,))[1],
    "jvp_of_the_kernel": lambda f, x, k, g, dx, dk: jax.jvp(lambda k: f(x, k), (k,), (dk,))[1],
    "linearize": lambda f, x, k, g, dx, dk: jax.linearize(f, x, k)[1](dx, dk),
    "vmapped_jvp": lambda f, x, k, g, dx, dk: jax.vmap(lambda s: jax.jvp(f, (x, k), (s * dx, s * dk))[1])(
        g.ravel()[:2]
    ),
    "vmapped_vjp": lambda f, x, k, g, dx, dk: jax.vmap(jax.vjp(f, x, k)[1])(jnp.stack([g, g**2])),
    "gradient_for_each": lambda f, x, k, g, dx, dk: jax.vmap(jax.grad(cube, (1, 2)), (None, 0, 0))(
        f, jnp.stack([x, dx]), jnp.stack([k, dk])
    ),
    "forward_over_reverse": lambda f, x, k, g, dx, dk: jax.jvp(
        jax.grad(lambda x, k: cube(f, x, k), (0, 1)), (x, k), (dx, dk)
    )[1],
    "reverse_over_reverse": lambda f, x, k, g, dx, dk: jax.grad(
        lambda x, k: jnp.vdot(jax.grad(cube, 1)(f, x, k), dx), (0, 1)
    )(x, k),
    "remat": lambda f, x, k, g, dx, dk: jax.grad(lambda k: cube(jax.checkpoint(f), x, k))(k),
    "descent_in_a_loop": lambda f, x, k, g, dx, dk: lax.scan(
        lambda state, _: (jax.tree.map(lambda a, d: a - 0.01 * d, state, jax.vjp(f, *state)[1](g)), None),
        (x, k),
        None,
        3,
    )[0],
}


def arrays(shape, size, outputs, dtype):
    rng = np.random.default_rng(0)
    kernel, out = (size, size, shape[-1], outputs), (*shape[:-1], outputs)
    return [jnp.asarray(rng.normal(size=s), dtype) for s in (shape, kernel, out, shape, kernel)]


def compare(way, dtype, tolerance, case):
    values = arrays(*case, dtype)
    got, want = (jax.jit(lambda *values, f=f: WAYS[way](f, *values))(*values) for f in (convolve, plain))
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype == dtype
        a, b = (np.asarray(z, np.float64) for z in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("way", WAYS)
def test_every_derivative_is_that_of_the_plain_convolution(way):
    with jax.enable_x64(True):
        for case in SHAPES if way in ("vjp", "jvp") else SHAPES[:2]:
            compare(way, jnp.float64, 1e-12, case)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 3e-6), (jnp.bfloat16, 0.02)])
def test_gradients_keep_type_and_accuracy(dtype, tolerance):
    for case in SHAPES:
        compare("vjp", dtype, tolerance, case)


def test_without_jit():
    x, kernel, g, _, _ = arrays(*SHAPES[1], jnp.float32)
    for got, want in zip(jax.vjp(convolve, x, kernel)[1](g), jax.vjp(plain, x, kernel)[1](g), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


def orders(platform, f, *values):
    """The orders of dimensions of all convolutions in `f` as handed to the compiler of `platform`."""
    text = jax.jit(f).trace(*values).lower(lowering_platforms=(platform,)).as_text()
    return {order.replace(" ", "") for order in re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", text)}


def test_order_of_dimensions_suits_the_platform():
    x, kernel, g, _, _ = arrays(*SHAPES[1], jnp.float32)

    def gradients(f):
        return lambda x, kernel: jax.vjp(f, x, kernel)[1](g)

    ordinary = {"[b,0,1,f]x[0,1,i,o]->[b,0,1,f]", "[b,0,f]x[0,i,o]->[b,0,f]"}
    assert orders("cpu", gradients(convolve), x, kernel) == ordinary
    kernel_gradient = orders("cuda", jax.grad(lambda k: plain(x, k).sum()), kernel)
    assert kernel_gradient and not kernel_gradient & ordinary
    assert orders("cuda", gradients(convolve), x, kernel) >= kernel_gradient
