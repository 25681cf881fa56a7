"""Flow, look-up and warping by their geometry: identity, translation, inverse, composition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from diffmatch_jax.model import flow as matching

SIZE = (9, 13)
NUMBERS = st.floats(-1, 1, width=32)
QUICK = settings(max_examples=12, deadline=None)


def image(channels=2, seed=0, size=SIZE):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*size, channels)), jnp.float32)


def affine_flow(matrix, shift, size=SIZE):
    """The flow p -> A p + t - p about the middle of a grid."""
    middle = np.array([size[1] - 1, size[0] - 1]) / 2
    p = np.asarray(matching.grid(*size), np.float64) - middle
    return jnp.asarray(p @ np.asarray(matrix).T + shift - p, jnp.float32)


MATRICES = st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS).map(lambda a: np.eye(2) + 0.2 * np.reshape(a, (2, 2)))


def test_positions():
    assert matching.grid(2, 3)[1, 2].tolist() == [2, 1]  # x first
    flow = image()
    np.testing.assert_allclose(matching.flow_of(matching.mapping_of(flow)), flow, atol=1e-5)


# A few sizes, since each is compiled.
@given(size=st.sampled_from([SIZE, (1, 1), (2, 5), (8, 8)]), seed=st.integers(0, 2**31))
@QUICK
def test_identity(size, seed):
    """No flow changes nothing, is valid everywhere, and leads back to where it starts."""
    x, zero = image(3, seed, size), jnp.zeros((*size, 2))
    for outside in ("zeros", "border"):
        np.testing.assert_array_equal(matching.warp(x, zero, outside=outside), x)
    assert matching.valid(zero).all()
    error, consistent = matching.consistency(zero, zero)
    assert not error.any() and consistent.all()


@given(dx=st.integers(-14, 14), dy=st.integers(-10, 10))
@QUICK
def test_whole_translations_move_pixels(dx, dy):
    x = np.asarray(image())
    flow = jnp.broadcast_to(jnp.asarray([dx, dy], jnp.float32), (*SIZE, 2))
    want = np.zeros_like(x)
    for i, j in np.ndindex(*SIZE):
        if 0 <= i + dy < SIZE[0] and 0 <= j + dx < SIZE[1]:
            want[i, j] = x[i + dy, j + dx]
    np.testing.assert_array_equal(matching.warp(jnp.asarray(x), flow), want)
    inside = np.zeros(SIZE, bool)
    inside[max(-dy, 0) : max(SIZE[0] - dy, 0), max(-dx, 0) : max(SIZE[1] - dx, 0)] = True
    np.testing.assert_array_equal(matching.valid(flow), inside)
    bordered = np.asarray(matching.warp(jnp.asarray(x), flow, outside="border"))
    i, j = np.mgrid[: SIZE[0], : SIZE[1]]
    np.testing.assert_array_equal(bordered, x[np.clip(i + dy, 0, 8), np.clip(j + dx, 0, 12)])


@given(dx=NUMBERS, dy=NUMBERS)
@QUICK
def test_neighbours_outside_count_zero(dx, dy):
    """A constant image shows the weight of the neighbours inside."""
    flow = jnp.broadcast_to(jnp.asarray([dx, dy]), (*SIZE, 2))
    got = matching.warp(jnp.ones((*SIZE, 1)), flow)[..., 0]
    x, y = np.arange(SIZE[1]) + dx, np.arange(SIZE[0]) + dy
    part = [np.clip(np.minimum(at + 1, n - at), 0, 1) for at, n in ((y, SIZE[0]), (x, SIZE[1]))]
    np.testing.assert_allclose(got, part[0][:, None] * part[1], atol=1e-5)


def test_far_and_missing_positions():
    at = jnp.asarray([[[1e30, 0], [-1e30, 5], [0, jnp.inf], [3, 2]]])
    got = matching.sample(jnp.ones((*SIZE, 1)), at)[0, :, 0]
    np.testing.assert_array_equal(got, [0, 0, 0, 1])
    assert not matching.within(jnp.asarray([jnp.nan, 0.0]), SIZE)


def test_gradients_of_a_look_up():
    """On a plane the gradient with respect to positions is the slope, and weights sum to one."""
    plane = matching.grid(*SIZE) @ jnp.asarray([[2.0], [-3.0]])
    at = jnp.asarray([[[2.3, 4.6], [7.9, 1.2]]])
    slope = jax.grad(lambda at: matching.sample(plane, at).sum())(at)
    np.testing.assert_allclose(slope, np.broadcast_to([2, -3], at.shape), atol=1e-5)
    weights = jax.grad(lambda x: matching.sample(x, at).sum())(plane)
    np.testing.assert_allclose(weights.sum(), 2, atol=1e-6)


@given(matrix=MATRICES, shift=st.tuples(NUMBERS, NUMBERS))
@QUICK
def test_inverse(matrix, shift):
    """An affine flow and that of its inverse lead back wherever they stay inside."""
    back = np.linalg.inv(matrix)
    forward, backward = affine_flow(matrix, shift), affine_flow(back, -back @ np.asarray(shift))
    error, consistent = matching.consistency(forward, backward)
    inside = np.asarray(matching.valid(forward))
    np.testing.assert_allclose(np.asarray(error)[inside], 0, atol=1e-4)
    np.testing.assert_array_equal(consistent, inside)
    wrong = matching.consistency(forward, backward + 5)
    np.testing.assert_allclose(np.asarray(wrong.error)[inside], np.sqrt(50), atol=1e-4)
    assert not wrong.consistent.any()


@given(first=MATRICES, second=MATRICES, shift=st.tuples(NUMBERS, NUMBERS))
@QUICK
def test_composition(first, second, shift):
    """Affine flows compose as their matrices do, and warping twice is warping by the composition."""
    one, two = affine_flow(first, shift), affine_flow(second, (0, 0))
    flow, valid = matching.compose(one, two)
    want = affine_flow(second @ first, second @ np.asarray(shift))
    np.testing.assert_array_equal(valid, matching.valid(one))
    valid = np.asarray(valid)
    np.testing.assert_allclose(np.asarray(flow)[valid], np.asarray(want)[valid], atol=1e-4)
    plane = matching.grid(*SIZE)
    twice = matching.warp(matching.warp(plane, two, outside="zeros"), one)
    once = matching.warp(plane, flow)
    # Where no zero from outside was mixed in.
    whole = matching.warp(matching.warp(jnp.ones((*SIZE, 1)), two), one)[..., 0] > 1 - 1e-6
    keep = valid & np.asarray(whole)
    np.testing.assert_allclose(np.asarray(twice)[keep], np.asarray(once)[keep], atol=1e-4)


def test_composition_with_nothing():
    flow, zero = 0.3 * image(), jnp.zeros((*SIZE, 2))
    np.testing.assert_array_equal(matching.compose(zero, flow).flow, flow)
    np.testing.assert_array_equal(matching.compose(flow, zero).flow, flow)


@pytest.mark.parametrize("source", [None, (20, 5)])
def test_units(source):
    """Normalised flow is the difference of relative positions, whatever the sizes of the images."""
    flow = image()
    pixels = matching.to_pixels(flow, source=source)
    np.testing.assert_allclose(matching.to_normalised(pixels, source=source), flow, atol=1e-5)
    size = source or SIZE
    ours = matching.relative_of_pixels(matching.grid(*SIZE), SIZE)
    theirs = matching.relative_of_pixels(matching.mapping_of(pixels), size)
    np.testing.assert_allclose((theirs - ours) / 2, flow, atol=1e-5)
    if source is None:
        np.testing.assert_allclose(pixels, flow * np.array([13, 9]), atol=1e-5)


@pytest.mark.parametrize(("alignment", "ends"), [("half_pixel", (-0.5, 12.5)), ("corner", (0, 12))])
def test_relative_positions(alignment, ends):
    edges = jnp.asarray([[-1.0, 0.0], [1.0, 0.0]])
    got = matching.pixels_of_relative(edges, SIZE, alignment=alignment)
    np.testing.assert_allclose(got, [[ends[0], 4], [ends[1], 4]], atol=1e-6)
    np.testing.assert_allclose(matching.relative_of_pixels(got, SIZE, alignment=alignment), edges, atol=1e-6)
    with pytest.raises(InputError, match="alignment: expected"):
        matching.pixels_of_relative(edges, SIZE, alignment="centre")


def test_batches_are_single_images():
    x, flow = jnp.stack([image(seed=1), image(seed=2)]), jnp.stack([image(seed=3), image(seed=4)])
    both = matching.warp(x, flow)
    for i in range(2):
        np.testing.assert_allclose(both[i], matching.warp(x[i], flow[i]), atol=1e-6)
    with pytest.raises(ValueError, match="leading axes"):
        matching.sample(x, flow[0])
    with pytest.raises(InputError, match="outside: expected"):
        matching.warp(x, flow, outside="mirror")
