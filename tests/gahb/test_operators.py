"""Measurement operators: M is the adjoint of M^T, and gives back what can be measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from gahb import operators
from gahb.operators import project

SHAPE = (12, 8, 2)
KEY = jax.random.key(0)

OPERATORS = {
    "synthesis": operators.synthesis(),
    "inpainting": operators.inpainting(SHAPE, box=(5, 4, 6, 3)),
    "random_pixels": operators.random_pixels(KEY, SHAPE, fraction=0.3),
    "pixels": operators.pixels(np.eye(12, 8)),
    "super_resolution": operators.super_resolution(4),
    "random_basis": operators.random_basis(KEY, SHAPE, fraction=0.2),
    "spectral": operators.spectral(SHAPE, fraction=0.3),
}
each_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


def images(seed):
    return jax.random.normal(jax.random.key(seed), (3, *SHAPE))


def inner(a, b):
    """Real inner product of each pair, also of complex measurements."""
    return np.real(np.sum(np.conj(a) * np.asarray(b), axis=tuple(range(1, np.ndim(a)))))


@each_operator
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_adjoint(operator, seed):
    x, m = images(seed), operator.analyze(images(seed + 1))
    m = jax.random.normal(jax.random.key(seed), m.shape, m.dtype)
    np.testing.assert_allclose(inner(operator.analyze(x), m), inner(x, operator.synthesize(m)), atol=1e-3, rtol=1e-4)


@each_operator
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_measuring_what_was_measured_changes_nothing(operator, seed):
    x = images(seed)
    m = operator.analyze(x)
    np.testing.assert_allclose(operator.analyze(operator.synthesize(m)), m, atol=1e-5)
    np.testing.assert_allclose(project(operator, project(operator, x)), project(operator, x), atol=1e-5)
    np.testing.assert_allclose(inner(m, m), inner(project(operator, x), project(operator, x)), rtol=1e-4)


def test_released_spectral_mask_is_no_projection():
    x = images(0)
    one, two = (operators.spectral(SHAPE, fraction=0.3, symmetric=symmetric) for symmetric in (True, False))
    assert np.abs(project(two, project(two, x)) - project(two, x)).max() > 0.01
    kept = operators.spectral_mask(SHAPE, fraction=0.3)
    np.testing.assert_array_equal(kept, np.roll(kept[::-1, ::-1], (1, 1), (0, 1)))
    assert kept[0, 0] == 1
    np.testing.assert_array_equal(one.analyze(x) != 0, np.broadcast_to(kept[None, ..., None] != 0, x.shape))
    everything = operators.spectral_mask((8, 8, 1), fraction=1.0)
    assert everything.sum() <= 64


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (9, 14), (20, 7)])
@pytest.mark.parametrize("fraction", [0.04, 0.1, 0.25, 0.5, 0.77, 1.0])
def test_spectral_keeps_the_fraction_in_pairs(height, width, fraction):
    kept = operators.spectral_mask((height, width, 1), fraction=fraction)
    # Frequencies come in pairs, beside the mean and at most three others.
    assert abs(kept.sum() - fraction * height * width) <= 1
    np.testing.assert_array_equal(kept, np.roll(kept[::-1, ::-1], (1, 1), (0, 1)))
    # Low-pass: nothing that is left out has a lower frequency along both axes than something that is kept.
    largest = np.maximum(abs(np.fft.fftfreq(height))[:, None], abs(np.fft.fftfreq(width)))
    if fraction < 1:
        assert largest[kept == 1].max() <= largest[kept == 0].min() + 1e-9


def test_noise_in_a_measurement_stays_in_what_is_measured():
    operator = operators.spectral((16, 16, 1), fraction=0.2)
    m = jax.random.normal(KEY, (2, 16, 16, 1)) + 1j * jax.random.normal(jax.random.key(1), (2, 16, 16, 1))
    x = operator.synthesize(m)
    np.testing.assert_allclose(project(operator, x), x, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (4, 5), (1, 2)])
def test_hole_blanks_the_pixels_that_it_names(height, width):
    operator = operators.hole((8, 9, 2), rows=(2, 2 + height), columns=(4, 4 + width))
    lost = np.asarray(operator.analyze(jnp.ones((1, 8, 9, 2)))) == 0
    assert lost.sum() == height * width * 2 and lost[0, 2 : 2 + height, 4 : 4 + width].all()
    with pytest.raises(InputError, match="rows: expected numbers from 0 to 8, in order, got"):
        operators.hole((8, 9, 2), rows=(6, 9), columns=(0, 1))


def test_inpainting_blanks_the_box_only():
    mask = operators.inpainting_mask(SHAPE, box=(5, 4, 6, 3))
    assert (mask[2:8, 3:5] == 0).all()
    assert (mask == 0).sum() == 6 * 2 * 2
    x = images(0)
    np.testing.assert_array_equal(project(OPERATORS["inpainting"], x), x * mask)


def test_random_pixels_keep_the_stated_number():
    mask = np.asarray(operators.random_mask(KEY, SHAPE, fraction=0.3))
    assert mask.sum() == int(0.3 * 12 * 8 * 2)
    assert set(np.unique(mask)) == {0, 1}
    assert (mask[..., 0] != mask[..., 1]).any()
    assert (mask != np.asarray(operators.random_mask(jax.random.key(1), SHAPE, fraction=0.3))).any()


def test_super_resolution_is_a_scaled_block_mean():
    x = images(0)
    want = 4 * x.reshape(3, 3, 4, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(OPERATORS["super_resolution"].analyze(x), want, atol=1e-5)


def test_random_basis_is_orthonormal():
    vectors = OPERATORS["random_basis"].analyze.args[0]
    assert vectors.shape == (192, 38)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(38), atol=1e-5)


def test_operators_of_one_kind_compile_once():
    traces = []

    @jax.jit
    def run(operator, x):
        traces.append(1)
        return project(operator, x)

    x = images(0)
    for column in (3, 4, 5):
        run(operators.inpainting(SHAPE, box=(5, column, 6, 3)), x)
    assert len(traces) == 1
    down, up = operators.super_resolution(2)
    assert jax.tree.structure(down) != jax.tree.structure(up)
    run(operators.super_resolution(2), x)
    run(operators.super_resolution(4), x)
    assert len(traces) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: operators.inpainting(SHAPE, box=(1, 4, 6, 3)), "box: expected a block inside an image of 12x8"),
        (
            lambda: operators.random_pixels(KEY, SHAPE, fraction=0.0),
            "fraction: expected a fraction that keeps 1 to 192",
        ),
        (lambda: operators.random_basis(KEY, SHAPE, fraction=1.5), "fraction: expected a fraction"),
        (lambda: operators.spectral(SHAPE, fraction=0.001), "fraction: expected a fraction in"),
        (
            lambda: operators.super_resolution(5).analyze(images(0)),
            "scale: expected .* divisible by 5, got 12x8",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_masks_follow_the_precision_of_the_image():
    for name, operator in OPERATORS.items():
        assert project(operator, images(0)).dtype == jnp.float32, name


@pytest.mark.parametrize("wrong", [np.ones((8, 8)), np.float32(0.3), np.ones((1, 3, 8, 8)), np.ones((1, 8, 4, 1))])
def test_images_of_another_shape_are_not_broadcast(wrong):
    for each in (
        operators.inpainting((8, 8, 1), box=(4, 4, 2, 2)),
        operators.pixels(np.ones((8, 8))),
        operators.spectral((8, 8, 1), fraction=0.5),
    ):
        with pytest.raises(InputError, match=r"x: expected \[B, 8, 8, C\], got"):
            each.analyze(wrong)


@pytest.mark.parametrize("wrong", ["abc", None, [[1, 0], [1]], np.ones((2, 2), object), np.full((2, 2), np.nan), 1.0])
def test_what_is_no_mask(wrong):
    with pytest.raises(InputError, match="mask: expected"):
        operators.pixels(wrong)
