"""A network that has learnt to denoise: its basis with and without the matrix, its risk, and what it keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gahb
from common.method import Variables
from gahb import eigenbasis, objective
from gahb.networks import UNet, init

SHAPE = (16, 16, 1)
SIGMA = 0.2


def smooth_images(key, count):
    """Sums of a few slow waves around 0.5."""
    row, column = jnp.meshgrid(jnp.arange(16) / 16, jnp.arange(16) / 16, indexing="ij")
    weights = 0.15 * jax.random.normal(key, (count, 3, 3))
    waves = [jnp.cos(jnp.pi * i * row) * jnp.cos(jnp.pi * j * column) for i in range(3) for j in range(3)]
    return 0.5 + jnp.einsum("nk,khw->nhw", weights.reshape(count, 9), jnp.stack(waves))[..., None]


@pytest.fixture(scope="module")
def denoise():
    network = UNet(num_kernels=8, num_blocks=1, gain_init="unit")
    variables = init(network, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(variables, state, key):
        image_key, noise_key = jax.random.split(key)
        clean = smooth_images(image_key, 16)
        noise = SIGMA * jax.random.normal(noise_key, clean.shape)

        def loss(params):
            return objective.squared_error(network, Variables(params, variables.stats), clean + noise, noise)

        (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(variables.params)
        updates, state = optimizer.update(gradient, state)
        return Variables(optax.apply_updates(variables.params, updates), aux.stats), state, value

    state = optimizer.init(variables.params)
    for i in range(400):
        variables, state, value = step(variables, state, jax.random.fold_in(jax.random.key(1), i))
    assert value < 0.25 * SIGMA**2 * 256
    return gahb.denoiser(variables, network)


@pytest.mark.slow
def test_dense_and_matrix_free_agree(denoise):
    clean = np.asarray(smooth_images(jax.random.key(2), 1))
    y = clean + SIGMA * np.asarray(jax.random.normal(jax.random.key(3), clean.shape))
    dense = eigenbasis.top_k(denoise, y, 12, method="dense")
    free = eigenbasis.top_k(denoise, y, 12, method="krylov", tolerance=1e-5)
    np.testing.assert_allclose(free.values, dense.values, atol=1e-4)
    gaps = -np.diff(dense.values)
    for k in np.flatnonzero(gaps > 1e-3) + 1:
        assert np.cos(eigenbasis.principal_angles(free.vectors[:k], dense.vectors[:k])).min() > 0.999
    assert (gaps > 1e-3).sum() >= 6
    assert eigenbasis.homogeneity(denoise, y) < 1e-5

    # Nine waves are all there is: few factors are large, and their vectors hold the image but hardly any noise.
    assert 2 < eigenbasis.trace(denoise, y).value < 40
    image, noise = (np.square(eigenbasis.coefficients(dense, x)).sum() / np.square(x).sum() for x in (clean, y - clean))
    assert noise < 0.15 < 0.95 < image


@pytest.mark.slow
def test_risk_estimate(denoise):
    clean = np.asarray(smooth_images(jax.random.key(4), 40))
    noisy = clean + SIGMA * np.asarray(jax.random.normal(jax.random.key(5), clean.shape))
    errors = np.square(np.asarray(denoise(noisy)) - clean).mean((1, 2, 3))
    guesses = np.array([eigenbasis.sure(denoise, y, SIGMA, block=256).value for y in noisy])
    difference = guesses - errors
    assert abs(difference.mean()) < 3.5 * difference.std(ddof=1) / np.sqrt(40) < 0.1 * SIGMA**2
