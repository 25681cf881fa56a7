"""Layered scenes: the truth reproduces the target, masks agree with rays through 3-D points, equal places are equal."""

import numpy as np
import pytest
from scipy import ndimage

from common.errors import InputError
from diffmatch_jax.data import layered

SIZE = 96


def photograph(seed, height=150, width=200):
    """Smooth noise of several scales: texture everywhere, no two places alike."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    scales = [ndimage.gaussian_filter(noise, (s, s, 0), mode="wrap") * s for s in (2, 4)]
    return np.uint8(np.clip(128 + 90 * sum(scales), 0, 255))


@pytest.fixture(scope="module")
def photographs():
    return [photograph(seed) for seed in range(4)]


def made(photographs, index, kind=None, seed=0):
    scene = layered.scene(photographs, seed=seed, index=index, size=SIZE, kind=kind)
    return scene, layered.pair(scene)


def sampled(image, places):
    x, y = np.moveaxis(places, -1, 0)
    return np.stack([ndimage.map_coordinates(image[..., c] * 1.0, (y, x), order=1) for c in range(3)], -1)


def pixels():
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.stack([x, y], -1).astype(float)


@pytest.mark.parametrize("index", range(4))
def test_the_source_warped_by_the_flow_is_the_target_where_both_show_it(photographs, index):
    scene, pair = made(photographs, index)
    away = np.abs(sampled(pair.source, pixels() + pair.flow) - pair.target).mean(-1)
    inner = pair.covisible & ~pair.edges
    assert inner.mean() > 0.3
    assert away[inner].mean() < 3 and np.quantile(away[inner], 0.99) < 12  # interpolation, of 255
    # Another flow, or what is hidden, does not reproduce it.
    other = np.abs(sampled(pair.source, pixels() + pair.flow + 4) - pair.target).mean(-1)
    assert other[inner].mean() > 4 * away[inner].mean()
    hidden = pair.occluded
    if hidden.sum() > 50:
        assert away[hidden].mean() > 4 * away[inner].mean()
    assert (pair.covisible.astype(int) + pair.occluded + pair.outside == 1).all()
    assert len(np.unique(pair.layer)) > 1


def test_occlusion_agrees_with_rays_through_points(photographs):
    """Depths by ray and plane in 3-D, planes in the source by three moved points each."""
    scene, pair = made(photographs, 1, "objects", seed=3)
    rays = np.concatenate([pixels(), np.ones((SIZE, SIZE, 1))], -1) @ np.linalg.inv(scene.camera).T
    for layer in scene.layers:
        assert np.allclose(layer.rotation @ layer.rotation.T, np.eye(3)) and np.linalg.det(layer.rotation) > 0
    depths, places = [], []
    for layer in scene.layers:
        depth = 1 / (rays @ layer.normal)
        covered = True if layer.outline is None else layer.outline.covers(pixels())
        depths.append(np.where(covered & (depth > 0), depth, np.inf))
        points = rays * depth[..., None] @ layer.rotation.T + layer.translation
        seen = points @ scene.camera.T
        places.append(seen[..., :2] / seen[..., 2:])
    nearest = np.argmin(depths, 0)
    np.testing.assert_array_equal(nearest, pair.layer)
    moved = np.take_along_axis(np.asarray(places), nearest[None, ..., None], 0)[0]
    np.testing.assert_allclose(moved - pixels(), pair.flow, atol=1e-4)
    # The ray of the source's camera to that place, against every plane.
    rays = np.concatenate([moved, np.ones((SIZE, SIZE, 1))], -1) @ np.linalg.inv(scene.camera).T
    depths = []
    for layer in scene.layers:
        corners = np.array([[10.0, 10, 1], [80, 20, 1], [30, 90, 1]]) @ np.linalg.inv(scene.camera).T
        corners = corners / (corners @ layer.normal)[:, None] @ layer.rotation.T + layer.translation
        across = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        depth = (across @ corners[0]) / (rays @ across)
        before = (rays * depth[..., None] - layer.translation) @ layer.rotation
        at = before @ scene.camera.T
        covered = True if layer.outline is None else layer.outline.covers(at[..., :2] / at[..., 2:])
        depths.append(np.where(covered & (depth > 0), depth, np.inf))
    within = ((moved >= 0) & (moved <= SIZE - 1)).all(-1)
    hidden = within & (np.argmin(depths, 0) != nearest)
    np.testing.assert_array_equal(hidden, pair.occluded)
    np.testing.assert_array_equal(within & ~hidden, pair.covisible)
    assert hidden.sum() > 100 and pair.moving.sum() > 100


def test_ambiguous_places_look_the_same(photographs):
    found = [made(photographs, index, "repeated") for index in range(8)]
    found = [(scene, pair) for scene, pair in found if pair.ambiguous.sum() > 50]
    assert len(found) > 2
    for _, pair in found:
        mask = pair.ambiguous
        np.testing.assert_allclose(pair.equal[0][mask], pair.flow[mask], atol=1e-5)  # the truth is one of them
        assert np.isnan(pair.equal[:, ~mask]).all()
        contrast = pair.target[mask].std()
        assert contrast > 20
        count = np.isfinite(pair.equal[..., 0]).sum(0)
        assert count[mask].min() >= 2
        away = []
        for each in pair.equal[1:]:
            known = np.isfinite(each[..., 0])
            assert (np.linalg.norm(each - pair.flow, axis=-1)[known] > 5).all()
            for step in ([0, 0], [4, -3], [-5, 5]):  # patches, not pixels alone
                places = pixels()[known] + step
                here, there = (sampled(pair.source, places + flow[known]) for flow in (pair.flow, each))
                away.append(np.abs(here - there).mean(-1))
        assert np.concatenate(away).mean() < 0.2 * contrast  # of unlike places 1.1 times


def test_flat_places_have_no_texture(photographs):
    for index in range(4):
        _, pair = made(photographs, index, "flat")
        if pair.flat.sum() < 50:
            continue
        deviations = [pair.target[y - 8 : y + 9, x - 8 : x + 9].mean(-1).std() for y, x in np.argwhere(pair.flat)
                      if min(y, x) >= 8 and max(y, x) < SIZE - 8]  # fmt: skip
        assert max(deviations) < 2 and (pair.covisible | ~pair.flat).all()
        return
    raise AssertionError("no flat region")


def test_a_pair_is_a_function_of_seed_and_index(photographs):
    _, first = made(photographs, 5)
    made(photographs, 6)
    _, again = made(photographs, 5)
    for name, value in first._asdict().items():
        np.testing.assert_array_equal(value, getattr(again, name), err_msg=name)
    assert not np.array_equal(made(photographs, 5, seed=1)[1].target, first.target)
    assert not np.array_equal(made(photographs, 9)[1].target, first.target)
    numbers = [len(layered.scene(photographs, seed=0, index=i, size=SIZE).layers) for i in range(40)]
    assert set(numbers) == {2, 3, 4}
    for kind in layered.KINDS:
        scenes = [layered.scene(photographs, seed=0, index=i, size=SIZE, kind=kind) for i in range(10)]
        assert any(each.moving for one in scenes for each in one.layers) == (kind in ("objects", "repeated"))
        periodic = [sum(each.texture.periodic for each in one.layers) for one in scenes]
        assert set(periodic) == {int(kind == "repeated")}


def test_wrong_use(photographs):
    with pytest.raises(InputError, match='kind: expected .* did you mean "flat"'):
        layered.scene(photographs, seed=0, index=0, kind="flad")
    with pytest.raises(InputError, match="layered: expected photographs and at least 64 pixels"):
        layered.scene([], seed=0, index=0)
