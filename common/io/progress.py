"""Progress of a long computation: tqdm's bar on a terminal, otherwise a plain line now and then."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

_PLAIN_EVERY = 10.0  # seconds between lines where the output is no terminal


class Progress:
    """Counts what is done of `total`; `add` shows count, speed and the time left, on stderr by default.

    The speed is that of this run since the first `add`, whose time includes compilation; the count `done` of an earlier
    run does not count. `what` names the computation in a first note that it compiles.
    """

    def __init__(
        self,
        total: int,
        *,
        done: int = 0,
        unit: str = "img",
        what: str = "",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._total, self._done, self._unit, self._clock = total, done, unit, clock
        self._earlier, self._what = done, what
        self._stream = sys.stderr if stream is None else stream
        self._first: tuple[float, int] | None = None
        self._shown = -float("inf")
        self._bar = None
        if done >= total:
            return
        if self._stream.isatty():
            self._bar = tqdm(total=total, initial=done, unit=unit, file=self._stream, dynamic_ncols=True)
            if what:
                self._bar.set_description(f"{what}, compiling")
        elif what:
            compiling(what, self._stream)

    @property
    def done(self) -> int:
        """The number that are done."""
        return self._done

    @property
    def added(self) -> int:
        """The number done by this run."""
        return self._done - self._earlier

    @property
    def rate(self) -> float | None:
        """The number a second, without the first `add`; None before the second one."""
        if self._first is None or self._done == self._first[1]:
            return None
        return (self._done - self._first[1]) / max(self._clock() - self._first[0], 1e-9)

    def add(self, count: int = 1) -> None:
        """Notes that `count` more are done."""
        self._done += count
        now = self._clock()
        first = self._first is None
        if first:
            self._first = (now, self._done)
        if self._bar is not None:
            self._bar.update(count)
            if first:
                self._bar.set_description(self._what)
                self._bar.initial, self._bar.start_t = self._bar.n, self._bar.last_print_t
        elif now - self._shown >= _PLAIN_EVERY or self._done >= self._total:
            self._shown = now
            print(self.line(), file=self._stream, flush=True)

    def line(self) -> str:
        """Returns `3072 of 50000, 412 img/s, 1 min 54 s left`."""
        text, rate = f"{self._done} of {self._total}", self.rate
        if rate:
            text += f", {rate:.4g} {self._unit}/s"
            if self._done < self._total:
                text += f", {duration((self._total - self._done) / rate)} left"
        return f"{self._what}: {text}" if self._what else text

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def compiling(what: str, stream: TextIO | None = None) -> None:
    """Says that `what` is being compiled, which may take minutes and shows nothing."""
    print(f"{what}: compiling", file=sys.stderr if stream is None else stream, flush=True)


def duration(seconds: float) -> str:
    """Returns a time for people: `8 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
