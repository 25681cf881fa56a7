"""Disks, sinusoids and their tangent spaces, against geometry."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gahb.datasets import manifolds
from gahb.datasets.calpha import low_pass

SIZE = 32
DISK = np.array([15.3, 14.1, 8.2, 0.2, 0.9], np.float32)

render = jax.jit(functools.partial(manifolds.render_disk, size=SIZE))


def test_disk_has_its_colours_and_its_area():
    image = np.asarray(render(DISK))
    assert image.shape == (SIZE, SIZE, 1)
    np.testing.assert_allclose([image[0, 0, 0], image[15, 14, 0]], DISK[3:], rtol=1e-6)
    area = (image - 0.2).sum() / 0.7
    assert abs(area / (np.pi * 8.2**2) - 1) < 0.01
    rows, columns = np.mgrid[:SIZE, :SIZE]
    weights = (image[..., 0] - 0.2) / (image - 0.2).sum()
    np.testing.assert_allclose([(weights * rows).sum(), (weights * columns).sum()], DISK[:2], atol=0.02)


def test_derivatives_of_a_disk_are_exact():
    jacobian = np.asarray(jax.jit(jax.jacfwd(render))(DISK))[..., 0, :]
    with jax.enable_x64(True):
        exact = DISK.astype(np.float64)
        for number in range(5):
            step = np.zeros(5)
            step[number] = 1e-6
            upper, lower = (manifolds.render_disk(jnp.asarray(exact + sign * step), SIZE) for sign in (1, -1))
            slope = np.asarray(upper - lower)[..., 0] / 2e-6
            np.testing.assert_allclose(jacobian[..., number], slope, rtol=0, atol=1e-4)
    inside = np.asarray(render(np.array([15.3, 14.1, 8.2, 0, 1], np.float32)))[..., 0]
    np.testing.assert_allclose(jacobian[..., 4], inside, atol=1e-6)
    np.testing.assert_allclose(jacobian[..., 3], 1 - inside, atol=1e-6)


def test_centre_on_a_pixel_has_derivatives():
    jacobian = jax.jacfwd(render)(np.array([16, 16, 5, 0.1, 0.8], np.float32))
    assert np.isfinite(jacobian).all() and np.abs(jacobian[..., 0]).max() > 0.1


def test_tangent_space_is_orthonormal_and_spans_the_derivatives():
    basis = np.asarray(jax.jit(functools.partial(manifolds.tangent_space, render))(DISK))
    assert basis.shape == (5, SIZE, SIZE, 1)
    flat = basis.reshape(5, -1).astype(np.float64)
    np.testing.assert_allclose(flat @ flat.T, np.eye(5), atol=1e-5)
    jacobian = np.asarray(jax.jacfwd(render)(DISK), np.float64).reshape(-1, 5)
    np.testing.assert_allclose(flat.T @ (flat @ jacobian), jacobian, atol=1e-4)


def test_tangent_space_holds_small_changes():
    flat = np.asarray(manifolds.tangent_space(render, DISK)).reshape(5, -1)
    change = np.array([0.02, -0.01, 0.015, 0.01, -0.02], np.float32)
    moved = np.asarray(render(DISK + change) - render(DISK)).reshape(-1)
    outside = moved - flat.T @ (flat @ moved)
    assert np.linalg.norm(outside) < 0.1 * np.linalg.norm(moved)


def test_draws_of_disks_stay_in_their_ranges():
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: manifolds.draw_disk(key, 80)))(keys))
    centre, radius, grays = drawn[:, :2], drawn[:, 2], drawn[:, 3:]
    assert centre.min() >= 10 and centre.max() <= 69 and centre.min() < 11 and centre.max() > 68
    border = np.minimum(centre, 79 - centre).min(1) + 0.5
    assert (radius >= 5).all() and (radius <= border - 1).all() and radius.max() > 30
    np.testing.assert_allclose(grays.mean(0), 0.5, atol=0.03)
    np.testing.assert_allclose(grays.var(0), 1 / 12, atol=0.01)
    assert abs(np.corrcoef(grays.T)[0, 1]) < 0.1


@pytest.mark.parametrize(("wrap", "integer"), [(False, False), (True, False), (False, True)])
def test_draws_of_hard_disks(wrap, integer):
    keys = jax.random.split(jax.random.key(1), 1000)
    draw = functools.partial(manifolds.draw_hard_disk, size=40, wrap=wrap, integer=integer)
    drawn = np.asarray(jax.jit(jax.vmap(draw))(keys))
    centre, radius = drawn[:, :2], drawn[:, 2:3]
    assert radius.min() >= 3 and radius.max() <= 18
    inside = (centre >= radius) & (centre <= 40 - radius)
    assert inside.all() != wrap
    assert centre.min() >= 0 and centre.max() <= 40
    assert (drawn[:, :3] == np.round(drawn[:, :3])).all() == integer


def test_hard_disk_closes_on_a_torus():
    at_border = manifolds.hard_disk(jnp.array([0.0, 0.0, 5.0, 0.25, 1.0]), 20)
    centred = manifolds.hard_disk(jnp.array([10.0, 10.0, 5.0, 0.25, 1.0]), 20)
    np.testing.assert_array_equal(np.roll(at_border, (10, 10), (0, 1)), centred)
    assert (np.asarray(centred) == 1).sum() == 81  # lattice points within distance 5


def test_anti_aliased_hard_disk_keeps_its_range():
    image = np.asarray(manifolds.hard_disk(jnp.array([30.0, 33.0, 12.0, 0.25, 0.75]), 32, antialias=1))
    assert image.shape == (32, 32, 1)
    np.testing.assert_allclose([image[0, 0, 0], image[15, 16, 0]], [0.25, 0.75], atol=1e-6)


@pytest.mark.parametrize("extension", ["periodic", "symmetric", "reflect", ("symmetric", "periodic")])
def test_low_pass_of_a_constant(extension):
    for gain in (1.0, 2.0):
        image = low_pass(jnp.full((8, 12, 2), 0.3), extension=extension, gain=gain)
        np.testing.assert_allclose(image, 0.3 * gain, rtol=1e-6)
        assert image.shape == ((5, 7, 2) if extension == "reflect" else (4, 6, 2))


def test_sinusoid():
    image = np.asarray(manifolds.render_sinusoid(jnp.array([0.7, 0.8]), 16, frequency=(2, 1)))[..., 0]
    row, column = np.mgrid[:16, :16]
    want = 0.8 * (1 + np.cos(2 * np.pi * (2 * row + column) / 16 + 0.7)) / 2
    np.testing.assert_allclose(image, want, atol=1e-6)


def test_sinusoids_form_a_cone_of_dimension_two():
    render_one = functools.partial(manifolds.render_sinusoid, size=16)
    basis = np.asarray(manifolds.tangent_space(render_one, jnp.array([0.4, 0.6]))).reshape(2, -1)
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-5)
    image = np.asarray(render_one(jnp.array([0.4, 0.6]))).reshape(-1)
    # A cone contains the ray through each of its points.
    np.testing.assert_allclose(basis.T @ (basis @ image), image, atol=1e-5)
    drawn = np.asarray(jax.vmap(manifolds.draw_sinusoid)(jax.random.split(jax.random.key(0), 4000)))
    np.testing.assert_allclose(drawn.mean(0), [np.pi, 0.5], rtol=0.05)
    assert drawn.min() >= 0 and drawn[:, 0].max() <= 2 * np.pi and drawn[:, 1].max() <= 1
