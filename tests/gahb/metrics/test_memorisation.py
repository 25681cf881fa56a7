"""Memorisation over training time, by hand and with denoisers whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from gahb.metrics import generalisation as m
from gahb.reference import Prior, empirical, wiener
from gahb.sampling import sample

KEY = jax.random.key(5)
SIGMAS = np.geomspace(1.5, 0.01, 24)


def pictures(count, seed=0, size=8):
    return np.random.default_rng(seed).random((count, size, size, 1), np.float32)


@pytest.mark.parametrize("block", [3, 100])
def test_two_nearest_by_brute_force(block):
    images, references = pictures(5, 1), pictures(11, 2)
    distances = np.sqrt(np.square(images[:, None].astype(float) - references).mean((2, 3, 4)))
    near = m.two_nearest(images, references, block=block)
    np.testing.assert_array_equal(near.index, distances.argmin(1))
    np.testing.assert_allclose(np.stack([near.first, near.second], 1), np.sort(distances, 1)[:, :2], rtol=1e-6)


def test_ratio_by_hand():
    references = np.stack([np.full((4, 4, 1), level, np.float32) for level in (0.0, 1.0)])
    images = np.stack([np.full((4, 4, 1), level, np.float32) for level in (0.0, 0.2, 0.24, 0.26, 0.5)])
    ratio = m.distance_ratio(m.two_nearest(images, references))
    np.testing.assert_allclose(ratio, [0, 0.25, 0.24 / 0.76, 0.26 / 0.74, 1], atol=1e-6)
    assert m.memorised_fraction(ratio) == 0.6  # 0.24 / 0.76 = 0.316 is below one third, 0.26 / 0.74 = 0.351 is not
    assert m.memorised_fraction(ratio, threshold=0.3) == 0.4


def test_standardised_copies_of_other_contrast_count():
    """A darker copy of low contrast is far from its image, and nearer to others of its brightness."""
    training = pictures(4)
    copies = 0.3 * training + 0.1
    assert m.memorised_fraction(m.distance_ratio(m.two_nearest(copies, training))) == 0.0
    shapes = m.two_nearest(m.standardised(copies), m.standardised(training))
    np.testing.assert_array_equal(shapes.index, np.arange(4))
    assert m.memorised_fraction(m.distance_ratio(shapes)) == 1.0
    flat = m.standardised(training).reshape(4, -1)
    np.testing.assert_allclose([flat.mean(), np.square(flat).mean()], [0, 1], atol=1e-6)
    # With c the correlation of two images, the squared distance is 2 (1 - c).
    near = m.two_nearest(m.standardised(pictures(3, 1)), m.standardised(training))
    correlation = np.corrcoef(pictures(3, 1).reshape(3, -1), training.reshape(4, -1))[:3, 3:].max(1)
    np.testing.assert_allclose(near.first, np.sqrt(2 * (1 - correlation)), rtol=1e-5)
    assert not m.standardised(np.full((1, 4, 4, 1), 0.3, np.float32)).any()


def test_one_reference_has_no_ratio():
    near = m.two_nearest(pictures(3), pictures(1, 1))
    assert np.isinf(near.second).all() and np.isnan(m.distance_ratio(near)).all()
    assert np.isnan(m.memorised_fraction(m.distance_ratio(near)))
    with pytest.raises(InputError, match="references: expected at least one image"):
        m.two_nearest(pictures(3), pictures(0))


def test_a_copy_of_two_equal_images_is_a_copy():
    twice = np.concatenate([pictures(1)] * 2 + [pictures(3, 1)])
    assert m.memorised_fraction(m.distance_ratio(m.two_nearest(pictures(1), twice))) == 1.0


def test_the_empirical_denoiser_memorises_everything():
    training = pictures(6)
    samples, info = sample(empirical(training, SIGMAS), KEY, (12, 8, 8, 1), sigma_L=0.05, h0=0.05)
    assert np.asarray(info["converged"]).all() and (np.asarray(info["steps"]) > 0).all()
    assert m.memorised_fraction(m.distance_ratio(m.two_nearest(samples, training))) == 1.0


def blind_wiener(prior):
    """The Wiener filter of a white prior, told the level by the image itself."""

    def denoise(power, y):
        variance = jnp.square(y - 0.5).mean((1, 2, 3), keepdims=True)
        return 0.5 + jnp.minimum(1, power / variance) * (y - 0.5)

    return jax.tree_util.Partial(denoise, jnp.float32(prior.power.mean()))


def test_the_population_wiener_filter_memorises_nothing():
    """Samples of a Gaussian prior are as far from its training images as these are from each other."""
    prior = Prior(np.array([0.5]), np.full((8, 8, 1), 0.04))
    noise = np.random.default_rng(3).normal(size=(64, 8, 8, 1))
    training = (0.5 + 0.2 * noise[:32]).clip(0, 1).astype(np.float32)
    samples, info = sample(blind_wiener(prior), KEY, (12, 8, 8, 1), sigma_L=0.05, h0=0.05)
    assert np.asarray(info["converged"]).all() and (np.asarray(info["steps"]) > 0).all()
    assert m.memorised_fraction(m.distance_ratio(m.two_nearest(samples, training))) == 0.0
    # One denoising of a training image in strong noise, with the level known, comes no nearer to it.
    denoised = wiener(prior, 1.0)(jnp.asarray(training[:12] + noise[32:44], jnp.float32))
    assert m.memorised_fraction(m.distance_ratio(m.two_nearest(denoised, training))) == 0.0


def test_times_by_hand():
    steps, quality = (10, 20, 30, 40), (15.0, 19.8, 20.0, 17.0)
    assert m.times(steps, quality, (0, 0, 0.05, 0.3)) == (20, 40)
    assert m.times(steps, quality, (0, 0, 0.05, 0.3), settled=0.1, level=0.04) == (30, 30)
    assert m.times(steps, quality, (0, 0, 0, 0)) == (20, None)
    assert m.times(steps, quality, (np.nan, 0.9, np.nan, 1.0)) == (20, 20)
    assert m.times((5,), (3.0,), (np.nan,)) == (5, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": (20, 10)}, "steps: expected ascending steps"),
        ({"steps": ()}, "steps: expected ascending steps"),
        ({"quality": (1.0,)}, "quality: expected 2 numbers"),
        ({"memorised": (0.0, 0.0, 0.0)}, "memorised: expected 2 numbers"),
    ],
)
def test_bad_times(changes, message):
    with pytest.raises(InputError, match=message):
        m.times(**{"steps": (1, 2), "quality": (1.0, 2.0), "memorised": (0.0, 0.0)} | changes)
