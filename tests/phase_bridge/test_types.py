"""Public functions given bytes, keys of every kind, and what is no image on [-1, 1]."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import phase_bridge
from common.errors import InputError
from phase_bridge import bridge as bridges
from phase_bridge.bridge import Bridge
from phase_bridge.sampling import estimate_model
from phase_bridge.toy import mixture

B = Bridge()
MODEL = mixture(B, [[-0.5, 0.0], [0.5, 0.0]], [0.3, 0.7], 0.1)
POINTS = jnp.asarray([[0.1, 0.2], [-0.4, 0.3]])
BYTES = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 2)).astype(np.uint8)
SIGNED = (BYTES / 127.5 - 1).astype(np.float32)
WRONG = {
    "uint16": (BYTES.astype(np.uint16) * 257, r"astype\(np.float32\) / 32767.5 - 1"),
    "int64": (BYTES.astype(np.int64), r"astype\(np.float32\) / 127.5 - 1"),
    "0..255": (BYTES.astype(np.float32), "/ 127.5 - 1"),
    "bool": (BYTES > 100, r"2 \* \w+.astype"),
    "NaN": (np.where(BYTES > 200, np.nan, SIGNED), "expected finite numbers"),
}


IMAGE_MODEL = estimate_model(B, lambda m, t: -0.5 * bridges.split(m)[0])


IMAGES = {
    "stroke": lambda x: phase_bridge.stroke(x).image,
    "inpainting": lambda x: phase_bridge.inpainting(x, np.ones((1, 4, 4, 1))).image,
    "log_likelihood": lambda x: phase_bridge.log_likelihood(IMAGE_MODEL, x, 0, rtol=1e-2, atol=1e-2),
}


@pytest.mark.parametrize("name", IMAGES)
def test_bytes_are_images_in_the_signed_interval(name):
    want = np.asarray(IMAGES[name](SIGNED))
    np.testing.assert_allclose(IMAGES[name](BYTES), want, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(IMAGES[name](jnp.asarray(BYTES)), want, rtol=1e-3, atol=1e-6)
    for images, says in WRONG.values():
        with pytest.raises(InputError, match=says):
            IMAGES[name](images)


def test_points_may_be_of_any_range():
    np.testing.assert_array_equal(phase_bridge.stroke(40 * POINTS).image, 40 * POINTS)
    for name, (images, _) in WRONG.items():
        if name != "0..255":
            with pytest.raises(InputError, match="start: expected"):
                phase_bridge.sample(MODEL, 0, (2, 1), start=images[:, 0, 0], nfe=2)


KEYED = {
    "sample": lambda key: phase_bridge.sample(MODEL, key, (2, 2), nfe=3)[0],
    "log_likelihood": lambda key: phase_bridge.log_likelihood(MODEL, POINTS, key, rtol=1e-2, atol=1e-2),
    "log_density": lambda key: (
        phase_bridge.log_density(
            MODEL, jnp.concatenate([POINTS, POINTS], -1), exact=False, key=key, rtol=1e-2, atol=1e-2
        ).log_density
    ),
    "prior": lambda key: B.prior(key, (2, 2)),
}


@pytest.mark.parametrize("name", KEYED)
def test_keys_and_seeds(name):
    want = np.asarray(KEYED[name](jax.random.key(0)))
    for key in (0, np.int64(0), jax.random.PRNGKey(0)):
        np.testing.assert_array_equal(KEYED[name](key), want)
    for wrong in (-1, 1.5, True, "0", np.random.default_rng(0)):
        with pytest.raises(InputError, match=r"key: expected a key \(typed or raw\) or a seed from 0 to 2\^32 - 1"):
            KEYED[name](wrong)


@pytest.mark.parametrize("name", ["sample", "prior"])
def test_one_key_a_sample(name):
    keys = jax.random.split(jax.random.key(3), 2)
    want = np.asarray(KEYED[name](keys))
    np.testing.assert_array_equal(KEYED[name](jax.random.key_data(keys)), want)
    with pytest.raises(InputError, match=r"or 2 such keys, one a sample, got keys of shape \[3\]"):
        KEYED[name](jax.random.split(jax.random.PRNGKey(3), 3))
