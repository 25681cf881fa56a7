"""Runs on several processes: they agree before the first step, and the loss of one ends the others with one line."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from common.checkpoint import restore_params
from common.errors import InputError
from common.training import cluster, hosts

ROOT = Path(__file__).parents[3]
TRAIN = [
    "-m",
    "phase_bridge",
    "train",
    "--config",
    "configs/phase_bridge/demo.py",
    "--config.train.batch_size=16",
    "--config.train.log_every=10",
    "--config.train.preview_every=0",
    "--config.model.width=8",
    "--config.model.depth=1",
    "--config.optimizer.schedule=constant",
]


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def start(tmp_path):
    """Returns `start(*arguments) -> Popen` of Python, which does not outlive the test; its stderr is a pipe."""
    started = []

    def run(*arguments, **more):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TMPDIR": str(tmp_path), "XLA_FLAGS": "", **more}
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def joining(port, number, timeout_s=60):
    flags = ["--coordinator", f"localhost:{port}", "--num-processes", "2", "--process-id", number]
    return [*flags, "--host-timeout", timeout_s]


def ended(process, code):
    """Returns the one line, without `error: `, with which the process ended; other lines are not errors."""
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    lines = stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], stderr
    assert all(line.startswith(("error: ", "step ", "training step: ", "waiting for ")) for line in lines), stderr
    return lines[-1].removeprefix("error: ")


@pytest.mark.parametrize(
    ("coordinator", "count", "number", "timeout_s", "message"),
    [
        (
            "localhost",
            2,
            0,
            9,
            '--coordinator: expected HOST:PORT, got "localhost"; write host and port, e.g. localhost:',
        ),
        ("", 2, 0, 9, '--coordinator: expected HOST:PORT, got ""; '),
        (":80", 2, 0, 9, '--coordinator: expected HOST:PORT, got ":80"; '),
        ("h:", 2, 0, 9, '--coordinator: expected HOST:PORT with a port from 1 to 65535, got "h:"; '),
        ("h:http", 2, 0, 9, '--coordinator: expected HOST:PORT with a port from 1 to 65535, got "h:http"; '),
        ("h:0", 2, 0, 9, '--coordinator: expected HOST:PORT with a port from 1 to 65535, got "h:0"; '),
        ("h:65536", 2, 0, 9, '--coordinator: expected HOST:PORT with a port from 1 to 65535, got "h:65536"; '),
        ("h:٣", 2, 0, 9, '--coordinator: expected HOST:PORT with a port from 1 to 65535, got "h:٣"; '),
        ("h:80", 0, 0, 9, "--num-processes: expected 1 to 1000000, got 0; "),
        ("h:80", 10**20, 0, 9, "--num-processes: expected 1 to 1000000, got 1"),
        ("h:80", 2, 2, 9, "--process-id: expected 0 to 1 with --num-processes=2, got 2; "),
        ("h:80", 2, -1, 9, "--process-id: expected 0 to 1 with --num-processes=2, got -1; "),
        ("h:80", 2, 1, 0, "--host-timeout: expected 1 to 1000000 seconds, got 0; "),
    ],
)
def test_wrong_flags_are_refused_before_anything_starts(coordinator, count, number, timeout_s, message):
    with pytest.raises(InputError) as caught, cluster.joined(coordinator, count, number, timeout_s):
        pytest.fail("joined")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_never_starts(start, port, tmp_path, number):
    line = ended(start(*TRAIN, "--workdir", tmp_path / "run", *joining(port, number, 4)), 1)
    reason = "process 0 is here" if number == 0 else "process 0 cannot be reached: Connection refused"
    assert line.startswith(
        f"--coordinator: expected 2 processes at localhost:{port} within 4 s, got fewer ({reason}); "
    )
    assert not list(tmp_path.iterdir())


def test_a_port_that_another_program_uses(start, tmp_path):
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::", 0))
        other.listen()
        port = other.getsockname()[1]
        line = ended(start(*TRAIN, "--workdir", tmp_path / "run", *joining(port, 0)), 2)
    assert line.startswith("--coordinator: expected a free port of this host")
    assert f"got localhost:{port} (" in line and line.endswith("; choose another port, the same on every host")
    assert not list(tmp_path.iterdir())


def test_processes_with_different_configs_stop_before_the_first_step(start, port, tmp_path):
    command = [*TRAIN, "--workdir", tmp_path / "run"]
    first = start(*command, *joining(port, 0), "--config.optimizer.learning_rate=0.001")
    second = start(*command, *joining(port, 1), "--config.optimizer.learning_rate=0.1")
    expected = (
        "config.optimizer.learning_rate: expected the same on all hosts, got 0.001 on process 0 and 0.1 on process 1; "
        "start every host with the same command"
    )
    assert [ended(process, 2) for process in (first, second)] == [expected] * 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("refusing", [0, 1])
def test_a_config_that_one_process_refuses_stops_the_other(start, port, tmp_path, refusing):
    command = [*TRAIN, "--workdir", tmp_path / "run"]
    wrong = ["--config.optimizer.lerning_rate=1"]
    first, second = (start(*command, *joining(port, i), *(wrong if i == refusing else [])) for i in range(2))
    lines = [ended(process, 2) for process in (first, second)]
    own = lines.pop(refusing)
    assert own.startswith("config.optimizer.lerning_rate: unknown key")
    assert lines == [f"process {refusing} stopped: {own}; start every host again with the same command"]


def test_the_first_field_that_differs_is_named():
    everyone = [{"a": 1, "b": "x"}, {"a": 1, "b": "x"}, {"a": 1, "b": "y", "c": None}]
    assert hosts._difference(everyone) == ("b", '"x"', 2, '"y"')
    assert hosts._difference([{"a": 1}, {"a": 1, "c": None}]) == ("c", "nothing", 1, "null")
    assert hosts._difference([{"a": 1}, {"a": 1.0}]) == ("a", "1", 1, "1.0")
    assert hosts._difference([{"a": 1}] * 3) is None


def test_one_process_agrees_with_itself():
    hosts.agree({"config": {"seed": 0}}, fix="none")


LOOP = """
import os, signal, sys, time
import numpy as np
from jax.experimental import multihost_utils
from common.errors import RunError
from common.training import cluster, hosts

