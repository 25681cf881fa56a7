"""One training run on 1, 2 and 4 devices, with both back ends and on two processes: the same parameters."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from common.checkpoint import restore_params

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = pathlib.Path(__file__).with_name("tiny.py")
KEEP = ("--config.checkpoint.every=1", "--config.checkpoint.keep=9")


def command(workdir, *extra):
    return [sys.executable, "-m", "gahb", "train", "--config", CONFIG, "--workdir", workdir, *extra]


def environment(devices=1, **more):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **more}


def result(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    numbers = [[line[name] for name in ("step", "loss", "psnr", "grad_norm", "learning_rate")] for line in lines]
    averaged, plain = (restore_params(workdir, ema=ema) for ema in (True, False))
    return {"params": plain.params, "stats": plain.stats, "ema": averaged.params}, np.array(numbers)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """Returns the work directory of five steps on one device, with a checkpoint of each."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    subprocess.run(command(workdir, *KEEP), check=True, env=environment(), capture_output=True)
    return workdir


@pytest.fixture(scope="module")
def reference(one_device):
    """Returns (state, metrics) of five steps on one device."""
    return result(one_device)


def assert_same(got, expected):
    (state, metrics), (state_1, metrics_1) = got, expected
    np.testing.assert_allclose(metrics, metrics_1, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), state, state_1)


def test_the_run_moves_the_parameters(reference):
    state, metrics = reference
    assert list(metrics[:, 0]) == [1, 2, 3, 4, 5]
    moved = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), state["params"], state["ema"])
    assert all(value > 1e-6 for value in jax.tree.leaves(moved))


@pytest.mark.parametrize(
    ("devices", "changes"),
    [
        # All but one are covered by the run that goes on on other devices, and by those of two processes.
        pytest.param(2, ["--config.parallel=jit"], marks=pytest.mark.slow),
        (4, ["--config.parallel=jit", "--config.data.placement=stream"]),
        pytest.param(1, ["--config.parallel=pmap"], marks=pytest.mark.slow),
        pytest.param(2, ["--config.parallel=pmap", "--config.data.placement=stream"], marks=pytest.mark.slow),
        pytest.param(4, ["--config.parallel=pmap"], marks=pytest.mark.slow),
    ],
    ids=lambda value: "-".join(v.split("=")[1] for v in value) if isinstance(value, list) else str(value),
)
def test_devices_do_not_change_the_result(tmp_path, reference, devices, changes):
    subprocess.run(command(tmp_path, *changes), check=True, env=environment(devices), capture_output=True)
    assert_same(result(tmp_path), reference)


def test_a_run_may_go_on_on_other_devices(tmp_path, one_device, reference):
    """From one to four to two devices: each part starts from a checkpoint of the part before it."""
    workdir = shutil.copytree(one_device, tmp_path / "run")
    for step, devices, parallel in [(1, 4, "pmap"), (3, 2, "jit")]:
        for path in (workdir / "checkpoints").glob("[0-9]*"):
            if int(path.name) > step:
                shutil.rmtree(path)
        assert (workdir / "checkpoints" / str(step)).is_dir()
        arguments = command(workdir, *KEEP, f"--config.parallel={parallel}")
        subprocess.run(arguments, check=True, env=environment(devices), capture_output=True)
    assert_same(result(workdir), reference)


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_two_processes_do_not_change_the_result(tmp_path, reference, parallel):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", f"--config.parallel={parallel}"]
    running = [
        subprocess.Popen(
            command(tmp_path, *flags, "--process-id", str(number), "--config.data.placement=stream"),
            env=environment(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "cache")),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert_same(result(tmp_path), reference)
