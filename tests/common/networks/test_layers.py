"""Group norm, dropout and plain layers by their values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from common.networks.layers import Conv, Dense, GroupNorm, dropout, dropout_seeds, wide


def test_group_norm():
    x = 5 + 2 * np.random.default_rng(0).standard_normal((3, 4, 2, 24), np.float32)
    norm = GroupNorm(1e-3)
    scale, bias = np.linspace(0.5, 2, 24, dtype=np.float32), np.linspace(-1, 1, 24, dtype=np.float32)
    grouped = x.reshape(3, 8, 6, 4).astype(np.float64)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    want = centred / np.sqrt(np.square(centred).mean((1, 3), keepdims=True) + 1e-3)
    got = norm.apply({"params": {"scale": scale, "bias": bias}}, jnp.asarray(x))
    np.testing.assert_allclose(got, want.reshape(x.shape) * scale + bias, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "min_group", "groups"), [(24, 4, 6), (256, 4, 32), (32, 1, 32), (6, 4, 1), (144, 4, 24), (3, 4, 1)]
)
def test_number_of_groups(channels, min_group, groups):
    norm = GroupNorm(0.0, min_group)
    x = np.random.default_rng(0).standard_normal((1, 50, channels), np.float32)
    variables = norm.init(jax.random.key(0), x)
    got = np.asarray(norm.apply(variables, x)).reshape(50, groups, channels // groups)
    np.testing.assert_allclose(np.square(got).mean((0, 2)), 1, rtol=1e-4)
    np.testing.assert_allclose(got.mean((0, 2)), 0, atol=1e-5)


def test_group_norm_is_wide():
    """A mean far above the deviation is taken away in float32, not in the type of the activations."""
    x = (100 + jnp.arange(16.0).reshape(1, 4, 4)).astype(jnp.bfloat16)
    norm = GroupNorm(0.0)
    out = norm.apply(norm.init(jax.random.key(0), x), x)
    assert out.dtype == jnp.float32
    exact = norm.apply(norm.init(jax.random.key(0), x), x.astype(jnp.float32))
    np.testing.assert_array_equal(out, exact)


def test_convolutions():
    x = jax.random.normal(jax.random.key(0), (2, 6, 4, 3))
    for size, stride in ((1, 1), (3, 1), (3, 2)):
        layer = Conv(5, size, stride=stride)
        variables = layer.init(jax.random.key(1), x)
        kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
        pad, layout = size // 2, ("NHWC", "HWIO", "NHWC")
        want = lax.conv_general_dilated(x, kernel, (stride,) * 2, [(pad, pad)] * 2, dimension_numbers=layout) + bias
        np.testing.assert_allclose(layer.apply(variables, x), want, atol=1e-5)
        half = layer.clone(dtype=jnp.bfloat16).apply(variables, x)
        assert half.dtype == jnp.bfloat16
        np.testing.assert_allclose(half.astype(jnp.float32), want, atol=0.05)


def test_initial_biases_follow_the_kernel():
    x = jnp.ones((1, 2, 2, 100))
    for rule, bound in (("fan_in", 0.1), ("xavier", 0.0)):
        params = Dense(400, rule).init(jax.random.key(0), x)["params"]
        assert np.abs(params["bias"]).max() == pytest.approx(bound, rel=0.02)
    assert np.abs(params["kernel"]).max() == pytest.approx((6 / 500) ** 0.5, rel=0.02)


def test_widths():
    assert wide(None) is None
    assert wide(jnp.bfloat16) == jnp.float32 and wide(jnp.float64) == jnp.float64


def test_dropout():
    seeds = dropout_seeds(jax.random.split(jax.random.key(0), 4))
    x = jnp.ones((4, 50, 50, 3))
    out = dropout(x, 0.13, seeds, ("a",))
    assert set(np.unique(out)) == {0.0, np.float32(1 / 0.87)}
    zero = np.asarray(out == 0)
    assert zero.mean() == pytest.approx(0.13, abs=5 * (0.13 * 0.87 / x.size) ** 0.5)
    np.testing.assert_array_equal(dropout(x, 0.13, None, ("a",)), x)
    np.testing.assert_array_equal(dropout(x, 0.0, seeds, ("a",)), x)
    assert dropout_seeds(None) is None
    assert dropout(x.astype(jnp.bfloat16), 0.5, seeds, ("a",)).dtype == jnp.bfloat16
    # An example's own key decides, wherever it is in a batch.
    np.testing.assert_array_equal(dropout(x[:2], 0.13, seeds[2:], ("a",)), out[2:])
    # Examples, layers and neighbours have nothing to do with each other.
    pairs = {
        "examples": (zero[0], zero[1]),
        "layers": (zero, np.asarray(dropout(x, 0.13, seeds, ("b",)) == 0)),
        "rows": (zero[:, 1:], zero[:, :-1]),
        "columns": (zero[:, :, 1:], zero[:, :, :-1]),
        "channels": (zero[..., 1:], zero[..., :-1]),
    }
    for name, (a, b) in pairs.items():
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] == pytest.approx(0, abs=5 / a.size**0.5), name
