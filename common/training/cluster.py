"""Membership of a run on several processes: joining, learning of the others' failures, and leaving.

JAX's coordination service, in the first process, connects all. Where another process is lost, its C++ client ends this
one by abort(), with pages of messages; one line takes their place. Before it comes to that, a thread of each process
watches the others in the service's key-value store: every process gives signs of life there, and one that fails by
itself says why. So the first process can still save what it has.
"""

import atexit
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src import distributed  # the only way to the key-value store

from common.errors import InputError, RunError, input_error, one_line, within
from common.training import parallel, runtime

HOST_TIMEOUT_S = 120

_FAILED = "scorebridge/failed"  # "process code message" of the first process that failed
_ALIVE = "scorebridge/alive/"  # a count of each process
_LEFT = "scorebridge/left/"
_NOTICE_S = 2.0  # a wait that is shorter is not announced
_GRACE_S = 3.0  # for the main thread to end by its own error
_KILL_S = 60.0  # for a process whose end is decided
_LINGER_S = 5.0  # for the others to read the service's last entries
_POLL_S = 1.0
_FOREVER_MS = 2**31 - 1
_MIN_SILENCE_S = 10
_MAX_PROCESSES = 10**6
_MAX_TIMEOUT_S = 10**6
_CONNECTION_WORDS = ("gloo", "nccl", "connection", "socket closed", "heartbeat", "coordination service", "unavailable")
_AGAIN = "start every host again with the same command"


class LostPeerError(RunError):
    """Another process of the run failed, ended or cannot be reached."""


_member: "_Member | None" = None


def process_count() -> int:
    """Returns the number of processes that still work together."""
    return 1 if _member is not None and _member.alone else jax.process_count()


def _store() -> Any:
    return distributed.global_state.client


def put(key: str, value: str) -> None:
    """Stores an entry that all processes can read; raises an error if it exists."""
    _store().key_value_set(f"scorebridge/{key}", value)


def get(key: str) -> str:
    """Returns the entry that another process has stored, or will store."""
    return _store().blocking_key_value_get(f"scorebridge/{key}", _FOREVER_MS)


@contextlib.contextmanager
def joined(coordinator: str, num_processes: int, process_id: int, timeout_s: int = HOST_TIMEOUT_S) -> Iterator[None]:
    """Makes this process one of `num_processes` while the block runs; enter it before anything touches a device.

    `coordinator` is HOST:PORT, where process 0 listens. When any process leaves the block by an error, or dies, every
    other one ends with one line on stderr: at once where it failed by itself or closed its connections, otherwise
    `timeout_s` (10 at least) after its last sign of life. Processes that do not come within `timeout_s` end it, too.

    Raises:
      InputError: the address or a number is wrong, or the port is taken.
    """
    global _member
    _check(coordinator, num_processes, process_id, timeout_s)
    if process_id == 0:
        _check_port(coordinator)
    _member = _Member(coordinator, num_processes, process_id, timeout_s)
    _member.join()
    try:
        yield
    except BaseException as error:
        if (cause := _member.cause(error)) is not None:
            lost = LostPeerError(_member.rescue(cause))
            _member.fail(lost)
            raise lost from error
        _member.fail(error)
        raise
    _member.exit_code = 0


@contextlib.contextmanager
def rescued(save: Callable[[], str]) -> Iterator[None]:
    """Calls `save()` on the first process if another process is lost while the block runs.

    `save` must work without the others and returns what it saved, in words. It may be called from another thread, where
    the main one hangs in a transfer.

    Raises:
      LostPeerError: another process was lost; the message names what was saved.
    """
    if _member is None:
        yield
        return
    _member.save = save
    try:
        yield
    except Exception as error:
        if (cause := _member.cause(error)) is None:
            raise
        raise LostPeerError(_member.rescue(cause)) from error
    finally:
        _member.save = None


