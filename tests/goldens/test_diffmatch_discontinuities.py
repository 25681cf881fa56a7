"""Elastic discontinuities against the original's numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from diffmatch_jax.data import augment


def test_field(golden):
    d = golden("diffmatch", "discontinuities")
    noise = np.stack([d["elastic_uniform_x"], d["elastic_uniform_y"]], -1)
    got = augment.displacement(noise, sigma=float(d["elastic_sigma"]), gain=float(d["elastic_alpha"]))
    np.testing.assert_allclose(got[..., 0], d["elastic_dx"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(got[..., 1], d["elastic_dy"], rtol=0, atol=1e-3)


def test_blobs(golden):
    d = golden("diffmatch", "discontinuities")
    blobs = jnp.asarray(d["blob_x_y_sigma"], jnp.float32)
    size = d["blob_mask_as_run"].shape
    got = augment.blobs(blobs[:, :2], blobs[:, 2], size)
    np.testing.assert_allclose(got, d["blob_mask_centred_as_intended"], rtol=0, atol=1e-6)
    released = augment.blobs(blobs[:, 1::-1], blobs[:, 2], size)  # rows and columns of the centres swapped
    np.testing.assert_allclose(released, d["blob_mask_as_run"], rtol=0, atol=1e-6)
    assert np.abs(np.asarray(got) - released).max() > 0.5


def test_displaced_target(golden):
    d = golden("diffmatch", "discontinuities")
    flow, by = d["compose_base_flow"], d["compose_perturbation"]
    got = jax.jit(lambda *x: augment.displaced_flow(*x, outside="zeros"))(flow, by)
    np.testing.assert_allclose(got, d["compose_flow"], rtol=0, atol=5e-3)
    image = jax.jit(lambda *x: augment.displaced(*x, outside="zeros"))(d["compose_target_image"], by)
    np.testing.assert_allclose(np.round(image), d["compose_target_image_out"].astype(np.float32), rtol=0, atol=1)
    # What moved is neither nothing nor everything.
    assert 0.05 < (np.abs(np.asarray(got) - flow).max(-1) > 0.05).mean() < 0.9
