"""Pairs: the target is the source warped by the flow, keys alone decide, warps are as strong as the released ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from diffmatch_jax.data import warps
from diffmatch_jax.data.warps import KINDS, Warps, draw_warp, make_bank, make_pairs
from diffmatch_jax.model import flow

SIZE = 24


def smooth(height, width, seed):
    """An image of long waves, which interpolation hardly changes."""
    y, x = np.mgrid[:height, :width] / 40
    phase = np.random.default_rng(seed).uniform(0, 6, size=(3, 1, 1))
    return np.moveaxis(0.5 + 0.25 * np.sin(x * 3 + phase) + 0.25 * np.cos(y * 2 - phase), 0, -1).astype(np.float32)


@pytest.fixture(scope="module")
def bank():
    return make_bank([smooth(40, 60, 0), smooth(60, 40, 1), smooth(48, 48, 2)])


@pytest.fixture(scope="module")
def make():
    return jax.jit(make_pairs, static_argnames=("size", "settings", "supersample"))


@pytest.fixture(scope="module")
def batch(bank, make):
    return make(jax.random.split(jax.random.key(0), 96), bank, size=SIZE, settings=Warps())


def moves(keys, settings, positions):
    """Returns where the warp of each key takes the positions."""
    return jax.jit(jax.vmap(lambda key: draw_warp(key, settings)[1](positions)))(keys)


def test_target_is_the_warped_source(batch):
    assert batch.source.shape == (96, SIZE, SIZE, 3) and batch.flow.shape == (96, SIZE, SIZE, 2)
    warped = flow.warp(batch.source, batch.flow)
    error = np.abs(np.asarray(warped - batch.target)).max(-1)
    mask = np.asarray(batch.mask)
    for kind in range(3):
        of_kind = np.asarray(batch.kind) == kind
        assert of_kind.any()
        assert error[of_kind][mask[of_kind]].max() < 0.02, KINDS[kind]
    np.testing.assert_array_equal(batch.mask, flow.valid(batch.flow))
    assert jnp.isfinite(batch.flow).all() and set(np.unique(batch.image)) == {0, 1, 2}
    # The wrong direction is no small error.
    other = np.abs(np.asarray(flow.warp(batch.source, -batch.flow) - batch.target)).max(-1)
    assert other[mask].mean() > 5 * error[mask].mean()


def test_warps_are_as_strong_as_the_released_ones(bank, make):
    """Medians for 240 pixels: homographies 40 where valid, which are 80 %; affine flow 29; splines by sigma."""
    keys = jax.random.split(jax.random.key(1), 400)
    found = make(keys, bank, size=12, settings=Warps())
    length = np.sqrt((np.asarray(found.flow) ** 2).sum(-1)) * 240 / 12
    positions, kind = np.asarray(flow.mapping_of(found.flow)), np.asarray(found.kind)
    # To the window's edges: with so few pixels half a pixel matters.
    mask = ((positions >= -0.5) & (positions <= 11.5)).all(-1)
    np.testing.assert_allclose(np.bincount(kind) / 400, [0.5, 0.25, 0.25], atol=0.06)
    of_kind = [np.flatnonzero(kind == index) for index in range(3)]
    valid = np.median([length[i][mask[i]].mean() for i in of_kind[0]])
    np.testing.assert_allclose(valid, 40, rtol=0.1)
    np.testing.assert_allclose(np.median(mask[of_kind[0]].mean((1, 2))), 0.8, atol=0.05)
    np.testing.assert_allclose(np.median(length[of_kind[1]].mean((1, 2))), 29, rtol=0.12)
    controls = jnp.asarray(warps.CONTROL_POINTS, jnp.float32)[:, None]
    splines = Warps(shares=(0, 0, 1))
    moved = moves(keys[:200], splines, controls) - controls
    np.testing.assert_allclose([moved.mean(), moved.std()], [0, 0.2], atol=0.01)


def test_homographies_look_no_further_than_they_may(bank):
    """All are seen from the front, and corners of the target stay within reach of the source's middle."""
    settings = Warps(shares=(1, 0, 0), reach=(1.5, 1.3))
    corners = jnp.asarray(warps.CORNERS, jnp.float32)[:, None]
    reached = moves(jax.random.split(jax.random.key(4), 200), settings, corners)
    assert (jnp.abs(reached) <= jnp.asarray(settings.reach) + 1e-4).all()
    assert jnp.abs(reached).max(0).min() > 1.25