class _Member:
    """This process's membership; `exit_code` is set once it is known how the process ends."""

    def __init__(self, coordinator: str, num_processes: int, process_id: int, timeout_s: int):
        self.coordinator = coordinator
        self.num_processes = num_processes
        self.process_id = process_id
        self.timeout_s = timeout_s
        self._silence_s = max(timeout_s, _MIN_SILENCE_S)
        self.exit_code: int | None = None
        self.alone = False
        self._client: Any = None
        self.save: Callable[[], str] | None = None
        self._ending = threading.RLock()  # never released: the thread that gets it ends the process
        self._log = ""
        self._keep_log = False
        self._aborting = False
        self._finished = threading.Event()

    def join(self) -> None:
        """Connects to all other processes."""
        self._log = runtime.divert_messages(self.process_id)
        self._abort_handler = runtime.on_abort(self._aborted)
        timers = [threading.Timer(_NOTICE_S, self._announce), threading.Timer(self.timeout_s, self._give_up_waiting)]
        for timer in timers:
            timer.daemon = True
            timer.start()
        interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's waits for the end of the C++ call
        try:
            jax.distributed.initialize(
                self.coordinator,
                num_processes=self.num_processes,
                process_id=self.process_id,
                initialization_timeout=self.timeout_s + 60,  # the timer comes first
                # The service is slower than the signs of life here: once it notices, nothing can be saved.
                heartbeat_timeout_seconds=self._silence_s + (30 if self.process_id == 0 else 0),
                shutdown_timeout_seconds=self._silence_s,
            )
        except jax.errors.JaxRuntimeError as error:
            self._remove_log()
            raise _no_port(self.coordinator, error) from None
        finally:
            for timer in timers:
                timer.cancel()
            signal.signal(signal.SIGINT, interrupt)
        self._client = distributed.global_state.client
        atexit.register(self._at_exit)  # after JAX's, so that it runs before
        self._listener = threading.Thread(target=self._listen, name="failures", daemon=True)
        self._listener.start()

    def fail(self, error: BaseException) -> None:
        """Notifies the other processes that this one ends by `error`."""
        self._ending.acquire()
        self._kill_later()
        wrong_platform = isinstance(error, RuntimeError | AssertionError) and not isinstance(error, RunError)
        wrong_platform = wrong_platform and parallel.platform_error(error) is not None
        self.exit_code = 2 if isinstance(error, InputError) or wrong_platform else 1
        if isinstance(error, KeyboardInterrupt):
            self.exit_code = 130
        text = "interrupted" if isinstance(error, KeyboardInterrupt) else one_line(error)
        if not isinstance(error, InputError | RunError | KeyboardInterrupt):
            text = f"{type(error).__name__}: {text}"
        self._tell(text)

    def cause(self, error: BaseException) -> str | None:
        """Returns how another process caused `error`, or None if none did."""
        if isinstance(error, InputError) or not isinstance(error, jax.errors.JaxRuntimeError | ValueError):
            return None
        text = one_line(error)
        if not any(word in text.lower() for word in _CONNECTION_WORDS):
            return None
        try:
            return _cause_of(
                runtime.briefly(lambda: self._client.blocking_key_value_get(_FAILED, int(_GRACE_S * 1000)), _GRACE_S)
            )[0]
        except (jax.errors.JaxRuntimeError, TimeoutError):
            return f"another process of this run ended or cannot be reached ({text[:200]})"

    def rescue(self, cause: str) -> str:
        """Saves what this process has, on the first one; returns `cause` and what became of it."""
        self._ending.acquire()
        self.exit_code = self.exit_code or 1
        self._tell(cause)
        self.alone = True
        said = [cause]
        if self.save is not None and self.process_id == 0:
            try:
                said.append(self.save())
            except Exception as error:
                said.append(f"nothing was saved ({one_line(error)})")
        return "; ".join([*said, _AGAIN])

    def _tell(self, text: str) -> None:
        if self._aborting:
            return
        # Another process was first, or the service has gone.
        with contextlib.suppress(jax.errors.JaxRuntimeError, TimeoutError):
            runtime.briefly(
                lambda: self._client.key_value_set(_FAILED, f"{self.process_id} {self.exit_code} {text}"), _GRACE_S
            )

    def _listen(self) -> None:
        """Gives signs of life and watches for failures of the others; runs in a thread."""
        seen = {number: ("", time.monotonic()) for number in range(1, self.num_processes)}
        count = 0
        while not self._finished.wait(_POLL_S):
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service has gone, which ends this process
                count += 1
                self._client.key_value_set(f"{_ALIVE}{self.process_id}", str(count), allow_overwrite=True)
                if self.process_id == 0 and (silent := self._silent(seen)) is not None:
                    self._leave(f"process {silent} gave no sign of life for {self._silence_s} s (--host-timeout)", 1)
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # there is none yet
                cause, code = _cause_of(self._client.key_value_try_get(_FAILED))
                time.sleep(_GRACE_S)
                self._leave(cause, code)

    def _silent(self, seen: dict[int, tuple[str, float]]) -> int | None:
        """Returns the number of a process that has been silent for too long; `seen` keeps the last signs of life."""
        now = time.monotonic()
        counts = {int(key.rpartition("/")[2]): count for key, count in self._client.key_value_dir_get(_ALIVE)}
        for number, (last, when) in seen.items():
            if counts.get(number, "") != last:
                seen[number] = counts[number], now
            elif now - when > self._silence_s:
                return number
        return None

    def _aborted(self) -> None:
        """Runs in place of abort(), in any thread."""
        self._aborting = True
        with self._ending:
            if self.exit_code is None:
                self.exit_code = 1
                self._keep_log = True
                cause = "another process of this run ended or cannot be reached"
                if self._client is None:
                    cause = (
                        f"--process-id: process {self.process_id} could not join at {self.coordinator}; perhaps "
                        "another process has its number"
                    )
                _say(f"error: {cause} (messages of JAX are in {self._log}); {_AGAIN}")
            self._exit()

    def _leave(self, cause: str, code: int) -> None:
        with self._ending:
            if self.exit_code is None:
                self.exit_code = code
                _say(f"error: {self.rescue(cause)}")
            self._exit()

    def _announce(self) -> None:
        others = "1 of 2 processes" if self.num_processes == 2 else f"all of {self.num_processes} processes"
        print(f"waiting for {others} at {self.coordinator} (up to {self.timeout_s} s)", file=sys.stderr, flush=True)

    def _give_up_waiting(self) -> None:
        with self._ending:
            self.exit_code = 1
            _say(
                f"error: --coordinator: expected {self.num_processes} processes at {self.coordinator} within "
                f"{self.timeout_s} s, got fewer ({self._absence()}); start the same command on every host, with "
                "--process-id 0, 1, ..., or wait longer with --host-timeout"
            )
            self._remove_log()
            os._exit(self.exit_code)

    def _absence(self) -> str:
        if self.process_id == 0:
            return "process 0 is here"
        host, _, port = self.coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
        except OSError as error:
            return f"process 0 cannot be reached: {error.strerror or error}"
        return "something listens there, but not all processes came"

    def _at_exit(self) -> None:
        if self.exit_code != 0:
            self._exit()
        self._finished.set()
        self._listener.join()
        jax.distributed.shutdown()  # waits for the others
        runtime.on_abort(None)
        self._remove_log()

    def _remove_log(self) -> None:
        if not self._keep_log:
            with contextlib.suppress(OSError):
                os.remove(self._log)

    def _kill_later(self) -> None:
        """Ends the process even where threads that wait for a lost process keep it from ending by itself."""
        timer = threading.Timer(_KILL_S, lambda: os._exit(self.exit_code or 1))
        timer.daemon = True
        timer.start()

    def _exit(self) -> None:
        """Ends the process without JAX's shutdown, which would wait for processes that may be lost."""
        self._remove_log()
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(jax.errors.JaxRuntimeError, TimeoutError):
            runtime.briefly(self._part, _LINGER_S)
        os._exit(1 if self.exit_code is None else self.exit_code)

    def _part(self) -> None:
        """Waits, on the first process, for the others to leave: the service ends with it."""
        if self._aborting:  # no call of the client would return
            return
        if self.process_id != 0:
            self._client.key_value_set(f"{_LEFT}{self.process_id}", "")
            return
        for number in range(1, self.num_processes):
            self._client.blocking_key_value_get(f"{_LEFT}{number}", _FOREVER_MS)


