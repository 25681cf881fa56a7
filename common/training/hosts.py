"""Agreement between the processes of one run: the first one acts, all know the result, and all stop together."""

import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils

from common.errors import InputError, RunError, input_error
from common.training import cluster
from common.training.cluster import process_count
from common.training.parallel import is_first_process

_agreements = itertools.count()
_CHUNK = 2**26  # bytes sent at once
_ERRORS = {"InputError": InputError, "RunError": RunError}


def process_index() -> int:
    """Returns this process's number, from 0."""
    return jax.process_index()


def reached_stop(call: int) -> bool:
    """Returns whether all processes stop now, after a SIGTERM to any of them; `call` counts the calls, from 1.

    The service behind it stops all processes at the number after the largest it has seen, so no number may be skipped.
    """
    return multihost_utils.reached_preemption_sync_point(call)


def agree(fields: Mapping[str, Any], *, fix: str) -> None:
    """Returns once all processes have called it with the same `fields` (nested, JSON values); compiles nothing.

    Raises:
      InputError: on every process; names the first field that differs, its values, and `fix`.
    """
    count = process_count()
    if count == 1:
        return
    place = f"agree/{next(_agreements)}"
    cluster.put(f"{place}/{process_index()}", json.dumps(flatten_dict(fields, sep=".")))
    if is_first_process():
        everyone = [json.loads(cluster.get(f"{place}/{number}")) for number in range(count)]
        cluster.put(f"{place}/difference", json.dumps(_difference(everyone)))
    if difference := json.loads(cluster.get(f"{place}/difference")):
        field, first, number, other = difference
        got = f"{first} on process 0 and {other} on process {number}"
        raise input_error(field, expected="the same on all hosts", got=got, fix=fix)


def _difference(everyone: Sequence[Mapping[str, Any]]) -> tuple[str, str, int, str] | None:
    """Returns (field, value on process 0, number of another process, its value) of the first difference."""
    for field in dict.fromkeys(field for fields in everyone for field in fields):
        values = [json.dumps(fields[field]) if field in fields else "nothing" for fields in everyone]
        for number, value in enumerate(values):
            if value != values[0]:
                return field, values[0], number, value
    return None


def first_decides(action: Callable[[], Any]) -> Any:
    """Runs `action` on the first process only; its result (JSON values) or its error comes out on every process.

    All processes must call it in the same order; it is also a barrier.
    """
    if process_count() == 1:
        return action()
    answer, failure = {}, None
    if is_first_process():
        try:
            answer = {"value": action()}
        except Exception as error:
            failure = error
            answer = {"error": str(error), "kind": "InputError" if isinstance(error, InputError) else "RunError"}
    answer = json.loads(_send(json.dumps(answer).encode()))
    if failure is not None:
        raise failure
    if "error" in answer:
        raise _ERRORS[answer["kind"]](answer["error"])
    return answer["value"]


def from_first(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the first process's arrays on every process, bit for bit; elsewhere `arrays` gives shapes and types."""
    if process_count() == 1:
        return list(arrays)
    # Sent as bytes: the sum behind the transfer would turn -0.0 into 0.0.
    data = np.concatenate([np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in arrays])
    parts = [_broadcast(data[start : start + _CHUNK]) for start in range(0, data.size, _CHUNK)]
    data = np.concatenate(parts) if parts else data
    received, start = [], 0
    for each in arrays:
        received.append(data[start : start + each.nbytes].view(each.dtype).reshape(each.shape).copy())
        start += each.nbytes
    return received


def _send(data: bytes) -> bytes:
    length = int(_broadcast(np.asarray(len(data), np.int32)))
    # Few different lengths, so that few programs are compiled.
    buffer = np.zeros(max(1024, 1 << (length - 1).bit_length()), np.uint8)
    if is_first_process():
        buffer[:length] = np.frombuffer(data, np.uint8)
    return _broadcast(buffer)[:length].tobytes()


def _broadcast(array: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Notes SIGTERM and SIGINT while its `with` block runs; loops poll `requested` or `should_stop`.

    The second signal exits at once with code 128 + its number, also from the middle of a compilation. Outside the main
    thread no signal can be caught, so only `request()` has an effect there.

    With several processes, SIGTERM goes to JAX's preemption service, which notifies all; SIGINT is passed on to
    it. Then `should_stop` is what they agree on.
    """

    def __init__(self):
        self.requested = False
        self._several = False
        self._calls = 0
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> "StopSignal":
        self._several = process_count() > 1
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # The preemption service has its own handler of SIGTERM, below Python.
                if not (self._several and number == signal.SIGTERM):
                    self._catch(number)
            self._watch()
        return self

    def __exit__(self, *_) -> None:
        while self._undo:
            self._undo.pop()()

    def request(self) -> None:
        """Asks the run to stop, as a first signal would."""
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.requested = True

    def should_stop(self, step: int) -> bool:
        """Returns whether to stop after `step`, the same answer on all processes; all must call it after every step."""
        if self._several and not self.requested:
            # Calls are counted, because steps may come several at a time.
            self._calls += 1
            self.requested = reached_stop(self._calls)
        return self.requested

    def _catch(self, number: int) -> None:
        previous = signal.signal(number, self._note)
        # None: a handler that was not installed from Python, and that Python cannot bring back.
        self._undo.append(lambda: signal.signal(number, signal.SIG_DFL if previous is None else previous))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.request()

    def _watch(self) -> None:
        """Starts the thread that sees the second signal, even while the main thread is busy outside Python."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

        def watch():
            seen = 0
            while numbers := os.read(reader, 1):
                seen += numbers[0] in SIGNALS
                if seen == 2:
                    os._exit(128 + numbers[0])
            os.close(reader)

        thread = threading.Thread(target=watch, name="second-signal", daemon=True)
        thread.start()
        self._undo.append(thread.join)
        self._undo.append(lambda: os.close(writer))
        self._undo.append(lambda: signal.set_wakeup_fd(previous))
