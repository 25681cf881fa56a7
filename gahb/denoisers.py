"""Denoisers: functions `y [B, H, W, C] -> x_hat`, and how scores, noise predictors and code outside JAX become them.

y = x + sigma z throughout, with sigma and images on the scale of [0, 1]. A network of another scaling needs a wrapper:
one that takes x_t = sqrt(a) x + sqrt(1 - a) z at time t, for example, has sigma = sqrt(1 / a - 1) and x_t = sqrt(a) y.
What is made here takes bytes to [0, 1] and raises `InputError` for floats in 0..255, other integers and NaN.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from common.arrays import as_images
from common.errors import input_error, shown

Images: TypeAlias = Float[Array, "batch height width channels"]
Denoiser: TypeAlias = Callable[[Images], Images]


def as_denoiser(function: Callable[..., Any]) -> Partial:
    """Wraps any function `y -> x_hat` as a pytree without leaves; returns a `Partial` unchanged.

    Arrays inside such a function become constants of every program compiled with it; to avoid that, make it with
    `jax.tree_util.Partial(function, arrays)` and let it take them first.

    >>> as_denoiser(lambda y: y / 2)(jnp.ones((1, 1, 1, 1))).item()
    0.5
    """
    if isinstance(function, Partial):
        return function
    if not callable(function):
        raise input_error(
            "denoise", expected="a function y -> x_hat", got=type(function).__name__, fix="pass a callable"
        )
    return Partial(function)


def denoised(denoise: Denoiser, y: jax.Array) -> jax.Array:
    """Returns `denoise(y)` while a program is traced.

    Raises `InputError` for a function that JAX cannot trace, or whose output has another shape than its input.
    """
    try:
        x_hat = denoise(y)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        got = f"one that needs values ({type(error).__name__})"
        fix = "use jax.numpy in place of NumPy, or gahb.from_callback"
        raise input_error("denoise", expected="a function that JAX can trace", got=got, fix=fix) from None
    if jnp.shape(x_hat) != y.shape:
        got, fix = f"one {list(jnp.shape(x_hat))}", "return the clean images, and nothing beside them"
        raise input_error("denoise", expected=f"an output like its input {list(y.shape)}", got=got, fix=fix)
    return jnp.asarray(x_hat)


Conditional: TypeAlias = Callable[[Images, Any], Images]  # (y, sigma) -> x_hat
Host: TypeAlias = Callable[..., Float[np.ndarray, "batch height width channels"]]


def score(denoise: Denoiser | Conditional, *, conditional: bool = False) -> Partial:
    """Returns the score s(y, sigma) = (f(y) - y) / sigma^2 that a denoiser stands for (Miyasawa 1961).

    denoise: `y -> x_hat`; or `(y, sigma) -> x_hat` where `conditional`. The result takes `y [B, H, W, C]` and sigma, in
    intensity units, as the scores of `common.solvers` take x and t.

    >>> float(score(lambda y: y / 2)(jnp.ones((1, 1, 1, 1)), 0.5)[0, 0, 0, 0])
    -2.0
    """
    return Partial(_score_conditional if conditional else _score_blind, as_denoiser(denoise))


def from_score(score: Conditional, sigma: float | None = None) -> Partial:
    """Returns the denoiser f(y) = y + sigma^2 s(y, sigma) of a score `s(y, sigma)`.

    With `sigma` (intensity units): a denoiser `y -> x_hat` for that noise; without: `(y, sigma) -> x_hat`.

    >>> from_score(lambda y, sigma: -y, sigma=0.5)(jnp.ones((1, 1, 1, 1))).item()
    0.75
    """
    return at_sigma(Partial(_from_score, as_denoiser(score)), sigma)


def from_eps(eps: Conditional, sigma: float | None = None) -> Partial:
    """Returns the denoiser f(y) = y - sigma e(y, sigma) of a noise predictor `e(y, sigma)` of unit variance.

    With `sigma` (intensity units): a denoiser `y -> x_hat` for that noise; without: `(y, sigma) -> x_hat`.

    >>> from_eps(lambda y, sigma: y, sigma=0.25)(jnp.ones((1, 1, 1, 1))).item()
    0.75
    """
    return at_sigma(Partial(_from_eps, as_denoiser(eps)), sigma)


def at_sigma(denoise: Conditional, sigma: float | None) -> Partial:
    """Returns a noise-conditional `denoise(y, sigma)` as a function of y alone; with `sigma` None, as it is.

    sigma: standard deviation of the noise, intensity units. It travels as an argument, so another one compiles nothing.

    >>> at_sigma(lambda y, sigma: sigma * y, 0.25)(jnp.ones((1, 1, 1, 1))).item()
    0.25
    """
    if sigma is None:
        return as_denoiser(denoise)
    if not isinstance(sigma, Tracer) and not (np.ndim(sigma) == 0 and 0 < sigma < float("inf")):
        raise input_error("sigma", expected="one positive number", got=sigma, fix="give noise in intensity units")
    return Partial(_at_sigma, as_denoiser(denoise), jnp.asarray(sigma, float))


def _score_blind(denoise, y, sigma):
    y = as_noisy(y)
    return (denoise(y) - y) / sigma**2


def _score_conditional(denoise, y, sigma):
    y = as_noisy(y)
    return (denoise(y, sigma) - y) / sigma**2


def _from_score(score, y, sigma):
    y = as_noisy(y)
    return y + sigma**2 * score(y, sigma)


def _from_eps(eps, y, sigma):
    y = as_noisy(y)
    return y - sigma * eps(y, sigma)


def _at_sigma(denoise, sigma, y):
    y = as_noisy(y)
    return denoise(y, sigma.astype(jnp.result_type(y, jnp.float32)))


def from_callback(function: Host, *, jvp: Host | None = None, vjp: Host | None = None) -> Partial:
    """Returns the denoiser that runs `function` outside JAX: NumPy, another framework, a program.

    function: `y [B, H, W, C] -> x_hat`, on NumPy arrays, for any B. jvp: `(y, v) -> J(y) v`, vjp: `(y, u) -> J(y)^T u`,
    for each image of the batch; `gahb.eigenbasis` needs both, `sample` and `psnr_curve` neither. Call this once for a
    function: the next result compiles anew.

    >>> halve = from_callback(lambda y: y / 2, jvp=lambda y, v: v / 2, vjp=lambda y, u: u / 2)
    >>> float(halve(jnp.ones((1, 1, 1, 1)))[0, 0, 0, 0])
    0.5
    """
    for name, each in (("function", function), ("jvp", jvp), ("vjp", vjp)):
        if not callable(each) and (each is not None or name == "function"):
            got = type(each).__name__
            raise input_error(name, expected="a function of NumPy arrays", got=got, fix="pass a callable")
    return Partial(Callback(function, jvp, vjp))


def from_torch(module: Any, *, device: Any = None) -> Partial:
    """Returns a denoiser `[B, H, W, C]` that runs a PyTorch module `[B, C, H, W] -> [B, C, H, W]`.

    module: a `torch.nn.Module` in evaluation mode, or a function of one tensor; its Jacobian products come from
    `torch.func`. device: of its weights (default: CPU). Raises `InputError` for a module in training mode.

    >>> from_torch(torch.nn.Identity().eval())(jnp.ones((1, 8, 8, 1))).shape  # doctest: +SKIP
    (1, 8, 8, 1)
    """
    torch = sys.modules.get("torch")  # whoever has a module has imported it
    if torch is None or not callable(module):
        got = type(module).__name__
        raise input_error("module", expected="a PyTorch module", got=got, fix="use from_callback for other functions")
    if getattr(module, "training", False):
        raise input_error("module", expected="evaluation mode", got="training mode", fix="call module.eval()")

    def tensor(images):
        return torch.tensor(np.moveaxis(images, -1, 1), device=device)

    def images(tensor):
        return np.moveaxis(tensor.detach().cpu().numpy(), 1, -1)

    def function(y):
        with torch.no_grad():
            return images(module(tensor(y)))

    return from_callback(
        function,
        jvp=lambda y, v: images(torch.func.jvp(module, (tensor(y),), (tensor(v),))[1]),
        vjp=lambda y, u: images(torch.func.vjp(module, tensor(y))[1](tensor(u))[0]),
    )


@dataclasses.dataclass(frozen=True)
class Callback:
    """A function of NumPy arrays with its Jacobian products, called from JAX."""

    function: Host
    jvp: Host | None
    vjp: Host | None

    def __call__(self, y: jax.Array) -> jax.Array:
        return _called(self, as_noisy(y))

    def products(self) -> tuple["Product", "Product"]:
        """Returns `(y, v) -> J v` and `(y, u) -> J^T u`; raises `InputError` where one is missing."""
        for name, each in (("jvp", self.jvp), ("vjp", self.vjp)):
            if each is None:
                fix = f"pass {name}= to from_callback"
                raise input_error(name, expected="a function, for products with the Jacobian", got=None, fix=fix)
        return Product(self.jvp), Product(self.vjp)  # pyright: ignore[reportArgumentType]  # checked above


@dataclasses.dataclass(frozen=True)
class Product:
    """A function `(y, v)` of NumPy arrays, at one image y for each of `v [n, H, W, C]`."""

    function: Host

    def __call__(self, y: jax.Array, v: jax.Array) -> jax.Array:
        return _on_host(self.function, jnp.broadcast_to(y, v.shape), v)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _called(callback, y):
    return _on_host(callback.function, y)


_called.defvjp(
    lambda callback, y: (_called(callback, y), y),
    lambda callback, y, u: (callback.products()[1](y, u),),
)


def _on_host(function: Host, *arrays: jax.Array) -> jax.Array:
    """Calls `function` on batches of images; axes that `vmap` puts in front join the batch."""
    dtype = arrays[0].dtype

    def call(*values):
        values = [np.asarray(each) for each in values]
        shape = values[0].shape
        result = np.asarray(function(*(each.reshape(-1, *shape[-3:]) for each in values)), dtype)
        if result.size != values[0].size:
            expected = f"an output like its input {[int(np.prod(shape[:-3])), *shape[-3:]]}"
            raise input_error("function", expected=expected, got=list(result.shape), fix="return as many images")
        return result.reshape(shape)

    return jax.pure_callback(call, jax.ShapeDtypeStruct(arrays[0].shape, dtype), *arrays, vmap_method="broadcast_all")


def as_set(images: ArrayLike) -> Any:
    """Returns the images `[N, H, W, C]` of a prior as floats; see `common.arrays.as_images` for what is refused.

    They may leave [0, 1] as noisy ones may: Gaussian images do.
    """
    return as_images(images, "images", noisy=True)


def as_noisy(y: ArrayLike, shape: Sequence[int | None] = (None, None, None)) -> jax.Array:
    """Returns noisy images `[B, H, W, C]` of `shape (H, W, C)` (None: any) as floats; `InputError` for others."""
    return jnp.asarray(as_images(y, "y", noisy=True, shape=shape))


def check_shape(y: jax.Array, shape: Sequence[int | None]) -> None:
    """Raises `InputError` unless `y` is a batch of images of `shape (H, W, C)`."""
    if y.ndim != 4 or y.shape[1:] != tuple(shape):
        fix = "fit it on images of this size"
        raise input_error("y", expected=f"[B, {', '.join(map(str, shape))}]", got=list(y.shape), fix=fix)


def check_sigma(sigma: Any, *, several: bool = False) -> None:
    """Raises `InputError` unless `sigma` is one positive finite number (intensity units).

    several: accept a list of such numbers `[S]` too. The values of a traced sigma are not known and not checked.
    """
    try:
        shape = np.shape(sigma)
        values = None if isinstance(sigma, Tracer) else np.asarray(sigma)
    except ValueError:  # a list of unequal rows
        shape, values = None, None
    # A scalar is the usual case, also where a list is possible.
    expected = "a positive number" if shape == () or not several else "a list of positive numbers"
    if shape is None or len(shape) > several or 0 in shape:
        fix = "give one list of numbers" if several else "make one denoiser for each level"
        raise input_error("sigma", expected=expected, got=shown(sigma), fix=fix)
    if values is None:
        return
    real = jnp.issubdtype(values.dtype, jnp.floating) or np.issubdtype(values.dtype, np.integer)
    if not real or not ((values > 0) & (values < np.inf)).all():
        fix = "give the standard deviation of the noise for images in [0, 1], for example 0.1"
        raise input_error("sigma", expected=expected, got=shown(sigma), fix=fix)


def check_count(field: str, value: object) -> None:
    """Raises `InputError` unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise input_error(field, expected="a whole number of at least 1", got=shown(value), fix="use 1 or more")
