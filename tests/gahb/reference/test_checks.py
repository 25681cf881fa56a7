"""Every reference denoiser refuses the same values of sigma, block and patch, before it computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from gahb import reference
from gahb.metrics import psnr as slopes

SHAPE = (6, 6, 1)
IMAGES = np.random.default_rng(0).random((5, *SHAPE))
BASIS = reference.dct(SHAPE)

ONE = {
    "wiener": lambda sigma: reference.wiener(reference.fit(IMAGES), sigma),
    "expected_mse": lambda sigma: reference.expected_mse(reference.fit(IMAGES), sigma),
    "covariance_wiener": lambda sigma: reference.covariance_wiener(reference.fit_covariance(IMAGES), sigma),
    "covariance_mse": lambda sigma: reference.covariance_mse(reference.fit_covariance(IMAGES), sigma),
    "soft_threshold": lambda sigma: reference.soft_threshold(BASIS, sigma),
    "soft_error": lambda sigma: reference.soft_error(BASIS, IMAGES, sigma),
    "oracle": lambda sigma: reference.oracle(BASIS, sigma),
    "oracle_error": lambda sigma: reference.oracle_error(BASIS, IMAGES, sigma),
    "local": lambda sigma: reference.local(IMAGES, sigma, patch=3),
    "equivariant": lambda sigma: reference.equivariant(IMAGES, sigma, patch=3),
}
SEVERAL = {
    "empirical": lambda sigma: reference.empirical(IMAGES, sigma),
    "manifold_mse": lambda sigma: slopes.manifold_mse(sigma, dimension=2),
    "oracle_mse": lambda sigma: slopes.oracle_mse(np.ones(3), sigma),
}
NEVER = [0, -1, 0.0, float("nan"), float("inf"), np.float32(-1), jnp.asarray(-0.5), "0.1", None, True, 1j]


@pytest.mark.parametrize("value", NEVER, ids=repr)
@pytest.mark.parametrize("name", [*ONE, *SEVERAL])
def test_sigma_is_a_positive_number(name, value):
    with pytest.raises(InputError, match="^sigma: expected a positive number"):
        {**ONE, **SEVERAL}[name](value)


@pytest.mark.parametrize("value", [[0.1, 0.2], np.array([0.1]), jnp.asarray([0.1, 0.2])], ids=repr)
@pytest.mark.parametrize("name", ONE)
def test_a_list_of_levels_is_refused_where_one_denoiser_has_one_level(name, value):
    with pytest.raises(
        InputError, match="^sigma: expected a positive number, got .*; make one denoiser for each level"
    ):
        ONE[name](value)


@pytest.mark.parametrize("value", [[], [0.1, 0.0], [0.1, float("nan")], [[0.1, 0.2]], [[0.1], [0.1, 0.2]]], ids=repr)
@pytest.mark.parametrize("name", SEVERAL)
def test_lists_hold_positive_numbers(name, value):
    with pytest.raises(InputError, match="^sigma: expected a list of positive numbers"):
        SEVERAL[name](value)


@pytest.mark.parametrize("name", ["wiener", "covariance_wiener", "soft_threshold", "local", "empirical"])
def test_a_traced_sigma_gives_the_values_of_a_known_one(name):
    make = {**ONE, **SEVERAL}[name]
    y = jnp.asarray(IMAGES[:2], jnp.float32) + 0.1
    traced = jax.jit(lambda sigma: make(sigma)(y))(0.3)
    np.testing.assert_allclose(traced, make(0.3)(y), atol=1e-6)


@pytest.mark.parametrize("block", [0, -2, 2.5, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda block: reference.empirical(IMAGES, 0.1, block=block),
        lambda block: reference.local(IMAGES, 0.1, patch=3, block=block),
        lambda block: reference.equivariant(IMAGES, 0.1, patch=3, block=block),
        lambda block: reference.fit(IMAGES, block=block),
        lambda block: reference.fit_covariance(IMAGES, block=block),
    ],
)
def test_blocks_have_at_least_one_image(make, block):
    with pytest.raises(InputError, match="^block: expected a whole number of at least 1, got"):
        make(block)


@pytest.mark.parametrize("patch", [0, -3, 2.5, 3.0])
def test_patches_are_whole_numbers_of_pixels(patch):
    for make in (reference.local, reference.equivariant):
        with pytest.raises(InputError, match="^patch: expected a whole number"):
            make(IMAGES, 0.1, patch=patch)


@pytest.mark.parametrize("threshold", [-1.0, float("nan"), float("inf")])
def test_thresholds_are_at_least_zero(threshold):
    for made in (
        lambda: reference.soft_threshold(BASIS, 0.1, threshold=threshold),
        lambda: reference.soft_error(BASIS, IMAGES, 0.1, threshold=threshold),
    ):
        with pytest.raises(InputError, match="^threshold: expected a finite number of at least 0"):
            made()


@pytest.mark.parametrize("shape", [(0, 4, 1), (4, 4), (4.0, 4, 1)])
def test_bases_have_sides(shape):
    for make in (reference.dct, reference.wavelet):
        with pytest.raises(InputError, match="^shape"):
            make(shape)


@pytest.mark.parametrize(
    "function",
    [
        reference.weights,
        reference.dominant,
        reference.jacobian,
        lambda posterior, y: reference.jacobian_product(posterior, y, y),
    ],
)
@pytest.mark.parametrize(
    "posterior", [lambda y: y, reference.wiener(reference.fit(IMAGES), 0.1), None], ids=["lambda", "wiener", "None"]
)
def test_posteriors_are_made_by_empirical(function, posterior):
    with pytest.raises(InputError, match=r"^posterior: expected a denoiser made by empirical\(...\), got \w+; make"):
        function(posterior, IMAGES)


def test_a_direction_has_the_shape_of_its_image():
    posterior = reference.empirical(IMAGES, 0.1)
    with pytest.raises(InputError, match=r"^v: expected the shape of y, \[5, 6, 6, 1\], got \[5, 3, 6, 1\]"):
        reference.jacobian_product(posterior, IMAGES, IMAGES[:, :3])
