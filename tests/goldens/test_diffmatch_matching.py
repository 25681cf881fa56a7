"""Flow, look-ups, correlation and features against the original's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmatch_jax.model import cost_volume, features, released, weights
from diffmatch_jax.model.flow import (
    OUTSIDE,
    flow_of,
    grid,
    mapping_of,
    pixels_of_relative,
    relative_of_pixels,
    sample,
    to_normalised,
    to_pixels,
    valid,
    warp,
)
from diffmatch_jax.model.resize import adaptive_mean, resize, resize_flow, resize_normalised


def nhwc(array):
    return jnp.moveaxis(jnp.asarray(array, jnp.float32), 1, -1)


def nchw(array):
    return np.moveaxis(np.asarray(array), -1, 1)


def target_first(volume):
    """Turns `[B, 1, ys, xs, yt, xt]` or `[B, ys, xs, yt, xt]` into ours."""
    volume = volume.reshape(len(volume), *volume.shape[-4:])
    return jnp.asarray(volume.transpose(0, 3, 4, 1, 2))


def test_warping(golden):
    d = golden("diffmatch", "flow_ops")
    image, flow = nhwc(d["warp_image"]), nhwc(d["warp_flow"])
    for outside in OUTSIDE:
        got = nchw(warp(image, flow, outside=outside))
        np.testing.assert_allclose(got, d[f"warp_out_{outside}"], rtol=0, atol=2e-3)
    mapping = mapping_of(flow)
    np.testing.assert_allclose(nchw(mapping), d["mapping_from_flow"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(nchw(flow_of(mapping)), d["flow_from_mapping"], rtol=0, atol=1e-5)
    got = nchw(sample(image, mapping))
    np.testing.assert_allclose(got, d["warp_with_mapping_out"], rtol=0, atol=2e-3)
    np.testing.assert_array_equal(valid(flow), d["valid_mask_from_flow"])
    np.testing.assert_array_equal(valid(flow, strict=True), d["warp_mask"])


def test_relative_mapping(golden):
    d = golden("diffmatch", "flow_ops")
    relative = nhwc(d["normalised_mapping"])
    positions = pixels_of_relative(relative, relative.shape[1:3], alignment="corner")
    np.testing.assert_allclose(nchw(flow_of(positions)), d["flow_from_normalised_mapping"], rtol=0, atol=1e-5)
    back = relative_of_pixels(positions, relative.shape[1:3], alignment="corner")
    np.testing.assert_allclose(back, relative, rtol=0, atol=1e-5)


def test_opencv_remap(golden):
    d = golden("diffmatch", "flow_ops")
    image, flow = jnp.asarray(d["remap_image_uint8"]), jnp.moveaxis(jnp.asarray(d["remap_flow"]), 0, -1)
    got = np.asarray(warp(image, flow))
    np.testing.assert_allclose(got, d["remap_out_float"], rtol=0, atol=1e-2)
    np.testing.assert_allclose(np.round(got), d["remap_out_uint8"].astype(np.float32), rtol=0, atol=1)


def test_resized_flow(golden):
    d = golden("diffmatch", "flow_ops")
    size = tuple(d["resize_to"].tolist())
    got = resize_flow(nhwc(d["warp_flow"]), size, edge="repeat")
    np.testing.assert_allclose(nchw(got), d["resize_flow_half_pixel"], rtol=0, atol=3e-5)
    truth, net = nhwc(d["gt_flow_pixels"]), int(d["net_size"])
    normalised = resize_normalised(to_normalised(truth), (net, net), alignment="corner")
    np.testing.assert_allclose(nchw(normalised), d["gt_flow_normalised_net"], rtol=0, atol=1e-6)
    back = to_pixels(resize_normalised(normalised, truth.shape[1:3], alignment="corner"))
    np.testing.assert_allclose(nchw(back), d["net_flow_back_to_pixels"], rtol=0, atol=5e-5)


def test_prepared_images(golden):
    d = golden("diffmatch", "flow_ops")
    images = jnp.moveaxis(jnp.asarray(d["prep_image_uint8"]), 1, -1)
    got = features.normalise(features.to_unit(images))
    np.testing.assert_allclose(nchw(got), d["prep_full"], rtol=0, atol=1e-6)
    both = released.prepared(images)
    fine, coarse = (nchw(features.normalise(each)) for each in (both.fine, both.coarse))
    np.testing.assert_allclose(fine[..., ::8, ::8], d["prep_512_sub8"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(coarse[..., ::4, ::4], d["prep_area256_sub4"], rtol=0, atol=2e-6)
    assert both.fine.shape == (2, 512, 512, 3)
    np.testing.assert_array_equal(both.coarse, adaptive_mean(features.to_unit(images), (256, 256)))


def test_averaged_correlation(golden):
    d = golden("diffmatch", "correlation")
    side = int(d["feature_size"])
    source, target = (
        cost_volume.descriptor([nhwc(d[f"{part}_c1{i}"]) for i in (1, 2, 3, 4)], (side, side), alignment="corner")
        for part in ("src", "trg")
    )
    want = target_first(d["raw_corr"])
    np.testing.assert_allclose(cost_volume.volume(source, target), want, rtol=0, atol=2e-6)
    for name, size in (("trg_full", "trg_feat_at_feature_size"), ("src_c12", "src_eighth_at_feature_size")):
        got = resize(nhwc(d[name]), (side, side), alignment="corner")
        np.testing.assert_allclose(nchw(got), d[size], rtol=0, atol=1e-5)


def test_correlation_of_different_sizes(golden):
    d = golden("diffmatch", "correlation")
    source, target = (cost_volume.unit(nhwc(d[f"pair_{part}"])) for part in ("src", "trg"))
    got = cost_volume.volume(source, target)
    np.testing.assert_allclose(got, target_first(d["pair_corr"]), rtol=0, atol=1e-6)


def test_winner_takes_all(golden):
    d = golden("diffmatch", "argmax_flow")
    positions, _ = cost_volume.winner_take_all(target_first(d["raw_corr"]))
    np.testing.assert_array_equal(nchw(positions), d["mapping"])
    flow = flow_of(positions)
    np.testing.assert_array_equal(nchw(flow), d["flow"])
    got = resize_flow(flow, tuple(d["output_shape"].tolist()), alignment="corner")
    np.testing.assert_allclose(nchw(got), d["flow_resized"], rtol=0, atol=2e-5)


def test_local_correlation(golden):
    d = golden("diffmatch", "local_corr")
    scores, coords = target_first(d["raw_corr"]), nhwc(d["coords"])
    np.testing.assert_array_equal(grid(*coords.shape[1:3]), nhwc(d["base_grid"])[0])
    for radius in (2, 4):
        got = cost_volume.local(scores, coords, radius=radius)
        np.testing.assert_allclose(nchw(got), d[f"local_corr_r{radius}"], rtol=0, atol=1e-5)


def test_local_correlation_of_the_second_stage(golden):
    d = golden("diffmatch", "sr_local_corr")
    source, target, coords = (nhwc(d[name]) for name in ("src_feat", "trg_feat", "coords"))
    radius = int(d["radius"])
    got = released.local_features(source, target, coords, radius=radius)
    reliable = d["reliable"]
    np.testing.assert_allclose(np.where(reliable, got, 0), np.where(reliable, d["local_corr_sr"], 0), rtol=0, atol=1e-5)
    # The samples themselves: neighbours are interpolated as if each had been looked up alone.
    n = 2 * radius + 1
    offsets = jnp.stack(jnp.meshgrid(*2 * [jnp.arange(n) - radius], indexing="ij"), -1).reshape(-1, 2)
    positions = coords[..., None, :] + offsets
    samples = sample(source, positions.reshape(len(coords), -1, 1, 2)).reshape(*positions.shape[:-1], -1)
    np.testing.assert_allclose(jnp.moveaxis(samples, -1, 1), d["sampled_src_feat"], rtol=0, atol=1e-5)
    # Ours differs only where a sample mixes vectors of different lengths, and fades at the border.
    ours = cost_volume.local_features(source, target, coords, radius=radius)
    unit = sample(cost_volume.unit(source), positions.reshape(len(coords), -1, 1, 2))
    unit = unit.reshape(*positions.shape[:-1], -1)
    want = jnp.einsum("bhwkc,bhwc->bhwk", unit, cost_volume.unit(target), precision="highest")
    np.testing.assert_allclose(ours, want, rtol=0, atol=1e-5)


def test_vgg_pyramid(golden):
    d = golden("diffmatch", "vgg_pyramid")
    params = weights.convert_vgg({name: each for name, each in d.items() if name.startswith("features.")})
    x = nhwc(d["image"])
    levels = jax.jit(features.pyramid)(params, x)
    for i, level in enumerate(levels):
        assert level.shape[-1] * d["width_divisor"] == (64, *features.VGG_WIDTHS)[i]
        np.testing.assert_allclose(nchw(level), d[f"level_{i}"], rtol=0, atol=1e-5)
    for name, level in (("eighth_0", 0), ("eighth_1", 2), ("eighth_2", 3), ("quarter_0", 2)):
        np.testing.assert_allclose(nchw(levels[level]), d[name], rtol=0, atol=1e-5)
    np.testing.assert_allclose(features.pyramid(params, x, last=2)[2], levels[2], rtol=0, atol=1e-6)


def formula(index, shape):
    """Returns the numbers in [-1, 1) that the goldens' formula gives for a tensor, in float64."""
    h = np.arange(np.prod(shape, dtype=np.int64), dtype=np.uint32) * np.uint32(2654435761)
    h += np.uint32((index * 40503 + 12345) % 2**32)
    for shift, factor in ((16, 2246822519), (13, 3266489917)):
        h ^= h >> np.uint32(shift)
        h *= np.uint32(factor)
    h ^= h >> np.uint32(16)
    return (2 * (h + 0.5) / 2**32 - 1).reshape(shape)


