"""The study says nothing of agreement where samples did not converge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.method import Samples
from gahb.experiments.study_measures import (
    CheckpointSettings,
    Pair,
    Settings,
    came_down,
    measure,
    measure_checkpoint,
    num_measures,
)
from gahb.sampler_settings import SamplerSettings

KEY = jax.random.key(1)
SETTINGS = Settings(
    curve_db=(20.0, 0.0),
    num_images=3,
    bootstrap=20,
    patch=4,
    copy_similarity=0.9,
    trajectories=0,
    trajectory_every=4,
    batch_size=4,
)


def pictures(count, seed=0):
    return np.random.default_rng(seed).random((count, 8, 8, 1), np.float32)


def scaled(factor):
    return jax.tree_util.Partial(lambda a, y: a * y, jnp.float32(factor))


def samples(converged, steps, seed=0):
    images = pictures(len(converged), seed)
    arrays = {"samples": images, "converged": np.array(converged), "steps": np.array(steps)}
    return Samples(arrays, images, {"nfe": 5})


def measured(first, second):
    pair = Pair([scaled(0.5), scaled(0.6)], [pictures(2, 1), pictures(2, 2)], [first, second])
    added = []
    numbers, arrays = measure(
        pair, pictures(3, 3), SETTINGS, SamplerSettings(sigma_L=0.2), key=KEY, sample_key=KEY, add=added.append
    )
    assert sum(added) == num_measures(SETTINGS)
    return numbers, arrays


def test_a_sample_that_took_no_step_did_not_come_down():
    """Two untrained networks return what they are given: the same noise, which agrees perfectly."""
    noise = samples([True] * 4, [0] * 4)
    assert not came_down(noise).any()
    numbers, _ = measured(noise, noise)
    assert numbers["converged"] == {"models": [0, 0], "both": 0, "of": 4} and not numbers["agreement_stated"]
    for feature in numbers["similarity"].values():
        assert feature["pair"] is None and feature["other_noise"] is None and feature["nearest"] is None
        assert feature["held_out"]["count"] == 6
    assert numbers["origins"]["samples"]["fractions"] is None


@pytest.mark.parametrize(("count", "stated"), [(1, False), (2, True), (4, True)])
def test_agreement_needs_half_of_the_pairs(count, stated):
    first = samples([True] * 4, [9] * 4)
    second = samples([i < count for i in range(4)], [9] * 4, seed=5)
    numbers, arrays = measured(first, second)
    assert numbers["agreement_stated"] == stated
    pair = numbers["similarity"]["pixels"]["pair"]
    if stated:
        assert pair["count"] == count
        assert pair["mean"] == pytest.approx(arrays["similarity.pixels.pair"][:count].mean())
    else:
        assert pair is None and numbers["similarity"]["pixels"]["other_noise"] is None
    # Samples beside training images are no agreement of two models.
    assert numbers["similarity"]["pixels"]["nearest"]["count"] == 4 + count


def test_scores_disagree_above_the_last_level_only():
    numbers, arrays = measured(samples([True] * 2, [9] * 2), samples([True] * 2, [9] * 2))
    # Both are multiples of y: sigma^2 |s_A - s_B|^2 / d = 0.01 |y|^2 / (sigma^2 d), at the levels 0.1 and 1.
    values = arrays["scores.squared_distance"] / 64 / np.array([0.01, 1.0])[:, None]
    weight = np.log(0.2 / 0.1) / np.log(10)
    between = (1 - weight) * values[0] + weight * values[1]
    np.testing.assert_allclose(arrays["scores.disagreement"], (between + values[1]) / 2, rtol=1e-6)
    assert numbers["scores"]["lowest"] == 0.2


@pytest.mark.parametrize(("count", "fraction"), [(1, None), (2, 0.5), (3, 2 / 3)])
def test_the_memorised_fraction_needs_half_of_the_samples(count, fraction):
    training = pictures(3, 1)
    images = np.stack([training[0], pictures(1, 7)[0], training[2], pictures(1, 8)[0]])
    arrays = {"samples": images, "converged": np.arange(4) < count, "steps": np.full(4, 9)}
    settings = CheckpointSettings(
        samples=4, input_db=(20.0,), num_images=3, ratio=1 / 3, level=0.05, settled_db=0.25, batch_size=4
    )
    numbers, _ = measure_checkpoint(
        scaled(0.9), training, pictures(3, 3), Samples(arrays, images, {"nfe": 5}), settings, key=KEY
    )
    assert numbers["converged"] == {"samples": count, "of": 4}
    expected = None if fraction is None else pytest.approx(fraction)
    assert numbers["memorised"] == expected and numbers["memorised_standardised"] == expected
