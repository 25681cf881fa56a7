"""The measures of the generalisation study against closed forms and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from gahb.metrics import generalisation as g
from gahb.metrics.similarity import Closest
from gahb.sampling import sample

KEY = jax.random.key(3)


def pictures(count, seed=0, size=6, channels=1):
    return np.random.default_rng(seed).random((count, size, size, channels), np.float32)


@pytest.mark.parametrize("measure", ["sigma", "log"])
def test_level_weights_are_a_trapezoid_rule(measure):
    sigma = np.array([0.1, 0.2, 0.5, 1.0])
    weights = g.level_weights(sigma, measure=measure)
    x = sigma if measure == "sigma" else np.log(sigma)
    np.testing.assert_allclose(weights @ x, (x[0] + x[-1]) / 2, rtol=1e-12)  # exact for a straight line
    np.testing.assert_allclose(weights @ x**2, np.trapezoid(x**2, x) / (x[-1] - x[0]), rtol=1e-12)
    np.testing.assert_allclose(g.level_weights(sigma[::-1], measure=measure), weights[::-1], rtol=1e-12)
    np.testing.assert_array_equal(g.level_weights(sigma[:1], measure=measure), [1.0])


def test_unknown_weights():
    with pytest.raises(InputError, match='measure: expected "sigma" or "log"'):
        g.level_weights(np.ones(2), measure="db")


def test_bootstrap_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(2.0, 3.0, 400)
    interval = g.bootstrap(KEY, values, draws=4000)
    half = 1.96 * values.std() / 20
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.08 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.08 * half)
    assert g.bootstrap(KEY, values, draws=4000) == interval
    assert g.bootstrap(jax.random.key(4), values, draws=4000).low != interval.low


def test_bootstrap_of_a_difference():
    first, second = np.random.default_rng(1).normal(size=(2, 300))
    interval = g.bootstrap(KEY, first + 1, second, draws=4000)
    half = 1.96 * np.sqrt((first.var() + second.var()) / 300)
    assert interval.mean == pytest.approx(1 + first.mean() - second.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.08)
    assert g.bootstrap(KEY, [3.0], [1.0]) == (2.0, 2.0, 2.0)
    with pytest.raises(InputError, match="at least one number"):
        g.bootstrap(KEY, np.ones(3), np.ones(0))


def test_squared_distances_by_hand():
    clean, sigmas = pictures(5), (0.1, 0.7)
    found = g.squared_distances(lambda y: 0.9 * y, lambda y: 0.4 * y + 0.1, clean, sigmas, KEY, batch_size=2)
    for s, sigma in enumerate(sigmas):
        for i, image in enumerate(clean):
            key = jax.random.fold_in(jax.random.fold_in(KEY, s), i)
            y = image + sigma * np.asarray(jax.random.normal(key, image.shape))
            assert found[s, i] == pytest.approx(np.sum((0.5 * y - 0.1) ** 2), rel=1e-5)
    whole = g.squared_distances(lambda y: 0.9 * y, lambda y: 0.4 * y + 0.1, clean, sigmas, KEY, batch_size=64)
    np.testing.assert_allclose(whole, found, rtol=1e-6)


def test_score_disagreement_of_two_gaussians():
    """Of N(0, a) and N(0, b), whose denoisers are linear, over noisy images of the first: an integral in closed form.

    sigma^2 (s_A - s_B)^2 = u (a - b)^2 / ((a + u) (b + u)^2) with u = sigma^2, and d log sigma = du / 2u.
    """
    a, b, low, high = 0.5, 1.3, 0.08, 1.5
    sigma = np.geomspace(0.001, high, 3000)
    squared = 7 * (a / (a + sigma**2) - b / (b + sigma**2)) ** 2 * (a + sigma**2)

    def primitive(u):
        return (np.log((a + u) / (b + u)) - (a - b) / (b + u)) / 2

    expected = (primitive(high**2) - primitive(low**2)) / np.log(high / low)
    found = g.score_disagreement(sigma, squared, size=7, lowest=low)
    assert found == pytest.approx(expected, rel=1e-4)
    both = g.score_disagreement(sigma[::-1], np.stack([squared, 3 * squared], 1)[::-1], size=7, lowest=low)
    np.testing.assert_allclose(both, [expected, 3 * expected], rtol=1e-4)


def test_score_disagreement_ignores_levels_below_the_lowest():
    """Linear in log sigma between the levels, from the lowest up: by hand."""
    sigma, values = np.exp([-3.0, -2.0, 0.0]), np.array([100.0, 4.0, 2.0])
    squared = values * 5 * sigma**2
    assert g.score_disagreement(sigma, squared, size=5, lowest=np.exp(-2.0)) == pytest.approx(3.0)
    half = g.score_disagreement(
        np.exp([-3.0, -1.0, 0.0]), np.array([6.0, 2.0, 2.0]) * np.exp([-6.0, -2.0, 0.0]), size=1, lowest=np.exp(-2.0)
    )
    assert half == pytest.approx((3.0 + 2.0) / 2)
    all_above = g.score_disagreement(sigma, squared, size=5, lowest=1e-9)
    assert all_above == pytest.approx((52.0 + 2 * 3.0) / 3)
    assert g.score_disagreement(sigma, 0 * squared, size=5, lowest=0.01) == 0
    with pytest.raises(InputError, match="at least two levels, one of them above 1"):
        g.score_disagreement(sigma, squared, size=5, lowest=1.0)
    with pytest.raises(InputError, match="at least two levels"):
        g.score_disagreement(sigma[:1], squared[:1], size=5, lowest=0.01)


def vectors(images, name):
    """The features once more, image by image."""
    out = []
    for image in images.astype(np.float64):
        if name == "gradients":
            each = np.concatenate([np.diff(image, axis=0).ravel(), np.diff(image, axis=1).ravel()])
        else:
            each = image.ravel() - (image.mean() if name == "pixels" else 0)
        out.append(each / np.linalg.norm(each))
    return np.stack(out)


@pytest.mark.parametrize("name", g.FEATURES)
@pytest.mark.parametrize("block", [3, 100])
def test_similarities_are_those_of_brute_force(name, block):
    images, references = pictures(4, 1, channels=2), pictures(8, 2, channels=2)
    matrix = vectors(images, name) @ vectors(references, name).T
    found = g.nearest(images, references, g.FEATURES[name], block=block)
    np.testing.assert_array_equal(found.index, matrix.argmax(1))
    np.testing.assert_allclose(found.value, matrix.max(1), rtol=1e-5)
    pairs = g.pair_similarity(images, references[:4], g.FEATURES[name])
    np.testing.assert_allclose(pairs, np.diag(matrix[:, :4]), rtol=1e-4, atol=1e-6)


def test_any_feature_can_be_compared():
    brightness = g.Feature(lambda images: jnp.stack([images.mean((1, 2, 3)), jnp.ones(len(images))], 1), False)
    references = np.stack([np.full((4, 4, 1), level, np.float32) for level in (0.1, 0.5, 0.9)])
    images = np.stack([np.full((4, 4, 1), level, np.float32) for level in (0.55, 0.8)])
    np.testing.assert_array_equal(g.nearest(images, references, brightness).index, [1, 2])


def test_smooth_blobs_agree_in_pixels_more_than_in_gradients():
    x = np.linspace(-1, 1, 16)
    blob = np.exp(-(x[:, None] ** 2) - x**2)
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 16, 16))
    first, second = (blob + noise)[..., None, None].transpose(0, 3, 1, 2, 4).astype(np.float32)
    alike = {name: g.pair_similarity(first, second, feature)[0] for name, feature in g.FEATURES.items()}
    assert alike["pixels"] > 0.7 and alike["gradients"] < 0.4


def test_origins():
    index = np.array([[3, 3], [3, 5], [3, 5], [3, 3]])
    patches = Closest(index, np.array([[0.99, 0.99], [0.95, 0.93], [0.95, 0.2], [0.95, 0.95]]))
    found = g.classify(patches, np.array([0.98, 0.5, 0.5, 0.4]), least=0.9)
    assert [g.ORIGINS[i] for i in found] == ["copy", "recombination", "new", "new"]


def shrink(power):
    return jax.tree_util.Partial(
        lambda p, y: 0.5 + p / (p + jnp.square(y - 0.5).mean((1, 2, 3), keepdims=True)) * (y - 0.5), power
    )


def test_trajectories_end_in_the_samples():
    shape, settings = (2, 6, 6, 1), {"sigma_L": 0.1, "h0": 0.1, "max_steps": 50}
    denoisers = [shrink(0.04), shrink(0.01)]
    found = g.trajectories(denoisers, KEY, shape, every=3, frames=4, **settings)
    for m, denoise in enumerate(denoisers):
        images, info = sample(denoise, KEY, shape, store_every=3, **settings)
        np.testing.assert_array_equal(found["frames"][m, -1], images)
        start = np.asarray(info["trajectory"])[:, 0]
        np.testing.assert_allclose(found["frames"][m, 0], denoise(jnp.asarray(start)), rtol=1e-5)
        np.testing.assert_allclose(found["sigma"][m, :, 0], np.asarray(info["sigmas"])[:, 0])
        third = np.asarray(info["trajectory"])[:, 1]
        np.testing.assert_allclose(
            found["sigma"][m, :, 1], np.sqrt(np.mean((third - denoise(jnp.asarray(third))) ** 2, (1, 2, 3))), rtol=1e-4
        )
    np.testing.assert_array_equal(found["step"], 3 * np.arange(len(found["step"])))
    assert np.isin(found["frame_step"], found["step"]).all() and found["frame_step"][0] == 0
    last = np.sqrt(np.mean((found["frames"][0, -1] - found["frames"][1, -1]) ** 2, (1, 2, 3)))
    np.testing.assert_allclose(found["distance"][:, -1], last, rtol=1e-5)
    assert (found["distance"][:, -1] > 0).all()


def test_one_denoiser_twice_does_not_bifurcate():
    found = g.trajectories([shrink(0.04)] * 2, KEY, (2, 6, 6, 1), every=2, sigma_L=0.1, h0=0.1, max_steps=50)
    assert not found["distance"].any()
