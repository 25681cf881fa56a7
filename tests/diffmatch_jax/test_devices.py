"""Stage 1 trained on one and on two devices, with both back ends: the same parameters."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from common.checkpoint import restore_params
from common.io.metrics_log import read_metrics

CONFIG = pathlib.Path(__file__).with_name("tiny.py")
STEPS = ("--config.train.log_every=1", "--config.checkpoint.every=5")


def train(workdir, *, devices, parallel):
    """Returns parameters, their average, and the numbers of each step."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "diffmatch_jax", "train", "--config", CONFIG, "--workdir", workdir, *STEPS]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([*command, f"--config.parallel={parallel}"], check=True, env=environment, capture_output=True)
    names = ("step", "loss", "error", "first", "log_likelihood", "grad_norm")
    numbers = [[line[name] for name in names] for line in read_metrics(workdir)]
    return [restore_params(workdir, ema=ema).params for ema in (False, True)], np.asarray(numbers)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return train(tmp_path_factory.mktemp("one"), devices=1, parallel="jit")


def test_the_run_moves_the_parameters(one_device):
    (params, average), numbers = one_device
    assert list(numbers[:, 0]) == [1, 2, 3, 4, 5]
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, average)
    assert max(jax.tree.leaves(moved)) > 1e-5


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_two_devices_do_not_change_the_result(tmp_path, one_device, parallel):
    state, numbers = train(tmp_path, devices=2, parallel=parallel)
    np.testing.assert_allclose(numbers, one_device[1], rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), state, one_device[0])
