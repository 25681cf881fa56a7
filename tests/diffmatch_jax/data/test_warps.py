"""Warps by the points that define them."""

import jax.numpy as jnp
import numpy as np

from diffmatch_jax.data import warps


def around(points, strength=0.3, seed=0, count=3):
    return jnp.asarray(points + strength * np.random.default_rng(seed).normal(size=(count, *points.shape)), jnp.float32)


def test_homography_moves_the_corners():
    corners = around(warps.CORNERS, 0.2)
    matrix = warps.homography_of_corners(corners)
    at = jnp.broadcast_to(jnp.asarray(warps.CORNERS, jnp.float32), (3, 4, 2))[:, :, None]
    moved, third = warps.project(matrix, at)
    np.testing.assert_allclose(moved[:, :, 0], corners, atol=1e-5)
    assert (third > 0).all()
    back, _ = warps.project(warps.inverse(matrix), moved)
    np.testing.assert_allclose(back, at, atol=1e-5)
    straight = warps.homography_of_corners(jnp.asarray(warps.CORNERS))
    np.testing.assert_allclose(straight, np.eye(3), atol=1e-6)


def test_spline_interpolates_and_keeps_planes():
    controls = around(warps.CONTROL_POINTS)
    at = jnp.broadcast_to(jnp.asarray(warps.CONTROL_POINTS, jnp.float32), (3, 9, 2))[:, :, None]
    np.testing.assert_allclose(warps.thin_plate(controls, at)[:, :, 0], controls, atol=1e-5)
    theta = jnp.asarray(np.random.default_rng(1).normal(size=(1, 2, 3)), jnp.float32)
    flat = warps.affine(theta, at[:1])[:, :, 0]
    anywhere = jnp.asarray(np.random.default_rng(2).normal(size=(1, 4, 5, 2)), jnp.float32)
    want = warps.affine(theta, anywhere)
    np.testing.assert_allclose(warps.thin_plate(flat, anywhere), want, atol=2e-5)
    np.testing.assert_allclose(want[0, 1, 2], theta[0, :, :2] @ anywhere[0, 1, 2] + theta[0, :, 2], atol=1e-5)
