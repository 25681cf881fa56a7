"""Two processes of one run: the first one reads and writes, and both know the outcome."""

import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import os, shutil, sys
from collections import namedtuple
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

port, index, workdirs = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=index)

from common.checkpoint import Checkpoints, restore_params
from common.checkpoint import store
from common.errors import InputError, RunError
from common.training.step import TrainState

# Only the first process's directory exists; the other one must not need its own.
workdir = Path(workdirs[index])
replicated = NamedSharding(jax.make_mesh((2,), ("batch",)), PartitionSpec())

def make_state(step):
    special = np.array([-0.0, np.pi * step, 1e-45], np.float32)
    params = {"special": special, "half": special.astype(jax.numpy.bfloat16), "none": np.zeros((0, 2), np.float32)}
    params = jax.make_array_from_process_local_data(replicated, special), params
    return TrainState(np.int32(step), params, {"wide": np.array([2**40 + step])}, (), {"big": np.arange(70000)})

def opened(**changes):
    return Checkpoints(workdir, **{"config": {"seed": 0}, "keep": 2} | changes)

def caught(kind, function, *arguments):
    try:
        function(*arguments)
    except kind as error:
        return str(error)
    raise AssertionError("no error")

with opened() as checkpoints:
    assert "other run that writes here, got one with pid" in caught(InputError, opened().__enter__)
    assert checkpoints.restore_latest(make_state(0)) is None
    for step in (1, 2, 3):
        assert checkpoints.save(step, make_state(step), {"step": step})
    assert not checkpoints.save(3, make_state(3), {})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 3]
    state, extra, step = checkpoints.restore_latest(make_state(0))
    assert (extra, step) == ({"step": 3}, 3)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(make_state(3)), strict=True):
        assert isinstance(a, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == np.asarray(b).tobytes()
    assert "stats/wide: only in the checkpoint" in caught(
        InputError, checkpoints.restore, make_state(0)._replace(stats={}), 2)

    if index == 0:
        disk_usage, shutil.disk_usage = shutil.disk_usage, lambda _: namedtuple("usage", "free")(1000)
    assert "1,000 free" in caught(RunError, checkpoints.save, 4, make_state(4), {})
    if index == 0:
        shutil.disk_usage = disk_usage
        write, store.write = store.write, lambda *_: 1 / 0
    assert checkpoints.save(4, make_state(4), {})
    assert "step 4 could not be written: division by zero" in caught(RunError, checkpoints.wait)
    if index == 0:
        store.write = write
    assert checkpoints.save(5, make_state(5), {})
assert "seed: 0 -> 1" in caught(InputError, opened(config={"seed": 1}).__enter__)
if index == 0:
    np.testing.assert_array_equal(restore_params(workdir).stats["wide"], [2**40 + 5])
print("agreed")
"""


def test_two_processes_save_and_restore_as_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "first").mkdir()
    command = [sys.executable, "-c", SCRIPT, str(port)]
    workdirs = [str(tmp_path / "first"), str(tmp_path / "second")]
    processes = [
        subprocess.Popen([*command, str(i), *workdirs], cwd=ROOT, stdout=subprocess.PIPE, text=True) for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    assert [output.splitlines()[-1] for output in outputs] == ["agreed", "agreed"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first"]
    assert sorted(path.name for path in (tmp_path / "first" / "checkpoints").iterdir()) == [".lock", "3", "5"]
