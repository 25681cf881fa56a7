"""`match` with an untrained denoiser, which returns the initial flow: geometry, kinds of images, and refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import diffmatch_jax
from common.data.source import ArraySource
from common.errors import InputError
from common.networks.layers import initialise
from common.networks.unets import ADMUNet
from diffmatch_jax import api
from diffmatch_jax.api import match
from diffmatch_jax.data import warps
from diffmatch_jax.data.pairs import PairConfig
from diffmatch_jax.data.warps import Pair
from diffmatch_jax.evaluation import evaluate
from diffmatch_jax.model import backbone, conditioning, matcher, weights
from diffmatch_jax.model import flow as matching
from diffmatch_jax.model.conditioning import ConditioningConfig
from diffmatch_jax.model.diffusion import Process, Variable
from diffmatch_jax.model.matcher import MatcherConfig, Model, Weights
from diffmatch_jax.model.sampling import Stage

LOOK = ConditioningConfig(fine=64, radius=1)


def tiny(look=LOOK, **options):
    """Returns a stage and its parameters, of a network that ends in noise instead of zeros if `last` says so."""
    last = options.pop("last", 0.0)
    network = ADMUNet(2, channels=8, multipliers=(1,), num_blocks=1, attention=(), heads=1, min_group=8)
    params = initialise(network, jax.random.key(1), jnp.zeros((1, 8, 8, 4 + look.patch)), jnp.zeros(1)).params
    params = dict(params, out_conv=jax.tree.map(lambda x: x + last, params["out_conv"]))
    return Stage(network, Variable(0.1, residual=True), Process.cosine(2), **options), params


def learned(scale, **options):
    """Returns such a stage and parameters that add nothing, and say that the scale is everywhere this one."""
    stage, params = tiny(**options)
    variable = Variable(0.1, residual=True, shrunk=True, skip=True, predict_variance=True, noise_correlation=1.0)
    stage = dataclasses.replace(stage, network=stage.network.clone(out_channels=3), variable=variable)
    last = jax.tree.map(lambda x: jnp.concatenate([x, x[..., :1]], -1), params["out_conv"])
    return stage, dict(params, out_conv={**last, "bias": last["bias"].at[2].set(jnp.log(scale))})


@pytest.fixture(scope="module")
def model():
    """The initial flow, as every hypothesis."""
    stage, params = tiny()
    return Model(MatcherConfig(LOOK, first=stage), Weights(backbone.random(jax.random.key(0)), params))


@pytest.fixture(scope="module")
def unsure():
    """Two stages whose hypotheses differ."""
    stage, params = tiny(last=0.05)
    weights = Weights(backbone.random(jax.random.key(0)), params, params)
    return Model(MatcherConfig(LOOK, first=stage, second=stage), weights)


def picture(height, width, channels=3, seed=0):
    """A smooth random picture in [0, 1]."""
    rng = np.random.default_rng(seed)
    x = jax.image.resize(rng.random((height // 4, width // 4, channels)), (height, width, channels), "cubic")
    return np.clip(np.asarray(x, np.float32), 0, 1)


def test_an_image_finds_itself(model):
    image = picture(64, 64)
    found = match(image, image, model=model)
    assert found.flow.shape == (64, 64, 2) and found.flow.dtype == np.float32
    np.testing.assert_allclose(found.flow, 0, atol=1e-4)
    np.testing.assert_allclose(found.wta_flow, 0, atol=1e-4)
    np.testing.assert_allclose(found.confidence, 1, atol=1e-5)
    np.testing.assert_allclose(found.std, 0, atol=1e-5)
    assert found.hypotheses.shape == (4, 8, 8, 2)


@pytest.mark.parametrize("size", [(128, 128), (37, 51)])
def test_a_resized_image_finds_itself(model, size):
    """Its pixel (x, y) is at ((x + 1/2) W / w - 1/2, ...) of the original, whatever the sizes."""
    image = picture(64, 64)
    other = np.clip(np.asarray(jax.image.resize(image, (*size, 3), "linear")), 0, 1)
    found = match(image, other, model=model)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    want = np.stack([(x + 0.5) * 64 / size[1] - 0.5 - x, (y + 0.5) * 64 / size[0] - 0.5 - y], -1)
    # To the cell: resizing changes the winner of a few cells of eight pixels.
    away = np.linalg.norm(found.flow - want, axis=-1)
    assert np.median(away) < 1e-3 and (away < 0.1).mean() > 0.8


def test_kinds_of_images_agree(model):
    gray = (picture(48, 40, 1) * 255).astype(np.uint8)
    wanted = match(np.repeat(gray, 3, -1), np.repeat(gray, 3, -1)[:, ::-1], model=model).flow
    for images in (gray, gray[..., 0], gray / np.float32(255), (gray / 255)[..., 0]):
        np.testing.assert_allclose(match(images, images[:, ::-1], model=model).flow, wanted, rtol=0, atol=1e-4)


def test_a_batch_equals_its_pairs(unsure):
    sources = np.stack([picture(40, 56, seed=i) for i in range(2)])
    targets = np.stack([picture(56, 40, seed=i) for i in range(2)])
    whole = match(sources, targets, model=unsure, hypotheses=2)
    assert whole.flow.shape == (2, 56, 40, 2) and whole.std.max() > 0.1
    assert whole.confidence.min() >= 0 and whole.confidence.max() < 1
    for i in range(2):
        one = match(sources[i], targets[i], model=unsure, hypotheses=2)
        for got, want in zip(one, whole, strict=True):
            np.testing.assert_allclose(got, want[i], rtol=0, atol=1e-4)


def test_a_batch_equals_its_pairs_with_the_weights_of_the_package():
    sources = np.stack([picture(256, 256, seed=i) for i in range(2)])
    targets = np.stack([np.roll(sources[0], (5, -9), (0, 1)), picture(256, 256, seed=9)])
    whole = match(sources, targets, hypotheses=2)
    for i in range(2):
        one = match(sources[i], targets[i], hypotheses=2)
        for got, want in zip(one, whole, strict=True):
            # Rounding is in proportion to the largest value: flow here is up to 30 pixels, hypotheses below 1.
            np.testing.assert_allclose(got, want[i], rtol=0, atol=1e-5 * np.abs(want[i]).max())


def test_keys_decide_the_hypotheses(unsure):
    source, target = (np.stack([picture(40, 56, seed=i)] * 2) for i in (1, 2))
    keys = jax.random.split(jax.random.key(5), 2)
    both = match(source, target, model=unsure, key=keys, hypotheses=2).hypotheses
    assert np.abs(both[0] - both[1]).max() > 1e-3
    same = match(source, target, model=unsure, key=keys[0], hypotheses=2).hypotheses
    np.testing.assert_allclose(same[1], both[0], rtol=0, atol=1e-5)


def test_a_regression_takes_its_confidence_from_the_correlation():
    stage, params = tiny(kind="regression")
    model = Model(MatcherConfig(LOOK, first=stage), Weights(backbone.random(jax.random.key(0)), params))
    found = match(picture(64, 64), picture(64, 64), model=model)
    np.testing.assert_allclose(found.confidence, 1, atol=1e-3)
    assert len(found.hypotheses) == 1 and model.config.nfe(4) == 1


def test_a_regression_that_learned_its_scale_has_a_spread():
    stage, params = learned(2.0, kind="regression")
    model = Model(MatcherConfig(LOOK, first=stage, confidence=8.0), Weights(backbone.random(jax.random.key(0)), params))
    found = match(picture(64, 64), picture(64, 64), model=model)
    np.testing.assert_allclose(found.std, np.sqrt(2) * 0.2 * 64, rtol=1e-3)
    np.testing.assert_allclose(found.covariance[20, 30], np.eye(2) * (0.2 * 64) ** 2, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.confidence, 1 / (1 + (found.std / 8) ** 2), rtol=1e-4)


def test_a_fit_alone_matches_and_says_where_it_may_be_wrong():
    """The target is the turned source; a part of it is replaced by what the source does not have."""
    look = ConditioningConfig(fine=128, radius=1, fit=3.0)
    model = Model(MatcherConfig(look), Weights(weights.embedded()))
    source = picture(128, 128)
    corners = jnp.asarray([[-1.0, -1.1], [-1.1, 1.0], [0.9, -1.0], [1.0, 0.9]])
    relative = (matching.grid(128, 128) + 0.5) / 64 - 1
    flow = 64 * (warps.project(warps.homography_of_corners(corners), relative)[0] - relative)
    target = np.array(matching.warp(jnp.asarray(source), flow, outside="border"))
    target[64:, :48] = picture(128, 128, seed=1)[64:, :48]
    target = np.clip(target + np.random.default_rng(2).normal(0, 0.2, target.shape), 0, 1).astype(np.float32)
    found = match(source, target, model=model, full_size=False)
    error = np.linalg.norm(found.flow - flow, axis=-1)
    wta_flow = np.linalg.norm(found.wta_flow - flow, axis=-1)
    kept = np.ones((128, 128), bool)
    kept[64:, :48] = False
    kept &= np.asarray(matching.valid(flow))
    assert error[kept].mean() < 0.95 * wta_flow[kept].mean()
    assert found.confidence[kept].mean() > 1.5 * found.confidence[80:112, 8:32].mean()
    valid = np.asarray(matching.valid(flow))
    made = Pair(source[None], target[None], np.asarray(flow)[None], valid[None], 0, 0)
    told = evaluate.evaluate(model, made, jax.random.key(0), hypotheses=1, batch_size=1).numbers
    fitted, itself = (row["aepe"] for row in told["table"][-2:])
    whole = np.linalg.norm(match(source, target, model=model).flow - flow, axis=-1)
    np.testing.assert_allclose([fitted, itself], whole[valid].mean(), rtol=1e-3)
    assert told["rank_correlation_of_fit"] > 0.3
    both = match(np.stack([source, target]), np.stack([target, source]), model=model, full_size=False)
    np.testing.assert_allclose(both.flow[0], found.flow, rtol=0, atol=1e-4)
    refining = Model(MatcherConfig(dataclasses.replace(look, refine=2)), model.weights)
    finer = match(source, target, model=refining, full_size=False)
    again = np.linalg.norm(finer.flow - flow, axis=-1)
    assert again[kept].mean() < 0.8 * error[kept].mean()
    assert finer.confidence[kept].mean() > 1.3 * finer.confidence[80:112, 8:32].mean()
    assert finer.hypotheses.shape == (1, 64, 64, 2)


def test_evaluations_are_counted(unsure):
    assert unsure.config.nfe(3) == 2 * 2 * 3


def test_stage_1_is_asked_once_where_stage_2_draws():
    """Its later levels change neither its flow nor what it says of that; hypotheses are those of stage 2."""
    (first, of_first), (second, of_second) = learned(0.5, estimate="first"), learned(2.0, kind="regression")
    matcher_config = MatcherConfig(LOOK, first=first, second=second)
    assert matcher_config.sampled_first(4) == (dataclasses.replace(first, process=first.process.noisiest), 1)
    assert matcher_config.nfe(4) == 1 + 1 and MatcherConfig(LOOK, first=first).nfe(4) == 2 * 4
    weights = Weights(backbone.random(jax.random.key(0)), of_first, of_second)
    image = picture(64, 64)
    found = match(image, image, model=Model(matcher_config, weights))
    assert found.hypotheses.shape == (4, 32, 32, 2)
    np.testing.assert_allclose(found.std, np.sqrt(2) * 0.2 * 64, rtol=1e-3)
    np.testing.assert_allclose(found.flow, 0, atol=0.2)  # of two levels the noisiest is not noise alone
    np.testing.assert_allclose(found.hypotheses.std(), 0.2, rtol=0.1)


def test_a_function_of_ones_own_as_features(model):
    """Colours of 8x8 squares find a shift of two cells, by themselves and before a stage."""
    calls = []

    def colours(images):
        calls.append(images.shape)
        return backbone.patches(images)

    image = picture(64, 80)
    source, target = image[:, :64], image[:, 16:]
    weights = Weights(pyramid=colours, first=model.weights.first)
    for matcher_config in (MatcherConfig(LOOK), model.config):
        found = match(source, target, model=Model(matcher_config, weights))
        inside = found.wta_flow[8:-8, 8:-24]
        np.testing.assert_allclose(np.median(inside, (0, 1)), [16, 0], atol=0.1)
        assert (np.linalg.norm(found.flow[8:-8, 8:-24] - [16, 0], axis=-1) < 1).mean() > 0.8
    traced = len(calls)
    match(source, target, model=Model(model.config, weights))
    assert traced and len(calls) == traced


def compiled(caplog):
    """Returns the programs compiled since the last call, by what JAX tells of them."""
    told = [each.getMessage() for each in caplog.records if each.getMessage().startswith("Compiling ")]
    caplog.clear()
    return told


def test_a_program_serves_all_weights_and_keys(unsure, caplog):
    """Second calls compile nothing: matches, pairs of held-out images, and their fits."""
    source, target = picture(40, 48, seed=3), picture(48, 40, seed=4)
    other = unsure._replace(weights=jax.tree.map(lambda x: x + 0.01, unsure.weights))
    pair_config = PairConfig(size=32, flip=False)
    images = ArraySource({"image": (np.stack([picture(40, 40, seed=i) for i in range(2)]) * 255).astype(np.uint8)})
    look = ConditioningConfig(fine=64, radius=1, fit=2.0)

    def fitted(weights, made):
        fits = evaluate.fits_of(Model(MatcherConfig(look), weights))
        return evaluate.matched(fits[evaluate.FIT], made, jax.random.key(0), hypotheses=1, batch_size=2).flow

    with jax.log_compiles():
        found = match(source, target, model=unsure, key=jax.random.key(1), hypotheses=2)
        assert compiled(caplog)
        again = match(target.transpose(1, 0, 2), target, model=other, key=jax.random.key(2), hypotheses=2)
        assert not compiled(caplog)
        made = evaluate.pairs(pair_config, images, jax.random.key(0), num=2)
        one = fitted(unsure.weights, made)
        assert compiled(caplog)
        others = evaluate.pairs(PairConfig(size=32, flip=False), images, jax.random.key(1), num=2)
        two = fitted(other.weights, others)
        assert not compiled(caplog)
    assert np.abs(found.flow - again.flow).max() > 0.1 and np.abs(one - two).max() > 0.1


def test_other_numbers_of_pairs_and_hypotheses_compile_nothing(unsure):
    """They are padded to powers of two; what is returned is that of the number asked for."""
    images = np.stack([picture(64, 64, seed=each) for each in range(8)])
    four = match(images[:4], images[4:], model=unsure, hypotheses=4)
    programs = matcher.whole_grid()._cache_size()
    three = match(images[:3], images[4:7], model=unsure, hypotheses=3)
    assert matcher.whole_grid()._cache_size() == programs
    assert three.hypotheses.shape[:2] == (3, 3)
    assert four.hypotheses.shape[:2] == (4, 4)
    grid = matcher.on_grid(unsure.config, *_prepared(unsure, images), 4, jnp.asarray(3))
    np.testing.assert_allclose(grid.flow, grid.hypotheses[:, :3].mean(1), rtol=0, atol=1e-6)
    assert np.abs(grid.flow - grid.hypotheses.mean(1)).max() > 1e-4


def _prepared(model, images):
    ready = [conditioning.prepared(jnp.asarray(each), LOOK) for each in (images[:4], images[4:])]
    ready = [each._replace(mask=jnp.ones((4, 64, 64, 1)), texture=jnp.ones((4, 64, 64, 1))) for each in ready]
    keys = jnp.broadcast_to(jax.random.key(0), (4,))
    return model.weights._replace(pyramid=matcher.as_argument(model.weights.pyramid)), *ready, keys


def test_the_first_call_says_that_it_compiles(model, capsys):
    api._keep_programs.cache_clear()
    image = picture(64, 64)
    with pytest.raises(InputError):
        diffmatch_jax.match(image, image, model=model, hypotheses=0)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        diffmatch_jax.match(image, image, model=model)
    assert capsys.readouterr().err.count("compiles its programs on the first call") == 1


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (np.zeros((1, 9, 3)), np.zeros((9, 9, 3)), "source: expected at least 2 pixels in each direction, got 1 x 9"),
        (np.zeros((9, 9, 3)), np.zeros((9, 9, 9, 4)), r"target: expected \[H, W\]"),
        (np.zeros((9, 9), int), np.zeros((9, 9)), r"source: expected bytes \(uint8\) or floats in .0, 1., got int64"),
        (
            np.full((9, 9), 128.0),
            np.zeros((9, 9)),
            "source: expected floats in .0, 1., got float64 from 128 to 128; divide by 255",
        ),
        (np.zeros((2, 9, 9, 3)), np.zeros((9, 9, 3)), "source, target: expected as many images"),
        (np.full((9, 9), np.nan), np.zeros((9, 9)), "source: expected finite numbers"),
        (np.full((9, 9), 40000, np.uint16), np.zeros((9, 9)), "got uint16 from 40000 to 40000; divide by 65535"),
        (np.full((9, 9), 1.1), np.zeros((9, 9)), "source: expected floats in .0, 1., got float64 from 1.1 to 1.1"),
        (np.zeros((9, 9, 4)), np.zeros((9, 9)), r"source: expected .*, got \[9, 9, 4\]; drop the alpha channel"),
        (np.zeros((9, 9)), np.zeros((9, 9, 2)), r"target: expected .*; drop the alpha .*, or give gray images an axis"),
        (
            [np.zeros((9, 9)), np.zeros((8, 9))],
            np.zeros((9, 9)),
            "source: expected an array, got .*; stack images of one size",
        ),
        (np.zeros((3, 9, 9)), np.zeros((9, 9)), r"got \[3, 9, 9\], channels first; .*source.transpose\(1, 2, 0\)"),
        (np.zeros((2, 3, 9, 9)), np.zeros((2, 9, 9, 3)), r"channels first; .*source.transpose\(0, 2, 3, 1\)\)"),
        (np.full((9, 9), -1.0), np.zeros((9, 9)), r"got float64 from -1 to -1; use \(source \+ 1\) / 2"),
        (Image.new("P", (9, 9)), np.zeros((9, 9)), r'got an image of mode P; give source.convert\("RGB"\)'),
        (Image.new("I;16", (9, 9)), np.zeros((9, 9)), r"mode I;16; give np.asarray\(source, np.float32\) / 65535"),
        ("a.png", np.zeros((9, 9)), r"source: expected an image as an array, got the path a.png; read the file"),
    ],
)
def test_refusals(model, source, target, words):
    with pytest.raises(InputError, match=words):
        diffmatch_jax.match(source, target, model=model)


def test_other_refusals(model):
    image = picture(16, 16)
    with pytest.raises(InputError, match="hypotheses: expected at least 1, got 0"):
        match(image, image, model=model, hypotheses=0)
    with pytest.raises(InputError, match="hypotheses: expected at most 1024, got 1000000000000; use 4"):
        match(image, image, model=model, hypotheses=10**12)
    for wrong in (2.5, True, "4"):
        with pytest.raises(InputError, match=f"hypotheses: expected a whole number, got {wrong!r}; use 4"):
            match(image, image, model=model, hypotheses=wrong)
    for name in ("search", "full_size"):
        with pytest.raises(InputError, match=f"{name}: expected True or False, got 'no'"):
            match(image, image, model=model, **{name: "no"})
    with pytest.raises(InputError, match="model: expected a Model, the directory of a run, or None, got int"):
        match(image, image, model=3)
    want = match(image, image, model=model, key=jax.random.key(0)).flow
    for key in (None, 0, np.int64(0), jax.random.PRNGKey(0), jax.random.PRNGKey(0)[None]):
        np.testing.assert_array_equal(match(image, image, model=model, key=key).flow, want)
    for wrong in (-1, 0.5, True, "0"):
        with pytest.raises(InputError, match=r"key: expected a key \(typed or raw\) or a seed from 0 to 2\^32 - 1"):
            match(image, image, model=model, key=wrong)
    with pytest.raises(InputError, match="key: expected a key .*, or 1 such keys, one a sample, got keys"):
        match(image, image, model=model, key=jax.random.split(jax.random.key(0), 3))


@pytest.mark.parametrize("name", ["source_mask", "target_mask"])
def test_a_model_of_the_original_code_refuses_a_mask_that_it_would_not_see(model, name):
    image = picture(64, 64)
    released = model._replace(
        config=dataclasses.replace(model.config, conditioning=dataclasses.replace(LOOK, released=True))
    )
    with pytest.raises(InputError, match=f"{name}: expected None for a model of the original code, got a mask; leave"):
        match(image, image, model=released, **{name: np.ones((64, 64), bool)})
