"""Parametric warps against the original's numbers."""

import jax.numpy as jnp
import numpy as np

from diffmatch_jax.data import warps
from diffmatch_jax.model import released
from diffmatch_jax.model.flow import flow_of, grid, pixels_of_relative, relative_of_pixels, sample, within


def relative_grid(size, alignment="corner"):
    return relative_of_pixels(grid(*size), size, alignment=alignment)


def flow(relative, size):
    """Returns the pixel flow, channels first, of relative corner-aligned positions."""
    positions = pixels_of_relative(relative, size, alignment="corner")
    return np.moveaxis(np.asarray(flow_of(positions)), -1, 1)


def check(d, name, relative, grid_name=None, flow_name=None):
    size = tuple(d["out_hw"].tolist())
    np.testing.assert_allclose(relative, d[grid_name or f"{name}_grid"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(flow(relative, size), d[flow_name or f"{name}_flow"], rtol=0, atol=1e-4)


def test_homography(golden):
    d = golden("diffmatch", "parametric_warps")
    corners = jnp.asarray(d["hom4pt_theta"]).reshape(-1, 2, 4).swapaxes(1, 2)
    matrix = warps.homography_of_corners(corners)
    np.testing.assert_allclose(matrix.reshape(-1, 9), d["hom4pt_matrix"], rtol=0, atol=1e-5)
    moved, third = warps.project(matrix, relative_grid(d["out_hw"].tolist()))
    check(d, "hom4pt", moved)
    assert (third > 0).all()


def test_affine(golden):
    d = golden("diffmatch", "parametric_warps")
    size, theta = tuple(d["out_hw"].tolist()), jnp.asarray(d["affine_theta"]).reshape(-1, 2, 3)
    names = ("affine_grid_corner_aligned", "affine_flow_corner_aligned")
    check(d, "affine", warps.affine(theta, relative_grid(size)), *names)
    # The released pairs take half-pixel positions and read the result as corner-aligned ones.
    names = ("affine_grid_half_pixel", "affine_flow_half_pixel")
    check(d, "affine", warps.affine(theta, relative_grid(size, "half_pixel")), *names)


def test_thin_plate_spline(golden):
    d = golden("diffmatch", "parametric_warps")
    size = tuple(d["out_hw"].tolist())
    controls = jnp.asarray(d["tps_theta"]).reshape(-1, 2, 9).swapaxes(1, 2)
    moved = warps.thin_plate(controls, relative_grid(size))
    check(d, "tps", moved)
    np.testing.assert_allclose(warps.SPLINE_INVERSE, d["tps_L_inverse"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(warps.CONTROL_POINTS, d["tps_control_points_xy"])
    theta = jnp.asarray(d["affine_theta"]).reshape(-1, 2, 3)
    count = len(d["affine_tps_grid"])
    first = warps.affine(theta[:count], relative_grid(size))
    positions = pixels_of_relative(moved[:count], size, alignment="corner")
    both = sample(first, positions)
    known = (np.abs(d["affine_tps_grid"]) < 10).all(-1) & np.asarray(within(positions, size))
    assert known.mean() > 0.3
    np.testing.assert_allclose(both[known], d["affine_tps_grid"][known], rtol=0, atol=1e-4)


def test_moved_object(golden):
    d = golden("diffmatch", "parametric_warps")
    size = tuple(d["obj_image_hw"].tolist())
    motion = {
        "rotation": float(d["obj_rotation_deg"]),
        "scale": float(d["obj_scale"]),
        "translation": d["obj_translation_xy"].tolist(),
    }
    matrix = released.object_motion(size, **motion)
    np.testing.assert_allclose(matrix, d["obj_matrix"], rtol=0, atol=1e-9)
    positions = grid(*size)
    moved, _ = warps.project(jnp.asarray(matrix, jnp.float32), positions)
    np.testing.assert_allclose(np.moveaxis(np.asarray(moved - positions), -1, 0), d["obj_flow"], rtol=0, atol=1e-4)
    back, _ = warps.project(jnp.asarray(np.linalg.inv(matrix), jnp.float32), positions)
    got = sample(jnp.asarray(d["obj_mask"])[..., None], back)[..., 0]
    np.testing.assert_allclose(got, d["obj_mask_warped"], rtol=0, atol=2e-2)
