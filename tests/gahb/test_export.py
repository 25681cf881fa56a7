"""An exported denoiser gives what the denoiser gives, for any batch size."""

import jax
import numpy as np
import pytest

from gahb.export import export
from gahb.networks import UNet, denoiser, init


@pytest.mark.parametrize("batch", [1, 3])
def test_the_exported_program_is_the_denoiser(batch):
    network = UNet(num_kernels=2, num_blocks=1)
    variables = init(network, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    denoise = denoiser(variables, network)
    y = np.random.default_rng(batch).normal(size=(batch, 8, 8, 1)).astype(np.float32)
    program = jax.export.deserialize(bytearray(export(denoise, size=8)))
    np.testing.assert_allclose(program.call(y), denoise(y), rtol=1e-5, atol=1e-6)
    assert np.max(np.abs(denoise(y) - y)) > 1e-6
