"""The embedded pyramid: what is shipped, and how images enter."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmatch_jax.model import backbone, features, weights


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((2, 32, 48, 3)), jnp.float32)


def test_shipped_weights():
    content = weights.BACKBONE.read_bytes()
    assert hashlib.sha256(content).hexdigest() == weights.BACKBONE_SHA256 and len(content) <= 2 * 2**20
    (params,) = weights.embedded().args
    assert set(params) == set(features.CONVS)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 478_032
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert params["conv4_3"]["kernel"].shape == (3, 3, 128, 128)


def test_levels_and_frozen_weights(images):
    pyramid = backbone.random(jax.random.key(0), widths=(2, 3, 4, 5))
    found = jax.eval_shape(pyramid, images)
    assert [each.shape for each in found] == [
        (2, 32, 48, 2), (2, 16, 24, 2), (2, 8, 12, 3), (2, 4, 6, 4), (2, 2, 3, 5)
    ]  # fmt: skip
    gradient = jax.jit(jax.grad(lambda p: sum(each.sum() for each in p(images))))(pyramid)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_random_weights_keep_the_size_of_activations():
    init = jax.jit(backbone.init, static_argnames="widths")
    kernel = init(jax.random.key(1), widths=(2, 2, 32, 2))["conv3_2"]["kernel"]
    assert kernel.shape == (3, 3, 32, 32)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 32)), rtol=0.03)


def test_contrast_and_colour_of_the_light_do_not_matter(images):
    pyramid = backbone.random(jax.random.key(0), widths=(2, 3, 4, 5))
    levels = jax.jit(lambda pyramid, images: pyramid(images))
    one, other = levels(pyramid, images), levels(pyramid, 0.3 * images + jnp.asarray([0.1, 0.2, 0.3]))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
    flat = backbone.standardised(jnp.full((1, 4, 4, 3), 0.5))
    np.testing.assert_array_equal(flat, 0)
    np.testing.assert_allclose((backbone.standardised(images) ** 2).mean((1, 2, 3)), 1, rtol=1e-3)


def test_patches_are_the_samples_around_a_cell(images):
    found = jax.jit(backbone.patches)(images)
    assert [each.shape[1:3] for each in found] == [(32 // 2**i, 48 // 2**i) for i in (0, 1, 2)] + [(4, 6), (2, 3)]
    # Level 2: samples are pixels, a cell has 4 x 4 and two around them; channels lead.
    patch = np.asarray(images)[1, 10:18, 6:14].transpose(2, 0, 1).reshape(-1)
    np.testing.assert_allclose(found[2][1, 3, 2], patch - patch.mean(), atol=1e-6)
