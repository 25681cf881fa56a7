"""Pasted objects: flow, what they hide, and that only the key decides."""

from functools import partial

import jax
import numpy as np
import pytest
from scipy import ndimage

from common.errors import InputError
from diffmatch_jax.data import objects
from diffmatch_jax.data.objects import Cutout, Motion, Objects
from diffmatch_jax.data.warps import Pair

HEIGHT, WIDTH = 40, 52


def pictured(right, down, strength=0.25):
    """Returns a smooth pair whose flow is a shift by whole pixels."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    source = 0.5 + strength * np.stack([np.sin(x / 15), np.cos((y + x) / 15), np.sin(y / 15)], -1).astype(np.float32)
    rows, columns = y + down, x + right
    target = source[np.clip(rows, 0, HEIGHT - 1), np.clip(columns, 0, WIDTH - 1)]
    flow = np.broadcast_to(np.float32([right, down]), (HEIGHT, WIDTH, 2))
    none = np.zeros((), np.int32)
    return Pair(source, target, flow, (rows < HEIGHT) & (columns < WIDTH), none, none)


def shown(image, positions):
    """Returns what an image has at positions `[..., 2]` by bilinear interpolation, in numpy."""
    at = positions[..., 1], positions[..., 0]
    return np.stack([ndimage.map_coordinates(image[..., c], at, order=1, mode="nearest") for c in range(3)], -1)


def disk(side, radius):
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return Cutout(np.ones((side, side, 3), np.float32), np.clip(radius - np.hypot(x, y) + 0.5, 0, 1).astype(np.float32))


@pytest.fixture(scope="module")
def paste():
    apply = jax.jit(jax.vmap(objects.paste, in_axes=(0, None, None, None)))
    return lambda *arguments: jax.tree.map(np.asarray, apply(*arguments))


PIXELS = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 12)


def test_a_disk_that_moves_hides_a_disk():
    pair, thing = pictured(0, 0), disk(31, 8.0)
    middle, by = np.float32([15, 20]), np.float32([9, 3])

    @jax.jit
    def place(pair, thing, to):
        return objects.place(pair, thing, Motion(middle, np.eye(2, dtype=np.float32), to), scale=1.0)

    found = jax.tree.map(np.asarray, place(pair, thing, middle + by))
    away = PIXELS - middle
    of_object = np.hypot(*np.moveaxis(away, -1, 0)) <= 8
    of_hidden = (np.hypot(*np.moveaxis(away - by, -1, 0)) <= 8) & ~of_object
    np.testing.assert_allclose(found.flow[of_object], np.tile(by, (of_object.sum(), 1)), atol=1e-5)
    np.testing.assert_array_equal(found.flow[~of_object], 0)
    assert of_hidden.sum() > 50
    np.testing.assert_array_equal(found.mask, ~of_hidden)
    np.testing.assert_allclose(found.target[20, 15], 1, atol=1e-6)
    np.testing.assert_allclose(found.source[23, 24], 1, atol=1e-6)
    # Half outside, the object is known where it lands inside.
    out = place(pair, thing, np.float32([0, 20]))
    np.testing.assert_array_equal(np.asarray(out.mask)[of_object], away[of_object][:, 0] >= 0)


def test_motions_are_those_of_the_geometry():
    settings = Objects(near_share=0.5, near=0.1)
    pixels = PIXELS[:5, :7]

    def one(key):
        motion = objects.draw_motion(key, (HEIGHT, WIDTH), settings)
        return motion, motion(pixels), motion.back(motion(pixels))

    keys = jax.random.split(jax.random.key(1), 50)
    motions, moved, back = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))
    scale = np.sqrt(np.linalg.det(motions.linear))
    angle = np.degrees(np.arctan2(motions.linear[:, 0, 1], motions.linear[:, 0, 0]))
    assert np.abs(np.log(scale)).max() <= 0.3 + 1e-5 and np.abs(angle).max() <= 30 + 1e-3
    # Turned counter-clockwise on the screen and scaled about its middle, which lands at `to`.
    cosine, sine = np.cos(np.radians(angle[3])), np.sin(np.radians(angle[3]))
    turn = scale[3] * np.array([[cosine, sine], [-sine, cosine]])
    np.testing.assert_allclose(moved[3], (pixels - motions.middle[3]) @ turn.T + motions.to[3], atol=1e-4)
    np.testing.assert_allclose(back, np.broadcast_to(pixels, back.shape), atol=1e-4)
    for place in (motions.middle, motions.to):
        assert (place >= 0).all() and (place <= [WIDTH - 1, HEIGHT - 1]).all()
    by = np.abs(motions.to - motions.middle).max(1)
    assert 0.3 < (by <= 0.1 * WIDTH).mean() < 0.8


def test_target_is_seen_in_the_source_where_the_mask_holds(paste):
    pair = pictured(3, 2)
    image = np.zeros((60, 70, 3), np.uint8)
    image[:HEIGHT, :WIDTH] = 255 * pictured(0, 0, strength=0.4).source[::-1]
    found = paste(KEYS, pair, image, np.asarray([HEIGHT, WIDTH]))
    error = np.stack([
        np.abs(shown(source, PIXELS + flow) - target).max(-1)
        for source, flow, target in zip(found.source, found.flow, found.target, strict=True)
    ])  # fmt: skip
    mask, of_object = found.mask, np.abs(found.flow - pair.flow).max(-1) > 0
    changed = of_object.mean((1, 2))
    assert (changed > 0).all() and changed.max() < 0.25
    # Only outlines mix two motions.
    assert (error[mask] < 0.05).mean() > 0.95 and (error[mask & of_object] < 0.05).mean() > 0.75
    hidden = pair.mask & ~mask & ~of_object
    assert hidden.sum() > 100 and np.median(error[hidden]) > 0.05


def test_a_key_decides_and_padding_is_not_shown(paste):
    pair, extent = pictured(0, 0), np.asarray([25, 40])
    image = np.zeros((60, 70, 3), np.uint8)
    image[:25, :40] = 255
    found = paste(KEYS, pair, image, extent)
    again = paste(KEYS[::-1], pair, image, extent)
    np.testing.assert_allclose(again.flow[::-1], found.flow, atol=1e-5)
    assert len(np.unique(found.mask.sum((1, 2)))) > 6
    # White comes on top, never anything darker than the background.
    assert (found.target >= pair.target - 1e-5).all() and (found.source >= pair.source - 1e-5).all()
    assert (found.target.min(-1) > 0.99).any((1, 2)).all()


def test_outlines_are_closed_and_of_the_size_asked():
    masks = np.asarray(jax.jit(jax.vmap(partial(objects.outline, side=48, roughness=0.5)))(KEYS))
    edge = np.ones((48, 48), bool)
    edge[1:-1, 1:-1] = False
    np.testing.assert_array_equal(masks[:, edge], 0)
    np.testing.assert_allclose(masks.mean((1, 2)), np.pi * 0.3**2, rtol=0.5)
    settings = Objects(area=(0.1, 0.1), near_share=1.0, near=0.0, rotation=0.0, log_scale=0.0)
    pair = pictured(1, 1)
    onto = jax.jit(jax.vmap(lambda key, cutout: objects.paste_cutout(key, pair, cutout, settings=settings), (0, None)))
    found = onto(KEYS, disk(33, 12.0))
    inside = (np.asarray(found.flow) == 0).all(-1).mean((1, 2))
    np.testing.assert_allclose(inside.max(), 0.1, rtol=0.1)  # the others lie across the border


def test_mistakes():
    with pytest.raises(InputError, match="objects.area: expected 0 < low <= high <= 1"):
        Objects(area=(0.0, 0.2))
    with pytest.raises(InputError, match="objects.near_share: expected a number from 0 to 1, got 2"):
        Objects(near_share=2)