def test_a_pair_is_a_function_of_its_key(bank, make, batch):
    keys = jax.random.split(jax.random.key(0), 96)
    again = make(keys[::-1], bank, size=SIZE, settings=Warps())
    for got, want in zip(again, batch, strict=True):
        np.testing.assert_allclose(got[::-1], want, atol=1e-6)
    assert len(np.unique(np.asarray(batch.flow)[:, 3, 5, 0])) == 96


def test_no_warp_is_the_identity(bank, make):
    still = Warps(shares=(1, 1, 0), corner=0.0, rotation=0.0, stretch=(1.0, 1.0), shift=0.0)
    found = make(jax.random.split(jax.random.key(2), 8), bank, size=SIZE, settings=still, supersample=2)
    np.testing.assert_allclose(found.flow, 0, atol=1e-4)
    np.testing.assert_allclose(found.target, found.source, atol=1e-5)


def test_frames_are_rotated_and_zoomed_about_the_middle(bank, make):
    still = {"shares": (0, 1, 0), "rotation": 0.0, "stretch": (1.0, 1.0), "shift": 0.0}
    keys = jax.random.split(jax.random.key(2), 64)
    found = make(keys, bank, size=SIZE, settings=Warps(**still, frame_rotation=35.0, frame_zoom=0.6))
    position = np.asarray(found.flow) + np.asarray(flow.grid(SIZE, SIZE)) - (SIZE - 1) / 2
    # A similarity p -> c p of the plane of complex numbers.
    start = np.asarray(flow.grid(SIZE, SIZE)) - (SIZE - 1) / 2
    factor = (position[..., 0] + 1j * position[..., 1]) / (start[..., 0] + 1j * start[..., 1])
    assert np.ptp(factor.real, axis=(1, 2)).max() < 1e-3 and np.ptp(factor.imag, axis=(1, 2)).max() < 1e-3
    angle, zoom = np.degrees(np.angle(factor[:, 0, 0])), np.log(np.abs(factor[:, 0, 0]))
    for value, most in ((angle, 35.0), (zoom, 0.6)):
        assert 0.8 * most < np.abs(value).max() <= most * 1.001 and value.min() < -0.5 * most < 0.5 * most < value.max()


def test_windows_stay_inside_their_image(make):
    """Beyond an image's own size the bank holds zeros, which a source never shows."""
    bank = make_bank([np.full((20, 50, 1), 255, np.uint8), np.full((50, 20, 1), 255, np.uint8)])
    whole = Warps(window=(1.0, 1.0))
    found = make(jax.random.split(jax.random.key(3), 16), bank, size=10, settings=whole)
    np.testing.assert_allclose(found.source, 1, atol=1e-5)
    assert found.target.min() < 0.5


def test_mistakes():
    with pytest.raises(InputError, match="pairs.shares: expected three shares"):
        Warps(shares=(0, 0, 0))
    with pytest.raises(InputError, match=r"pairs.window: expected 0 < low <= high at most 1, got \[0.5, 1.2\]"):
        Warps(window=(0.5, 1.2))
    with pytest.raises(InputError, match="pairs.stretch: expected 0 < low <= high, got"):
        Warps(stretch=(0, 1))
    with pytest.raises(InputError, match="pairs.reach: expected at least 1"):
        Warps(reach=(2, 0.5))
    with pytest.raises(InputError, match="pairs.corner: expected a number from 0"):
        Warps(corner=1.0)
    with pytest.raises(InputError, match="pairs.frame_rotation: expected 0 to 180"):
        Warps(frame_rotation=181.0)
    with pytest.raises(InputError, match="pairs.frame_zoom: expected 0 to 2"):
        Warps(frame_zoom=-0.1)
    with pytest.raises(InputError, match="images: expected images"):
        make_bank([np.zeros((4, 4, 3)), np.zeros((4, 4, 1))])
    with pytest.raises(InputError, match="got 0 of kinds"):
        make_bank([])