def _no_port(coordinator: str, error: Exception) -> InputError:
    return input_error(
        "--coordinator",
        expected="a free port of this host, where process 0 can listen",
        got=f"{coordinator} ({one_line(error)})",
        fix="choose another port, the same on every host",
    )


def _check_port(coordinator: str) -> None:
    """Raises `InputError` where another program listens: JAX's service that cannot start may crash the process."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            probe.bind(("", int(coordinator.rpartition(":")[2])))
            probe.listen()
        except OSError as error:
            raise _no_port(coordinator, error) from None


def _check(coordinator: str, num_processes: int, process_id: int, timeout_s: int) -> None:
    host, colon, port = coordinator.rpartition(":")
    example = f"{(host if colon else coordinator) or 'HOST'}:12345"
    if not colon or not host:
        fix = f"write host and port, e.g. {example}"
        raise input_error("--coordinator", expected="HOST:PORT", got=f'"{coordinator}"', fix=fix)
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        fix = f"use a free port of process 0's host, e.g. {example}"
        raise input_error(
            "--coordinator", expected="HOST:PORT with a port from 1 to 65535", got=f'"{coordinator}"', fix=fix
        )
    within("--num-processes", num_processes, 1, _MAX_PROCESSES)
    within("--process-id", process_id, 0, num_processes - 1, what=f" with --num-processes={num_processes}")
    within("--host-timeout", timeout_s, 1, _MAX_TIMEOUT_S, what=" seconds")


def _cause_of(entry: str) -> tuple[str, int]:
    process, code, text = entry.split(" ", 2)
    return f"process {process} stopped: {text}", int(code)


def _say(line: str) -> None:
    print(one_line(line), file=sys.stderr, flush=True)
