"""Signals ask a run to stop, and a second one ends it."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from common.training.hosts import StopSignal

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop(number):
    with StopSignal() as stop:
        assert not stop.requested
        assert not stop.should_stop(1)
        signal.raise_signal(number)
        assert stop.requested
        assert stop.should_stop(2)
        assert stop.should_stop(3)


def test_a_request_is_as_good_as_a_signal():
    with StopSignal() as stop:
        stop.request()
        assert stop.should_stop(1)


def test_previous_handlers_come_back():
    caught = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    try:
        installed = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        with pytest.raises(ZeroDivisionError), StopSignal():
            raise ZeroDivisionError
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == installed
        signal.raise_signal(signal.SIGTERM)
        assert caught == [signal.SIGTERM]
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGTERM, before)


def test_nothing_stays_open():
    with StopSignal():  # the first use may open what stays
        pass
    process = psutil.Process()
    before = process.num_fds(), threading.active_count()
    for _ in range(20):
        with StopSignal():
            pass
    assert (process.num_fds(), threading.active_count()) == before


def test_blocks_can_be_nested():
    with StopSignal() as outer:
        with StopSignal() as inner:
            signal.raise_signal(signal.SIGTERM)
        assert inner.requested
        assert not outer.requested
        signal.raise_signal(signal.SIGTERM)
        assert outer.requested


def test_another_thread_may_use_it_too():
    seen = []

    def work():
        with StopSignal() as stop:
            seen.append(stop.should_stop(1))
            stop.request()
            seen.append(stop.should_stop(2))

    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, True]
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers


BUSY = """
import hashlib, time
from common.training.hosts import StopSignal
with StopSignal() as stop:
    print("ready", flush=True)
    if {inside_python}:
        while not stop.requested:
            time.sleep(0.01)
        print("stopping", flush=True)
        try:
            time.sleep(600)
        finally:
            print("cleaned up", flush=True)
    # Like a compilation: no Python code, and so no Python signal handler, runs for a long time.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("inside_python", [True, False])
def test_the_second_signal_exits_at_once(inside_python, second):
    command = [sys.executable, "-c", BUSY.format(inside_python=inside_python)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        if inside_python:
            assert process.stdout.readline() == "stopping\n"
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.3)
        while process.poll() is None:  # sent again, as two pending signals of a kind are one
            process.send_signal(second)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
        output = process.stdout.read()
        assert process.returncode == 128 + second
        assert output == ""
    finally:
        process.kill()
        process.wait()


TWO_PROCESSES = """
import os, signal, sys, time
import jax
import numpy as np
from jax.experimental import multihost_utils
port, index, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=index)
from common.training.hosts import StopSignal

with StopSignal() as stop:
    for step in range(0, 100000, 5):  # several steps a call
        multihost_utils.broadcast_one_to_all(np.zeros(1))  # as a training step, no process runs ahead
        if step == 50 and index == 1:
            os.kill(os.getpid(), number)
        if stop.should_stop(step):
            break
        time.sleep(0.002)
    assert stop.requested
    print("stopped", step)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_all_processes_stop_after_the_same_step(number):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", TWO_PROCESSES, str(port)]
    processes = [
        subprocess.Popen([*command, str(i), str(int(number))], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    try:
        lines = [process.communicate(timeout=120)[0].splitlines()[-1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    assert lines[0] == lines[1]
    assert 50 <= int(lines[0].split()[1]) < 99995
