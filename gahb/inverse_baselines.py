"""Two published solvers of linear inverse problems, for any denoiser, as baselines of `gahb.sample`.

Both go down a geometric sequence of noise levels sigma_0 > ... > sigma_T = sigma_L of y = x + sigma z, in as many
calls of the denoiser, from y = mean + sigma_0 z; the result is the denoised last iterate. Their papers write the same
steps for sqrt(a) y with a = 1 / (1 + sigma^2). A blind denoiser reads sigma off y.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from common.arrays import as_numbers
from common.errors import input_error
from common.prng import as_key
from gahb.denoisers import Denoiser, as_denoiser
from gahb.operators import Operator
from gahb.sampler_settings import check_count, check_positive, number_of
from gahb.sampling import check_measurement, checked_denoised, gaussian_noise, per_sample, removes_noise, rms


class BaselineSettings(NamedTuple):
    """Settings of `dps` and `diffpir`.

    sigma_0, sigma_L: noise at the start and at the end, in intensity units, 1 and 0.02. steps: noise levels after the
    first, 80, so that a sample costs as many calls of the denoiser as one of `gahb.sample`. mean: intensity around
    which the start is drawn, 0.5. weight: zeta' of DPS, above 0, 0.3. renewal: zeta of DiffPIR, the fraction of the
    noise that is drawn anew, in (0, 1], 0.3. Both defaults are this package's: the weight is chosen on one Gaussian
    prior, the renewal is not tuned.
    """

    sigma_0: float = 1.0
    sigma_L: float = 0.02  # noqa: N815
    steps: int = 80
    mean: float = 0.5
    weight: float = 0.3
    renewal: float = 0.3


def dps(
    denoise: Denoiser,
    key: jax.Array,
    shape: tuple[int, int, int, int],
    settings: BaselineSettings = BaselineSettings(),  # noqa: B008
    *,
    operator: Operator,
    measurement: jax.Array,
    first: int = 0,
) -> tuple[jax.Array, dict[str, Any]]:
    """Samples by diffusion posterior sampling (Chung et al., ICLR 2023, algorithm 1).

    With x_hat = denoise(y), an ancestral step from sigma to s and one down the gradient of the misfit,

        y <- x_hat + (s / sigma)^2 (y - x_hat) + (s / sigma) sqrt(sigma^2 - s^2) z
             - zeta sqrt((1 + sigma^2) (1 + s^2)) grad_y ||m - M^T x_hat(y)||^2,  zeta = zeta' / ||m - M^T x_hat||,

    the square root because the paper's variable is y / sqrt(1 + sigma^2). Arguments and result: as of `gahb.sample`,
    `info` with `converged`, `outcome`, `steps`, `sigma`, `nfe [N]`; each step also costs a product with the transposed
    Jacobian of the denoiser. Raises `InputError` for impossible settings and shapes.
    """
    return _solve(_dps_step, denoise, key, shape, settings, operator, measurement, first)


def diffpir(
    denoise: Denoiser,
    key: jax.Array,
    shape: tuple[int, int, int, int],
    settings: BaselineSettings = BaselineSettings(),  # noqa: B008
    *,
    operator: Operator,
    measurement: jax.Array,
    first: int = 0,
) -> tuple[jax.Array, dict[str, Any]]:
    """Samples by DiffPIR (Zhu et al., CVPR workshops 2023, eq. 12 and 13) from a measurement without noise.

    With x_hat = denoise(y) (12a), the nearest image that agrees with m, x = x_hat + M (m - M^T x_hat) (12b; its closed
    form for M^T M = 1, which 13 approximates), and the noise e = (y - x) / sigma that y would then hold, it goes from
    sigma to s by y <- x + s (sqrt(1 - zeta) e + sqrt(zeta) z). Arguments and result: as of `dps`.
    """
    return _solve(_diffpir_step, denoise, key, shape, settings, operator, measurement, first)


BASELINES: Mapping[str, Callable[..., tuple[jax.Array, dict[str, Any]]]] = {"dps": dps, "diffpir": diffpir}


def check(settings: BaselineSettings) -> None:
    """Raises `InputError`, naming the field, for numbers that the solvers cannot run with."""
    for name in ("sigma_0", "sigma_L", "weight"):
        check_positive(name, getattr(settings, name))
    check_positive("renewal", settings.renewal, most=1)
    check_count("steps", settings.steps, 1)
    if settings.sigma_L >= settings.sigma_0:
        fix = "use a smaller one"
        raise input_error("sigma_L", expected=f"below sigma_0={settings.sigma_0:g}", got=settings.sigma_L, fix=fix)


def _solve(step, denoise, key, shape, settings, operator, measurement, first):
    check(settings)
    shape = tuple(int(length) for length in shape)
    if not jnp.iscomplexobj(measurement):
        measurement = as_numbers(measurement, "measurement")
    check_measurement(operator, measurement, shape)
    sigmas = jnp.geomspace(settings.sigma_0, settings.sigma_L, int(settings.steps) + 1)
    numbers = {name: jnp.asarray(getattr(settings, name), float) for name in ("mean", "weight", "renewal")}
    first = jnp.asarray(first, jnp.uint32)
    return _run(step, as_denoiser(denoise), numbers, sigmas, as_key(key), first, operator, measurement, shape=shape)


@functools.partial(jax.jit, static_argnames=("step", "shape"))
def _run(step, denoise, numbers, sigmas, key, first, operator, measurement, *, shape):
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(shape[0], dtype=jnp.uint32))
    clean = Partial(checked_denoised, denoise)
    z = gaussian_noise(keys, jnp.int32(0), jax.ShapeDtypeStruct(shape, jnp.result_type(float)))
    start = numbers["mean"] + sigmas[0] * z

    def advance(y, levels):
        sigma, s, t = levels
        y = step(clean, y, sigma, s, gaussian_noise(keys, t, y), operator, measurement, numbers)
        return y, None

    times = jnp.arange(1, len(sigmas))
    y, _ = lax.scan(advance, start, (sigmas[:-1], sigmas[1:], times))
    samples = clean(y)
    sigma = rms(y - samples)
    outcome = jnp.select(
        [~jnp.isfinite(sigma), ~removes_noise(start, clean(start), z, sigmas[0]), sigma > 2 * sigmas[-1]],
        [number_of(name) for name in ("not finite", "not a denoiser", "unfinished")],
        number_of("converged"),
    )
    steps = jnp.full(shape[0], len(sigmas) - 1, jnp.int32)
    converged = outcome == number_of("converged")
    return samples, {"converged": converged, "outcome": outcome, "steps": steps, "sigma": sigma, "nfe": steps + 1}


def _dps_step(clean, y, sigma, s, z, operator, measurement, numbers):
    def misfit(y):
        x_hat = clean(y)
        off = measurement - operator.analyze(x_hat)
        # Of each sample; their gradients do not mix, since no denoised image depends on another.
        squared = jnp.square(jnp.abs(off)).reshape(len(y), -1).sum(1)
        return squared.sum(), (x_hat, squared)

    gradient, (x_hat, squared) = jax.grad(misfit, has_aux=True)(y)
    ancestral = x_hat + (s / sigma) ** 2 * (y - x_hat) + (s / sigma) * jnp.sqrt(sigma**2 - s**2) * z
    # Where the misfit is zero, so is its gradient.
    zeta = numbers["weight"] / jnp.sqrt(jnp.maximum(squared, jnp.finfo(y.dtype).tiny))
    return ancestral - per_sample(zeta) * jnp.sqrt((1 + sigma**2) * (1 + s**2)) * gradient


def _diffpir_step(clean, y, sigma, s, z, operator, measurement, numbers):
    x_hat = clean(y)
    x = x_hat + operator.synthesize(measurement - operator.analyze(x_hat))
    kept, renewed = jnp.sqrt(1 - numbers["renewal"]), jnp.sqrt(numbers["renewal"])
    return x + s * (kept * (y - x) / sigma + renewed * z)
