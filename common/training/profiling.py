"""A profile of a few training steps, for TensorBoard and Perfetto."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax


class Profile:
    """Traces the first `steps` steps that follow the compilation, into a directory of its own below `directory`."""

    def __init__(self, directory: pathlib.Path, steps: int):
        self._directory = directory
        self._left = steps
        self._running = False

    @contextlib.contextmanager
    def recording(self) -> Iterator["Profile"]:
        """Ends a trace that is still running when the context ends."""
        try:
            yield self
        finally:
            self._stop()

    def stepped(self, count: int, results: Any) -> str | None:
        """Notes that a call of `count` steps gave `results`; returns where the trace is when it has just ended."""
        if self._left <= 0:
            return None
        jax.block_until_ready(results)
        if not self._running:  # the first call has compiled
            # Perfetto reads the trace as it is, TensorBoard (plugin `profile`) the file beside it.
            jax.profiler.start_trace(str(self._directory), create_perfetto_trace=True)
            self._running = True
            return None
        self._left -= count
        if self._left > 0:
            return None
        self._stop()
        return str(max(self._directory.glob("plugins/profile/*"), key=lambda path: path.stat().st_mtime))

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
