"""Pasted objects: flow, what they hide, and that only the key decides."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax import matching, objects, warps
from diffmatch_jax.objects import Cutout, Motion, Objects
from diffmatch_jax.pairs import Pair

HEIGHT, WIDTH = 40, 52


def pictured(flow, strength=0.25):
    y, x = np.mgrid[:HEIGHT, :WIDTH] / 15
    source = jnp.asarray(0.5 + strength * np.stack([np.sin(x), np.cos(y + x), np.sin(y)], -1), jnp.float32)
    none = jnp.zeros((), jnp.int32)
    return Pair(source, matching.warp(source, flow, outside="border"), flow, matching.valid(flow), none, none)


def disk(side, radius):
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    cover = jnp.asarray(np.clip(radius - np.hypot(x, y) + 0.5, 0, 1), jnp.float32)
    return Cutout(jnp.ones((side, side, 3)), cover)


@pytest.fixture(scope="module")
def paste():
    return jax.jit(jax.vmap(objects.paste, in_axes=(0, None, None, None)))


@pytest.fixture(scope="module")
def place():
    return jax.jit(objects.place)


KEYS = jax.random.split(jax.random.key(0), 12)


def test_a_disk_that_moves_hides_a_disk(place):
    pair = pictured(jnp.zeros((HEIGHT, WIDTH, 2)))
    middle, by = jnp.asarray([15.0, 20.0]), jnp.asarray([9.0, 3.0])
    found = place(pair, disk(31, 8.0), Motion(middle, jnp.eye(2), middle + by), scale=jnp.asarray(1.0))
    away = matching.grid(HEIGHT, WIDTH) - middle
    of_object = np.asarray(jnp.hypot(*jnp.moveaxis(away, -1, 0)) <= 8)
    of_hidden = np.asarray(jnp.hypot(*jnp.moveaxis(away - by, -1, 0)) <= 8) & ~of_object
    np.testing.assert_allclose(found.flow[of_object], jnp.broadcast_to(by, (of_object.sum(), 2)), atol=1e-5)
    np.testing.assert_array_equal(found.flow[~of_object], 0)
    assert of_hidden.sum() > 50
    np.testing.assert_array_equal(found.mask, ~of_hidden)
    np.testing.assert_allclose(found.target[20, 15], 1, atol=1e-6)
    np.testing.assert_allclose(found.source[23, 24], 1, atol=1e-6)
    # Half outside, the object is known where it lands inside.
    out = place(pair, disk(31, 8.0), Motion(middle, jnp.eye(2), jnp.asarray([0.0, 20.0])), scale=jnp.asarray(1.0))
    lands = np.asarray(away[..., 0]) >= 0
    np.testing.assert_array_equal(out.mask[of_object], lands[of_object])


def test_motions_are_those_of_the_geometry():
    keys = jax.random.split(jax.random.key(1), 50)
    settings = Objects(near_share=0.5, near=0.1)
    motions = jax.jit(jax.vmap(lambda key: objects.draw_motion(key, (HEIGHT, WIDTH), settings)))(keys)
    scale = np.sqrt(np.linalg.det(motions.linear))
    angle = np.degrees(np.arctan2(motions.linear[:, 0, 1], motions.linear[:, 0, 0]))
    assert np.abs(np.log(scale)).max() <= 0.3 + 1e-5 and np.abs(angle).max() <= 30 + 1e-3
    one = jax.tree.map(lambda x: x[3], motions)
    want = warps.object_motion(
        (HEIGHT, WIDTH),
        rotation=angle[3],
        scale=scale[3],
        translation=one.to - one.middle,
        centre=one.middle.tolist(),
    )
    pixels = matching.grid(5, 7)
    np.testing.assert_allclose(one(pixels), warps.affine(jnp.asarray(want[:2], jnp.float32), pixels), atol=1e-4)
    np.testing.assert_allclose(one.back(one(pixels)), pixels, atol=1e-4)
    for place in (motions.middle, motions.to):
        assert (place >= 0).all() and (place <= jnp.asarray([WIDTH - 1, HEIGHT - 1])).all()
    by = np.abs(np.asarray(motions.to - motions.middle)).max(1)
    assert 0.3 < (by <= 0.1 * WIDTH).mean() < 0.8


def test_target_is_seen_in_the_source_where_the_mask_holds(paste):
    flow = jnp.full((HEIGHT, WIDTH, 2), 2.5)
    pair = pictured(flow)
    image = np.zeros((60, 70, 3), np.uint8)
    image[:HEIGHT, :WIDTH] = 255 * pictured(flow, strength=0.4).source[::-1]
    found = paste(KEYS, pair, jnp.asarray(image), jnp.asarray([HEIGHT, WIDTH]))
    warped = jax.vmap(matching.warp)(found.source, found.flow)
    error = np.abs(np.asarray(warped - found.target)).max(-1)
    mask, of_object = np.asarray(found.mask), np.abs(np.asarray(found.flow - flow)).max(-1) > 0
    changed = of_object.mean((1, 2))
    assert (changed > 0).all() and changed.max() < 0.25
    # Only outlines mix two motions.
    assert (error[mask] < 0.05).mean() > 0.95 and (error[mask & of_object] < 0.05).mean() > 0.75
    hidden = np.asarray(pair.mask) & ~mask & ~of_object
    assert hidden.sum() > 100 and np.median(error[hidden]) > 0.05


def test_a_key_decides_and_padding_is_not_shown(paste):
    pair = pictured(jnp.zeros((HEIGHT, WIDTH, 2)))
    image = np.zeros((60, 70, 3), np.uint8)
    image[:25, :40] = 255
    found = paste(KEYS, pair, jnp.asarray(image), jnp.asarray([25, 40]))
    np.testing.assert_array_equal(
        paste(KEYS[::-1], pair, jnp.asarray(image), jnp.asarray([25, 40])).flow[::-1], found.flow
    )
    assert len(np.unique(np.asarray(found.mask).sum((1, 2)))) > 6
    # White comes on top, never anything darker than the background.
    assert (found.target >= pair.target - 1e-5).all() and (found.source >= pair.source - 1e-5).all()
    assert (np.asarray(found.target).min(-1) > 0.99).any((1, 2)).all()


def test_outlines_are_closed_and_of_the_size_asked():
    masks = jax.jit(jax.vmap(partial(objects.outline, side=48, roughness=0.5)))(KEYS)
    edge = np.ones((48, 48), bool)
    edge[1:-1, 1:-1] = False
    np.testing.assert_array_equal(masks[:, edge], 0)
    np.testing.assert_allclose(masks.mean((1, 2)), np.pi * 0.3**2, rtol=0.5)
    settings = Objects(area=(0.1, 0.1), near_share=1.0, near=0.0, rotation=0.0, log_scale=0.0)
    pair = pictured(jnp.full((HEIGHT, WIDTH, 2), 1.0))
    onto = jax.jit(jax.vmap(lambda key, cutout: objects.paste_cutout(key, pair, cutout, settings=settings), (0, None)))
    found = onto(KEYS, disk(33, 12.0))
    inside = (np.asarray(found.flow) == 0).all(-1).mean((1, 2))
    np.testing.assert_allclose(inside.max(), 0.1, rtol=0.1)  # the others lie across the border


def test_mistakes():
    with pytest.raises(InputError, match="objects.area: expected 0 < low <= high <= 1"):
        Objects(area=(0.0, 0.2))
    with pytest.raises(InputError, match="objects.near_share: expected a number from 0 to 1, got 2"):
        Objects(near_share=2)
