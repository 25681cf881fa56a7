"""Many samples by the command line: killed and stopped at any moment, on any number of devices, the same files."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

CONFIG = pathlib.Path(__file__).with_name("tiny.py")
NUM = 6000


def start(workdir, cache, *argv, devices=1):
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
    }
    command = [sys.executable, "-m", "gahb", *argv, "--workdir", workdir]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def sample(workdir, cache, **how):
    few = ("--config.sampler.max_steps=30", "--config.sampler.batch_size=32")
    return start(workdir, cache, "sample", "--num", str(NUM), *few, **how)


def done(process):
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return output


def chunks(workdir):
    return {path.name: path.read_bytes() for path in sorted((workdir / "samples").glob("many-*/[ic]*"))}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("trained")
    done(start(workdir, cache, "train", "--config", CONFIG))
    return workdir


@pytest.fixture(scope="module")
def whole(trained, cache):
    output = done(sample(trained, cache))
    assert f"wrote {NUM} samples" in output and "img/s" in output
    found = chunks(trained)
    assert len(found) == 1 + -(-NUM // 1024)
    return found


def fresh(trained, tmp_path):
    """Returns a work directory with the same run and no samples."""
    for name in ("config.json", "checkpoints"):
        (tmp_path / name).symlink_to(trained / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_at_any_moment(trained, whole, cache, tmp_path, number):
    workdir, chance, codes = fresh(trained, tmp_path), random.Random(number), []
    for _ in range(5):
        process = sample(workdir, cache)
        seen = len(chunks(workdir))
        until = time.monotonic() + chance.uniform(0, 20)
        while process.poll() is None and time.monotonic() < until and len(chunks(workdir)) < seen + 2:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(number)
        output = process.communicate()[0]
        codes.append(process.returncode)
        if number == signal.SIGTERM and codes[-1] == 0:
            assert "note: stopped" in output or f"wrote {NUM} samples" in output
    done(sample(workdir, cache))
    assert chunks(workdir) == whole
    assert number != signal.SIGKILL or -signal.SIGKILL in codes


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_any_number_of_devices(trained, whole, cache, tmp_path, devices):
    workdir = fresh(trained, tmp_path)
    done(sample(workdir, cache, devices=devices))
    assert chunks(workdir) == whole
