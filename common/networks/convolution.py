"""A convolution whose gradients are as fast as itself on a CPU too, in and out of loops, in both modes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero


@jax.custom_jvp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Correlates `x [B, H, W, I]` with an odd `kernel [k, k, I, O]`, zeros outside the image; gives `[B, H, W, O]`.

    Every transformation applies, at every order; only `jax.linear_transpose` of the call itself does not.
    """
    return _correlate(x, kernel)


def _tangent(primals, tangents):
    # The gradients JAX derives are convolutions with the batch as channel or the kernel's channels exchanged. XLA's
    # CPU compiler brings these to the order of its fast routine slowly (a kernel's gradient ran at a sixth of the
    # speed of the convolution), and within a loop or a branch not at all, which costs another factor of 20 to 100.
    x, kernel = primals
    dx, dkernel = tangents
    out = convolve(x, kernel)
    terms = []
    if not isinstance(dx, SymbolicZero):
        # Made here and not within: products with a Jacobian that is kept then find it made.
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        terms.append(_linear(lambda u: convolve(u, kernel), lambda g: convolve(g, turned), dx, out))
    if not isinstance(dkernel, SymbolicZero):
        terms.append(_linear(lambda u: convolve(x, u), lambda g: _kernel_gradient(x, g, kernel), dkernel, out))
    return out, sum(terms[1:], terms[0]) if terms else jnp.zeros_like(out)


convolve.defjvp(_tangent, symbolic_zeros=True)


def _correlate(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _linear(forward: Callable, transposed: Callable, u: jax.Array, like: jax.Array) -> jax.Array:
    """Returns `forward(u)`, linear and shaped like `like`, with the given function as its transpose.

    A custom reverse rule would forbid forward mode. But with C = `forward`, C u is half of the solution of the
    triangular system (a, b - C a) = (u, 0), and a linear solve may state its transpose: it is (u + C^T v, v).
    """

    def zeros(a, like):
        # Depends on `a` in form: the rule that transposes a solve wants both parts to take part.
        return lax.pad(a.reshape(-1)[:0], jnp.zeros((), a.dtype), [(0, like.size, 0)]).reshape(like.shape)

    same, out = lax.custom_linear_solve(
        lambda pair: (pair[0], pair[1] - forward(pair[0])),
        (u, zeros(u, like)),
        lambda _, pair: (pair[0], pair[1] + forward(pair[0])),
        lambda _, pair: (pair[0] + transposed(pair[1]), pair[1]),
    )
    return out + zeros(same, like)


def _kernel_gradient(x: jax.Array, g: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the gradient `[k, k, I, O]` from the convolution's input `x` and the cotangent `g [B, H, W, O]`."""

    def default(x, g):
        (gradient,) = jax.linear_transpose(lambda u: _correlate(x, u), kernel)(g)
        return gradient

    size, _, inputs, _ = kernel.shape
    cpu = _from_patches if inputs < 8 else _from_columns
    return lax.platform_dependent(x, g, cpu=lambda x, g: cpu(x, g, size), default=default)


def _from_patches(x: jax.Array, g: jax.Array, size: int) -> jax.Array:
    """One matrix product with all k k shifts of `x`: for few channels, where these are smaller than `g`."""
    _, height, width, inputs = x.shape
    pad = size // 2
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    shifts = [x[:, a : a + height, b : b + width] for a in range(size) for b in range(size)]
    product = jnp.einsum("nhwi,nhwo->io", jnp.concatenate(shifts, axis=-1), g)
    return product.reshape(size, size, inputs, g.shape[-1])


def _from_columns(x: jax.Array, g: jax.Array, size: int) -> jax.Array:
    """A convolution along the rows alone, with the pixels of a row (of all images) as its channels.

    Channels are then many and contiguous, as the routine likes them; shifts within a row are further outputs.
    """
    batch, height, width, inputs = x.shape
    outputs, pad = g.shape[-1], size // 2
    g = jnp.pad(g.transpose(1, 0, 2, 3), ((0, 0), (0, 0), (pad, pad), (0, 0)))
    shifts = [g[:, :, size - 1 - b : size - 1 - b + width] for b in range(size)]
    g = jnp.concatenate(shifts, axis=-1).reshape(height, batch * width, size * outputs)
    x = x.transpose(3, 1, 0, 2).reshape(inputs, height, batch * width)
    gradient = lax.conv_general_dilated(x, g, (1,), [(pad, pad)], dimension_numbers=("NHC", "HIO", "NHC"))
    return gradient.reshape(inputs, size, size, outputs).transpose(1, 2, 0, 3)
