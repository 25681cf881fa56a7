"""How far a long computation is: one line that moves on a terminal, otherwise a plain line now and then."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from common.io.metrics_log import duration

_PLAIN_EVERY = 10.0  # seconds between lines where the output is no terminal
_MOVING_EVERY = 0.2


class Progress:
    """Counts what is done of `total`; `add` prints count, speed and the time left.

    The speed is that of this run since the first `add`, whose time includes compilation. `done` of an earlier run do
    not count for it.
    """

    def __init__(
        self,
        total: int,
        *,
        done: int = 0,
        unit: str = "img",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._total, self._done, self._unit, self._clock = total, done, unit, clock
        self._stream = sys.stderr if stream is None else stream
        self._moving = self._stream.isatty()
        self._first: tuple[float, int] | None = None
        self._shown = -float("inf")
        self._written = False

    @property
    def done(self) -> int:
        """How many are done."""
        return self._done

    @property
    def rate(self) -> float | None:
        """How many a second, without the first `add`; None before the second one."""
        if self._first is None or self._done == self._first[1]:
            return None
        return (self._done - self._first[1]) / max(self._clock() - self._first[0], 1e-9)

    def add(self, count: int) -> None:
        """Notes that `count` more are done."""
        self._done += count
        now = self._clock()
        if self._first is None:
            self._first = (now, self._done)
        last = self._done >= self._total
        if now - self._shown < (_MOVING_EVERY if self._moving else _PLAIN_EVERY) and not last:
            return
        self._shown = now
        self._stream.write(f"\r\x1b[K{self.line()}" if self._moving else f"{self.line()}\n")
        self._stream.flush()
        self._written = True

    def line(self) -> str:
        """Returns `3072 of 50000, 412 img/s, 1 min 54 s left`."""
        text, rate = f"{self._done} of {self._total}", self.rate
        if rate:
            text += f", {rate:.4g} {self._unit}/s"
            if self._done < self._total:
                text += f", {duration((self._total - self._done) / rate)} left"
        return text

    def close(self) -> None:
        """Ends the moving line."""
        if self._moving and self._written:
            self._stream.write("\n")
            self._stream.flush()
