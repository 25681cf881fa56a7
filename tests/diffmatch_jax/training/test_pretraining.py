"""Task "backbone": pairs with exact flow, a loss that training lowers, and what its evaluation measures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.data.source import ArraySource
from common.errors import InputError
from configs.diffmatch_jax.base import base
from diffmatch_jax.data.warps import Warps
from diffmatch_jax.model import backbone
from diffmatch_jax.model.flow import valid, warp
from diffmatch_jax.training import pretraining
from diffmatch_jax.training.pretraining import Inputs, corrupted, found_flow, held_out_pairs


def small(**changes):
    config = base()
    config.task = "backbone"
    config.data.size = 48
    config.pairs.photometric = 0.0
    config.pretraining.widths = (4, 4, 4, 4)
    config.pretraining.size = 32
    config.features.fine = 32
    config.evaluate.num = 2
    config.sampler.num = 2
    for name, value in changes.items():
        section, key = name.split("__")
        config[section][key] = value
    return config


def waves(seed, height, width):
    y, x = np.mgrid[:height, :width] / 12
    phase = np.random.default_rng(seed).uniform(0, 6, size=(3, 1, 1))
    image = np.moveaxis(0.5 + 0.25 * np.sin(x * 3 + phase) + 0.2 * np.cos(y * 2 - phase), 0, -1)
    return np.round(255 * image).astype(np.uint8)


@pytest.fixture(scope="module")
def source():
    """Three photographs of 40 x 48 pixels on squares of 48."""
    images = np.stack([np.pad(waves(seed, 40, 48), ((0, 8), (0, 0), (0, 0))) for seed in range(3)])
    return ArraySource({"image": images, "size": np.tile(np.array([40, 48], np.int32), (3, 1))}, label="waves")


@pytest.fixture(scope="module")
def method(source):
    return pretraining.build(small())._replace(sources=lambda: {"train": source, "test": source})


@pytest.fixture(scope="module")
def batch(method, source):
    examples = {name: jnp.stack([source[i][name] for i in (0, 1, 2, 0)]) for name in ("image", "size")}
    return jax.jit(jax.vmap(method.augment))(jax.random.split(jax.random.key(0), 4), examples)


def test_augmented_pairs_are_exact(method, batch):
    assert {name: (each.shape[1:], each.dtype) for name, each in batch.items()} == {
        name: (each.shape, each.dtype) for name, each in method.example().items()
    }
    error = np.abs(np.asarray(warp(batch["source"], batch["flow"]) - batch["target"])).max(-1)
    mask = np.asarray(valid(batch["flow"]))
    assert error[mask].max() < 0.1 and error[mask].mean() < 0.01 < np.abs(np.asarray(batch["source"]))[mask].std() / 5


def test_mirrored_images_stay_in_their_corner():
    image = jnp.zeros((4, 6, 1)).at[:3, :4].set(jnp.arange(4.0)[None, :, None] + 1)
    keys = jax.random.split(jax.random.key(0), 20)
    turn = jax.jit(jax.vmap(lambda key: pretraining.turned(key, image, jnp.asarray([3, 4]), flip=True)))
    found, sizes = turn(keys)
    rows = {tuple(each[0, :, 0].tolist()) for each in found}
    assert rows == {(1, 2, 3, 4, 0, 0), (4, 3, 2, 1, 0, 0)} and (sizes == jnp.asarray([3, 4])).all()


def test_loss_starts_at_chance_and_is_the_mean_over_strides(method, batch):
    variables = method.init(jax.random.key(1), batch)
    loss = jax.jit(lambda params: method.loss(variables._replace(params=params), jax.random.key(2), batch))
    value, aux = loss(variables.params | {"log_temperature": jnp.full(3, 5.0)})  # hot: all cells alike
    np.testing.assert_allclose(value, np.mean(np.log([64, 16, 4])), rtol=1e-3)
    np.testing.assert_allclose(aux.metrics["temperature_8"], np.exp(5), rtol=1e-5)
    value, aux = loss(variables.params)
    np.testing.assert_allclose(value, np.mean([aux.metrics[f"loss_{stride}"] for stride in (4, 8, 16)]), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["temperature_16"], 0.07, rtol=1e-5)
    assert all(0 <= aux.metrics[f"found_{stride}"] <= 1 for stride in (4, 8, 16))


def test_evaluation_compares_pyramids(method):
    variables = method.init(jax.random.key(1), {})
    found = method.evaluate(variables, jax.random.key(3))
    rows = {(row["features"], row["pictures"]): row for row in found.numbers["table"]}
    assert len(rows) == 9 and found.numbers["pairs"] == 2
    error = found.arrays["error.trained.noise"]
    assert error.shape == (2, 4, 4)
    per_image = [each[np.isfinite(each)].mean() for each in error]
    np.testing.assert_allclose(rows["trained", "noise"]["aepe"], np.mean(per_image), rtol=1e-5)
    share = np.mean([(each[np.isfinite(each)] <= 5).mean() for each in error])
    np.testing.assert_allclose(rows["trained", "noise"]["pck_5"], share, rtol=1e-5)
    again = method.evaluate(variables, jax.random.key(3))
    np.testing.assert_array_equal(again.arrays["error.patches.contrast"], found.arrays["error.patches.contrast"])


def test_no_motion_is_found_by_any_pyramid(source):
    still = Warps(shares=(0, 1, 0), rotation=0, stretch=(1, 1), shift=0)
    pair = held_out_pairs(jax.random.key(0), source, num=2, size=32, settings=still)
    np.testing.assert_allclose(pair.source, pair.target, atol=1e-5)
    for pyramid in (backbone.random(jax.random.key(1), widths=(4, 4, 4, 4)), jax.tree_util.Partial(backbone.patches)):
        flow, score, truth, known = found_flow(pyramid, pair, Inputs(32, 16))
        np.testing.assert_array_equal(flow, 0)
        np.testing.assert_allclose(truth, 0, atol=1e-5)
        np.testing.assert_allclose(score, 1, atol=1e-3)
        assert known.all()


def test_corruptions_are_of_the_stated_strength(source):
    pair = held_out_pairs(jax.random.key(0), source, num=2, size=32, settings=Warps())
    assert corrupted(jax.random.key(1), pair, "clean") is pair
    faded = corrupted(jax.random.key(1), pair, "contrast")
    ratio = faded.target.std((1, 2)) / pair.target.std((1, 2))
    np.testing.assert_allclose(ratio, 0.05, atol=0.004)
    gray = pair._replace(source=np.full_like(pair.source, 0.5), target=np.full_like(pair.target, 0.5))
    noisy = corrupted(jax.random.key(1), gray, "noise")
    inside = (noisy.source > 0) & (noisy.source < 1)
    np.testing.assert_allclose(inside.mean(), 0.812, atol=0.02)  # of a normal variable, within 0.5 / 0.38 deviations
    assert not (noisy.source == noisy.target).all()


def test_what_cannot_work_is_named():
    for changes, message in (
        ({"data__fit": "crop"}, r'config.data.fit: expected "pad", whole photographs, got "crop"'),
        ({"pretraining__widths": (8, 8, 8)}, "config.pretraining.widths: expected four positive numbers"),
        ({"pretraining__size": 40}, "config.pretraining.size: expected a multiple of 16, got 40; use 32"),
        ({"evaluate__num": 0}, "config.evaluate.num: expected at least 1, got 0"),
    ):
        with pytest.raises(InputError, match=message):
            pretraining.build(small(**changes))


def test_training_normalises_local_contrast(batch):
    """Exposure that changes from one half of a picture to the other changes the features much less."""
    key = jax.random.key(0)
    darker = batch | {"target": batch["target"].at[:, :, :16].multiply(0.3)}

    def change(contrast):
        made = pretraining.build(small(features__contrast=contrast))
        variables = made.init(key, batch)
        loss = jax.jit(lambda batch: made.loss(variables, key, batch)[0])
        return abs(float(loss(darker) / loss(batch)) - 1)

    assert change(0.15) < 0.5 * change(0.0)
