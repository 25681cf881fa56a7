"""What users may give for images and keys: the right floats, or one line with a fix that works."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.arrays import SIGNED, UNIT, as_images, as_numbers
from common.errors import InputError
from common.prng import as_key, as_keys

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
X = BYTES / 255


def follow(fix, y):
    """Does what the fix of an error says, where it is an expression of `y` and `np`."""
    expression = fix.split(": ")[-1].removeprefix("use ")
    return eval(expression, {"np": np, "y": y})


@pytest.mark.parametrize("library", [np, jnp])
@pytest.mark.parametrize(("scale", "want"), [(UNIT, X), (SIGNED, 2 * X - 1)])
def test_bytes_become_floats(library, scale, want):
    found = as_images(library.asarray(BYTES), "y", scale=scale)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, want, atol=2e-7)
    np.testing.assert_allclose(jax.jit(lambda y: as_images(y, "y", scale=scale))(BYTES), want, atol=2e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "longdouble"])
def test_floats_stay(dtype):
    given_ = X.astype(dtype) if dtype != "bfloat16" else jnp.asarray(X, dtype)
    found = as_images(given_, "y")
    assert found.dtype in (np.float32, np.float64)
    np.testing.assert_array_equal(np.asarray(found, np.float64), np.asarray(given_, np.float64))


@pytest.mark.parametrize("scale", [UNIT, SIGNED])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize(
    "wrong",
    [
        BYTES.astype(np.uint16),
        BYTES.astype(np.int64),
        BYTES.astype(np.uint16) * 257,
        BYTES.astype(np.int32) * 257,
        BYTES.astype(np.float32),
        X * 255,
        X * 65535,
        X > 0.5,
    ],
)
def test_the_fix_works(wrong, noisy, scale):
    low, high = scale
    want = low + (high - low) * ((X > 0.5) if wrong.dtype == bool else X)
    with pytest.raises(InputError, match="^y: expected ") as caught:
        as_images(wrong, "y", scale=scale, noisy=noisy)
    fixed = follow(str(caught.value).rpartition("; ")[2], wrong)
    np.testing.assert_allclose(as_images(fixed, "y", scale=scale, noisy=noisy), want, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (BYTES.astype(np.int64) - 100, "map it to that range"),
        (BYTES.astype(np.uint32) * 2**20, "map it to that range"),
        (np.where(X > 0.9, np.nan, X), "expected finite numbers, got"),
        (np.where(X > 0.9, -np.inf, X), "expected finite numbers, got"),
        (X + 0j, "give real numbers"),
        (X.astype(object), "give real numbers"),
        (np.array("image"), "give real numbers"),
        ([[0.1, 0.2], [0.3]], "stack images of one size"),
        (None, "give real numbers"),
    ],
)
def test_what_no_division_helps(wrong, says):
    with pytest.raises(InputError, match=says) as caught:
        as_numbers(wrong, "y")
    assert "divide" not in str(caught.value) and "uint8(" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "fixed"),
    [
        (np.moveaxis(X, -1, 1), lambda y: np.moveaxis(y, -3, -1)),
        (X[0], lambda y: y[None]),
        (X[..., 0], lambda y: y[..., None]),
    ],
)
def test_shapes(wrong, fixed):
    with pytest.raises(InputError, match=r"y: expected \[N, H, W, C\], got") as caught:
        as_images(wrong, "y")
    fix = str(caught.value).rpartition("; ")[2].rpartition(", y")[2]
    assert as_images(fixed(wrong), "y").ndim == 4
    assert fix or "np.moveaxis(y, -3, -1)" in str(caught.value)
    with pytest.raises(InputError, match="at least one image"):
        as_images(X[:0], "y")
    with pytest.raises(InputError, match=r"expected \[N, 4, 8, 3\], got \[2, 8, 8, 3\]"):
        as_images(X, "y", shape=(4, 8, 3))


def test_ranges():
    assert as_images(X * 1.2 - 0.1, "y").max() > 1
    with pytest.raises(InputError, match=r"use \(y \+ 1\) / 2"):
        as_images(2 * X - 1, "y")
    with pytest.raises(InputError, match="divide by 255"):
        as_images(255 * X + 25 * RNG.normal(size=X.shape), "y", noisy=True)


@given(sigma=st.floats(0, 20), size=st.integers(1, 40), seed=st.integers(0, 99))
def test_noise_is_no_mistake(sigma, size, seed):
    y = 0.5 + sigma * np.random.default_rng(seed).normal(size=(1, size, size, 1))
    np.testing.assert_array_equal(as_images(y, "y", noisy=True), y)


def test_traced_arrays_are_checked_by_type_and_shape():
    for wrong in (BYTES.astype(np.int32), X > 0.5, X[0]):
        with pytest.raises(InputError, match="y: expected"):
            jax.jit(lambda y: as_images(y, "y"))(wrong)
    # A constant of the traced function is checked like any other.
    constant = jnp.asarray(X)
    np.testing.assert_array_equal(jax.jit(lambda: as_images(constant, "y", noisy=True))(), constant)
    with pytest.raises(InputError, match="y: expected floats"):
        jax.jit(lambda: as_images(255 * X, "y"))()
    np.testing.assert_array_equal(jax.jit(lambda y: as_images(y, "y"))(np.float32(999) * np.ones((1, 2, 2, 1))), 999)


SEEDS = [7, np.int64(7), np.uint8(7), np.asarray(7), jnp.asarray(7), jax.random.key(7), jax.random.PRNGKey(7)]


@pytest.mark.parametrize("key", [*SEEDS, np.asarray(jax.random.PRNGKey(7))], ids=lambda key: str(type(key)))
def test_keys_and_seeds_are_one(key):
    want = jax.random.key_data(jax.random.key(7))
    np.testing.assert_array_equal(jax.random.key_data(as_key(key)), want)
    np.testing.assert_array_equal(jax.random.key_data(as_keys(key, 3)), want)


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_several_keys(make):
    keys = jax.random.split(make(0), 3)
    want = jax.random.key_data(jax.random.split(jax.random.key(0), 3))
    np.testing.assert_array_equal(jax.random.key_data(as_keys(keys, 3)), want)
    traced = jax.jit(lambda key: jax.random.key_data(as_keys(key, 3)))(keys)
    np.testing.assert_array_equal(traced, want)
    for number in (None, 2):
        with pytest.raises(InputError, match=r"key: expected a key .*got keys of shape \[3\]"):
            as_keys(keys, number)


@pytest.mark.parametrize(
    "wrong", [-1, 2**32, True, np.True_, 1.0, np.float32(1), None, "0", np.zeros(2), np.zeros((2, 3), np.uint32), {}]
)
def test_what_is_no_key(wrong):
    with pytest.raises(InputError, match=r"seed: expected a key \(typed or raw\) or a seed from 0 to 2\^32 - 1, got"):
        as_key(wrong, field="seed")
