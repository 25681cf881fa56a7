"""Halving and doubling of images against convolutions with the filter's outer product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from common.errors import InputError
from common.networks import layers
from common.networks.layers import Conv

FILTERS = [(1, 1), (1, 3, 3, 1), (1.0, 2.0, -0.5, 4.0), (0.5, 1, 2, 3, 1, 0.25)]


def depthwise(taps, channels, scale=1.0):
    taps = np.asarray(taps, np.float32) / sum(taps)
    return jnp.tile((scale * np.outer(taps, taps))[:, :, None, None], (1, 1, 1, channels))


def convolved(x, kernel, **how):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, dimension_numbers=layout, feature_group_count=x.shape[-1], **how)


def image(shape=(2, 6, 8, 3)):
    return jax.random.normal(jax.random.key(0), shape)


@pytest.mark.parametrize("taps", FILTERS, ids=str)
def test_down_is_a_convolution_of_stride_two(taps):
    x, pad = image(), (len(taps) - 1) // 2
    want = convolved(x, depthwise(taps, 3), window_strides=(2, 2), padding=[(pad, pad)] * 2)
    got = layers.downsample(x, taps)
    assert got.shape == (2, 3, 4, 3)
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("taps", FILTERS, ids=str)
def test_up_is_the_transpose_of_down(taps):
    small, large = image((2, 3, 4, 3)), image()
    transpose = jax.linear_transpose(lambda x: layers.downsample(x, taps), large)
    np.testing.assert_allclose(layers.upsample(small, taps), 4 * transpose(small)[0], atol=1e-5)


def test_boxes():
    x = image()
    np.testing.assert_allclose(layers.downsample(x, (1, 1)), x.reshape(2, 3, 2, 4, 2, 3).mean((2, 4)), atol=1e-6)
    np.testing.assert_array_equal(layers.upsample(x, (2.5, 2.5)), x.repeat(2, 1).repeat(2, 2))


def test_constants_stay_inside():
    x = jnp.full((1, 8, 8, 2), 3.0)
    np.testing.assert_allclose(layers.downsample(x, (1, 3, 3, 1))[:, 1:-1, 1:-1], 3, rtol=1e-6)
    np.testing.assert_allclose(layers.upsample(x, (1, 3, 3, 1))[:, 1:-1, 1:-1], 3, rtol=1e-6)
    # Zeros outside: an outer pixel loses an eighth of its weight along each axis.
    np.testing.assert_allclose(layers.downsample(x, (1, 3, 3, 1))[0, 0, 0], 3 * (7 / 8) ** 2, rtol=1e-6)


@pytest.mark.parametrize("taps", FILTERS[:2], ids=str)
def test_a_convolution_filtered_before_its_bias(taps):
    x, layer = image(), Conv(4, down=taps)
    variables = layer.init(jax.random.key(1), x)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    pad = 1 + (len(taps) - 1) // 2
    layout = ("NHWC", "HWIO", "NHWC")
    wide = lax.conv_general_dilated(x, kernel, (1, 1), [(pad, pad)] * 2, dimension_numbers=layout)
    want = convolved(wide, depthwise(taps, 4), window_strides=(2, 2), padding="VALID") + bias
    np.testing.assert_allclose(layer.apply(variables, x), want, atol=1e-5)


@pytest.mark.parametrize("taps", [(1, 2, 1), (1, -1)])
def test_filters_that_are_none(taps):
    with pytest.raises(InputError, match="even number of taps with a sum other than 0"):
        layers.downsample(image(), taps)
    with pytest.raises(InputError, match="even number of taps with a sum other than 0"):
        layers.upsample(image(), taps)
