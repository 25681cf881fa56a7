"""Denoisers as values: weights are leaves, programs are shared, and the package finds them when asked."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import gahb
from common.errors import InputError
from common.method import Variables
from gahb import method
from gahb.networks import BFCNN, UNet, apply, init


def network(**fields):
    return BFCNN(num_kernels=2, num_layers=3, gain_init="unit", **fields)


Y = jax.random.normal(jax.random.key(0), (2, 5, 5, 1))


def test_denoiser_subtracts_the_residual_in_evaluation_mode():
    variables = init(network(), jax.random.key(1), Y)
    variables = Variables(variables.params, jax.tree.map(lambda sd: 1.7 * sd, variables.stats))
    residual, _ = apply(network(), variables, Y)
    np.testing.assert_allclose(gahb.denoiser(variables, network())(Y), Y - residual, atol=1e-6)
    np.testing.assert_allclose(gahb.denoiser(tuple(variables), network())(Y), Y - residual, atol=1e-6)


def test_weights_are_arguments():
    traces = []

    @jax.jit
    def run(denoise, y):
        traces.append(1)
        return denoise(y)

    one, two = (gahb.denoiser(init(network(), jax.random.key(i), Y), network()) for i in (1, 2))
    assert len(jax.tree.leaves(one)) == 3 + 1 + 1
    assert np.abs(run(one, Y) - run(two, Y)).max() > 0
    assert len(traces) == 1
    run(gahb.denoiser(init(network(), jax.random.key(1), Y), network(first_layer_linear=True)), Y)
    assert len(traces) == 2


def test_any_function_is_a_denoiser():
    def half(y):
        return y / 2

    wrapped = gahb.as_denoiser(half)
    assert jax.tree.leaves(wrapped) == []
    np.testing.assert_array_equal(wrapped(Y), Y / 2)
    assert gahb.as_denoiser(wrapped) is wrapped
    scaled = Partial(jnp.multiply, jnp.float32(3))
    assert gahb.as_denoiser(scaled) is scaled
    with pytest.raises(InputError, match="denoise: expected a function y -> x_hat, got int"):
        gahb.as_denoiser(3)


def test_load_reads_through_the_method(monkeypatch, tmp_path):
    variables = init(network(), jax.random.key(1), Y)
    asked = []

    def load(workdir, *, ema, step):
        asked.append((workdir, ema, step))
        return network(), variables

    monkeypatch.setattr(method, "load", load)
    denoise = gahb.load_denoiser(tmp_path, ema=False, step=7)
    assert asked == [(tmp_path, False, 7)]
    np.testing.assert_array_equal(denoise(Y), gahb.denoiser(variables, network())(Y))


def test_importing_the_package_imports_no_jax():
    code = "import sys, gahb; assert 'jax' not in sys.modules; gahb.sample; assert 'jax' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'denoize'"):
        _ = gahb.denoize


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 8), (9, 11), (10, 5)])
def test_any_size_is_padded_by_reflection(height, width):
    unet = UNet(num_kernels=2, num_blocks=2, gain_init="unit")
    variables = init(unet, jax.random.key(1), jnp.zeros((1, 8, 8, 1)))
    y = jax.random.normal(jax.random.key(2), (2, height, width, 1))
    spare = [-length % 4 for length in (height, width)]
    (top, bottom), (left, right) = margins = [(more // 2, more - more // 2) for more in spare]
    padded = np.pad(y, [(0, 0), *margins, (0, 0)], mode="reflect")
    want = padded - np.asarray(apply(unet, variables, padded)[0])
    want = want[:, top : top + height, left : left + width]
    got = gahb.denoiser(variables, unet)(y)
    assert got.shape == y.shape
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(gahb.denoiser(variables, unet)(3 * y), 3 * got, rtol=1e-4, atol=1e-4)


def test_everything_public_is_there_after_importing_the_package():
    code = (
        "import gahb; assert set(gahb.__all__) <= set(dir(gahb));"
        "gahb.reference.fit, gahb.operators.inpainting, gahb.eigenbasis.top_k;"
        "print(*[name for name in gahb.__all__ if getattr(gahb, name) is None])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == ""
