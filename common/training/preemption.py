"""Signals that ask a run to stop: finish the step, save, exit; a second one ends the process at once."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from common.training import hosts

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Notes SIGTERM and SIGINT while its `with` block runs; loops poll `requested` or `should_stop`.

    The second signal exits at once with code 128 + its number, also from the middle of a compilation. Outside the main
    thread no signal can be caught, so only `request()` has an effect there.

    With several processes, SIGTERM goes to JAX's preemption service, which tells all processes; SIGINT is passed on to
    it. Then `should_stop` is what they agree on.
    """

    def __init__(self):
        self.requested = False
        self._several = False
        self._calls = 0
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> "StopSignal":
        self._several = hosts.process_count() > 1
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
            self.requested = hosts.reached_stop(self._calls)
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
