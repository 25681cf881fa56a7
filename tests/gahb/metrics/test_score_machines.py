"""How much score machines explain, and the noise that a denoiser implies, where the answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from gahb.metrics import score_machines as s
from gahb.metrics.score_machines import implied_noise
from gahb.reference import Prior, empirical, equivariant, fit, local, wiener

KEY = jax.random.key(7)
SIGMAS = (0.1, 0.5)


def pictures(count, seed=0, size=8):
    return np.random.default_rng(seed).random((count, size, size, 1), np.float32)


def scaled(factor):
    return jax.tree_util.Partial(lambda a, y: a * y, jnp.float32(factor))


def test_fractions_by_hand():
    images = pictures(3)
    found = s.explained(scaled(0.5), lambda sigma: scaled(0.4), images, SIGMAS, KEY)
    for level, sigma in enumerate(SIGMAS):
        apart, spread, removed = [], [], []
        for i, image in enumerate(images):
            key = jax.random.fold_in(jax.random.fold_in(KEY, level), i)
            y = image + sigma * np.asarray(jax.random.normal(key, image.shape))
            apart.append(0.01 * (y**2).sum())
            spread.append(0.25 * ((y - y.mean()) ** 2).sum())
            removed.append(0.25 * (y**2).sum())
        np.testing.assert_allclose(found.output[level], 1 - np.divide(apart, spread), rtol=1e-5)
        np.testing.assert_allclose(found.residual[level], 0.96, rtol=1e-5)
        np.testing.assert_allclose(found.output_of_sums[level], 1 - sum(apart) / sum(spread), rtol=1e-5)
        np.testing.assert_allclose(found.residual_of_sums[level], 0.96, rtol=1e-5)


def test_each_machine_explains_itself_entirely():
    training, images = pictures(6), pictures(2, 1)
    windows = dict.fromkeys(SIGMAS, 3)
    for name, machine in s.machines(training, windows).items():
        for sigma in SIGMAS:
            found = s.explained(machine(sigma), machine, images, [sigma], KEY)
            np.testing.assert_allclose(found.output, 1, atol=1e-6, err_msg=name)
            np.testing.assert_allclose(found.residual, 1, atol=1e-6, err_msg=name)


def test_machines_are_those_of_the_reference():
    training, y = pictures(6), jnp.asarray(pictures(2, 1))
    made = s.machines(training, {0.5: 3}, equivariant_images=4)
    assert tuple(made) == s.NAMES
    expected = {
        "empirical": empirical(training, 0.5),
        "local": local(training, 0.5, patch=3),
        "equivariant": equivariant(training[:4], 0.5, patch=3),
        "wiener": wiener(fit(training), 0.5),
    }
    for name, denoise in expected.items():
        np.testing.assert_array_equal(made[name](0.5)(y), denoise(y), err_msg=name)


def test_returning_the_input_explains_no_residual():
    found = s.explained(scaled(0.5), lambda sigma: scaled(1.0), pictures(2), SIGMAS, KEY)
    np.testing.assert_allclose(found.residual, 0, atol=1e-6)


@pytest.mark.parametrize("window", [3, 7])
def test_the_window_is_found_again(window):
    training, images = pictures(6), pictures(3, 1)
    found = s.best_windows(local(training, 0.5, patch=window), training, images, [0.5], KEY, windows=(3, 5, 7, 15))
    assert found == [window]
    with pytest.raises(InputError, match="windows: expected at least one"):
        s.best_windows(scaled(1.0), training, images, [0.5], KEY, windows=())


def test_implied_noise_of_a_wiener_filter():
    """Made for the level s: E ||y - f||^2 = s^4 tr (C + s^2)^-1, and d - tr J = s^2 tr (C + s^2)^-1."""
    power = np.random.default_rng(0).uniform(0.0005, 0.01, (8, 8, 1))
    prior, sigma = Prior(np.array([0.5]), power), 0.1
    cosines = np.asarray(jax.scipy.fft.dct(jnp.eye(8), axis=0, norm="ortho"))
    z = np.random.default_rng(1).normal(size=(400, 8, 8))
    images = 0.5 + np.einsum("ki,lj,nkl->nij", cosines, cosines, np.sqrt(power[..., 0]) * z)[..., None]
    found = implied_noise(wiener(prior, sigma), images.clip(0, 1).astype(np.float32), [sigma], KEY, num=None, block=64)
    np.testing.assert_allclose(found.trace, (power / (power + sigma**2)).sum(), rtol=1e-4)
    # Of 400 images of 64 pixels: 2 %, four standard errors.
    np.testing.assert_allclose(found.implied_of_means, sigma, rtol=0.02)
    expected = sigma**2 * np.sqrt((1 / (power + sigma**2)).mean())
    np.testing.assert_allclose(np.sqrt(np.square(found.residual).mean()), expected, rtol=0.02)
    assert expected < 0.97 * sigma, "the residual alone implies less noise"


def test_a_filter_for_another_level_implies_that_level():
    """Of noise around its mean image, whatever level a filter of constant gain was made for: sqrt(1 - gain) of it."""
    power, assumed, true = 0.02, 0.2, 0.1
    gain = power / (power + assumed**2)
    denoise = jax.tree_util.Partial(lambda g, y: 0.5 + g * (y - 0.5), jnp.float32(gain))
    found = implied_noise(denoise, np.full((50, 8, 8, 1), 0.5, np.float32), [true], KEY, num=None, block=64)
    # ||y - f||^2 = (1 - g)^2 d s^2 and d - tr J = (1 - g) d.
    np.testing.assert_allclose(found.implied_of_means, np.sqrt(1 - gain) * true, rtol=0.04)


def test_implied_noise_with_probes_and_without_an_answer():
    exact = implied_noise(scaled(0.25), pictures(2), [0.3], KEY, num=None)
    probed = implied_noise(scaled(0.25), pictures(2), [0.3], KEY, num=4)
    np.testing.assert_allclose(probed.implied, exact.implied, rtol=1e-5)  # the trace of a multiple of 1 has no variance
    assert np.isnan(implied_noise(scaled(1.5), pictures(1), [0.3], KEY, num=None).implied).all()
