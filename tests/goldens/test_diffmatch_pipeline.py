"""The path of one image pair, stage by stage from the stored inputs; `--goldens DIR` reads the file, too large here."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmatch_jax import import_weights
from diffmatch_jax.evaluation import metrics
from diffmatch_jax.model import conditioning, cost_volume, features, matcher, released, sampling
from diffmatch_jax.model.conditioning import Conditions
from diffmatch_jax.model.diffusion import Process, Variable
from diffmatch_jax.model.flow import mapping_of, to_pixels
from diffmatch_jax.model.matcher import MatcherConfig, Weights
from diffmatch_jax.model.resize import resize_normalised
from diffmatch_jax.model.sampling import Stage
from diffmatch_jax.model.weights import convert_vgg

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def arrays(golden, request):
    if Path(request.config.getoption("--goldens")) == DATA:
        pytest.skip("the file is too large to be kept here; --goldens DIR reads it")
    return golden("diffmatch", "pipeline")


def nhwc(array):
    return jnp.moveaxis(jnp.asarray(array, jnp.float32), -3, -1)


def prepared(d, name):
    images = released.prepared(jnp.moveaxis(jnp.asarray(d[f"{name}_image"]), 0, -1)[None])
    # One of the released evaluations gives the fine image in place of the coarse one.
    return images._replace(coarse=images.fine) if d["hp240_variant"] else images


@pytest.fixture(scope="module")
def maps(arrays):
    """The first stage's maps and the second's map of both images."""
    tensors = {name.removeprefix("vgg/"): each for name, each in arrays.items() if name.startswith("vgg/")}
    run = jax.jit(features.both_stages)
    pyramid = features.vgg(convert_vgg(tensors))
    return {name: run(pyramid, prepared(arrays, name)) for name in ("source", "target")}


def test_images(arrays):
    d = arrays
    images = prepared(d, "source")
    pair = images.fine, images.coarse
    fine, coarse = (np.moveaxis(np.asarray(features.normalise(each)), -1, 1) for each in pair)
    np.testing.assert_allclose(fine[..., ::8, ::8], d["source_512_sub8"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(coarse[..., ::8, ::8], d["source_coarse_input_sub8"], rtol=0, atol=2e-6)
    assert list(coarse.shape) == d["source_coarse_input_shape"].tolist()


def test_first_stage(arrays, maps):
    d = arrays
    source, target = (cost_volume.descriptor(maps[name][0], (64, 64), alignment="corner") for name in maps)
    scores = cost_volume.volume(source, target)
    np.testing.assert_allclose(
        jnp.moveaxis(scores[0, ::16, ::16], (0, 1), (2, 3)), d["raw_corr_sub"], rtol=0, atol=3e-6
    )
    np.testing.assert_allclose(scores[0, 31, 17], d["raw_corr_trg_row"], rtol=0, atol=3e-6)
    np.testing.assert_allclose(np.asarray(scores, np.float64).mean(), d["raw_corr_mean"], rtol=0, atol=1e-6)
    _, best = cost_volume.top_k(scores, 2)
    margin = best[0, ..., 0] - best[0, ..., 1]
    np.testing.assert_allclose(margin, d["argmax_margin"], rtol=0, atol=1e-5)

    found = cost_volume.search(source, target)
    sure = d["argmax_margin"] > 1e-5
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(found.flow[0][sure], np.moveaxis(d["argmax_flow"][0], 0, -1)[sure])
    np.testing.assert_array_equal(nhwc(d["argmax_flow"]) / 64, nhwc(d["init_flow_normalised"]))
    # From the stored flow, so that a tie that was broken in another way does not matter.
    flow = nhwc(d["lr_init_flow"])[None]
    got = cost_volume.local(scores, mapping_of(to_pixels(flow)))
    np.testing.assert_allclose(got, nhwc(d["lr_local_corr"])[None], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.local[0][sure], got[0][sure], rtol=0, atol=1e-5)


def test_second_stage(arrays, maps):
    d = arrays
    flow = resize_normalised(nhwc(d["lr_sample"])[None], (256, 256), alignment="corner")
    np.testing.assert_allclose(flow[0], nhwc(d["sr_init_flow"]), rtol=0, atol=1e-5)
    positions = mapping_of(to_pixels(nhwc(d["sr_init_flow"])[None]))
    look = jax.jit(lambda *each: released.local_features(*each))
    got = np.moveaxis(np.asarray(look(maps["source"][1], maps["target"][1], positions)[0]), -1, 0)
    for part, name in ((got[:, ::8, ::8], "sub8"), (got[:, [0, 100, 255], ::2], "rows")):
        reliable = d[f"sr_local_corr_reliable_{name}"]
        assert reliable.mean() > 0.9
        np.testing.assert_allclose(part[reliable], d[f"sr_local_corr_{name}"][reliable], rtol=0, atol=1e-3)
    np.testing.assert_allclose(got.mean((1, 2)), d["sr_local_corr_channel_mean"], rtol=0, atol=2e-4)


@pytest.fixture(scope="module")
def stages(golden):
    """The two released stages, each with its weights."""
    return {name: stage_of(golden, name) for name in ("unet_stage1", "unet_sr")}


def stage_of(golden, name):
    """Returns the released stage of a file of goldens, and its weights."""
    tensors = {key.removeprefix("sd/"): each for key, each in golden("diffmatch", name).items() if key[:3] == "sd/"}
    network, params = import_weights.convert(tensors)
    return Stage(network, Variable(), Process.cosine(5), clip=1.0), params


def hypotheses_of(stage, params, given, noise):
    """Returns the stage's result from stored noise `[n, 2, h, w]`, one hypothesis at a time."""
    # Weights are arguments: as constants of a program, half a gigabyte of them would be folded by the compiler.
    run = jax.jit(lambda *each: sampling.draw(stage, *each[:2], hypotheses=1, noise=each[2]).hypotheses)
    found = jnp.concatenate([run(params, given, each[None, None]) for each in nhwc(noise)], 1)
    return sampling.summarise(stage, sampling.StageSamples(found, found)).flow[0]