def test_vgg_at_full_width(golden):
    d = golden("diffmatch", "vgg_full_formula")
    offset, tensors, inputs = int(d["formula_offset"]), {}, 3
    for position, (name, number) in enumerate(features.CONVS.items()):
        shape = (features.VGG_WIDTHS[int(name[4]) - 1], inputs, 3, 3)
        weight = np.sqrt(6 / (inputs * 9)) * formula(offset + 2 * position, shape)
        bias = 0.1 * formula(offset + 2 * position + 1, shape[:1])
        tensors[f"features.{number}.weight"] = weight.astype(np.float32)
        tensors[f"features.{number}.bias"] = bias.astype(np.float32)
        inputs = shape[0]
    first, last = tensors["features.0.weight"], tensors["features.21.weight"]
    np.testing.assert_allclose(first.ravel()[:10], d["features.0.weight_first10"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(last.ravel()[-10:], d["features.21.weight_last10"], rtol=0, atol=1e-7)
    assert sum(each.size for each in tensors.values()) == 7_635_264
    image = 2 * formula(1000 + offset, tuple(d["image_shape"].tolist())).astype(np.float32)
    np.testing.assert_allclose(image.ravel()[:10], d["image_first10"], rtol=0, atol=1e-7)
    levels = jax.jit(features.pyramid)(weights.convert_vgg(tensors), nhwc(image))
    for i, level in enumerate(levels):
        got = nchw(level)
        assert got.shape == tuple(d[f"level_{i}_shape"].tolist())
        sub = got if i == 4 else got[:, ::16, ::4, ::4]
        np.testing.assert_allclose(sub, d[f"level_{i}_sub"], rtol=0, atol=1e-4)
        for kind in ("mean", "std"):
            want = d[f"level_{i}_channel_{kind}"]
            np.testing.assert_allclose(getattr(got[0], kind)((1, 2)), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_search_is_the_winner_and_the_look_up(golden, rows):
    """The same numbers without the volume, from the correlation's own maps."""
    d = golden("diffmatch", "correlation")
    side = int(d["feature_size"])
    source, target = (
        cost_volume.descriptor([nhwc(d[f"{part}_c1{i}"]) for i in (1, 2, 3, 4)], (side, side), alignment="corner")
        for part in ("src", "trg")
    )
    scores = target_first(d["raw_corr"])
    found = cost_volume.search(source, target, rows=rows)
    positions, best = cost_volume.winner_take_all(scores)
    np.testing.assert_array_equal(found.flow, flow_of(positions))
    np.testing.assert_allclose(found.scores[..., 0], best, rtol=0, atol=2e-6)
    np.testing.assert_allclose(found.local, cost_volume.local(scores, positions), rtol=0, atol=2e-6)