port, number, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
done = 0
def save():
    assert hosts.process_count() == 1
    print("saved", done)
    return f"step {done} is saved"
try:
    with cluster.joined(f"localhost:{port}", 2, number, 10), cluster.rescued(save):
        hosts.agree({"steps": 3}, fix="none")
        for step in range(10**6):
            if step == 5 and how == f"kill-{number}":
                os.kill(os.getpid(), signal.SIGKILL)
            if step == 5 and how == f"hang-{number}":
                os.kill(os.getpid(), signal.SIGSTOP)
            if step == 5 and how == f"fail-{number}":
                raise RunError("no space")
            if step == 5 and how == "end":
                break
            assert multihost_utils.broadcast_one_to_all(np.full(1, step)) == step
            done = step + 1
except RunError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)
"""
LOST = "another process of this run ended or cannot be reached"
AGAIN = "start every host again with the same command"


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("kill-1", 1, (LOST, f"; step 5 is saved; {AGAIN}")),
        ("kill-0", 1, (LOST, f"; {AGAIN}")),
        ("fail-1", 1, ("process 1 stopped: no space; step 5 is saved; ", AGAIN)),
        pytest.param("fail-0", 1, ("process 0 stopped: no space; ", AGAIN), marks=pytest.mark.slow),
        pytest.param(
            "hang-1",
            1,
            ("process 1 gave no sign of life for 10 s (--host-timeout)", f"; step 5 is saved; {AGAIN}"),
            marks=pytest.mark.slow,
        ),
        pytest.param("hang-0", 1, (LOST, f"; {AGAIN}"), marks=pytest.mark.slow),
    ],
)
def test_the_other_process_ends_with_one_line(start, port, how, code, message):
    first, second = (start("-c", LOOP, port, number, how) for number in range(2))
    kind, lost = how.split("-")
    survivor = (second, first)[int(lost)]
    line = ended(survivor, code)
    assert line.startswith(message[0]) and line.endswith(message[1]), line
    if kind == "fail":
        assert ended((first, second)[int(lost)], 1) == "no space"


def test_processes_that_finish_leave_nothing(start, port, tmp_path):
    processes = [start("-c", LOOP, port, number, "end") for number in range(2)]
    for process in processes:
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_first_process_saves_the_last_complete_step(start, port, tmp_path, number):
    """What it saves is the state that an undisturbed run has there."""
    command = [*TRAIN, "--config.train.steps=100000"]
    flags = ["--workdir", tmp_path / "run", "--config.checkpoint.every=100000"]
    first, second = (start(*command, *flags, *joining(port, i, 10)) for i in range(2))
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert first.poll() is None
        time.sleep(0.1)
    second.send_signal(number)
    line = ended(first, 1)
    (saved,) = (int(path.name) for path in (tmp_path / "run" / "checkpoints").glob("[0-9]*"))
    assert saved >= 20 and f"; step {saved} is saved; {AGAIN}" in line
    flags = [f"--config.checkpoint.every={saved}", "--config.checkpoint.keep=1000"]
    whole = start(*command, "--workdir", tmp_path / "whole", *flags)
    while not (tmp_path / "whole" / "checkpoints" / str(saved)).exists():
        assert whole.poll() is None
        time.sleep(0.1)
    whole.terminate()
    assert whole.wait(60) == 0
    got, expected = (restore_params(tmp_path / name, step=saved) for name in ("run", "whole"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, expected)


def test_two_processes_with_one_number(start, port):
    """The second one is refused at once; the first one waits for the missing number in vain."""
    first, *twins = (
        start("-c", LOOP.replace(", 2, number, 10)", ", 3, number, 6)"), port, i, "end") for i in (0, 1, 1)
    )
    codes = sorted(ended(process, 1).split(":")[0] for process in (first, *twins))
    assert codes == ["--coordinator", "--coordinator", "--process-id"]
