"""Effects of JAX's C++ code on this process: its messages, its abort(), and its calls that never return."""

import ctypes
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any


def divert_messages(process_id: int) -> str:
    """Sends what C++ code writes to stderr (pages, where a process is lost) to a file; returns its path."""
    file, path = tempfile.mkstemp(prefix=f"scorebridge-process-{process_id}-", suffix=".log")
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(file, 2)
    os.close(file)
    return path


def on_abort(function: Callable[[], None] | None) -> object:
    """Has `function`, which must not return, called by abort(); the result must be kept. None: as it was.

    Python's own handlers run too late for that: in the main thread, once C++ code returns to it.
    """
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    handler = kind() if function is None else kind(lambda number: function())
    install = ctypes.CDLL(None).signal
    install.argtypes, install.restype = (ctypes.c_int, kind), ctypes.c_void_p
    install(signal.SIGABRT, handler)
    return handler


def briefly(function: Callable[[], Any], seconds: float) -> Any:
    """Returns `function()`; raises `TimeoutError` if it takes longer: calls of a client that aborts never return."""
    outcome: list[Any] = []

    def run():
        try:
            outcome.append((function(), None))
        except Exception as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
