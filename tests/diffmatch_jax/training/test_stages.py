"""Pairs, levels and losses of training, with networks and flows that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax.data.augment import Photometric
from diffmatch_jax.data.pairs import PairConfig, augmentation, mirrored, pair_of
from diffmatch_jax.data.warps import Warps
from diffmatch_jax.model import conditioning, sampling
from diffmatch_jax.model.conditioning import Conditions
from diffmatch_jax.model.diffusion import Process, Variable
from diffmatch_jax.model.flow import warp
from diffmatch_jax.model.sampling import Stage
from diffmatch_jax.training import stages
from diffmatch_jax.training.stages import LossConfig
from tests.diffmatch_jax.model.test_sampling import LEARNED, Learned, Scaled, params

GOAL = LossConfig(Process.cosine(5), Variable(0.1, residual=True), first_share=0.5)
KEYS = jax.random.split(jax.random.key(0), 6)
loss = jax.jit(stages.loss, static_argnums=(0, 1))


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    small = jax.image.resize(rng.random((12, 12, 3)), (48, 48, 3), "cubic")
    return np.clip(np.asarray(small) * 255, 0, 255).astype(np.uint8)


def test_a_mirrored_pair_is_still_a_pair(image):
    pair_config = PairConfig(size=32, warps=Warps(shares=(0, 1, 0)), flip=False)
    pair = jax.jit(lambda key: pair_of(pair_config, key, {"image": image}))(jax.random.key(2))
    for each in (pair, mirrored(pair)):
        away = jnp.abs(warp(each.source, each.flow) - each.target).max(-1)
        assert float(jnp.where(each.mask, away, 0).mean()) < 0.02
    np.testing.assert_array_equal(mirrored(mirrored(pair)).flow, pair.flow)


def test_shares_of_changes(image):
    """With share 0 nothing but the warp happens; colour changes leave flow and mask as they are."""
    key, example = jax.random.key(3), {"image": image, "size": np.asarray([40, 48], np.int32)}
    plain = PairConfig(size=32, warps=Warps(shares=(0, 1, 0)), flip=False)
    coloured = PairConfig(size=32, warps=Warps(shares=(0, 1, 0)), flip=False, photometric=Photometric(blur=0.0))
    one, other = (jax.jit(augmentation(pair_config))(key, example) for pair_config in (plain, coloured))
    np.testing.assert_array_equal(one["flow"], other["flow"])
    np.testing.assert_array_equal(one["mask"], other["mask"])
    assert np.abs(one["source"] - other["source"]).max() > 0.05


def test_a_given_pair_is_not_warped(image):
    """It goes through as it is, or mirrored; colours change as those of warped photographs do."""
    flow = np.random.default_rng(1).normal(size=(48, 48, 2)).astype(np.float32)
    example = {"source": image, "target": image[::-1], "flow": flow, "mask": flow[..., 0] > 0}

    def made(**settings):
        pair_config = PairConfig(size=48, **settings)
        augment = jax.jit(jax.vmap(augmentation(pair_config), in_axes=(0, None)))
        return augment(jax.random.split(jax.random.key(5), 8), example)

    plain = made(flip=False)
    for i in range(8):
        np.testing.assert_array_equal(plain["flow"][i], flow)
        np.testing.assert_array_equal(plain["mask"][i], example["mask"])
        np.testing.assert_allclose(plain["source"][i] * 255, image, atol=1e-4)
        np.testing.assert_allclose(plain["target"][i] * 255, image[::-1], atol=1e-4)
    flipped = made(flip=True)
    turned = (np.asarray(flipped["flow"]) == flow[:, ::-1] * np.asarray([-1, 1])).all((1, 2, 3))
    kept = (np.asarray(flipped["flow"]) == flow).all((1, 2, 3))
    assert (turned ^ kept).all() and turned.any() and kept.any()
    np.testing.assert_allclose(flipped["source"][turned.argmax()] * 255, image[:, ::-1], atol=1e-4)
    coloured = made(flip=False, photometric=Photometric(blur=0.0))
    np.testing.assert_array_equal(coloured["flow"], plain["flow"])
    assert np.abs(coloured["source"] - plain["source"]).max() > 0.05


def test_objects_are_those_of_the_example(image):
    """A green square is pasted into both pictures, and the flow inside it is its own motion."""
    green = np.zeros((16, 16, 3), np.uint8) + np.asarray([0, 255, 0], np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[2:-2, 2:-2] = 255
    red = np.zeros_like(image) + np.asarray([255, 0, 0], np.uint8)
    pair_config = PairConfig(size=32, warps=Warps(shares=(0, 1, 0)), flip=False, objects=1.0)
    example = jax.tree.map(jnp.asarray, {"image": red, "object_image": green, "object_mask": mask})
    keys = jax.random.split(jax.random.key(4), 8)
    pairs = jax.jit(jax.vmap(lambda key: pair_of(pair_config, key, example)))(keys)
    seen = np.asarray((pairs.target[..., 1] > 0.9).mean((1, 2)))
    assert (seen > 0.01).mean() > 0.7 and seen.max() < 0.9
    moved = warp(pairs.source, pairs.flow)[..., 1]
    inside = pairs.mask & (pairs.target[..., 1] > 0.99)
    assert float(jnp.where(inside, moved, 1).mean()) > 0.97


def test_levels():
    keys = jax.random.split(jax.random.key(1), 4000)
    drawn = np.asarray(jax.jit(lambda each: stages.levels(GOAL, each))(keys))
    assert drawn.shape == (4000, 1)
    shares = np.bincount(drawn[:, 0], minlength=5) / len(drawn)
    np.testing.assert_allclose(shares, [0.1, 0.1, 0.1, 0.1, 0.6], atol=0.03)


def test_levels_of_several_draws_are_stratified():
    keys = jax.random.split(jax.random.key(1), 4000)
    loss_config = LossConfig(GOAL.process, GOAL.variable, first_share=0.5, draws=2)
    drawn = np.asarray(jax.jit(lambda each: stages.levels(loss_config, each))(keys))
    shares = np.bincount(drawn.ravel(), minlength=5) / drawn.size
    np.testing.assert_allclose(shares, [0.1, 0.1, 0.1, 0.1, 0.6], atol=0.03)
    assert (drawn == 4).any(1).all()
    loss_config = LossConfig(GOAL.process, GOAL.variable, first_share=0.0, draws=5)
    drawn = np.asarray(jax.jit(lambda each: stages.levels(loss_config, each))(keys))
    np.testing.assert_array_equal(np.sort(drawn, axis=1), np.broadcast_to(np.arange(5), (4000, 5)))


def flows():
    truth = jnp.zeros((6, 16, 16, 2)) + jnp.asarray([0.03, 0.04])
    return Conditions(jnp.zeros((6, 4, 4, 2)), jnp.zeros((6, 4, 4, 1))), truth, jnp.ones((6, 16, 16), bool)


@pytest.mark.parametrize("kind", ["diffusion", "regression"])
@pytest.mark.parametrize("draws", [1, 3])
def test_loss_of_the_initial_flow_is_the_penalty_of_its_error(kind, draws):
    loss_config = LossConfig(GOAL.process, GOAL.variable, kind=kind, draws=draws, first_share=1.0)
    value, metrics = loss(loss_config, Scaled(), params(0.0), *flows(), KEYS)
    np.testing.assert_allclose(value, np.hypot(0.05 / 0.02, 0.1) - 0.1, rtol=1e-5)
    np.testing.assert_allclose(metrics["error"], 0.05 * 16, rtol=1e-2)
    assert kind == "regression" or abs(float(metrics["first"]) - float(value)) < 1e-5


def test_loss_is_zero_at_the_truth_and_ignores_invalid_pixels():
    given, truth, mask = flows()
    mask = mask.at[:, :8].set(False)
    truth = jnp.where(mask[..., None], truth, jnp.inf)
    value, _ = loss(GOAL, Scaled(), params(0.0, (0.3, 0.4)), given, truth, mask, KEYS)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda p: stages.loss(GOAL, Scaled(), p, given, truth, mask, KEYS)[0]))(params(0.1))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_what_is_learned_is_measured_in_the_unit_of_each_place():
    given, truth, mask = flows()
    unit = jnp.full((6, 4, 4, 1), 0.5)
    value, metrics = loss(GOAL, Scaled(), params(0.0, (0.6, 0.8)), given._replace(unit=unit), truth, mask, KEYS)
    np.testing.assert_allclose([value, metrics["error"]], 0, atol=1e-4)


@pytest.mark.parametrize("kind", ["diffusion", "regression"])
def test_with_a_skip_what_is_sampled_is_what_was_trained(kind):
    """The loss of a constant at the noisiest level is that of the first prediction that it draws."""
    variable = Variable(0.1, residual=True, shrunk=True, skip=True)
    loss_config = LossConfig(GOAL.process, variable, kind=kind, first_share=1.0)
    given, _, mask = flows()
    stage = Stage(Scaled(), variable, loss_config.process, kind=kind, estimate="first")
    first = sampling.draw(stage, params(0.0, (0.3, 0.4)), given, hypotheses=1, keys=KEYS).predicted[:, 0]
    truth = jnp.broadcast_to(first.mean((1, 2), keepdims=True), (6, 16, 16, 2))
    value, _ = loss(loss_config, Scaled(), params(0.0, (0.3, 0.4)), given, truth, mask, KEYS)
    # What is left is sqrt(ab) x_t of the noisiest level, 1 % of the unit.
    assert value < (1e-6 if kind == "regression" else 0.02)


@pytest.mark.parametrize("kind", ["diffusion", "regression"])
def test_the_likelihood_teaches_the_scale_alone(kind):
    """It has a gradient for the scale, away from the right one, and none for what is predicted."""
    given, truth, mask = flows()

    def gradients(weight, scale):
        def of(p):
            return stages.loss(loss_config, Learned(), p, given, truth, mask, KEYS)[0]

        loss_config = LossConfig(GOAL.process, LEARNED, kind=kind, first_share=1.0, draws=2, likelihood=weight)
        return jax.jit(jax.grad(of))(params(0.0, scale=scale))

    # x_0 has length 0.5: so has a Gaussian of deviation 0.5 / sqrt(pi / 2) on average.
    right = 0.5 / np.sqrt(np.pi / 2)
    with_it, without = gradients(0.3, right), gradients(1e-9, right)
    np.testing.assert_allclose(with_it["shift"], without["shift"], rtol=1e-5)
    np.testing.assert_allclose(with_it["log_scale"], without["log_scale"], atol=0.01)
    assert gradients(0.3, right / 2)["log_scale"] < -0.3 and gradients(0.3, 2 * right)["log_scale"] > 0.1


@pytest.mark.parametrize("pooled", [False, True])
def test_the_noisiest_level_counts_by_its_weight(pooled):
    """A network that returns c x_i has the error of `test_noisy_state_is_that_of_the_process` at every level."""
    variable, weight = Variable(0.1, residual=True), 8.0
    loss_config = LossConfig(
        GOAL.process, variable, penalty="squared", scale=0.1, first_share=0.5, first_weight=weight, pooled=pooled
    )
    keys = jax.random.split(jax.random.key(4), 2000)
    given = Conditions(jnp.zeros((2000, 4, 4, 2)), jnp.zeros((2000, 4, 4, 1)))
    truth = jnp.zeros((2000, 4, 4, 2)) + jnp.asarray([0.03, 0.04])
    value, metrics = loss(loss_config, Scaled(), params(0.5), given, truth, jnp.ones((2000, 4, 4), bool), keys)
    bars = GOAL.process.alphas_bar
    errors = 2 * 0.25 * (1 - bars) + (0.5 - 0.5 * 0.5 * np.sqrt(bars)) ** 2
    counts = np.asarray([0.1, 0.1, 0.1, 0.1, 0.6 * weight])
    assert abs(errors[-1] / errors.mean() - 1) > 0.5  # so that weights can be told
    np.testing.assert_allclose(value, (counts * errors).sum() / counts.sum(), rtol=0.05)
    np.testing.assert_allclose(metrics["first"], errors[-1], rtol=0.05)


@pytest.mark.parametrize("shrunk", [False, True])
def test_noisy_state_is_that_of_the_process(shrunk):
    """A network that returns c x_i has the error c x_i - x_0; shown sqrt(ab) x_i it returns c sqrt(ab) x_i."""
    variable = Variable(0.1, residual=True, shrunk=shrunk)
    loss_config = LossConfig(GOAL.process, variable, penalty="squared", scale=0.1, first_share=1.0)
    given, truth, mask = flows()
    given = jax.tree.map(lambda x: jnp.repeat(x, 40, 0), given)
    truth, mask = (jnp.repeat(x, 40, 0) for x in (truth, mask))
    keys = jax.random.split(jax.random.key(4), 240)
    # On the truth's own grid, so that no interpolation smooths the noise.
    given = Conditions(jnp.zeros((240, 16, 16, 2)), jnp.zeros((240, 16, 16, 1)))
    value, _ = loss(loss_config, Scaled(), params(0.5), given, truth, mask, keys)
    bar = GOAL.process.alphas_bar[-1]
    c = 0.5 * np.sqrt(bar) if shrunk else 0.5
    want = 2 * c**2 * (1 - bar) + (0.5 - 0.5 * c * np.sqrt(bar)) ** 2  # x_0 has length 0.5
    np.testing.assert_allclose(value, want, rtol=0.02)


def test_truth_on_the_grid_leaves_invalid_pixels_out():
    truth = jnp.zeros((1, 8, 8, 2)).at[:, :, :4].set(1.0).at[:, :, 6:].set(jnp.nan)
    mask = jnp.ones((1, 8, 8), bool).at[:, :, 6:].set(False)
    got = jax.jit(stages.on_grid)(truth, mask, jnp.zeros((1, 2, 2, 2)))
    np.testing.assert_allclose(got[0, 0, :, 0], [1, 0], atol=1e-6)


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_crop_is_a_part_of_the_whole(rounds):
    settings = conditioning.ConditioningConfig(fine=32, radius=1, refine=rounds)
    keys = jax.random.split(jax.random.key(6), 5)
    source, target = (jax.random.normal(key, (2, 16, 16, 3)) for key in keys[:2])
    flow = jax.random.normal(keys[2], (2, 4, 4, 2)) / 20
    truth, mask = jax.random.normal(keys[3], (2, 32, 32, 2)), jax.random.bernoulli(keys[4], 0.5, (2, 32, 32))

    @jax.jit
    def both(source, target, flow, truth, mask, keys):
        told = conditioning.stage2_start(source, target, flow, settings)
        whole = conditioning.stage2(source, target, flow, settings)
        return whole, stages.cropped(settings, source, target, told, truth, mask, keys, size=8)

    whole, (crop, part, known) = both(source, target, flow, truth, mask, keys[:2])
    assert crop.flow.shape == (2, 8, 8, 2) and part.shape == (2, 16, 16, 2)
    for i in range(2):
        places = [
            (y, x)
            for y in range(9)
            for x in range(9)
            if np.allclose(whole.flow[i, y : y + 8, x : x + 8], crop.flow[i], atol=1e-6)
        ]
        ((y, x),) = places
        np.testing.assert_allclose(whole.evidence[i, y : y + 8, x : x + 8], crop.evidence[i], atol=1e-5)
        np.testing.assert_array_equal(truth[i, 2 * y : 2 * y + 16, 2 * x : 2 * x + 16], part[i])
        np.testing.assert_array_equal(mask[i, 2 * y : 2 * y + 16, 2 * x : 2 * x + 16], known[i])
        if rounds:
            np.testing.assert_array_equal(whole.unit[i, y : y + 8, x : x + 8], crop.unit[i])


def test_one_hypothesis_needs_the_first_level_alone():
    """A stage whose estimate is its first prediction gives the same from that level and from all."""
    stage = Stage(Learned(), LEARNED, GOAL.process, estimate="first")
    given, _, _ = flows()
    noise = jax.random.normal(jax.random.key(7), (6, 1, 4, 4, 2))
    whole, part = (
        sampling.summarise(each, sampling.draw(each, params(0.2, (0.3, 0.4), 0.5), given, hypotheses=1, noise=noise))
        for each in (stage, stage.once)
    )
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    assert stage.once.nfe == 1 and stage.nfe == 5
    mean = Stage(Scaled(), GOAL.variable, GOAL.process)
    assert mean.once is mean


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LossConfig(GOAL.process, GOAL.variable, first_share=1.5), "config.objective.first_share"),
        (lambda: LossConfig(GOAL.process, GOAL.variable, first_weight=0.0), "config.objective.first_weight"),
        (lambda: LossConfig(GOAL.process, GOAL.variable, scale=0.0), "config.objective.scale"),
        (lambda: LossConfig(GOAL.process, GOAL.variable, draws=0), "config.objective.draws"),
        (lambda: LossConfig(GOAL.process, LEARNED), "config.objective.likelihood: expected more than 0"),
        (
            lambda: LossConfig(GOAL.process, GOAL.variable, likelihood=0.3),
            "config.objective.likelihood: expected more than 0",
        ),
        (lambda: PairConfig(elastic=2.0), "config.pairs.elastic"),
        (lambda: PairConfig(size=8), "config.pairs.size"),
    ],
)
def test_impossible_settings(make, words):
    with pytest.raises(InputError, match=words):
        make()