def test_first_denoiser(arrays, stages):
    d = arrays
    assert len(d["noise_lr"]) == d["n_batch"]
    given = Conditions(nhwc(d["lr_init_flow"])[None], nhwc(d["lr_local_corr"])[None])
    got = hypotheses_of(*stages["unet_stage1"], given, d["noise_lr"])
    np.testing.assert_allclose(got, nhwc(d["lr_sample"]), rtol=0, atol=1e-4)


def test_second_denoiser(arrays, stages, maps):
    d = arrays
    settings = conditioning.ConditioningConfig(released=True)
    given = conditioning.stage2(maps["source"][1], maps["target"][1], nhwc(d["lr_sample"])[None], settings)
    got = hypotheses_of(*stages["unet_sr"], given, d["noise_sr"])
    away = np.abs(got - nhwc(d["sr_sample"]))
    # A look-up one cell outside the source is ill-conditioned in the original.
    assert np.mean(away <= 1e-4) >= 0.99 and np.mean(away <= 1e-3) >= 0.999 and away.max() <= 5e-3
    pixels = to_pixels(resize_normalised(got, d["mask"].shape, alignment="corner"))
    off = np.abs(pixels - nhwc(d["final_flow_pixels"]))
    assert off.max() <= 0.5 and off.mean() <= 1e-3


def test_the_whole_path(arrays, stages, monkeypatch):
    """From the images to the flow in one piece, as `match` goes, with the stored noise."""
    d = arrays
    tensors = {name.removeprefix("vgg/"): each for name, each in d.items() if name.startswith("vgg/")}
    (first, of_first), (second, of_second) = stages["unet_stage1"], stages["unet_sr"]
    noise = {each.shape[-1]: nhwc(each)[None] for each in (d["noise_lr"], d["noise_sr"])}

    def draw(stage, params, given, *, hypotheses, keys):
        del keys
        return sampling.draw(stage, params, given, hypotheses=hypotheses, noise=noise[given.flow.shape[1]])

    monkeypatch.setattr(matcher, "draw", draw)
    matcher_config = MatcherConfig(conditioning.ConditioningConfig(released=True), first, second)
    weights = Weights(features.vgg(convert_vgg(tensors)), of_first, of_second)
    # Compiled here, so that no program with this noise stays behind.
    run = jax.jit(lambda *each: matcher.on_grid.__wrapped__(matcher_config, *each, len(d["noise_lr"])))
    found = run(weights, prepared(d, "source"), prepared(d, "target"), jax.random.split(jax.random.key(0), 1))
    size = d["mask"].shape
    flow, confidence, *_ = matcher._finish(found, size=size, source=size, alignment="corner")
    sure = d["argmax_margin"] > 1e-5
    np.testing.assert_array_equal(found.wta_flow[0][sure], nhwc(d["init_flow_normalised"])[0][sure])
    # The first stage's flow is the original's but for rounding, 1e-6 at most; the look-ups of the second one turn that
    # into 1e-4 in a few percent of the cells, and into more where they are ill-conditioned.
    away = np.abs(found.flow[0] - nhwc(d["sr_sample"]))
    assert np.mean(away <= 1e-4) >= 0.95 and np.mean(away <= 1e-3) >= 0.995 and away.max() <= 2e-2
    off = np.abs(flow[0] - nhwc(d["final_flow_pixels"]))
    assert off.max() <= 1 and off.mean() <= 5e-3
    assert confidence.min() > 0 and confidence.max() < 1
    told = metrics.measure(np.asarray(flow[0]), np.moveaxis(d["gt_flow"], 0, -1), d["mask"])
    np.testing.assert_allclose([told.aepe, told.pck[2]], [d["final_aepe"], d["final_pck5"]], rtol=0, atol=1e-2)


def test_result(arrays):
    d = arrays
    size = d["mask"].shape
    flow = to_pixels(resize_normalised(nhwc(d["sr_sample"]), size, alignment="corner"))
    np.testing.assert_allclose(flow, nhwc(d["final_flow_pixels"]), rtol=0, atol=1e-3)
    found = metrics.measure(np.asarray(flow), np.moveaxis(d["gt_flow"], 0, -1), d["mask"])
    np.testing.assert_allclose(found.aepe, d["final_aepe"], rtol=0, atol=1e-2)
    np.testing.assert_allclose(found.pck[2], d["final_pck5"], rtol=0, atol=1e-2)
