"""Devices: the rows of a process, a platform that is not there, and a step that memory does not hold."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from common.errors import RunError
from common.training import parallel

ROOT = Path(__file__).parents[3]

ROWS = """
from types import SimpleNamespace
import jax, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from common.training import parallel

devices = np.array(jax.devices())
assert len(devices) == 8
# Two processes of four devices, in a mesh in which those of the second one come first, and each in another order.
permuted = devices[[6, 4, 7, 5, 1, 3, 0, 2]]
index_map = NamedSharding(Mesh(permuted, ("batch",)), P("batch")).devices_indices_map((24,))
first = {device: index for device, index in index_map.items() if device.id < 4}
second = {device: index for device, index in index_map.items() if device.id >= 4}
assert parallel.rows_of(first, 24) == slice(12, 24)
assert parallel.rows_of(second, 24) == slice(0, 12)
mixed = {device: index for device, index in index_map.items() if device.id % 4 < 2}
try:
    parallel.rows_of(mixed, 24)
    raise SystemExit("rows with gaps were accepted")
except ValueError as error:
    assert "consecutive" in str(error)

# Whatever order the devices are listed in, their rows are in the order of processes.
listed = jax.devices
jax.devices = lambda: list(permuted)
for name in ("jit", "pmap"):
    backend = parallel.make_backend(name, batch_size=24)
    assert backend.rows == slice(0, 24)
    step = lambda state, resident, fetched: (state + 1, {"rows": backend.positions()[None]})
    state, metrics = backend.compile(step)(backend.place_state(np.float32(1)), {}, {})
    assert backend.local(state) == 2
    assert [shard.device.id for shard in state.addressable_shards] == sorted(d.id for d in devices), name
print("rows agree")
"""


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_the_rows_of_a_process_are_those_of_its_devices():
    flags = "--xla_force_host_platform_device_count=8"
    result = run("-c", ROWS, JAX_PLATFORMS="cpu", XLA_FLAGS=flags)
    assert (result.stdout, result.returncode) == ("rows agree\n", 0), result.stderr


@pytest.mark.parametrize("platform", ["cuda", "bogus", "cpu,bogus"])
def test_a_platform_that_is_not_there(platform):
    result = run("-m", "gahb", "describe", "--config", "configs/gahb/photographs.py", JAX_PLATFORMS=platform)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: JAX_PLATFORMS (environment variable): expected a platform that JAX can use")
    assert f'got "{platform}"' in result.stderr and "unset it" in result.stderr


def test_a_platform_that_is_there_is_no_error(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert parallel.platform_error(AssertionError()) is None
    assert parallel.platform_error(RuntimeError("a bug")) is None


def test_a_step_that_memory_does_not_hold():
    with pytest.raises(RunError) as caught, parallel.explain_memory(64, 2):
        jax.jit(lambda x: x.sum())(jax.jit(lambda: jax.numpy.zeros((2**44,)))())
    message = str(caught.value)
    assert message.startswith("out of device memory with config.train.batch_size=64 (RESOURCE_EXHAUSTED: ")
    assert "config.train.accumulate=4" in message and "config.train.remat=True" in message


def test_other_errors_of_a_step_pass():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: else"), parallel.explain_memory(64, 1):
        raise jax.errors.JaxRuntimeError("INTERNAL: else")
