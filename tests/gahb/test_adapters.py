"""Denoisers made of scores, noise predictors, NumPy and PyTorch, against closed forms and against JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import gahb
from common.errors import InputError
from gahb import eigenbasis
from gahb.metrics.psnr import psnr_curve

SHAPE = (4, 4, 1)
GAINS = np.linspace(1.1, 0.1, 16, dtype=np.float32).reshape(SHAPE)
MIX = np.random.default_rng(0).normal(scale=0.1, size=(16, 16)).astype(np.float32)
Y = jax.random.normal(jax.random.key(0), (3, *SHAPE))
VARIANCE = 0.04


def posterior_mean(y, sigma):
    """The optimal denoiser of Gaussian images around 0.5."""
    return 0.5 + VARIANCE / (VARIANCE + sigma**2) * (y - 0.5)


def gaussian_score(y, sigma):
    return -(y - 0.5) / (VARIANCE + sigma**2)


def gaussian_eps(y, sigma):
    return sigma * (y - 0.5) / (VARIANCE + sigma**2)


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_scores_noise_predictors_and_denoisers_of_a_gaussian(sigma):
    want, score = posterior_mean(Y, sigma), gaussian_score(Y, sigma)
    np.testing.assert_allclose(gahb.score(gahb.at_sigma(posterior_mean, sigma))(Y, sigma), score, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(gahb.score(posterior_mean, conditional=True)(Y, sigma), score, rtol=1e-3, atol=1e-3)
    for make, function in (
        (gahb.from_score, gaussian_score),
        (gahb.from_eps, gaussian_eps),
        (gahb.from_score, gahb.score(posterior_mean, conditional=True)),
        (gahb.at_sigma, posterior_mean),
    ):
        np.testing.assert_allclose(make(function, sigma)(Y), want, atol=1e-5)
        np.testing.assert_allclose(make(function, None)(Y, sigma), want, atol=1e-5)


def test_a_fixed_noise_level_and_the_weights_are_arguments():
    traces = []

    def conditional(gain, y, sigma):
        traces.append(1)
        return gain * y / (1 + sigma**2)

    run = jax.jit(lambda denoise, y: denoise(y))
    for gain, sigma in ((1.0, 0.1), (2.0, 0.1), (2.0, 0.5)):
        found = run(gahb.at_sigma(Partial(conditional, jnp.float32(gain)), sigma), Y)
        np.testing.assert_allclose(found, gain * Y / (1 + sigma**2), rtol=1e-5)
    assert len(traces) == 1


@pytest.mark.parametrize("sigma", [0, -1.0, float("nan"), float("inf"), [0.1, 0.2]])
def test_noise_levels_that_are_none(sigma):
    with pytest.raises(InputError, match="sigma: expected one positive number"):
        gahb.from_score(gaussian_score, sigma)


def numpy_denoise(y):
    rows = y.reshape(len(y), -1)
    return (np.tanh(rows @ MIX.T) + rows * GAINS.reshape(-1)).reshape(y.shape)


def jax_denoise(y):
    rows = y.reshape(len(y), -1)
    moved = jnp.tanh(jnp.matmul(rows, MIX.T, precision="highest"))
    return (moved + rows * GAINS.reshape(-1)).reshape(y.shape)


def slopes(y):
    return 1 - np.tanh(y.reshape(len(y), -1) @ MIX.T) ** 2


def numpy_jvp(y, v):
    v = v.reshape(len(v), -1)
    return (slopes(y) * (v @ MIX.T) + v * GAINS.reshape(-1)).reshape(y.shape)


def numpy_vjp(y, u):
    u = u.reshape(len(u), -1)
    return ((slopes(y) * u) @ MIX + u * GAINS.reshape(-1)).reshape(y.shape)


def same_as_jax(foreign, reference, atol=1e-4):
    """A foreign denoiser gives every tool what the same function in JAX gives."""
    y, key = np.asarray(Y[0]), jax.random.key(1)
    np.testing.assert_allclose(foreign(Y), reference(Y), atol=atol)
    np.testing.assert_allclose(eigenbasis.jacobian(foreign, y), eigenbasis.jacobian(reference, y), atol=atol)
    reverse = eigenbasis.jacobian(foreign, y, mode="reverse", block=5)
    np.testing.assert_allclose(reverse, eigenbasis.jacobian(reference, y), atol=atol)
    for method in ("dense", "krylov"):
        found, want = (
            eigenbasis.top_k(each, y, 3, method=method, block=1, max_basis=12, tolerance=1e-4)
            for each in (foreign, reference)
        )
        assert found.converged
        np.testing.assert_allclose(found.values, want.values, atol=atol)
        assert np.cos(eigenbasis.principal_angles(found.vectors, want.vectors)).min() > 0.999
    singular = (eigenbasis.top_singular(each, y, 3, method="dense").values for each in (foreign, reference))
    np.testing.assert_allclose(*singular, atol=atol)
    for function in (eigenbasis.trace, eigenbasis.asymmetry):
        for how in ({}, {"key": key, "num": 8}):
            np.testing.assert_allclose(function(foreign, y, **how), function(reference, y, **how), rtol=1e-3, atol=atol)
    samples = (gahb.sample(each, key, (2, *SHAPE), max_steps=20)[0] for each in (foreign, reference))
    np.testing.assert_allclose(*samples, rtol=1e-2, atol=1e-3)
    clean = np.clip(np.asarray(Y), 0, 1)
    curves = (psnr_curve(each, clean, [0.1, 0.3], key, batch_size=2).per_image for each in (foreign, reference))
    np.testing.assert_allclose(*curves, atol=1e-2)


def test_numpy_in_every_tool():
    same_as_jax(gahb.from_callback(numpy_denoise, jvp=numpy_jvp, vjp=numpy_vjp), jax_denoise)


def test_gradients_of_a_callback():
    foreign = gahb.from_callback(numpy_denoise, jvp=numpy_jvp, vjp=numpy_vjp)
    gradients = (jax.grad(lambda y, f=f: jnp.square(f(y)).sum())(Y) for f in (foreign, jax_denoise))
    np.testing.assert_allclose(*gradients, atol=1e-4)


def test_a_callback_without_products_only_denoises():
    foreign = gahb.from_callback(numpy_denoise)
    np.testing.assert_allclose(jax.jit(foreign)(Y), jax_denoise(Y), atol=1e-5)
    for how, name in (({}, "jvp"), ({"jvp": numpy_jvp}, "vjp")):
        with pytest.raises(InputError, match=f"{name}: expected a function, .* pass {name}= to from_callback"):
            eigenbasis.trace(gahb.from_callback(numpy_denoise, **how), Y[0])
    with pytest.raises(InputError, match="function: expected a function of NumPy arrays, got int"):
        gahb.from_callback(3)


def test_pytorch_in_every_tool():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.Softplus(), torch.nn.Conv2d(3, 1, 3, padding=1)
    )
    with pytest.raises(InputError, match=r"module: expected evaluation mode, .* call module.eval\(\)"):
        gahb.from_torch(module)
    first, second = ((layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in (module[0], module[2]))

    def convolve(x, layer):
        weight, bias = layer
        numbers = ("NHWC", "OIHW", "NHWC")
        return (
            jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=numbers, precision="highest")
            + bias
        )

    same_as_jax(gahb.from_torch(module.eval()), lambda y: convolve(jax.nn.softplus(convolve(y, first)), second))


def test_what_is_no_module():
    with pytest.raises(InputError, match="module: expected a PyTorch module"):
        gahb.from_torch(3)


ADAPTED = [
    gahb.at_sigma(lambda y, sigma: y / 2, 0.1),
    gahb.from_eps(lambda y, sigma: y / (2 * sigma), 0.1),
    gahb.from_score(lambda y, sigma: -y / (2 * sigma**2), 0.1),
    gahb.from_callback(lambda y: y / 2),
]


@pytest.mark.parametrize("halve", ADAPTED)
def test_adapted_denoisers_take_bytes_to_the_unit_range(halve):
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1) * 4
    np.testing.assert_allclose(halve(image), image / 510, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(gahb.score(halve)(image, 0.5), image / 510 * -4, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("halve", [*ADAPTED, lambda y: gahb.score(lambda y: y / 2)(y, 1.0)])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (np.full((1, 8, 8, 1), 200.5), "divide by 255"),
        (np.full((1, 8, 8, 1), 200, np.uint16), "divide by 255"),
        (np.full((1, 8, 8, 1), np.nan), "expected finite numbers"),
        (np.ones((8, 8)), r"expected \[B, H, W, C\]"),
        (np.ma.masked_array(np.ones((1, 8, 8, 1)), np.eye(8)[None, ..., None]), "8 of 64 masked"),
    ],
)
def test_adapted_denoisers_refuse_what_is_no_image(halve, wrong, says):
    with pytest.raises(InputError, match=f"y: .*{says}"):
        halve(wrong)
