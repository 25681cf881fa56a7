"""Resizing: what each alignment keeps exactly, and means over cells."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from diffmatch_jax.model import resize as resizing
from diffmatch_jax.model.flow import grid, relative_of_pixels, to_pixels, warp
from diffmatch_jax.model.resize import (
    adaptive_mean,
    area,
    average_flow,
    resize,
    resize_flow,
    resize_normalised,
)

QUICK = settings(max_examples=10, deadline=None)
NUMBERS = st.floats(-1, 1, width=32)


def noise(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def affine_normalised(matrix, size):
    """The normalised flow u -> A u about the middle, in relative positions from 0 to 1."""
    u = relative_of_pixels(grid(*size), size) / 2
    return u @ jnp.asarray(matrix, jnp.float32).T


def test_same_size_is_the_identity():
    x = noise(5, 7, 3)
    for alignment in ("half_pixel", "corner"):
        np.testing.assert_allclose(resize(x, (5, 7), alignment=alignment), x, atol=1e-6)
    for mean in (area, adaptive_mean):
        np.testing.assert_allclose(mean(x, (5, 7)), x, atol=1e-6)
    np.testing.assert_allclose(resize(x, (5, 7), antialias=True), x, atol=1e-6)


# A few shapes, since each is compiled.
@given(size=st.sampled_from([(4, 9), (2, 3)]), new=st.sampled_from([(7, 3), (6, 6)]), matrix=st.tuples(*4 * [NUMBERS]))
@QUICK
def test_affine_flow_is_the_same_flow_on_every_grid(size, new, matrix):
    """The property the convention is chosen for: exact up to and with the border, in both units."""
    matrix = np.reshape(matrix, (2, 2))
    coarse, fine = affine_normalised(matrix, size), affine_normalised(matrix, new)
    np.testing.assert_allclose(resize_normalised(coarse, new), fine, atol=1e-5)
    pixels = resize_flow(to_pixels(coarse), new)
    np.testing.assert_allclose(pixels, to_pixels(fine), atol=1e-4)


@given(factor=st.sampled_from([2, 3, 4]), dx=st.integers(-5, 5), dy=st.integers(-3, 3), seed=st.integers(0, 2**31))
@QUICK
def test_warping_commutes_with_enlarging(factor, dx, dy, seed):
    """A flow of whole cells moves an enlarged image by as many enlarged cells."""
    size, new = (6, 8), (6 * factor, 8 * factor)
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(*size, 1)), jnp.float32)
    flow = jnp.broadcast_to(jnp.asarray([dx, dy], jnp.float32), (*size, 2))
    large = resize_flow(flow, new)
    np.testing.assert_allclose(large, np.broadcast_to(factor * np.array([dx, dy]), (*new, 2)), atol=1e-5)
    before, after = warp(resize(x, new), large), resize(warp(x, flow), new)
    # Without the outermost of the cells that stay inside: what is beyond the border is mixed into them.
    rows, columns = (
        slice(factor * (max(-d, 0) + 1), factor * (n - max(d, 0) - 1)) for d, n in zip((dy, dx), size, strict=True)
    )
    assert before[rows, columns].size
    np.testing.assert_allclose(before[rows, columns], after[rows, columns], atol=1e-5)


def test_corner_alignment_keeps_the_corners():
    x = noise(4, 5, 2)
    got = resize(x, (7, 9), alignment="corner")
    np.testing.assert_allclose(got[::2, ::2], x, atol=1e-6)
    np.testing.assert_allclose(resize(x, (1, 1), alignment="corner")[0, 0], x[0, 0], atol=1e-6)


def test_edges():
    ramp = jnp.arange(4.0)[None, :, None]
    repeated = resize(ramp, (1, 8))[0, :, 0]
    np.testing.assert_allclose(repeated, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)
    continued = resize(ramp, (1, 8), edge="linear")[0, :, 0]
    np.testing.assert_allclose(continued, np.arange(8) / 2 - 0.25, atol=1e-6)
    np.testing.assert_allclose(resize(jnp.ones((1, 1, 1)), (3, 2), edge="linear"), np.ones((3, 2, 1)))


def test_low_pass():
    """The triangle has the width of the new cells: the finest stripes vanish, and the mean stays."""
    stripes = jnp.asarray([1.0, -1.0] * 8)[None, :, None]
    assert jnp.abs(resize(stripes, (1, 4), antialias=True)[0, 1:-1]).max() < 1e-6
    assert jnp.abs(resize(stripes, (1, 5))).max() > 0.5
    np.testing.assert_allclose(resize(jnp.ones((9, 9, 1)), (4, 2), antialias=True), np.ones((4, 2, 1)), atol=1e-6)


def test_means():
    x = np.asarray(noise(6, 10, 2))
    np.testing.assert_allclose(area(x, (3, 5)), x.reshape(3, 2, 5, 2, 2).mean((1, 3)), atol=1e-6)
    np.testing.assert_allclose(adaptive_mean(x, (3, 5)), area(x, (3, 5)), atol=1e-6)
    line = jnp.asarray([3.0, 6.0, 9.0])[None, :, None]
    np.testing.assert_allclose(area(line, (1, 2))[0, :, 0], [4, 8], atol=1e-6)
    np.testing.assert_allclose(adaptive_mean(line, (1, 2))[0, :, 0], [4.5, 7.5], atol=1e-6)  # the middle one in both
    np.testing.assert_allclose(adaptive_mean(line, (1, 4))[0, :, 0], [3, 4.5, 7.5, 9], atol=1e-6)
    assert area(np.full((4, 4, 1), 255, np.uint8), (2, 2)).dtype == jnp.float32


def test_matrices_of_many_sizes_are_not_all_kept():
    first = resizing.areas(2, 3).copy()
    for kept, call in (
        (resizing.areas, lambda n: resizing.areas(n, 3)),
        (resizing.interpolation, lambda n: resizing.interpolation(n, 3, "half_pixel", "repeat", False)),
        (resizing._adaptive, lambda n: resizing._adaptive(n, 3)),
    ):
        for n in range(2, 102):
            call(n)
        assert kept.cache_info().currsize == 64
    np.testing.assert_array_equal(resizing.areas(2, 3), first)


def test_average_flow_leaves_invalid_flow_out():
    flow = jnp.where(jnp.arange(8) < 4, 2.0, jnp.inf)[None, :, None] * jnp.ones((4, 1, 2))
    mask = jnp.arange(8)[None] < jnp.asarray([4, 4, 3, 3])[:, None]
    mean, share = average_flow(flow, mask, (2, 2))
    np.testing.assert_allclose(mean[:, 0], np.full((2, 2), 2), atol=1e-6)
    np.testing.assert_array_equal(mean[:, 1], np.zeros((2, 2)))
    np.testing.assert_allclose(share, [[1, 0], [0.75, 0]], atol=1e-6)


def test_mistakes():
    x = noise(4, 4, 1)
    with pytest.raises(InputError, match="size: expected a positive height"):
        resize(x, (0, 3))
    with pytest.raises(InputError, match="antialias: expected False"):
        resize(x, (2, 2), alignment="corner", antialias=True)
    with pytest.raises(InputError, match="edge: expected"):
        resize(x, (2, 2), edge="wrap")
